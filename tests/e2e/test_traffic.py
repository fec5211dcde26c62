"""What an agent says has passed by a policy is what the outside server has logged (rule B6)."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from service.lab.fault import Fault
from service.lab.outside import answer_to, read_calls
from service.lab.plan import TCP_PORT
from service.model.errors import TransientError
from tests.e2e.site import FLOATING_IPS, OUTSIDE, Site, policy

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST, SECOND = FLOATING_IPS[:2]
POD, NODE = "alice/frontend-worker1", "worker1"
UDP_HEADERS = 28
NOTHING = dict.fromkeys(("packetsOut", "bytesOut", "packetsIn", "bytesIn", "flowsOpened", "flows"), 0)


def traffic(site: Site, name: str = "alice", floating_ip: str = FIRST, node: str = NODE) -> dict[str, Any]:
    found = site.status(node)["policies"].get(name, {}).get("traffic", {})
    return found.get(floating_ip, NOTHING)


def grown(site: Site, before: dict[str, Any], **where: str) -> dict[str, int]:
    after = traffic(site, **where)
    return {name: after[name] - before[name] for name in ("packetsOut", "bytesOut", "packetsIn", "bytesIn")}


def settled(site: Site) -> dict[str, Any]:
    """What has been counted once nothing is on its way."""
    seen: list[dict[str, Any]] = [traffic(site)]

    def is_at_rest() -> bool:
        time.sleep(2.5)
        seen.append(traffic(site))
        return seen[-1] == seen[-2] and seen[-1]["packetsOut"] > 0

    site.wait("nothing to be counted any more", is_at_rest)
    return seen[-1]


def logged(site: Site, since: int, source: str) -> dict[str, int]:
    """The calls by UDP from an address, and the answers that they got."""
    calls = [call for call in read_calls(site.lab.outside_log, since) if call["source"] == source]
    assert {call["proto"] for call in calls} == {"udp"}
    answers = [answer_to(call["source"], call["source_port"], call["payload"].encode()) for call in calls]
    return {
        "packetsOut": len(calls),
        "bytesOut": sum(UDP_HEADERS + len(call["payload"]) + 1 for call in calls),
        "packetsIn": len(answers),
        "bytesIn": sum(UDP_HEADERS + len(answer) for answer in answers),
    }


def call(site: Site, times: int, source: str = FIRST, pod: str = POD) -> None:
    for _ in range(times):
        assert site.seen(pod) == source


def test_b6_packets_and_bytes_of_both_directions_are_those_that_the_outside_server_has_logged(site: Site) -> None:
    before, since = settled(site), site.log_length()
    call(site, 12)
    expected = logged(site, since, FIRST)
    assert expected["packetsOut"] == 12
    site.wait("all of it to be counted", lambda: grown(site, before) == expected)
    print(f"said and logged alike: {expected}")
    after = traffic(site)
    assert after["flowsOpened"] - before["flowsOpened"] == 12
    assert traffic(site, node="worker2")["packetsOut"] > 0, "of its own pod, which was seen when the lab began"


LINES, LINE = 50, 8_000
UPLOAD = f"""
import socket, struct
with socket.create_connection(({OUTSIDE!r}, {TCP_PORT})) as client:
    client.sendall((b"x" * {LINE - 1} + b"\\n") * {LINES})
    client.shutdown(socket.SHUT_WR)
    while client.recv(65536):
        pass
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    print(struct.unpack_from("=Q", info, 200)[0])
"""
"""Prints `tcpi_bytes_sent` (linux/tcp.h): with what had to be sent again."""


def test_b6_segments_that_the_kernel_holds_together_are_counted_as_they_are_on_the_wire(site: Site) -> None:
    before, octets = settled(site), LINES * LINE
    command = site.lab.enter(POD, sys.executable, "-c", UPLOAD)
    sent = int(subprocess.run(command, check=True, timeout=30, stdout=subprocess.PIPE, text=True).stdout)
    site.wait("it to be counted", lambda: grown(site, before)["bytesOut"] >= sent)
    settled(site)
    found = grown(site, before)
    print(f"{octets} bytes in one connection, {sent} with what was sent again: {found}")
    # An Ethernet's segment has 1,460 bytes at most, and 40 to 60 bytes of headers.
    assert found["packetsOut"] >= octets // 1_460
    assert 40 <= (found["bytesOut"] - sent) / found["packetsOut"] <= 60


def test_b6_a_restart_of_the_agent_loses_nothing_and_what_passes_meanwhile_is_counted(site: Site) -> None:
    before, since = settled(site), site.log_length()
    call(site, 3)
    site.wait("them to be counted", lambda: grown(site, before) == logged(site, since, FIRST))
    site.fault(NODE, Fault.KILL, only="agent")
    call(site, 4)
    site.fault(NODE, Fault.RESTART, only="agent")
    expected = logged(site, since, FIRST)
    assert expected["packetsOut"] == 7

    def is_counted() -> bool:
        try:
            return grown(site, before) == expected
        except TransientError:
            return False

    site.wait("all of them to be counted", is_counted)
    call(site, 2)
    site.wait("it to go on", lambda: grown(site, before) == logged(site, since, FIRST))
    site.wait_whole()


@contextmanager
def two_policies(site: Site) -> Iterator[None]:
    """With one floating IP, for the pods of paul."""
    for name in ("first", "second"):
        site.apply(f"{name}.yaml", policy(name, SECOND, user="paul"))
    try:
        yield
    finally:
        for name in ("first", "second"):
            site.delete(f"{name}.yaml")
        site.wait("them to be gone", lambda: not {"first", "second"} & site.status(NODE)["policies"].keys())


def metrics(site: Site) -> str:
    command = site.lab.enter(NODE, "curl", "-s", "http://127.0.0.1:9642/metrics")
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def test_b6_of_two_policies_with_one_floating_ip_the_one_in_force_counts_and_one_that_is_gone_has_no_series(
    site: Site,
) -> None:
    where = {"floating_ip": SECOND}
    with two_policies(site):
        site.wait_seen("paul/frontend-worker1", SECOND)
        call(site, 3, SECOND, "paul/frontend-worker1")
        site.wait("them to be counted", lambda: traffic(site, "first", **where)["packetsOut"] >= 3)
        assert traffic(site, "second", **where) == NOTHING
        assert f'floating_ip="{SECOND}",policy="first"' in metrics(site)
        site.delete("first.yaml")
        site.wait("the other to be in force", lambda: site.status(NODE)["policies"]["second"]["accepted"])
        site.wait_seen("paul/frontend-worker1", SECOND)
        since, before = site.log_length(), traffic(site, "second", **where)
        call(site, 3, SECOND, "paul/frontend-worker1")
        expected = logged(site, since, SECOND)
        site.wait("its own to be counted", lambda: grown(site, before, name="second", **where)["packetsOut"] >= 3)
        assert expected["packetsOut"] == 3
        said = metrics(site)
        assert 'policy="first"' not in said
        assert f'egressgw_policy_packets_total{{direction="out",floating_ip="{SECOND}",policy="second"}}' in said
