"""The datapath loaded once per session, on a bpffs and in a network namespace of its own."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.datapath.layout import BlockKind, WayKind
from service.datapath.loader import LoadedDatapath, load_datapath
from tests.datapath.node import NODE, ROUTER, Node
from tests.datapath.program import COMPILED_DIR, UPLINK, Namespace, Programs


@pytest.fixture(scope="session")
def bpffs() -> Iterator[Path]:
    """A folder on a bpffs that only this session uses."""
    with tempfile.TemporaryDirectory(prefix="egwt-bpf-") as folder:
        subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True, timeout=10)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True, timeout=10)


@pytest.fixture(scope="session")
def loaded(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedDatapath]:
    run_dir = str(tmp_path_factory.mktemp("run"))
    with load_datapath(str(bpffs / "node"), run_dir, compiled_dir=COMPILED_DIR) as datapath:
        yield datapath


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """With a route to the outside by the uplink, whose next hop is not resolved."""
    with Namespace() as inhabited:
        inhabited.command("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        inhabited.command("ip", "addr", "add", str(NODE), "dev", UPLINK.name)
        inhabited.command("ip", "route", "add", "default", "via", str(ROUTER))
        yield inhabited


@pytest.fixture(scope="session")
def netns(namespace: Namespace) -> Namespace:
    """The same, for files that mean a Kubernetes namespace by `namespace`."""
    return namespace


@pytest.fixture
def node(loaded: LoadedDatapath, namespace: Namespace) -> Node:
    """A configured node that holds nothing, with no pods and all counters at zero."""
    fresh = Node(loaded, Programs(namespace, loaded.programs))
    fresh.empty()
    fresh.configure()
    return fresh


@pytest.fixture
def pod_node(node: Node) -> Node:
    """The node of POD, with two blocks of ports and a way to the holder."""
    node.rule()
    node.select()
    node.own()
    node.way()
    return node


@pytest.fixture
def holder(node: Node) -> Node:
    """The node holds FLOATING_IP, and the blocks of the pod's node are node A's."""
    node.hold()
    node.assign()
    return node


@pytest.fixture
def own_holder(pod_node: Node) -> Node:
    """Holder and the pod's node in one."""
    pod_node.hold()
    pod_node.way(WayKind.LOCAL)
    pod_node.assign(kind=BlockKind.LOCAL, member=0)
    return pod_node
