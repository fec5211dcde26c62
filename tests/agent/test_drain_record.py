"""A node that is drained knows it again after whatever restarts (rule O3)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.agent.drain_record import FILE_NAME, DrainRecord
from service.gateway.order import DRAIN_TABLE
from service.model.errors import TransientError
from tests.wire.board import Rows

NODE = "worker1"


class Site:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "state" / FILE_NAME
        self.rows = Rows()
        self.operator = self.rows.board("controller-a")

    async def start(self) -> DrainRecord:
        """A new run of the agent."""
        record = DrainRecord(self.path, NODE, self.rows.board(NODE))
        await record.recall()
        await record.look()
        return record

    @property
    def is_drained(self) -> bool:
        drain = self.operator.drains().get(NODE)
        return drain is not None and drain.is_drained


async def test_o3_a_drain_outlives_all_members_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    record = await site.start()
    site.operator.drain(NODE, is_drained=True, at_s=1000)
    await record.look()
    site.rows.forget()
    assert not site.is_drained
    await site.start()
    assert site.is_drained


async def test_o3_a_drain_that_has_ended_does_not_come_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    record = await site.start()
    site.operator.drain(NODE, is_drained=True, at_s=1000)
    await record.look()
    site.operator.drain(NODE, is_drained=False, at_s=1001)
    await record.look()
    site.rows.forget()
    record = await site.start()
    await record.look()
    assert not site.is_drained


async def test_o3_what_was_ended_while_the_node_was_away_stays_ended(tmp_path: Path) -> None:
    site = Site(tmp_path)
    record = await site.start()
    site.operator.drain(NODE, is_drained=True, at_s=1000)
    await record.look()
    site.operator.drain(NODE, is_drained=False, at_s=1001)
    await site.start()
    assert not site.is_drained


async def test_o3_a_drain_that_the_leader_ended_because_the_node_was_gone_for_days_is_said_again(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    record = await site.start()
    site.operator.drain(NODE, is_drained=True, at_s=1000)
    await record.look()
    site.operator.end(DRAIN_TABLE, NODE, site.rows.tables[DRAIN_TABLE][NODE])
    assert not site.is_drained
    await site.start()
    assert site.is_drained


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(b"{"), lambda path: path.write_text('{"node": "other"}'), Path.mkdir]
)
async def test_a_file_that_is_no_record_is_told_and_says_nothing(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    site = Site(tmp_path)
    site.path.parent.mkdir()
    spoil(site.path)
    record = await site.start()
    assert "cannot read" in record.trouble
    assert not site.is_drained


async def test_a_disk_that_does_not_take_it_is_told_and_tried_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    record = await site.start()
    site.operator.drain(NODE, is_drained=True, at_s=1000)
    site.path.parent.write_text("no folder")
    with pytest.raises(TransientError, match="may be forgotten"):
        await record.look()
    assert record.trouble
    site.path.parent.unlink()
    await record.look()
    assert not record.trouble
    site.rows.forget()
    await site.start()
    assert site.is_drained
