"""An address that was a floating IP once is anybody's: a host's on the segment, a node's, a load balancer's."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from service.lab.fault import Fault
from tests.e2e.site import FLOATING_IPS, Site, gateway

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST, SECOND, THIRD = FLOATING_IPS
SECONDS = 10
"""Within which the address works for its new owner, on a busy machine."""


def ip(netns: str, *words: str) -> str:
    """`netns`: its name, as `ip netns` has it."""
    command = ["ip", "-n", netns, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


@contextmanager
def owned(netns: str, *words: str) -> Iterator[None]:
    """Somebody has the address, in his way: `addr add`, or `route add local` as behind a load balancer."""
    noun, _, *rest = words
    ip(netns, *words)
    try:
        yield
    finally:
        ip(netns, noun, "del", *rest)


def answers(netns: str, address: str) -> bool:
    ip(netns, "neigh", "flush", "to", address)
    command = ["ip", "netns", "exec", netns, "ping", "-c1", "-W1", address]
    return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0


def segment_device(netns: str) -> str:
    return ip(netns, "-o", "route", "get", "192.168.1.250").split(" dev ")[1].split()[0]


@pytest.fixture
def former(site: Site) -> Iterator[str]:
    """The third floating IP, taken out of the spec while its holder, its keeper killed once, holds another one, too."""
    holder = str(site.holder(THIRD))
    site.apply("gateway.yaml", gateway(FIRST, SECOND))
    site.wait(f"{THIRD} to be forgotten", lambda: THIRD not in site.status()["floatingIPs"])
    try:
        yield holder
    finally:
        site.apply("gateway.yaml", gateway(*FLOATING_IPS))
        site.wait_held(*FLOATING_IPS)


def test_an_address_that_is_listed_no_more_works_for_whoever_has_it_then(site: Site, former: str) -> None:
    """Seen: dead on every node that had ever heard of it, for ever: given to MetalLB, keepalived or the host."""
    lab = site.lab.plan.options.name
    router, holder = f"{lab}-router", f"{lab}-{former}"
    other = next(f"{lab}-{node.name}" for node in site.lab.plan.nodes if node.name != former)
    owners = {
        "the former holder": (holder, "addr", "add", f"{THIRD}/24", "dev", segment_device(holder)),
        "a load balancer on another node": (other, "route", "add", "local", THIRD, "dev", "lo"),
        "a host that is no member": (router, "addr", "add", f"{THIRD}/24", "dev", segment_device(router)),
    }
    for who, (netns, *words) in owners.items():
        asking = router if netns != router else other
        with owned(netns, *words):
            site.wait(f"{THIRD} to answer at {who}", partial(answers, asking, THIRD), timeout_s=SECONDS)
    assert site.seen("alice/frontend-control1") == FIRST


def test_processes_that_are_started_anew_do_not_remember_it_either(site: Site, former: str) -> None:
    lab = site.lab.plan.options.name
    holder = f"{lab}-{former}"
    site.fault(former, Fault.KILL)
    site.fault(former, Fault.RESTART)
    site.wait_whole()
    with owned(holder, "route", "add", "local", THIRD, "dev", "lo"):
        site.wait(f"{THIRD} to answer", lambda: answers(f"{lab}-router", THIRD), timeout_s=SECONDS)


def test_an_address_that_is_listed_again_is_held_again(site: Site, former: str) -> None:
    """K1: under a higher token, although nobody kept a row for it."""
    before = max(record.token for record in site.records() if record.subject == THIRD and record.token)
    site.apply("gateway.yaml", gateway(*FLOATING_IPS))
    site.wait_held(THIRD)
    site.wait(
        "the record of it",
        lambda: any(record.subject == THIRD and record.token and record.token > before for record in site.records()),
    )


def test_a_lease_that_was_kept_while_the_address_was_not_listed_is_begun_anew(site: Site) -> None:
    """Its keeper hears of nothing while its agent is away, and all others have ended what they knew of the holder. Seen
    under chaos: dark from every other node, for ever."""
    holder = str(site.holder(FIRST))
    pod = next(f"alice/frontend-{node.name}" for node in site.lab.plan.nodes if node.name != holder)
    witness = pod.removeprefix("alice/frontend-")
    site.fault(holder, Fault.KILL, only="agent")
    site.apply("gateway.yaml", gateway(SECOND, THIRD))
    site.wait(f"{FIRST} to be forgotten", lambda: FIRST not in site.status(witness)["floatingIPs"])
    site.apply("gateway.yaml", gateway(*FLOATING_IPS))
    site.fault(holder, Fault.RESTART, only="agent")
    site.wait_seen(pod, FIRST)
    site.wait("all to know the holder", lambda: site.holder(FIRST, asked=witness) == site.holder(FIRST, asked=holder))
    site.wait_whole()
