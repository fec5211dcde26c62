"""What netfilter knows of pods' destinations, as text; with real packets in test_nftables."""

from ipaddress import IPv4Address, IPv4Network

from service.network.destinations import (
    PART,
    Destinations,
    definition,
    in_batches,
    parse_destinations,
    parts_of,
    removal,
    switch,
)

ONE, TWO = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
NARROW, WIDE = IPv4Network("10.0.0.0/9"), IPv4Network("10.0.0.0/8")


def test_networks_are_merged_and_cut_into_parts() -> None:
    assert parts_of([NARROW, WIDE]) == [[WIDE]]
    assert parts_of([]) == [[]]
    many = [IPv4Network((index << 9, 24)) for index in range(PART + 1)]
    assert [len(part) for part in parts_of(many)] == [PART, 1]


def test_each_part_is_a_transaction_and_the_chains_come_last() -> None:
    texts = definition(7, [[WIDE], [IPv4Network("8.0.0.0/8")]], "0xffffefff")
    assert [("/8" in text, "add rule" in text) for text in texts] == [(True, False), (True, False), (False, True)]


def test_a_pod_changes_its_set_within_one_transaction_and_the_others_are_not_touched() -> None:
    changes = switch({ONE: 1, TWO: 1}, {ONE: 2, TWO: 1})
    assert [change.chain is None for change in changes] == [True, True, False, False]
    assert {change.key for change in changes} == {ONE.packed}
    assert switch({ONE: 1}, {ONE: 1}) == []


def test_the_chains_go_before_the_sets_they_ask() -> None:
    chains, *sets = removal(1, 2)
    assert "delete chain" in chains
    assert [text.count("delete set") for text in sets] == [1, 1]


def test_what_was_listed_is_read_back() -> None:
    identity = "00000000000000ab"
    document = {
        "nftables": [
            {"set": {"name": "cluster", "elem": ["9.9.9.9"]}},
            {"set": {"name": f"to_{identity}_0", "elem": [{"prefix": {"addr": "8.0.0.0", "len": 8}}, "1.1.1.1"]}},
            {"set": {"name": f"to_{identity}_1", "elem": [{"range": ["9.0.0.0", "9.0.0.2"]}]}},
            {"map": {"name": "guarded", "elem": [["10.0.0.1", {"jump": {"target": f"guarded_{identity}"}}]]}},
        ]
    }
    networks = [IPv4Network(text) for text in ("8.0.0.0/8", "1.1.1.1/32", "9.0.0.0/31", "9.0.0.2/32")]
    assert parse_destinations(document) == Destinations({ONE: 0xAB}, {0xAB: networks})


def test_a_former_versions_pairs_are_read_as_sets() -> None:
    pair = {"concat": ["10.0.0.1", {"prefix": {"addr": "8.0.0.0", "len": 8}}]}
    found = parse_destinations({"nftables": [{"set": {"name": "steer", "elem": [pair]}}]})
    assert found.sets[found.pods[ONE]] == [IPv4Network("8.0.0.0/8")]


def test_i3_sets_are_made_in_transactions_of_few_sets_and_few_networks() -> None:
    assert in_batches({}) == []
    assert in_batches(dict.fromkeys(range(70), 1)) == [list(range(32)), list(range(32, 64)), list(range(64, 70))]
    assert in_batches({1: PART, 2: 1, 3: PART - 1, 4: 1}) == [[1], [2, 3], [4]]
    assert in_batches({1: 5 * PART, 2: 1}) == [[1], [2]]
