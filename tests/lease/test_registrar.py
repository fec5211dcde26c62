"""What the electorate should be next, as keepers answer."""

from service.lease.electorate import Candidate
from service.lease.electorate_message import Standing, encode_electorate_message
from service.lease.registrar import INTERVAL_NS, STEADY_NS, Registrar
from service.model.lease import Elector, Electorate
from service.model.machine import Address, Source

A, B = (Elector(name, f"10.0.0.{index}", index) for index, name in enumerate("ab", start=1))
ALONE = Electorate(3, (A,), (A, B))
SETTLE_NS = 10 * STEADY_NS


class Office:
    """A registrar, and what keepers answer to it."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.registrar = Registrar(lease_port=9644, now_ns=0)
        candidates = {one.name: Candidate(one.name, one.host) for one in (A, B)}
        self.registrar.set_candidates(candidates, now_ns=0)
        self.registrar.set_electorate(ALONE, now_ns=0)

    def hear(self, *keepers: Elector, span_ns: int) -> None:
        for _ in range(span_ns // INTERVAL_NS):
            self.now_ns += INTERVAL_NS
            for one in keepers:
                standing = Standing(3, 1, one.memory, True, True, one is A)
                source = Source(Address(one.host, 9644), one.name, 1)
                self.registrar.receive(source, encode_electorate_message(standing), now_ns=self.now_ns)
            self.registrar.advance(now_ns=self.now_ns)

    def next(self) -> Electorate | None:
        return self.registrar.proposal(unchanged_ns=SETTLE_NS)


def test_a_newcomer_is_added_when_it_has_answered_for_a_while_without_a_gap() -> None:
    office = Office()
    office.hear(A, B, span_ns=STEADY_NS)
    assert office.next() is None
    office.hear(A, B, span_ns=STEADY_NS // 2)
    assert office.next() == Electorate(4, (A, B), (A,))


def test_a_newcomer_that_was_away_in_between_waits_anew() -> None:
    office = Office()
    office.hear(A, B, span_ns=STEADY_NS - INTERVAL_NS)
    office.hear(A, span_ns=STEADY_NS)
    office.hear(A, B, span_ns=STEADY_NS // 2)
    assert office.next() is None


def test_m3_nobody_is_added_while_those_who_would_decide_then_do_not_answer() -> None:
    office = Office()
    office.hear(A, B, span_ns=2 * STEADY_NS)
    assert office.next() is not None
    office.hear(B, span_ns=STEADY_NS)
    assert office.next() is None
