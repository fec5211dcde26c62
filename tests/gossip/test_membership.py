"""The machine against a scripted peer, datagram by datagram."""

from random import Random
from typing import Any

import pytest

from service.gossip.config import GossipConfig
from service.gossip.event import MemberChanged, NameConflict, RowChanged
from service.gossip.member import MemberState
from service.gossip.membership import Membership
from service.gossip.message import (
    ALIVE,
    DEAD,
    Ack,
    Delta,
    Message,
    Nack,
    Ping,
    PingRequest,
    Record,
    Suspect,
    TableRow,
    decode_packet,
    encode_message,
    encode_packet,
)
from service.model.errors import InvariantError, OperatorError, PeerError
from service.model.machine import Address, Send, Source

MS = 1_000_000
SECOND = 1_000 * MS
OWN = Address("10.0.0.1", 9640)


def source(name: str) -> Source:
    return Source(Address(f"10.0.0.{int(name[1:]) + 1}", 9640), name, 1)


def record(name: str, incarnation: int = 1, state: int = ALIVE) -> Record:
    address = source(name).address
    return Record(name, address.host, address.port, incarnation, state, 0, b"")  # type: ignore[arg-type]


class Desk:
    """One machine and its peers, played by the test."""

    def __init__(self, peers: int = 0, *, seeds: tuple[Address, ...] = (), **options: Any) -> None:
        self.now_ns = 10 * SECOND
        self.machine = Membership(
            name="m0",
            address=OWN,
            incarnation=5,
            metadata=b"own",
            seeds=seeds,
            random=Random(1),
            now_ns=self.now_ns,
            **options,
        )
        for index in range(1, peers + 1):
            self.hear(f"m{index}", record(f"m{index}"))

    def hear(self, name: str, *messages: Message) -> list[tuple[Address, list[Message]]]:
        """Deliver one datagram; returns what the machine sends."""
        payload = encode_packet([encode_message(message) for message in messages])
        self.machine.receive(source(name), payload, now_ns=self.now_ns)
        return self.sent()

    def sent(self) -> list[tuple[Address, list[Message]]]:
        self.events: list[Any] = []
        datagrams = []
        for output in self.machine.drain():
            if isinstance(output, Send):
                datagrams.append((output.to, decode_packet(output.payload)[0]))
            else:
                self.events.append(output)
        return datagrams

    def run(self, span_ns: int) -> list[tuple[Address, list[Message]]]:
        """Let time pass, timer by timer."""
        end_ns = self.now_ns + span_ns
        datagrams = []
        while (deadline_ns := self.machine.deadline_ns()) is not None and deadline_ns <= end_ns:
            self.now_ns = max(self.now_ns, deadline_ns)
            self.machine.advance(now_ns=self.now_ns)
            datagrams += self.sent()
        self.now_ns = end_ns
        return datagrams

    def quiet(self) -> "Desk":
        """Until nothing is left to disseminate, with every ping answered."""
        for _ in range(100):
            for to, messages in self.run(50 * MS):
                for message in messages:
                    if isinstance(message, Ping):
                        self.hear(f"m{int(to.host.rsplit('.', 1)[1]) - 1}", Ack(message.sequence, message.fingerprint))
        assert self.machine.counters["broadcasts_queued"] == 0
        return self

    def state(self, name: str) -> MemberState:
        return {member.name: member.state for member in self.machine.members()}[name]


def of_kind(datagrams: list[tuple[Address, list[Message]]], kind: type) -> list[tuple[Address, Any]]:
    return [(to, message) for to, messages in datagrams for message in messages if isinstance(message, kind)]


# Answering


def test_a_ping_is_answered_to_where_it_came_from() -> None:
    ((to, ack), *_) = of_kind(Desk(1).hear("m1", Ping(7, "m0", 0)), Ack)
    assert (to, ack.sequence) == (source("m1").address, 7)


def test_a_ping_for_who_had_this_address_before_is_not_answered() -> None:
    desk = Desk(1)
    assert of_kind(desk.hear("m1", Ping(7, "predecessor", 0)), Ack) == []
    assert desk.machine.counters["misaddressed"] == 1


def test_the_answer_to_an_accusation_carries_the_refutation() -> None:
    """Lifeguard, buddy system: accusation and refutation cost one round trip."""
    datagrams = Desk(2).hear("m1", Ping(7, "m0", 0), Suspect("m0", 5, "m1"))
    answer = next(messages for _, messages in datagrams if any(isinstance(m, Ack) for m in messages))
    assert [(m.incarnation, m.state) for m in answer if isinstance(m, Record) and m.name == "m0"] == [(6, ALIVE)]


def test_the_answer_to_one_held_dead_carries_its_death_notice() -> None:
    desk = Desk(2)
    desk.hear("m2", record("m1", 1, DEAD))
    notices = of_kind(desk.hear("m1", Ping(7, "m0", 0)), Record)
    assert (source("m1").address, record("m1", 1, DEAD)) in notices


def test_an_accuser_that_missed_the_refutation_is_told_again() -> None:
    desk = Desk(2)
    desk.hear("m1", Suspect("m0", 5, "m1"))
    desk.quiet()
    told = of_kind(desk.hear("m1", Suspect("m0", 5, "m1")), Record)
    assert [(to, record.name, record.incarnation) for to, record in told] == [(source("m1").address, "m0", 6)]


def test_an_accuser_is_told_by_a_third_that_knows_of_the_refutation() -> None:
    desk = Desk(2)
    desk.hear("m1", record("m1", 4))
    desk.quiet()
    assert (source("m2").address, record("m1", 4)) in of_kind(desk.hear("m2", Suspect("m1", 3, "m2")), Record)
    assert of_kind(desk.hear("m2", Suspect("m1", 3, "m7")), Record) == [], "hearsay is left to dissemination"


def test_a_restarted_member_is_shown_its_old_record() -> None:
    desk = Desk(1)
    desk.hear("m1", record("m1", 40))
    desk.quiet()
    assert (source("m1").address, record("m1", 40)) in of_kind(desk.hear("m1", record("m1", 2)), Record)


def test_a_helper_passes_the_ack_back_under_the_askers_sequence() -> None:
    desk = Desk(2)
    target = source("m2").address
    ((to, ping),) = of_kind(desk.hear("m1", PingRequest(33, "m2", target.host, target.port)), Ping)
    assert to == target
    assert (source("m1").address, 33) in [
        (to, ack.sequence) for to, ack in of_kind(desk.hear("m2", Ack(ping.sequence, 0)), Ack)
    ]


def test_a_helper_that_gets_no_answer_says_so_in_time() -> None:
    desk = Desk(2)
    target = source("m2").address
    desk.hear("m1", PingRequest(33, "m2", target.host, target.port))
    assert (source("m1").address, Nack(33)) in of_kind(desk.run(170 * MS), Nack)


# Probing


def test_a_silent_member_is_probed_directly_then_through_helpers_then_accused() -> None:
    """SWIM 3.1: ping, after the timeout ping-req to k members, at the end of the period suspicion."""
    desk = Desk(5).quiet()
    sent: list[tuple[Address, list[Message]]] = []
    while not of_kind(sent, Ping):
        sent = desk.run(10 * MS)
    ((target, _),) = of_kind(sent, Ping)
    later = desk.run(300 * MS)
    requests = of_kind(later, PingRequest)
    assert len(requests) == 3
    assert target not in [to for to, _ in requests]
    assert all(Address(request.host, request.port) == target for _, request in requests)
    desk.run(300 * MS)
    assert [m.address for m in desk.machine.members() if m.state is MemberState.SUSPECT] == [target]


def test_an_ack_through_a_helper_saves_the_target() -> None:
    desk = Desk(2).quiet()
    for _ in range(10):
        for to, messages in desk.run(100 * MS):
            for message in messages:
                if isinstance(message, PingRequest):
                    helper = f"m{int(to.host.rsplit('.', 1)[1]) - 1}"
                    desk.hear(helper, Ack(message.sequence, 0))
    assert [m.state for m in desk.machine.members()] == [MemberState.ALIVE] * 3


def silent_probe(*, with_nacks: bool) -> int:
    """Health score after one probe that failed."""
    desk = Desk(4).quiet()
    while desk.machine.counters["probes_failed"] == 0:
        for to, messages in desk.run(10 * MS):
            for message in messages:
                if isinstance(message, PingRequest) and with_nacks:
                    desk.hear(f"m{int(to.host.rsplit('.', 1)[1]) - 1}", Nack(message.sequence))
    return desk.machine.counters["health_score"]


def test_missing_nacks_speak_against_our_own_health_and_nacks_do_not() -> None:
    """Lifeguard, LHM: +1 for each missed nack, nothing for a failed probe whose helpers answered."""
    assert silent_probe(with_nacks=True) == 0
    assert silent_probe(with_nacks=False) == 3


# Lag


def test_an_answer_that_waited_while_we_stood_still_is_no_failure() -> None:
    desk = Desk(2).quiet()
    sent: list[tuple[Address, list[Message]]] = []
    while not of_kind(sent, Ping):
        sent = desk.run(10 * MS)
    ((to, ping),) = of_kind(sent, Ping)
    desk.now_ns += 20 * SECOND
    desk.hear(f"m{int(to.host.rsplit('.', 1)[1]) - 1}", Ack(ping.sequence, 0))
    desk.machine.advance(now_ns=desk.now_ns)
    assert desk.machine.counters["probes_failed"] == 0
    assert desk.machine.counters["lags"] == 1
    assert desk.machine.counters["health_score"] > 0


def test_lag_is_counted_once_whoever_notices_it() -> None:
    desk = Desk(2).quiet()
    desk.now_ns += 3 * SECOND
    desk.machine.advance(now_ns=desk.now_ns)
    desk.machine.note_lag(3 * SECOND, now_ns=desk.now_ns)
    assert desk.machine.counters["lags"] == 1


def test_a_suspect_gets_back_the_time_in_which_we_could_not_hear_it() -> None:
    desk = Desk(3).quiet()
    desk.hear("m2", Suspect("m1", 1, "m2"))
    desk.hear("m3", Suspect("m1", 1, "m3"))
    desk.now_ns += 60 * SECOND
    desk.machine.advance(now_ns=desk.now_ns)
    assert desk.state("m1") is MemberState.SUSPECT
    desk.hear("m1", record("m1", 2))
    desk.run(1 * SECOND)
    assert desk.state("m1") is MemberState.ALIVE


def test_a_little_lateness_is_no_lag() -> None:
    desk = Desk(2).quiet()
    desk.machine.note_lag(20 * MS, now_ns=desk.now_ns)
    assert desk.machine.counters["lags"] == 0


def test_time_never_goes_back() -> None:
    desk = Desk()
    with pytest.raises(InvariantError):
        desk.machine.advance(now_ns=desk.now_ns - 1)


# Seeds


def test_seeds_are_tried_at_once_and_for_ever() -> None:
    desk = Desk(seeds=(source("m7").address, OWN))
    first = of_kind(desk.run(100 * MS), Ping)
    assert [to for to, _ in first] == [source("m7").address]
    hour_later = of_kind(desk.run(3600 * SECOND)[-5:], Ping)
    assert hour_later
    assert {to for to, _ in hour_later} == {source("m7").address}


def test_a_seed_that_is_a_live_member_is_left_in_peace() -> None:
    desk = Desk(1, seeds=(source("m1").address,)).quiet()
    pings = of_kind(desk.quiet().run(100 * MS), Ping)
    assert all(ping.target == "m1" for _, ping in pings)


# Rows and metadata


def test_a_new_row_leaves_at_once() -> None:
    desk = Desk(3).quiet()
    assert desk.machine.put("location", "10.0.0.100", (1, 2, 3), b"m0", now_ns=desk.now_ns)
    row = TableRow("location", "10.0.0.100", (1, 2, 3), b"m0")
    assert len([1 for _, told in of_kind(desk.run(1 * MS), TableRow) if told == row]) == 3


def test_a_row_that_is_not_newer_is_refused_and_not_sent() -> None:
    desk = Desk(1).quiet()
    desk.machine.put("t", "k", (1, 2, 3), b"a", now_ns=desk.now_ns)
    desk.quiet()
    assert not desk.machine.put("t", "k", (1, 2, 3), b"b", now_ns=desk.now_ns)
    assert of_kind(desk.run(1 * SECOND), TableRow) == []
    assert desk.machine.rows("t")["k"].value == b"a"


def test_a_row_of_another_is_told_once_and_passed_on() -> None:
    desk = Desk(3).quiet()
    row = TableRow("t", "k", (1, 0, 0), b"a")
    desk.hear("m1", row)
    assert desk.events == [RowChanged("t", "k", (1, 0, 0), b"a")]
    desk.hear("m2", row)
    assert desk.events == []
    assert of_kind(desk.run(1 * MS), TableRow)


@pytest.mark.parametrize(
    ("table", "key", "version", "value"),
    [
        ("", "k", (1, 0, 0), b""),
        ("t" * 33, "k", (1, 0, 0), b""),
        ("t", "", (1, 0, 0), b""),
        ("t", "k" * 65, (1, 0, 0), b""),
        ("t", "k", (-1, 0, 0), b""),
        ("t", "k", (2**63, 0, 0), b""),
        ("t", "k", (1, 0, 0), b"x" * 513),
    ],
)
def test_rows_that_no_member_could_read_are_refused(
    table: str, key: str, version: tuple[int, int, int], value: bytes
) -> None:
    desk = Desk()
    with pytest.raises(OperatorError):
        desk.machine.put(table, key, version, value, now_ns=desk.now_ns)


def test_new_metadata_raises_the_incarnation_and_equal_metadata_does_not() -> None:
    desk = Desk(1).quiet()
    desk.machine.set_metadata(b"own", now_ns=desk.now_ns)
    assert desk.machine.members()[0].incarnation == 5
    desk.machine.set_metadata(b"ready", now_ns=desk.now_ns)
    ((_, told), *_) = of_kind(desk.run(1 * MS), Record)
    assert (told.name, told.metadata, told.incarnation) == ("m0", b"ready", 6)
    with pytest.raises(OperatorError):
        desk.machine.set_metadata(b"x" * 513, now_ns=desk.now_ns)


# Strange input


def test_a_malformed_datagram_changes_nothing() -> None:
    desk = Desk(2).quiet()
    before = (desk.machine.members(), desk.machine.counters, desk.machine.deadline_ns())
    good = encode_message(record("m1", 9, DEAD))
    for payload in (b"", b"\xc1", encode_packet([good, b"\x92\x03\xa1x"]), encode_packet([good])[:-1]):
        with pytest.raises(PeerError):
            desk.machine.receive(source("m1"), payload, now_ns=desk.now_ns + 5 * SECOND)
    assert (desk.machine.members(), desk.machine.counters, desk.machine.deadline_ns()) == before
    assert desk.machine.drain() == []


def test_unknown_kinds_are_counted_and_the_rest_is_taken() -> None:
    desk = Desk(1)
    desk.machine.receive(
        source("m1"), encode_packet([b"\x92\x63\x01", encode_message(record("m2"))]), now_ns=desk.now_ns
    )
    assert desk.machine.counters["unknown_messages"] == 1
    assert desk.state("m2") is MemberState.ALIVE


def test_our_own_name_from_elsewhere_is_a_conflict_and_from_here_our_echo() -> None:
    desk = Desk(1).quiet()
    payload = encode_packet([encode_message(Ping(1, "", 0))])
    desk.machine.receive(Source(OWN, "m0", 1), payload, now_ns=desk.now_ns)
    assert desk.machine.drain() == []
    elsewhere = Address("10.9.9.9", 9640)
    for _ in range(3):
        desk.machine.receive(Source(elsewhere, "m0", 2), payload, now_ns=desk.now_ns)
    assert desk.machine.drain() == [NameConflict("m0", elsewhere)]


# Leaving


def test_who_leaves_says_so_at_once_and_probes_no_more() -> None:
    desk = Desk(3).quiet()
    desk.machine.leave(now_ns=desk.now_ns)
    assert len({to for to, told in of_kind(desk.sent(), Record) if told.name == "m0"}) == 3
    assert of_kind(desk.run(10 * SECOND), Ping) == []
    assert of_kind(desk.hear("m1", Ping(7, "m0", 0)), Ack)


def test_a_death_is_told_with_the_state_before() -> None:
    desk = Desk(2).quiet()
    desk.hear("m2", record("m1", 1, DEAD))
    (change,) = desk.events
    assert isinstance(change, MemberChanged)
    assert (change.member.name, change.member.state, change.previous_state) == (
        "m1",
        MemberState.DEAD,
        MemberState.ALIVE,
    )


def test_members_are_listed_by_name_with_ourselves() -> None:
    assert [member.name for member in Desk(3).machine.members()] == ["m0", "m1", "m2", "m3"]


def test_seeds_that_are_replaced_are_tried_at_once_and_the_former_ones_no_more() -> None:
    desk = Desk(seeds=(source("m7").address,))
    desk.run(2 * SECOND)
    desk.machine.set_seeds((source("m8").address, OWN), now_ns=desk.now_ns)
    asked = {to for to, _ in of_kind(desk.run(2 * SECOND), Ping)}
    assert asked == {source("m8").address}


@pytest.mark.parametrize("name", ["", "M9", "m 9", "m9\n", "\u00e4", "m" * 64])
def test_a_sender_whose_name_others_could_not_read_is_not_heard(name: str) -> None:
    """Its accusations would go out under that name, and cost whoever gets them a whole datagram."""
    desk = Desk(peers=2)
    told = encode_packet([encode_message(record("m7")), encode_message(Suspect("m1", 1, "m2"))])
    with pytest.raises(PeerError, match="name"):
        desk.machine.receive(Source(source("m9").address, name, 1), told, now_ns=desk.now_ns)
    assert {member.name: member.state for member in desk.machine.members()} == dict.fromkeys(
        ("m0", "m1", "m2"), MemberState.ALIVE
    )


def test_a_row_that_its_table_has_no_use_for_is_neither_kept_nor_passed_on() -> None:
    def check(row: TableRow) -> None:
        if row.value == b"bad":
            raise PeerError("no use")

    desk = Desk(peers=2, check_row=check)
    desk.hear("m1", TableRow("t", "k", (1, 0, 0), b"bad"), TableRow("t", "l", (1, 0, 0), b"good"))
    desk.hear("m1", Delta((), (TableRow("t", "m", (1, 0, 0), b"bad"),)))
    assert list(desk.machine.rows("t")) == ["l"]
    assert desk.machine.counters["rows_refused"] == 2


def test_a_tombstone_whose_time_is_over_is_not_learned_again() -> None:
    desk = Desk(peers=2, config=GossipConfig(tombstone_ticks=3))
    for _ in range(4):
        desk.machine.tick(now_ns=desk.now_ns)
    desk.hear("m1", TableRow("t", "over", (1, 0, 0), b"", 1), TableRow("t", "kept", (1, 0, 0), b"", 2))
    assert list(desk.machine.rows("t")) == ["kept"]
