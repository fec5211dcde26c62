"""What happens to a real cluster: its API server, its nodes' programs, its pods and our containers in it."""

import random
import signal
from typing import Any

from loadtest.chaos.cluster_site import ClusterSite
from loadtest.chaos.event import QUIET, Cost, Event
from loadtest.chaos.site import ChaosSite
from service.lab.cluster.cluster import SERVICE_NAMESPACE
from service.lab.cluster.control_plane import member_of
from service.lab.cluster.image import PROJECT_IMAGE
from service.lab.cluster.pod import client_pod
from service.lab.fault import Fault
from service.lab.process import ProcessRecord, respawn, send_signal, wait_for_end

MOVED = Cost(moves=True)
_CHURNED = 6
_ELECTORATE = ("-n", SERVICE_NAMESPACE, "configmap/egressgw-electorate")


class ClusterEvent(Event):
    """An event that only a cluster knows."""

    cluster: ClusterSite

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        super().__init__(site, chance)
        if not isinstance(site, ClusterSite):
            raise ValueError(f"{self.name} happens in a cluster only")
        self.cluster = site
        self.api = member_of(site.lab.plan).name

    def node_program(self, kind: str) -> ProcessRecord:
        """Of the chosen node."""
        record = self.cluster.lab.state.process(kind, self.node.name)
        assert record is not None
        return record


class ApiFrozen(ClusterEvent):
    """The API server hangs: connections stay, nothing is answered."""

    name = "api-frozen"
    cost = QUIET

    def apply(self) -> None:
        """SIGSTOP."""
        self.cluster.fault(self.api, Fault.STOP, "kube-apiserver")

    def undo(self) -> None:
        """It goes on."""
        self.cluster.fault(self.api, Fault.CONT, "kube-apiserver")
        self.cluster.lab.wait_api()


class ApiAway(ClusterEvent):
    """The API server is killed, and started again."""

    name = "api-away"
    cost = QUIET

    def apply(self) -> None:
        """SIGKILL."""
        self.cluster.fault(self.api, Fault.KILL, "kube-apiserver")

    def undo(self) -> None:
        """Started again."""
        self.cluster.fault(self.api, Fault.RESTART, "kube-apiserver")
        self.cluster.lab.wait_api()


class EtcdFrozen(ClusterEvent):
    """The API server answers from memory at best: its etcd hangs."""

    name = "api-slow"
    cost = QUIET

    def apply(self) -> None:
        """SIGSTOP of etcd."""
        self.cluster.fault(self.api, Fault.STOP, "etcd")

    def undo(self) -> None:
        """It goes on."""
        self.cluster.fault(self.api, Fault.CONT, "etcd")
        self.cluster.lab.wait_api()


class _ProgramRestarted(ClusterEvent):
    kind: str

    def apply(self) -> None:
        """SIGKILL, and started again at once."""
        record = self.node_program(self.kind)
        send_signal(record, signal.SIGKILL)
        wait_for_end([record], 10.0)
        self.cluster.lab.remember(respawn(record))


class KubeletRestarted(_ProgramRestarted):
    """A node's kubelet is restarted."""

    name = "restart-kubelet"
    cost = QUIET
    kind = "kubelet"


class ContainerdRestarted(_ProgramRestarted):
    """A node's containerd is restarted; containers run on."""

    name = "restart-containerd"
    cost = QUIET
    kind = "containerd"


class ProxyRestarted(_ProgramRestarted):
    """A node's kube-proxy is restarted: it writes its rules anew."""

    name = "restart-proxy"
    cost = QUIET
    kind = "kube-proxy"


class PodsComeAndGo(ClusterEvent):
    """Real pods that a policy selects are made on a node, and deleted."""

    name = "pod-churn"
    cost = QUIET

    def apply(self) -> None:
        """Nobody waits for them."""
        self.cluster.put("churn", *(self._pod(number) for number in range(_CHURNED)))

    def undo(self) -> None:
        """Some may not have come up yet."""
        self.cluster.put("churn")

    def _pod(self, number: int) -> dict[str, Any]:
        labels = {"user": "alice", "role": "frontend"}
        return client_pod("alice", f"churn{number}", node=self.node.name, labels=labels, image=PROJECT_IMAGE)


class _Container(ClusterEvent):
    """Something happens to one of our containers on a node; the kubelet restarts what ends."""

    container: str
    cost = MOVED


class _ContainerKilled(_Container):
    def apply(self) -> None:
        """SIGKILL."""
        self.cluster.fault(self.node.name, Fault.KILL, self.container)


class _ContainerStopped(_Container):
    def apply(self) -> None:
        """SIGSTOP."""
        self.cluster.signal_containers(self.container, self.node.name, signal.SIGSTOP)

    def undo(self) -> None:
        """It goes on."""
        self.cluster.signal_containers(self.container, self.node.name, signal.SIGCONT)


class AgentContainerKilled(_ContainerKilled):
    """SIGKILL of an agent's container."""

    name = "kill-agent-container"
    container = "agent"


class KeeperContainerKilled(_ContainerKilled):
    """SIGKILL of a keeper's container."""

    name = "kill-keeper-container"
    container = "keeper"


class AgentContainerStopped(_ContainerStopped):
    """An agent's container hangs."""

    name = "stop-agent-container"
    container = "agent"


class KeeperContainerStopped(_ContainerStopped):
    """A keeper's container hangs."""

    name = "stop-keeper-container"
    container = "keeper"

    def trouble(self) -> tuple[str, str] | None:
        """Its agent."""
        return self.node.name, "keeper"


class ControllersStopped(ClusterEvent):
    """All controllers hang."""

    name = "stop-controller-containers"
    cost = QUIET

    def apply(self) -> None:
        """On every node."""
        self._signal(signal.SIGSTOP)

    def undo(self) -> None:
        """They go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for node in self.cluster.nodes:
            self.cluster.signal_containers("controller", node.name, number)


class NodeFrozen(ClusterEvent):
    """Every process of a node hangs: kubelet, containers, ours too; the kernel forwards on."""

    name = "freeze-node"
    cost = MOVED

    def apply(self) -> None:
        """As a hypervisor that pauses nothing but user space would."""
        self.cluster.fault(self.node.name, Fault.STOP)

    def undo(self) -> None:
        """It goes on."""
        self.cluster.fault(self.node.name, Fault.CONT)


class ElectorateTouched(ClusterEvent):
    """Somebody edits the electorate's ConfigMap: an annotation and a key that nobody knows."""

    name = "electorate-touched"
    cost = QUIET

    def apply(self) -> None:
        """Neither says anything."""
        self._patch('{"metadata": {"annotations": {"note": "chaos"}}, "data": {"note": "chaos"}}')

    def undo(self) -> None:
        """And takes both out again."""
        self._patch('{"metadata": {"annotations": {"note": null}}, "data": {"note": null}}')

    def _patch(self, text: str) -> None:
        *namespace, name = _ELECTORATE
        self.cluster.lab.kubectl(*namespace, "patch", name, "--type=merge", "-p", text)


EVENTS: tuple[type[Event], ...] = (
    ApiFrozen,
    ApiAway,
    EtcdFrozen,
    KubeletRestarted,
    ContainerdRestarted,
    ProxyRestarted,
    PodsComeAndGo,
    AgentContainerKilled,
    KeeperContainerKilled,
    AgentContainerStopped,
    KeeperContainerStopped,
    ControllersStopped,
    NodeFrozen,
    ElectorateTouched,
)
"""Of this module."""
