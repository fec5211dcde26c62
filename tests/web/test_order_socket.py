"""Orders over the socket, as the command gives them; and nobody else may."""

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.model.errors import OperatorError
from service.web.order_client import AGENT_ORDERS, OrderClient
from service.web.order_socket import OrderSocket
from tests.web.order_site import IP, OrderSite


def is_open(path: Path) -> bool:
    """For its owner, and nobody else."""
    return path.is_socket() and stat.S_IMODE(path.stat().st_mode) == 0o600


async def until(question: Callable[[], bool]) -> None:
    for _ in range(1000):
        if question():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


@asynccontextmanager
async def listening(path: Path, site: OrderSite) -> AsyncIterator[OrderSocket]:
    served = OrderSocket(path, site.orders)
    task = asyncio.create_task(served.run())
    await until(lambda: is_open(path))
    try:
        yield served
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_everything_that_can_be_ordered_is_heard(tmp_path: Path) -> None:
    site, client = OrderSite(), OrderClient(str(tmp_path))
    async with listening(tmp_path / AGENT_ORDERS, site):
        drained = await asyncio.to_thread(client.post, "/v1/drain", {"node": "worker2", "drained": True})
        assert drained["drained"]
        assert site.board.drains()["worker2"].is_drained
        assert (await asyncio.to_thread(client.get, "/v1/drain", node="worker2"))["node"] == "worker2"
        ordered = await asyncio.to_thread(client.post, "/v1/move", {"floatingIP": str(IP), "node": ""})
        assert (await asyncio.to_thread(client.get, "/v1/move", floatingIP=str(IP)))["id"] == ordered["id"]
        withdrawal = {"floatingIP": str(IP), "id": ordered["id"]}
        assert (await asyncio.to_thread(client.post, "/v1/withdraw", withdrawal))["state"] == "failed"
        # worker2 is drained in gossip; the stand-in for it here does not say so.
        assert len((await asyncio.to_thread(client.get, "/v1/rebalance"))["moves"]) == 1


@pytest.mark.parametrize(
    ("page", "order"),
    [
        ("/v1/drain", {"node": "worker9", "drained": True}),
        ("/v1/drain", {"node": "worker1"}),
        ("/v1/move", {"floatingIP": "nowhere"}),
        ("/v1/move", {"floatingIP": str(IP), "to": "worker2"}),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_and_changes_nothing(
    tmp_path: Path, page: str, order: dict[str, object]
) -> None:
    site, client = OrderSite(), OrderClient(str(tmp_path))
    async with listening(tmp_path / AGENT_ORDERS, site):
        with pytest.raises(OperatorError):
            await asyncio.to_thread(client.post, page, order)
    assert site.rows.tables == {}


async def test_only_its_owner_may_open_the_socket_and_a_dead_ones_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / AGENT_ORDERS
    path.write_text("left behind")
    async with listening(path, OrderSite()):
        assert is_open(path)


async def test_a_disk_that_does_not_let_it_listen_is_told_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.write_text("no folder")
    served = OrderSocket(folder / AGENT_ORDERS, OrderSite().orders)
    task = asyncio.create_task(served.run())
    await until(lambda: bool(served.trouble))
    folder.unlink()
    await until(lambda: not served.trouble)
    assert is_open(folder / AGENT_ORDERS)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
