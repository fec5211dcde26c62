"""Whose a port was when, by what leaders put on record."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.audit.port_tenure import PortTenure, port_tenures
from service.model.audit_record import AuditRecord, RecordKind

IP = "192.0.2.100"
PORT = 1030


class Leader:
    """One term; each record a tenth of a second behind the last unless it is said otherwise."""

    def __init__(self, term: int, node: str = "c1", *, sequence: int = 0) -> None:
        self.term, self.node, self.sequence = term, node, sequence

    def say(self, kind: RecordKind, at: int, *, subject: str = IP, **more: Any) -> AuditRecord:
        self.sequence += 1
        return AuditRecord(
            kind, self.node, "b", self.sequence, at, at, subject=subject, term=self.term, outbox=self.node, **more
        )

    def table(self, at: int, ports: str = "", span: str = "1024-65535") -> AuditRecord:
        detail = {"ports": ports, "span": span, "leaderTerm": str(self.term)}
        return self.say(RecordKind.PORTS_TABLE, at, detail=detail)

    def moved(self, at: int, former: str, owner: str, ports: str, reason: str = "") -> AuditRecord:
        runs = ", ".join(f"{run} {owner}".rstrip() for run in ports.split(", "))
        detail = {"ports": runs, "leaderTerm": str(self.term)}
        return self.say(RecordKind.PORTS_MOVED, at, previous=former, holder=owner, reason=reason, detail=detail)

    def lives(self, at: int) -> AuditRecord:
        return self.say(RecordKind.NODE_UP, at, subject="n")


def told(*records: AuditRecord) -> list[tuple[str, int | None, bool, int | None, bool]]:
    return [
        (one.node, one.since_ns, one.is_since_known, one.until_ns, one.is_until_known)
        for one in port_tenures(records, IP, PORT)
    ]


def at(time: int, *records: AuditRecord) -> PortTenure:
    (one,) = (one for one in port_tenures(records, IP, PORT) if one.covers(time))
    return one


def test_a_port_is_a_nodes_from_the_word_that_gives_it_to_the_word_that_ends_it() -> None:
    one = Leader(7)
    records = (one.table(10), one.moved(20, "", "A", "1024-1087 7.1"), one.moved(50, "A", "", "1024-1087 7.2"))
    assert told(*records) == [("", 10, False, 20, True), ("A", 20, True, 50, True), ("", 50, True, None, True)]
    assert [at(time, *records).proves(time) for time in (10, 19, 20, 49, 50)] == [True] * 5


def test_other_ports_and_other_addresses_are_nothing_to_it() -> None:
    one = Leader(7)
    other = replace(one.moved(30, "A", "B", "1024-1087 7.2"), subject="192.0.2.7")
    records = (one.table(10), one.moved(20, "", "A", "1088-1151 7.1, 1024-1029 7.1"), other)
    assert told(*records) == [("", 10, False, None, True)]


def test_before_the_first_word_nothing_is_on_record() -> None:
    one = Leader(7)
    assert not any(tenure.covers(9) for tenure in port_tenures([one.table(10, "1024-1087 6.1 A")], IP, PORT))
    assert told(one.table(10, "1024-1087 6.1 A")) == [("A", 10, False, None, True)]
    assert port_tenures([], IP, PORT) == []


def test_a_word_says_whose_it_was_before_it_but_not_since_when() -> None:
    moved = Leader(7).moved(20, "A", "", "1024-1087 7.2")
    assert told(moved) == [("A", None, False, 20, True), ("", 20, True, None, True)]
    assert not at(5, moved).proves(5)


def test_a_leader_that_repeats_what_it_read_changes_nothing() -> None:
    """Each change is on record at least once; its stamp tells that it is the same."""
    one, two = Leader(7), Leader(8, "c2")
    records = (
        one.table(10),
        one.moved(20, "", "A", "1024-1087 7.1"),
        two.table(40, "1024-1087 7.1 A"),
        two.moved(50, "A", "", "1024-1087 8.1"),
    )
    assert told(*records)[1] == ("A", 20, True, 50, True)
    assert at(30, *records).proves(30), "the stamp is the same: it was nobody else's in between"


def test_what_a_leader_had_no_time_to_record_is_a_bound_and_no_proof() -> None:
    one, two = Leader(7), Leader(8, "c2")
    records = (
        one.table(10),
        one.moved(20, "", "A", "1024-1087 7.1"),
        one.lives(30),
        two.table(40, "1024-1087 7.9 B"),
    )
    assert told(*records)[1:] == [("A", 20, True, 40, False), ("B", 40, False, None, True)]
    assert [at(time, *records).proves(time) for time in (25, 30, 31, 39, 40)] == [True, True, False, False, True]


def test_a_node_that_has_it_again_under_another_stamp_need_not_have_had_it_in_between() -> None:
    one, two = Leader(7), Leader(8, "c2")
    records = (one.table(10, "1024-1087 6.1 A"), two.table(40, "1024-1087 7.3 A"))
    assert told(*records) == [("A", 10, False, None, True)]
    assert [at(time, *records).proves(time) for time in (10, 11, 39, 40)] == [True, False, False, True]


def test_how_far_the_newest_words_reach_is_how_far_their_leader_has_recorded() -> None:
    one = Leader(7)
    given = (one.table(10), one.moved(20, "", "A", "1024-1087 7.1"))
    assert [at(time, *given).proves(time) for time in (20, 21)] == [True, False]
    later = (*given, one.lives(60))
    assert [at(time, *later).proves(time) for time in (60, 61)] == [True, False]
    other = (*given, Leader(8, "c2").lives(60))
    assert not at(60, *other).proves(60), "another leader's word is none on what this one did"
    lost = (*given, one.say(RecordKind.LEADER_LOST, 30, subject="leader", token=(7, 1, 1)), one.lives(60))
    assert [at(time, *lost).proves(time) for time in (30, 60)] == [True, False], "from then on it leads no more"


def test_the_term_orders_what_leaders_say_whatever_their_clocks_say_and_whatever_the_stamps_are() -> None:
    one, two = Leader(7), Leader(8, "slow")
    records = (
        one.table(100, "1024-1087 6.5 A"),
        one.moved(110, "A", "", "1024-1087 7.9"),
        # The holder had not heard of it, and A has the block again, under its former stamp.
        two.table(90, "1024-1087 6.5 A"),
    )
    assert told(*records) == [("A", 100, False, 110, True), ("", 110, True, 110, False), ("A", 110, False, None, True)]


def test_an_address_that_is_none_any_more_has_no_ports() -> None:
    one = Leader(7)
    read = one.table(10, "1024-1087 6.1 A")
    removed = one.say(RecordKind.UNASSIGNED, 30, token=(7, 3, 0), detail={"isRemoved": "true"})
    unplaced = replace(removed, token=(7, 2, 0), detail={}, wall_time_ns=25)
    assert told(read, unplaced, removed) == [
        ("A", 10, False, 30, False),
        ("", 30, False, None, True),
    ]


def test_a_part_of_a_table_says_nothing_of_other_ports() -> None:
    one = Leader(7)
    assert told(one.table(10, "", "1024-1029")) == []
    assert told(one.table(10, "", "1024-1029"), one.table(11, "1030-1093 6.1 A", "1030-65535")) == [
        ("A", 11, False, None, True)
    ]


def test_what_cannot_be_read_says_nothing() -> None:
    one = Leader(7)
    cut = replace(one.table(30), detail={"truncatedBytes": "70000"})
    strange = replace(one.table(40), detail={"ports": "all of them"})
    assert told(one.table(10, "1024-1087 6.1 A"), cut, strange) == [("A", 10, False, None, True)]


HISTORY = [
    *(lambda one: [one.table(10), one.moved(20, "", "A", "1024-1087 7.1"), one.moved(30, "A", "", "1024-1087 7.2")])(
        Leader(7)
    ),
    *(lambda two: [two.table(40), two.moved(50, "", "B", "1024-1087 8.1")])(Leader(8, "c2")),
]


@given(st.permutations(HISTORY + HISTORY))
def test_copies_and_the_order_in_which_records_are_read_change_nothing(records: list[AuditRecord]) -> None:
    assert told(*records) == told(*HISTORY)
