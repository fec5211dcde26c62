"""Labs with everything running. Building one takes seconds, so tests of a module share theirs and leave it whole."""

import itertools
import os
from collections.abc import Iterator

import pytest

from service.lab.lab import lab_down, lab_up
from service.lab.plan import LabOptions
from tests.e2e.site import FLOATING_IPS, Site, gateway, policy

_numbers = itertools.count()


def new_name() -> str:
    return f"egwe{os.getpid() % 100000}x{next(_numbers)}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Three nodes, the gateway with three floating IPs, and a policy for the frontends of alice on the first."""
    name = new_name()
    try:
        site = Site(lab_up(LabOptions(name=name)))
        site.apply("gateway.yaml", gateway(*FLOATING_IPS))
        site.apply("alice.yaml", policy("alice", FLOATING_IPS[0], user="alice"))
        site.wait_held(*FLOATING_IPS)
        for pod in ("alice/frontend-control1", "alice/frontend-worker1", "alice/frontend-worker2"):
            site.wait_seen(pod, FLOATING_IPS[0])
        yield site
    finally:
        lab_down(name)
