"""A controller as a client of a real elector, on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

from service.controller.elector_client import ElectorClient
from service.lease.holder import CloseFence, OpenFence
from service.lease.observer import Observed
from service.model.lease import LEADER_KEY, Electorate
from service.settings import Settings
from service.wire.cluster_view import ClusterView
from tests.controller.cluster import Cluster
from tests.controller.elector import ELECTOR, LoopbackElector, settings_of
from tests.sources.kubernetes.fake_api_server import until
from tests.virtual_time import in_virtual_time, now_ns

RELAXED_LEASE_S = 1.0


class Heard:
    """What the client hands on."""

    def __init__(self, settings: Settings) -> None:
        self.outputs: list[object] = []
        self.client = ElectorClient(
            settings,
            cast(ClusterView, Cluster()),
            handle=self.outputs.append,
            is_leading=lambda: False,
            clock=now_ns,
        )

    def leads(self) -> bool:
        return any(isinstance(output, OpenFence) for output in self.outputs)

    def observed(self) -> Observed | None:
        return next((output for output in reversed(self.outputs) if isinstance(output, Observed)), None)

    def leader(self) -> str | None:
        found = self.observed()
        return found.table[LEADER_KEY].node if found is not None and LEADER_KEY in found.table else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Heard"]:
        client = self.client
        async with AsyncExitStack() as stack:
            for opened in client.sockets:
                await stack.enter_async_context(opened)
            async with asyncio.TaskGroup() as group:
                pumps = (client.holder_pump, client.observer_pump, client.office)
                tasks = [group.create_task(one.run()) for one in pumps]
                yield self
                for task in tasks:
                    task.cancel()


@in_virtual_time
async def test_k2_a_controller_claims_leadership_and_sees_who_leads(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with LoopbackElector(settings, clock=now_ns), Heard(settings).running() as heard:
        await until(lambda: heard.observed() is not None)
        assert not heard.leads(), "it has not claimed anything yet"
        heard.client.claim_leadership()
        await until(heard.leads)
        await until(lambda: heard.leader() == "controller-a")


@in_virtual_time
async def test_k2_who_steps_down_leaves_leadership_to_the_next_before_its_lease_is_over(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    other = settings_of(tmp_path, "controller-b", lease_port=settings.ports.lease)
    async with (
        LoopbackElector(settings, clock=now_ns),
        Heard(settings).running() as first,
        Heard(other).running() as second,
    ):
        first.client.claim_leadership()
        await until(first.leads)
        second.client.claim_leadership()
        await until(lambda: second.leader() == "controller-a")
        assert not second.leads()
        first.client.step_down()
        assert [output.reason for output in first.outputs if isinstance(output, CloseFence)] == ["released"]
        await until(second.leads, timeout_s=RELAXED_LEASE_S / 2)


@in_virtual_time
async def test_a_newer_electorate_is_learnt_from_electors_and_gone_by_from_then_on(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with LoopbackElector(settings, epoch=2, clock=now_ns), Heard(settings).running() as heard:
        heard.client.claim_leadership()
        await until(heard.leads)
        await until(lambda: heard.observed() is not None)
        assert heard.client.office.book.known == Electorate(2, (ELECTOR,))


@in_virtual_time
async def test_each_machine_has_a_start_id_of_its_own(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    starts: dict[int, None] = {}
    async with LoopbackElector(settings, clock=now_ns) as elector, Heard(settings).running() as heard:
        take = elector.machine.receive

        def receive(source, payload, *, now):  # type: ignore[no-untyped-def]
            starts[source.start_id] = None
            take(source, payload, now=now)

        elector.machine.receive = receive  # type: ignore[method-assign]
        heard.client.claim_leadership()
        await until(lambda: len(starts) == 3)
