"""The probe cycle by itself: whom it asks when, and what it makes of answers and of silence."""

from itertools import pairwise
from random import Random

import pytest

from service.gossip.config import DEFAULT_CONFIG
from service.gossip.digest import Index
from service.gossip.dissemination import Broadcasts
from service.gossip.member import Member, MemberState
from service.gossip.message import ALIVE, DEAD, Ack, Message, Nack, Ping, PingRequest, Record, decode_packet
from service.gossip.outbound import Outbound
from service.gossip.prober import LONELY_RECONNECT_NS, Prober
from service.gossip.retention import Retention
from service.gossip.roster import Roster
from service.gossip.seed import Seeds
from service.model.machine import Address, Send, Source

MS = 1_000_000
SECOND = 1_000 * MS
PERIOD_NS = DEFAULT_CONFIG.probe_interval_ns
ELSEWHERE = Address("192.168.1.9", 31000)


def address(name: str) -> Address:
    return Address(f"10.0.0.{int(name[1:]) + 1}", 9640)


def source(name: str, origin: Address | None = None) -> Source:
    return Source(origin or address(name), name, 1)


class Cycle:
    """A prober among `peers` members m1, m2, ... which the test plays."""

    def __init__(self, peers: int, *, seeds: tuple[Address, ...] = ()) -> None:
        self.now_ns = 0
        self.sequence = 0
        index, broadcasts = Index(), Broadcasts(1)
        local = Member("m0", address("m0"), MemberState.ALIVE, b"", 5)
        self.roster = Roster(local, config=DEFAULT_CONFIG, random=Random(1), index=index, broadcasts=broadcasts)
        for number in range(1, peers + 1):
            self.hear(f"m{number}", ALIVE)
        outbound = Outbound(
            DEFAULT_CONFIG, index=index, roster=self.roster, broadcasts=broadcasts, retention=Retention(DEFAULT_CONFIG)
        )
        own_seeds = Seeds(DEFAULT_CONFIG, Random(2), own=address("m0"))
        own_seeds.replace(seeds, now_ns=0)
        self.prober = Prober(
            DEFAULT_CONFIG, Random(3), roster=self.roster, outbound=outbound, seeds=own_seeds, now_ns=0
        )

    def hear(self, name: str, state: int, incarnation: int = 1) -> None:
        host, port = address(name)
        record = Record(name, host, port, incarnation, state, 0, b"")  # type: ignore[arg-type]
        self.roster.merge(record, hearsay_of=None, now_ns=self.now_ns)

    def sent(self, *kinds: type) -> list[tuple[Address, Message]]:
        outputs = [output for output in self.roster.outputs if isinstance(output, Send)]
        self.roster.outputs.clear()
        messages = [(send.to, message) for send in outputs for message in decode_packet(send.payload)[0]]
        return [(to, message) for to, message in messages if isinstance(message, kinds)]

    def run(self, span_ns: int, *kinds: type) -> list[tuple[Address, Message]]:
        """Let time pass, timer by timer; returns what of these kinds was sent."""
        end_ns, sent = self.now_ns + span_ns, []
        while self.prober.deadline_ns() <= end_ns:
            self.now_ns = max(self.now_ns, self.prober.deadline_ns())
            self.prober.advance(now_ns=self.now_ns)
            sent += self.sent(*kinds)
        self.now_ns = end_ns
        return sent

    def begin(self) -> tuple[str, Ping]:
        """Run until the next probe has begun; returns its target and the ping."""
        while True:
            for _, ping in self.run(1 * MS, Ping):
                # The repeat to a silent target bears the number of its probe.
                if isinstance(ping, Ping) and ping.sequence > self.sequence:
                    self.sequence = ping.sequence
                    return ping.target, ping

    def ack(self, name: str, sequence: int, origin: Address | None = None) -> None:
        self.prober.take_ack(source(name, origin), Ack(sequence, 0), now_ns=self.now_ns)

    def state(self, name: str) -> MemberState:
        member = self.roster.get(name)
        assert member is not None
        return member.state


def test_members_that_start_together_do_not_probe_in_step() -> None:
    first_ns = {
        Prober(
            DEFAULT_CONFIG,
            Random(seed),
            roster=Cycle(0).roster,
            outbound=None,  # type: ignore[arg-type]
            seeds=None,  # type: ignore[arg-type]
            now_ns=0,
        ).deadline_ns()
        for seed in range(20)
    }
    assert len(first_ns) == 20
    assert max(first_ns) <= PERIOD_NS // 10


def test_one_member_a_period_and_everybody_in_one_turn() -> None:
    cycle = Cycle(5)
    targets = []
    for _ in range(5):
        target, ping = cycle.begin()
        cycle.ack(target, ping.sequence)
        targets.append(target)
    assert sorted(targets) == ["m1", "m2", "m3", "m4", "m5"]
    assert 4 * PERIOD_NS * 0.95 <= cycle.now_ns <= 4 * PERIOD_NS * 1.05 + PERIOD_NS // 10 + 5 * MS


def test_a_member_that_answered_is_not_asked_through_helpers() -> None:
    cycle = Cycle(5)
    target, ping = cycle.begin()
    cycle.ack(target, ping.sequence)
    assert cycle.run(400 * MS, PingRequest, Ping) == []
    assert cycle.prober.failed == 0


def test_silence_for_the_timeout_asks_three_helpers_and_the_target_once_more() -> None:
    """SWIM 3.1, ping-req; without a measured round trip the timeout is 200 ms."""
    cycle = Cycle(5)
    target, ping = cycle.begin()
    assert cycle.run(198 * MS, PingRequest, Ping) == []
    sent = cycle.run(3 * MS, PingRequest, Ping)
    requests = [(to, message) for to, message in sent if isinstance(message, PingRequest)]
    assert len({to for to, _ in requests}) == 3
    host, port = address(target)
    assert {message for _, message in requests} == {PingRequest(ping.sequence, target, host, port)}
    assert [(to, again.sequence) for to, again in sent if isinstance(again, Ping)] == [(address(target), ping.sequence)]


def test_the_timeout_follows_the_measured_round_trip() -> None:
    cycle = Cycle(1)
    for _ in range(30):
        target, ping = cycle.begin()
        cycle.run(2 * MS)
        cycle.ack(target, ping.sequence)
    cycle.begin()
    assert cycle.run(49 * MS, Ping) == []
    assert cycle.run(3 * MS, Ping) != []


def test_an_answer_after_the_repeat_is_no_measurement() -> None:
    """Karn: it may belong to either ping."""
    cycle = Cycle(1)
    for delay_ns in (2 * MS,) * 30 + (80 * MS,) * 5:
        target, ping = cycle.begin()
        cycle.run(delay_ns)
        cycle.ack(target, ping.sequence)
    cycle.begin()
    assert len(cycle.run(52 * MS, Ping)) == 1, "still at the shortest timeout, 50 ms"


@pytest.mark.parametrize("who", ["the target, late", "a helper, for the target"])
def test_any_answer_within_the_period_saves_the_target(who: str) -> None:
    cycle = Cycle(3)
    target, ping = cycle.begin()
    cycle.run(300 * MS)
    helper = next(name for name in ("m1", "m2") if name != target)
    cycle.ack(target if who.startswith("the target") else helper, ping.sequence)
    cycle.run(300 * MS)
    assert cycle.state(target) is MemberState.ALIVE
    assert cycle.prober.failed == 0


def test_no_answer_in_the_whole_period_is_an_accusation_at_its_end() -> None:
    cycle = Cycle(3)
    target, _ = cycle.begin()
    cycle.run(470 * MS)
    assert cycle.state(target) is MemberState.ALIVE
    cycle.run(60 * MS)
    assert cycle.state(target) is MemberState.SUSPECT
    assert cycle.roster.has_accused() == [target]
    assert cycle.prober.failed == 1


def test_an_answer_to_a_former_probe_saves_nobody() -> None:
    cycle = Cycle(3)
    target, former = cycle.begin()
    cycle.ack(target, former.sequence)
    target, _ = cycle.begin()
    cycle.ack(target, former.sequence)
    cycle.run(600 * MS)
    assert cycle.state(target) is MemberState.SUSPECT


def test_who_died_by_another_word_meanwhile_is_not_accused() -> None:
    cycle = Cycle(3)
    target, _ = cycle.begin()
    cycle.hear(target, DEAD)
    cycle.run(530 * MS)
    assert cycle.state(target) is MemberState.DEAD
    assert cycle.roster.has_accused() == []


@pytest.mark.parametrize(("nacks", "score"), [(0, 3), (1, 2), (3, 0)])
def test_each_helper_that_says_nothing_counts_against_ourselves(nacks: int, score: int) -> None:
    """Lifeguard, local health multiplier."""
    cycle = Cycle(5)
    target, ping = cycle.begin()
    requests = cycle.run(201 * MS, PingRequest)
    for index, (to, _) in enumerate(requests):
        helper = f"m{int(to.host.rsplit('.', 1)[1]) - 1}"
        # Twice, and what else comes from a silent one belongs to another probe.
        for _ in range(2):
            cycle.prober.take_nack(source(helper), Nack(ping.sequence if index < nacks else ping.sequence + 1000))
    cycle.run(330 * MS)
    assert cycle.state(target) is MemberState.SUSPECT
    assert cycle.roster.awareness.score == score


def test_with_nobody_to_ask_the_silence_counts_once() -> None:
    cycle = Cycle(1)
    cycle.begin()
    cycle.run(530 * MS)
    assert cycle.roster.awareness.score == 1


def test_ill_health_stretches_period_and_timeout() -> None:
    """Lifeguard, LHA-Probe: both."""
    cycle = Cycle(5)
    cycle.roster.awareness.worsen(2)
    cycle.begin()
    assert cycle.run(590 * MS, PingRequest, Ping) == []
    assert cycle.run(20 * MS, PingRequest) != []
    assert cycle.prober.deadline_ns() >= 3 * 0.95 * PERIOD_NS


def test_lost_time_is_given_back_to_probe_and_period_and_spoils_the_measurement() -> None:
    cycle = Cycle(3)
    target, ping = cycle.begin()
    before_ns = cycle.prober.deadline_ns()
    cycle.now_ns += 5 * SECOND
    cycle.prober.postpone(5 * SECOND)
    assert cycle.prober.deadline_ns() == before_ns + 5 * SECOND
    cycle.prober.advance(now_ns=cycle.now_ns)
    assert cycle.prober.failed == 0
    cycle.ack(target, ping.sequence)
    cycle.run(600 * MS)
    assert cycle.prober.failed == 0


def test_a_helper_asks_and_passes_the_answer_on_under_the_askers_sequence() -> None:
    cycle = Cycle(3)
    cycle.prober.help(source("m1"), PingRequest(33, "m2", "10.0.0.77", 9640), now_ns=0)
    ((to, ping),) = cycle.sent(Ping)
    assert to == Address("10.0.0.77", 9640), "where the asker knows the target"
    assert isinstance(ping, Ping)
    cycle.ack("m2", ping.sequence)
    ((to, ack),) = cycle.sent(Ack)
    assert (to, ack) == (address("m1"), Ack(33, ack.fingerprint))  # type: ignore[union-attr]
    cycle.ack("m2", ping.sequence)
    assert cycle.sent(Ack) == []


def test_a_helper_without_an_answer_says_so_at_four_fifths_of_the_timeout() -> None:
    cycle = Cycle(3)
    cycle.prober.help(source("m1"), PingRequest(33, "m2", "10.0.0.3", 9640), now_ns=0)
    assert cycle.run(159 * MS, Nack) == []
    assert cycle.run(2 * MS, Nack) == [(address("m1"), Nack(33))]


def test_the_accused_are_asked_out_of_turn_with_no_verdict_hanging_on_it() -> None:
    cycle = Cycle(3)
    cycle.roster.accuse("m1", 1, accuser="m0", now_ns=0)
    cycle.roster.accuse("m2", 1, accuser="m3", now_ns=0)
    cycle.sent()
    cycle.prober.ask_accused(now_ns=0)
    asked = [(to, ping.target) for to, ping in cycle.sent(Ping) if isinstance(ping, Ping)]
    assert asked == [(address("m1"), "m1")], "not whom others accuse"
    cycle.run(30 * MS)
    assert cycle.prober.failed == 0


def test_after_leaving_nobody_is_probed_or_accused() -> None:
    cycle = Cycle(3)
    target, _ = cycle.begin()
    cycle.prober.stop()
    cycle.roster.announce(now_ns=cycle.now_ns, state=MemberState.LEFT)
    assert cycle.run(5 * SECOND, Ping, PingRequest) == []
    assert cycle.state(target) is MemberState.ALIVE


def test_the_dead_are_tried_again_with_growing_waits_for_ever() -> None:
    cycle = Cycle(1)
    cycle.hear("m1", DEAD)
    cycle.sent()
    times = []
    while cycle.now_ns < 120 * SECOND:
        times += [cycle.now_ns] * len(cycle.run(100 * MS, Ping))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] <= 1.1 * SECOND
    assert 4 * SECOND <= max(gaps) <= DEFAULT_CONFIG.reconnect_interval_ns_max + 2 * PERIOD_NS


def test_while_alone_seeds_are_tried_each_second_with_our_own_record() -> None:
    seed = Address("10.0.0.9", 9640)
    cycle = Cycle(0, seeds=(seed,))
    sent = cycle.run(60 * SECOND, Ping, Record)
    assert {to for to, _ in sent} == {seed}
    records = [message.name for _, message in sent if isinstance(message, Record)]
    assert len(records) >= 60 * SECOND // (LONELY_RECONNECT_NS + PERIOD_NS + 50 * MS)
    assert set(records) == {"m0"}


def test_a_member_heard_from_elsewhere_is_asked_there_too_and_forgotten_with_it() -> None:
    cycle = Cycle(1)
    cycle.prober.note_origin(source("m1", ELSEWHERE))
    _, ping = cycle.begin()
    assert [to for to, _ in cycle.run(201 * MS, Ping)] == [address("m1"), ELSEWHERE]
    cycle.ack("m1", ping.sequence, ELSEWHERE)
    cycle.hear("m1", DEAD)
    cycle.prober.forget_gone()
    cycle.hear("m1", ALIVE, incarnation=2)
    cycle.sent()
    cycle.begin()
    assert [to for to, _ in cycle.run(201 * MS, Ping)] == [address("m1")]
