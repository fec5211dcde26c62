"""What the records of leaders say of each port is what it was, through faults that leaders do not survive."""

from collections.abc import Callable

import pytest

from service.audit import port_tenure
from service.port_block.leader_table import LeaderTable
from tests.simulation.block_chaos import BlockChaos
from tests.simulation.block_record import BlockRecord

SEEDS = range(300_000, 300_016)


def histories(prepare: Callable[[BlockChaos], None] = lambda chaos: None) -> list[tuple[int, int, int, list[str]]]:
    """Of each seed: packets taken, proved by the records, named rightly by them; and what they say wrongly."""
    found = []
    for seed in SEEDS:
        chaos = BlockChaos(seed)
        record = BlockRecord(chaos.world)
        prepare(chaos)
        chaos.run()
        found.append((len(record.uses), *record.answers()))
    return found


def test_no_port_is_said_to_be_another_nodes_and_nearly_each_answer_is_proved() -> None:
    """Leaders die with what they recorded last, and their successors read what others have."""
    told = histories()
    assert [wrong for *_, wrong in told if wrong] == []
    taken, proved, named = (sum(one[column] for one in told) for column in range(3))
    assert named > 0.98 * taken
    assert proved > 0.8 * taken


def test_a_leader_that_does_not_tell_what_it_has_read_leaves_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table is not told as a whole, only what it changes itself."""
    original = LeaderTable.state

    def state(self: LeaderTable, *arguments: object) -> object:
        told = original(self, *arguments)  # type: ignore[arg-type]
        return type(told)(told.floating_ip, ())

    monkeypatch.setattr(LeaderTable, "state", state)
    assert any(wrong for *_, wrong in histories())


def test_a_reader_that_trusts_the_stamps_across_leaders_alone_answers_wrongly_or_proves_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every word counts as sure until the next one, whoever said it."""
    monkeypatch.setattr(port_tenure, "_reach", lambda ordered: dict.fromkeys(map(_writer, ordered), 1 << 62))
    assert any(wrong for *_, wrong in histories())


def _writer(record: object) -> object:
    return port_tenure._writer(record, record.term)  # type: ignore[attr-defined,arg-type]
