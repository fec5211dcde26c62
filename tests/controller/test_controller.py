"""A whole controller process on loopback, with a folder of manifests and one elector."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from service.audit.outbox import read_outbox
from service.controller.controller import Controller
from service.model.audit_record import AuditRecord, RecordKind
from service.model.errors import OperatorError
from service.settings import HttpSettings, Settings
from service.sources.manifests.source import ManifestsSource
from service.web.order_client import CONTROLLER_ORDERS, OrderClient
from service.wire.envelope import Envelope
from tests.controller.elector import HOST, LoopbackElector, settings_of
from tests.disk import HangingDisk, RefusingDisk
from tests.sources.kubernetes.fake_api_server import until

GATEWAY = """
apiVersion: networking.gke.io/v1alpha1
kind: AnthosNetworkGateway
metadata: {name: default, namespace: kube-system}
spec: {floatingIPs: [192.0.2.100, 192.0.2.101]}
"""


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Controller]:
    async with AsyncExitStack() as stack:
        controller = Controller(settings)
        await controller.enter(stack)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(controller.serve())
            yield controller
            task.cancel()


async def ask(settings: Settings, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{settings.ports.http}{path}") as found:
        return found.status, await found.json()


async def test_a_controller_opens_says_what_it_lacks_and_closes(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with AsyncExitStack() as stack:
        controller = Controller(settings)
        await controller.enter(stack)
        status, found = await ask(settings, "/readyz")
        assert status == 503
        assert found["reasons"] == ["objects have not been read yet", "no majority of electors answers"]
        status, found = await ask(settings, "/v1/status")
        assert (status, found["role"], found["leading"], found["node"]) == (200, "controller", False, "controller-a")
        assert controller.facts() is None
    async with AsyncExitStack() as stack:
        await Controller(settings).enter(stack)  # every socket and lock of the first one is free again


async def test_without_an_address_for_http_it_listens_where_members_reach_it_and_nowhere_else(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(settings_of(tmp_path), http=HttpSettings())
    async with AsyncExitStack() as stack:
        await Controller(settings).enter(stack)
        assert (await ask(settings, "/healthz"))[0] == 200
        with socket.socket() as elsewhere:
            assert elsewhere.connect_ex(("127.0.0.2", settings.ports.http)) != 0


async def test_an_electorate_that_is_refused_is_seen_in_metrics_and_status_of_the_controller(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    url = f"http://{HOST}:{settings.ports.http}/metrics"
    async with running(settings) as controller, aiohttp.ClientSession() as session:
        for trouble in ("", "the electorate object: somebody edited it"):
            controller._office.book.refuse(trouble)
            async with session.get(url) as found:
                text = await found.text()
            assert f"egressgw_electorate_trouble {float(bool(trouble))}" in text
            assert 'egressgw_loop_timer_lag_seconds_count{process="controller"}' in text
            assert controller.status()["electorate"]["trouble"] == trouble


async def test_m8_a_refused_electorate_is_told_by_the_controller_that_leads_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside manifests an Event is a line in the log."""
    monkeypatch.setattr("service.controller.knowledge.has_caught_up", lambda **_: True)
    settings = settings_of(tmp_path)
    async with running(settings) as controller:
        controller._office._refusal.see("epoch 9 of b, c is refused", uid="u", is_final=True, now_ns=0)
        await asyncio.sleep(0.5)
        assert "ElectorateRefused" not in caplog.text
        async with LoopbackElector(settings):
            await until(lambda: "ElectorateRefused" in caplog.text)
            await asyncio.sleep(0.5)
    lines = [record.getMessage() for record in caplog.records if "ElectorateRefused" in record.getMessage()]
    assert lines == [
        "ConfigMap egressgw-system/egressgw-electorate: ElectorateRefused: epoch 9 of b, c is refused",
    ]


async def test_a_node_with_another_key_is_a_trouble_of_the_controller(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    stranger = Envelope((b"\x22" * 32,), cluster=settings.cluster, node="worker2", start_id=9, purpose="gossip")
    async with running(settings) as controller:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(stranger.seal(b"let me in"), (HOST, settings.ports.controller_gossip))
        await until(lambda: any("unknown-key" in trouble for trouble in controller.status()["troubles"]))


async def test_a_controller_without_electors_reads_its_objects_and_leads_nobody(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    (tmp_path / "manifests" / "gateway.yaml").write_text(GATEWAY, encoding="utf-8")
    async with running(settings) as controller:
        await until(lambda: controller.not_ready_reasons() == ["no majority of electors answers"])
        _, found = await ask(settings, "/v1/status")
        assert list(found["floatingIPs"]) == ["192.0.2.100", "192.0.2.101"]
        assert "no majority of electors answers" in found["floatingIPs"]["192.0.2.100"]["why"]
        assert found["objects"]["synced"] is True
        assert not controller.is_leading


async def test_w12_a_controller_knows_the_api_servers_address_by_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = IPv4Address("203.0.113.9")
    monkeypatch.setattr(ManifestsSource, "server_address", lambda source: server)
    async with running(settings_of(tmp_path)) as controller:
        await until(lambda: controller._knowledge._server() == server)


async def test_a_controller_names_the_electors_that_do_not_answer_it_and_since_when(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with running(settings) as controller:
        electorate = controller.status()["electorate"]
        assert (electorate["majority"], electorate["silentSeconds"]) == (False, {})
        await until(lambda: controller.status()["electorate"]["silentSeconds"])
        assert controller.status()["electorate"]["silentSeconds"]["elector"] >= 2
        async with LoopbackElector(settings):
            await until(lambda: controller.status()["electorate"]["majority"])
            assert controller.status()["electorate"]["silentSeconds"] == {}


async def test_a_controller_shows_its_records_to_whoever_asks(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with LoopbackElector(settings), running(settings) as controller:
        await until(lambda: controller.is_leading)

        url = f"http://{HOST}:{settings.ports.http}/v1/records"
        await controller._outbox.flush(5)
        async with aiohttp.ClientSession() as session, session.get(url) as found:
            assert b"leader-elected" in await found.read()
        assert controller.status()["members"] == {"controller-a": HOST}


async def test_a_controller_leads_when_electors_grant_it_and_gives_it_up_when_it_stops(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with LoopbackElector(settings), running(settings) as controller:
        await until(lambda: controller.is_leading and not controller.not_ready_reasons())
        _, found = await ask(settings, "/v1/status")
        assert (found["leading"], found["leader"]) == (True, "controller-a")
        assert (await ask(settings, "/readyz"))[0] == 200
        assert controller.facts() is None, "it does not know every elector as a member yet"
    records = [one for one in read_outbox(Path(settings.state_dir) / "outbox") if isinstance(one, AuditRecord)]
    assert records[0].kind is RecordKind.LEADER_ELECTED
    assert (records[-1].kind, records[-1].reason) == (RecordKind.LEADER_LOST, "released")


async def test_q2_a_controller_that_leads_tells_how_many_blocks_of_ports_nobody_has(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    (tmp_path / "manifests" / "gateway.yaml").write_text(GATEWAY, encoding="utf-8")
    url = f"http://{HOST}:{settings.ports.http}/metrics"
    family, sample = "egressgw_port_blocks_unowned", 'egressgw_port_blocks_unowned{floating_ip="192.0.2.100"} 1008.0'

    async def scraped() -> str:
        async with aiohttp.ClientSession() as session, session.get(url) as found:
            return await found.text()

    async with running(settings) as controller:
        await until(lambda: controller.status()["objects"]["synced"])
        assert family in await scraped()
        assert sample not in await scraped()
        async with LoopbackElector(settings):
            await until(lambda: controller.is_leading and controller.status()["portBlocks"])
            assert sample in await scraped()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
async def test_a_controller_begins_and_leads_on_a_disk_that_takes_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    settings = settings_of(tmp_path)
    disk = RefusingDisk(monkeypatch)
    # The status beside the manifests, too.
    disk.spoil(str(tmp_path), number)
    async with LoopbackElector(settings), running(settings) as controller:
        await until(lambda: controller.is_leading and not controller.not_ready_reasons())
        assert os.strerror(number) in controller.status()["audit"]["reason"]
        disk.mend()
        await until(lambda: controller.status()["audit"]["healthy"])
        assert await controller._outbox.flush(5)


async def test_a_controller_whose_disk_does_not_answer_leads_and_answers_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its records nor the status beside the manifests are waited for."""
    monkeypatch.setattr("service.controller.knowledge.has_caught_up", lambda **_: True)
    settings = settings_of(tmp_path)
    (tmp_path / "manifests" / "gateway.yaml").write_text(GATEWAY, encoding="utf-8")
    async with running(settings) as controller:
        disk = HangingDisk(monkeypatch)
        async with LoopbackElector(settings):
            await until(lambda: disk.is_waited_for_by("outbox", "status"))
            assert (await ask(settings, "/v1/status"))[1]["leading"] is True
            disk.answer()
            assert await controller._outbox.flush(5)
    assert disk.held_up == []


async def test_a_controller_that_may_not_look_at_its_manifests_says_so_and_reads_them_once_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen in code: what is no error of the operator's ended it with a traceback."""
    settings = settings_of(tmp_path)

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    async with AsyncExitStack() as stack:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "is_dir", refuse)
            controller = await stack.enter_async_context(running(settings))
            await until(lambda: "Permission denied" in str(controller.status()["troubles"]))
        await until(lambda: controller.status()["objects"]["synced"])


async def test_two_controllers_of_one_state_directory_are_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with AsyncExitStack() as stack:
        await Controller(settings).enter(stack)
        with pytest.raises(OperatorError):
            await Controller(settings).enter(stack)


async def test_o3_a_controller_takes_orders_on_its_socket_and_tells_of_them(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    (tmp_path / "manifests" / "gateway.yaml").write_text(GATEWAY, encoding="utf-8")
    client = OrderClient(settings.run_dir)
    async with running(settings) as controller:
        await until((Path(settings.run_dir) / CONTROLLER_ORDERS).is_socket)
        await until(lambda: controller.facts() is None and not controller.status()["objects"]["trouble"])
        await until(lambda: controller.status()["objects"]["synced"])
        found = await asyncio.to_thread(client.post, "/v1/move", {"floatingIP": "192.0.2.100", "node": "worker1"})
        assert found["state"] == "asked"
        (order,) = controller.status()["orders"]
        assert (order["floatingIP"], order["to"], order["state"]) == ("192.0.2.100", "worker1", "asked")
