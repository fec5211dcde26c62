"""Markers that need rights: in CI a missing right is a failure, elsewhere a skip; both say what is missing."""

import asyncio
import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import uvloop

from loadtest.broker import missing_for_kafka
from service.lab.cluster.build import missing_for_cluster
from tests.deploy.docker_daemon import missing_for_docker
from tests.kubernetes.control_plane import missing as missing_for_kubernetes

CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
CAP_BPF = 39


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that the product runs on: it differs in what it does with a socket that tells of an error.

    Where virtual time is used the test brings its own."""
    return {"uvloop": uvloop.new_event_loop}


@cache
def _capabilities() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)


def _has(capability: int) -> bool:
    return bool(_capabilities() >> capability & 1)


@cache
def missing_for_root() -> str:
    """What stands in the way of building network namespaces; empty where nothing does."""
    if os.geteuid() != 0:
        return "not root"
    if not (_has(CAP_NET_ADMIN) and _has(CAP_SYS_ADMIN)):
        return "root without CAP_NET_ADMIN and CAP_SYS_ADMIN"
    absent = [tool for tool in ("ip", "bridge", "nft", "nsenter") if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@cache
def missing_for_bpf() -> str:
    """What stands in the way of compiling and loading eBPF; empty where nothing does."""
    if importlib.util.find_spec("bcc") is None:
        return "bcc cannot be imported (Debian's python3-bpfcc)"
    if not (_has(CAP_BPF) or _has(CAP_SYS_ADMIN)):
        return "no right to load eBPF (CAP_BPF)"
    return ""


@cache
def missing_for_a_cluster() -> str:
    """What stands in the way of a real cluster of containers; empty where nothing does."""
    return missing_for_root() or missing_for_bpf() or missing_for_cluster()


MARKERS = (
    ("root", missing_for_root),
    ("bpf", missing_for_bpf),
    ("kubernetes", cache(missing_for_kubernetes)),
    ("cluster", missing_for_a_cluster),
    ("kafka", missing_for_kafka),
    ("docker", cache(missing_for_docker)),
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in MARKERS:
        if item.get_closest_marker(marker) is None or not (reason := missing()):
            continue
        message = f"{marker}: {reason}"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
