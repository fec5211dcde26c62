"""What a controller tells at /v1/status of what users are told."""

from ipaddress import IPv4Address
from pathlib import Path

import aiohttp
import pytest

from service.controller.status import explained
from service.model.objects import Kind, ObjectKey
from service.model.validity import Validity
from service.sources.manifests.status_file import StatusFolder
from tests.controller.elector import HOST, settings_of
from tests.controller.test_controller import running
from tests.sources.kubernetes.fake_api_server import until


def test_each_floating_ip_gets_a_reason_and_an_empty_one_where_none_is_known() -> None:
    document = {"leader": None, "floatingIPs": {"192.0.2.100": {"holder": None}, "192.0.2.101": {"holder": "worker1"}}}
    found = explained(document, {IPv4Address("192.0.2.100"): "no majority of electors answers"})
    assert found["floatingIPs"] == {
        "192.0.2.100": {"holder": None, "why": "no majority of electors answers"},
        "192.0.2.101": {"holder": "worker1", "why": ""},
    }
    assert found["leader"] is None


async def test_v1_a_controller_that_finds_no_majority_ends_what_a_leader_wrote_and_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.report.validity.RENEW_NS", 400_000_000)
    monkeypatch.setattr("service.report.validity.VALID_NS", 2_400_000_000)
    settings = settings_of(tmp_path)
    folder = StatusFolder(tmp_path / "manifests")
    key = ObjectKey(Kind.GATEWAY, "kube-system", "default")
    ready = {"type": "Ready", "status": "True", "reason": "AllHeld", "message": ""}
    folder.write(key, {"floatingIPs": {"192.0.2.100": "worker1"}, "conditions": [ready]}, created="")
    folder.renew(Validity("controller-b", 7, "2024-01-01T00:00:00Z"), None)
    async with running(settings) as controller, aiohttp.ClientSession() as session:
        await until(lambda: folder.written()[0].status["conditions"][0]["status"] == "Unknown", timeout_s=10)
        status = folder.written()[0].status
        assert status["conditions"][0]["reason"] == "MajorityLost"
        assert "no majority of electors answers: of elector are silent: elector" in status["conditions"][0]["message"]
        assert any("Unknown" in trouble for trouble in controller.status()["troubles"])
        async with session.get(f"http://{HOST}:{settings.ports.http}/metrics") as found:
            assert "egressgw_status_unknown 1.0" in await found.text()
