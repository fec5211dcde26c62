"""What a majority of electors says."""

import pytest

from service.lease.message import Query, Report, Row, decode, encode, reports
from service.lease.observer import Observation, Observed, Observer
from service.model.errors import PeerError
from service.model.lease import Token
from service.model.machine import Address, Send, Source
from tests.lease.site import ELECTORATE, IP, MS

T1, T2 = Token(1, 1, 1), Token(1, 1, 2)
HELD = Row(IP, T1, "node-h", 200)
VACANT = Row(IP, T2, None, 0)


def asked(observer: Observer, ms: float = 0) -> int:
    """Let it ask; the sequence of its question."""
    observer.advance(now_ns=int(ms * MS))
    sends = [output for output in observer.drain() if isinstance(output, Send)]
    assert [send.to.host for send in sends] == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    query = decode(sends[0].payload)
    assert isinstance(query, Query)
    return query.sequence


def tell(observer: Observer, elector: int, report: Report, ms: float = 1) -> Observed | None:
    origin = Source(Address(f"10.0.0.{elector}", 9644), f"node{elector}", 1)
    observer.receive(origin, encode(report), now_ns=int(ms * MS))
    found = [output for output in observer.drain() if isinstance(output, Observed)]
    return found[-1] if found else None


def observer() -> Observer:
    return Observer(electorate=ELECTORATE, lease_port=9644, interval_ns=100 * MS, now_ns=0)


def one(sequence: int, *rows: Row, voting: bool = True, epoch: int = 1) -> Report:
    return reports(epoch, sequence, voting=voting, rows=rows)[0]


def test_a_minority_says_nothing() -> None:
    machine = observer()
    assert tell(machine, 0, one(asked(machine), HELD)) is None


def test_a_majority_names_the_holder() -> None:
    machine = observer()
    sequence = asked(machine)
    tell(machine, 0, one(sequence, HELD))
    seen = tell(machine, 1, one(sequence, HELD), 2)
    assert seen is not None
    assert seen.table == {IP: Observation("node-h", T1, 2 * MS, 200 * MS, T1)}


def test_a_key_is_vacant_when_a_majority_has_promised_it_to_nobody() -> None:
    machine = observer()
    sequence = asked(machine)
    tell(machine, 0, one(sequence, VACANT))
    seen = tell(machine, 1, one(sequence))
    assert seen is not None
    assert seen.table[IP].node is None
    assert seen.table[IP].token == T2


def test_where_electors_disagree_the_key_is_undecided() -> None:
    machine = observer()
    sequence = asked(machine)
    tell(machine, 0, one(sequence, HELD))
    seen = tell(machine, 1, one(sequence, VACANT))
    assert seen == Observed({}, (IP,))


def test_an_elector_in_its_silence_says_nothing_about_what_is_vacant() -> None:
    machine = observer()
    sequence = asked(machine)
    tell(machine, 0, one(sequence, VACANT, voting=False))
    assert tell(machine, 1, one(sequence, VACANT)) is None


def test_m3_an_epoch_is_seen_in_force_when_a_majority_has_settled_in_it() -> None:
    machine = observer()
    sequence = asked(machine)
    tell(machine, 0, one(sequence))
    tell(machine, 1, reports(1, sequence, voting=True, rows=(), settled=False)[0])
    assert machine.epoch_in_force == 0
    tell(machine, 2, one(sequence))
    assert machine.epoch_in_force == 1


def test_half_a_report_is_not_counted() -> None:
    machine = observer()
    sequence = asked(machine)
    rows = [Row(f"10.0.0.{index}", T1, None, 0) for index in range(200)]
    first, *rest = reports(1, sequence, voting=True, rows=rows)
    assert rest
    tell(machine, 0, one(sequence))
    assert tell(machine, 1, first) is None
    for part in rest:
        seen = tell(machine, 1, part)
    assert seen is not None
    assert len(seen.table) == 200


def test_old_reports_are_not_counted() -> None:
    machine = observer()
    sequence = asked(machine)
    tell(machine, 0, one(sequence, HELD))
    for ms in range(100, 500, 100):
        sequence = asked(machine, ms)
    assert tell(machine, 1, one(sequence, HELD), 401) is None


def test_answers_to_questions_of_an_earlier_process_are_ignored() -> None:
    machine = observer()
    sequence = asked(machine)
    tell(machine, 0, one(sequence + 7, HELD))
    assert tell(machine, 1, one(sequence, HELD)) is None


def test_strangers_and_other_epochs_are_refused() -> None:
    machine = observer()
    sequence = asked(machine)
    with pytest.raises(PeerError, match="epoch"):
        tell(machine, 0, one(sequence, HELD, epoch=2))
    with pytest.raises(PeerError, match="no elector"):
        tell(machine, 9, one(sequence, HELD))
