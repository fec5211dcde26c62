"""A rolling update of everything to another image, under traffic."""

from pathlib import Path

import pytest

from service.lab.cluster.clients import client_name
from service.lab.cluster.cluster import CTR
from service.lab.cluster.image import PROJECT_IMAGE, build_project_image
from tests.cluster.service_site import NODE, NODES, ServiceSite
from tests.e2e.site import FLOATING_IPS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
FIRST = FLOATING_IPS[0]
NEXT_VERSION = "0.1.1"
NEXT_IMAGE = f"docker.io/library/egressgw:{NEXT_VERSION}"


def versions(service: ServiceSite) -> set[str]:
    items = service.cluster.kubectl.get("-n", "kube-system", NODE)["items"]
    return {item.get("status", {}).get("agentVersion", "") for item in items}


def test_a_rolling_update_moves_nothing_and_no_packet_has_a_wrong_source(service: ServiceSite, tmp_path: Path) -> None:
    archive = build_project_image(NEXT_VERSION)
    for machine in service.cluster.machines.values():
        machine.run(*CTR, "images", "import", str(archive))
    service.wait_whole()
    before = service.gateway_status()["floatingIPs"]
    with service.captured(tmp_path / "capture") as leaks:
        streams = {node: service.open_stream(client_name("alice", node)) for node in NODES}
        plain = service.open_stream(client_name("carol", "worker1"))
        try:
            service.set_image(NEXT_IMAGE)
            service.wait_rolled_out()
            service.wait_whole()
            service.wait("every agent to say its version", lambda: versions(service) == {NEXT_VERSION})
            reports = {node: stream.report() for node, stream in streams.items()}
            untouched = plain.report()
        finally:
            for stream in (*streams.values(), plain):
                stream.close()
    for node, report in reports.items():
        print(f"{node}: {report['lost']} of {report['sent']} lost, gap {report['gap_max_ms']} ms")
    print(f"not selected: {untouched['lost']} of {untouched['sent']} lost, gap {untouched['gap_max_ms']} ms")
    assert {source for report in reports.values() for source in report["sources"]} == {FIRST}
    assert set(untouched["sources"]) == {service.node_ip("worker1")}
    assert leaks() == []
    assert service.gateway_status()["floatingIPs"] == before
    service.set_image(PROJECT_IMAGE)
    service.wait_rolled_out()
    service.wait_whole()
