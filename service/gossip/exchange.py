"""The answering side of anti-entropy: which datagrams an opening, a digest or a wish calls for.

    A                                  B
    Range (all)         ------->       differs: Range x 16, or Digest of a short range
    newer items, Want   <-------       (either side answers either message)
    Delta               ------->

Every answer follows from the message and the present state alone, so a lost datagram leaves nothing half done.
"""

from collections.abc import Sequence

from service.gossip.digest import Index
from service.gossip.dissemination import Subject
from service.gossip.message import PACKET_OVERHEAD_BYTES, Delta, Digest, Message, Range, Record, TableRow, Want
from service.gossip.message import encode_message as encode
from service.gossip.roster import Roster
from service.gossip.table import Tables

# Datagrams in answer to one digest or wish; what is left over is found in the next round.
ANSWER_DATAGRAMS_MAX = 16
# Kind and the headers of the two lists of a Delta.
_DELTA_OVERHEAD_BYTES = 8

Datagram = list[Message]


class Exchange:
    """Compares what others have with what we have, and picks what each lacks."""

    def __init__(self, *, index: Index, roster: Roster, tables: Tables, payload_bytes_max: int) -> None:
        self._index = index
        self._roster = roster
        self._tables = tables
        # Bytes of items per Delta: then the datagram fits, with no room counted on for news.
        self._budget = payload_bytes_max - PACKET_OVERHEAD_BYTES - _DELTA_OVERHEAD_BYTES

    def answer(self, message: Range | Digest | Want, *, now_ns: int) -> list[Datagram]:
        """Datagrams to send back, none where both agree."""
        match message:
            case Range():
                return self._answer_range(message)
            case Digest():
                newer, wanted = self._index.compare(message)
                # The wish first: the other side can work on it while our items are under way.
                wish: list[Datagram] = [[Want(tuple(wanted))]] if wanted else []
                return wish + self._items(newer, now_ns=now_ns)
            case Want():
                subjects = (self._index.subject(place) for place in message.hashes)
                return self._items([subject for subject in subjects if subject is not None], now_ns=now_ns)

    def _answer_range(self, theirs: Range) -> list[Datagram]:
        # All parts of a split go in one datagram, sixteen ranges of 28 bytes.
        answer = self._index.answer(theirs)
        if answer is None:
            return []
        return [[answer]] if isinstance(answer, Digest) else [list(answer)]

    def _items(self, subjects: Sequence[Subject], *, now_ns: int) -> list[Datagram]:
        """Pack items into as few datagrams as their order allows."""
        batches: list[list[Record | TableRow]] = []
        room = 0
        for subject in subjects:
            item = self._item(subject, now_ns=now_ns)
            # Forgotten since the other side listed it.
            if item is None:
                continue
            length = len(encode(item))
            if length > room:
                # What is cut off still differs, so the next fingerprint brings it up again: nothing to remember.
                if len(batches) == ANSWER_DATAGRAMS_MAX:
                    break
                batches.append([])
                room = self._budget
            batches[-1].append(item)
            room -= length
        return [[_delta(batch)] for batch in batches]

    def _item(self, subject: Subject, *, now_ns: int) -> Record | TableRow | None:
        if subject[0] == "member":
            return self._roster.record(subject[1], now_ns=now_ns)
        _, table, key = subject
        row = self._tables.get(table, key)
        return None if row is None else TableRow(table, key, row.version, row.value, row.ended)


def _delta(items: Sequence[Record | TableRow]) -> Delta:
    records = tuple(item for item in items if isinstance(item, Record))
    rows = tuple(item for item in items if isinstance(item, TableRow))
    return Delta(records, rows)
