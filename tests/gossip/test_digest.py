import itertools
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from service.gossip.digest import RING_MAX, SPLIT, Index, item_hash
from service.gossip.dissemination import Subject
from service.gossip.message import DIGEST_ENTRIES_MAX, Digest, Range

Items = dict[int, int]


def subject(number: int) -> Subject:
    return ("row", "t", str(number))


def index_of(items: Items) -> Index:
    index = Index()
    for number, version in items.items():
        index.put(subject(number), (version, 0, 0))
    return index


def reconcile(a: Items, b: Items) -> tuple[Items, Items, int]:
    """Run the exchange that `a` opens, and apply what each side would be sent."""
    stores, indexes = [dict(a), dict(b)], [index_of(a), index_of(b)]
    numbers = {item_hash(subject(number)): number for number in a | b}
    queue: deque[tuple[int, Range | Digest]] = deque([(1, indexes[0].whole())])
    messages = 0
    while queue:
        receiver, message = queue.popleft()
        messages += 1
        if isinstance(message, Range):
            answer = indexes[receiver].answer(message)
            for part in [answer] if isinstance(answer, Digest) else answer or []:
                queue.append((1 - receiver, part))
            continue
        newer, wanted = indexes[receiver].compare(message)
        for name in newer:
            stores[1 - receiver][int(name[2])] = stores[receiver][int(name[2])]
        for place in wanted:
            stores[receiver][numbers[place]] = stores[1 - receiver][numbers[place]]
    return stores[0], stores[1], messages


items = st.dictionaries(st.integers(0, 200), st.integers(0, 3), max_size=150)


@settings(max_examples=60, deadline=None)
@given(items, items)
def test_one_exchange_gives_both_the_newest_of_everything(a: Items, b: Items) -> None:
    newest = {number: max(a.get(number, -1), b.get(number, -1)) for number in a | b}
    after_a, after_b, _ = reconcile(a, b)
    assert after_a == after_b == newest


def test_members_in_step_exchange_one_message() -> None:
    same = dict.fromkeys(range(1000), 1)
    assert reconcile(same, same)[2] == 1


def test_one_difference_among_ten_thousand_costs_a_handful_of_messages() -> None:
    a = dict.fromkeys(range(10000), 1)
    after_a, after_b, messages = reconcile(a, {**a, 77: 2})
    assert after_a == after_b
    assert messages <= 4 * SPLIT


@given(items, st.lists(st.integers(0, 200)))
def test_the_running_fingerprint_is_that_of_the_content_whatever_the_history(content: Items, detour: list[int]) -> None:
    index = index_of(content)
    for number in detour:
        index.put(subject(number), (9, 9, 9))
        index.remove(subject(number))
        if number in content:
            index.put(subject(number), (content[number], 0, 0))
    fresh = index_of(dict(reversed(content.items())))
    assert index.short_fingerprint == fresh.short_fingerprint
    assert len(index) == len(fresh)


def test_parts_of_a_range_cover_it_without_gap_or_overlap() -> None:
    index = index_of(dict.fromkeys(range(500), 1))
    parts = index.answer(Range(0, RING_MAX, 0))
    assert isinstance(parts, list)
    assert len(parts) <= SPLIT
    assert (parts[0].low, parts[-1].high) == (0, RING_MAX)
    assert all(left.high + 1 == right.low for left, right in itertools.pairwise(parts))


def test_a_short_range_is_listed_in_full() -> None:
    index = index_of(dict.fromkeys(range(DIGEST_ENTRIES_MAX), 1))
    digest = index.answer(Range(0, RING_MAX, 0))
    assert isinstance(digest, Digest)
    assert len(digest.entries) == DIGEST_ENTRIES_MAX


def test_an_empty_or_reversed_range_of_a_strange_peer_harms_nothing() -> None:
    index = index_of({1: 1})
    assert index.answer(Range(10, 5, 0)) is None
    assert index.compare(Digest(10, 5, ())) == ([], [])
