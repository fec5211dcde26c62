"""Anti-entropy: find out with few small datagrams which items two members see differently.

Every item (a member or a row) has a hash, its place in a ring of 63 bits, and a version. A range of the ring has a
fingerprint: the XOR of its items' fingerprints. Equal fingerprints end the exchange; unequal ones are split until a
range is small enough to list (range-based set reconciliation, after Meyer, SRDS 2023). In step this costs four bytes
on a probe; apart it costs O(differences * log items), never the full state, which would dominate at 1000 members.

The exchange keeps no state: each datagram says all that its answer needs. A lost one costs a retry in the next round.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from hashlib import blake2b

from service.gossip.dissemination import Subject
from service.gossip.message import DIGEST_ENTRIES_MAX, Digest, Range
from service.gossip.table import VersionTuple

RING_MAX = 2**63 - 1
# Sixteen ranges of 28 bytes are one datagram, and sixteen answers of a datagram each are no flood.
SPLIT = 16


def item_hash(subject: Subject) -> int:
    """Place of an item in the ring. Any two of 10^5 share one with probability 10^-9; only one of them would sync."""
    return _ring(b"\0".join(part.encode() for part in subject))


def _ring(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") & RING_MAX


class Index:
    """Hash -> (subject, version) of everything this member holds, ordered by hash."""

    def __init__(self) -> None:
        self._order: list[int] = []
        """The hashes, sorted: a range of the ring is a slice."""
        self._items: dict[int, tuple[Subject, VersionTuple, int]] = {}
        """Hash -> (subject, version, fingerprint of both)."""
        self._fingerprint = 0

    def __len__(self) -> int:
        return len(self._order)

    @property
    def short_fingerprint(self) -> int:
        """Of everything, kept up to date: the 32 bits that every probe carries.

        One difference in 2^32 goes unnoticed, until either side changes.
        """
        return self._fingerprint & 0xFFFFFFFF

    def put(self, subject: Subject, version: VersionTuple) -> None:
        """File an item under its new version, which the caller has found to be the higher one."""
        place = item_hash(subject)
        known = self._items.get(place)
        if known is None:
            insort(self._order, place)
        else:
            # XOR is its own inverse: what the old version put in, it takes out again.
            self._fingerprint ^= known[2]
        fingerprint = _ring(b"%d %d %d %d" % (place, *version))
        self._items[place] = (subject, version, fingerprint)
        self._fingerprint ^= fingerprint

    def remove(self, subject: Subject) -> None:
        """Drop an item; nothing where it is not there."""
        place = item_hash(subject)
        known = self._items.pop(place, None)
        if known is not None:
            self._fingerprint ^= known[2]
            self._order.pop(bisect_left(self._order, place))

    def subject(self, place: int) -> Subject | None:
        """Whose hash this is; None where we do not have it (any more)."""
        item = self._items.get(place)
        return None if item is None else item[0]

    def whole(self) -> Range:
        """The opening of an exchange."""
        return Range(0, RING_MAX, self._fingerprint)

    def answer(self, theirs: Range) -> list[Range] | Digest | None:
        """None where both agree on the range, our list of it where it is short, else the fingerprints of its parts."""
        places = self._places(theirs.low, theirs.high)
        if self._fingerprint_of(places) == theirs.fingerprint:
            return None
        if len(places) <= DIGEST_ENTRIES_MAX:
            entries = tuple((place, *self._items[place][1]) for place in places)
            return Digest(theirs.low, theirs.high, entries)
        return list(self._split(theirs, places))

    def compare(self, theirs: Digest) -> tuple[list[Subject], list[int]]:
        """Return (what we have newer or they lack, hashes of what they have newer or we lack)."""
        listed = {place: (a, b, c) for place, a, b, c in theirs.entries}
        # Only the items of their range: outside it their list says nothing.
        newer: list[Subject] = []
        for place in self._places(theirs.low, theirs.high):
            subject, version, _ = self._items[place]
            if place not in listed or version > listed[place]:
                newer.append(subject)
        wanted = []
        for place, version in listed.items():
            known = self._items.get(place)
            if known is None or known[1] < version:
                wanted.append(place)
        return newer, wanted

    def unlisted(self, theirs: Digest) -> list[Subject]:
        """What we have in their range and they have not."""
        listed = {place for place, *_ in theirs.entries}
        return [self._items[place][0] for place in self._places(theirs.low, theirs.high) if place not in listed]

    def _places(self, low: int, high: int) -> list[int]:
        return self._order[bisect_left(self._order, low) : bisect_right(self._order, high)]

    def _fingerprint_of(self, places: list[int]) -> int:
        # The opening of every exchange asks for all of it, which is kept.
        if len(places) == len(self._order):
            return self._fingerprint
        fingerprint = 0
        for place in places:
            fingerprint ^= self._items[place][2]
        return fingerprint

    def _split(self, theirs: Range, places: list[int]) -> Iterator[Range]:
        # Parts of equal numbers of our items, without gaps between them: what only the other has lies in one as well.
        size = -(-len(places) // SPLIT)
        low = theirs.low
        for start in range(0, len(places), size):
            part = places[start : start + size]
            is_last = start + size >= len(places)
            high = theirs.high if is_last else part[-1]
            yield Range(low, high, self._fingerprint_of(part))
            low = high + 1
