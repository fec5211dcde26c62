"""The lab under chaos: three near nodes and a far one, traffic in every pod, and what is expected of whom and when."""

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.chaos.client import SERVED_PORT, boot_ns
from loadtest.chaos.outside import INBOUND_PORT, PUSH_PORT
from loadtest.gateway import FLOATING_IPS, OUTSIDE, wait_until_whole
from service.lab.configuration import member_folder
from service.lab.lab import Lab
from service.lab.manifest import apply_manifest, write_manifest
from service.lab.namespace import nft, run
from service.lab.plan import (
    ROUTER_OCTET,
    SEGMENTS,
    TCP_PORT,
    UDP_PORT,
    PlannedController,
    PlannedNode,
    PlannedPod,
)
from service.lab.process import ProcessRecord, is_alive, log_tail, respawn, send_signal, wait_for_end
from service.lab.site import masquerade_ruleset
from service.lab.status import fetch_json

SETTLED_S = 4.0
"""After an object has changed, either of the two sources may be seen for so long."""
POLICY_FILE, GATEWAY_FILE, BEAT_FILE = "chaos-policy.yaml", "chaos-gateway.yaml", "chaos-beat.yaml"
BEAT_NAME = "beat"
RUN_KIB = 4096
WATCHED = frozenset(("agent", "keeper", "controller", "client", "far-end", "outside", "asker"))
"""Kinds of programs that end only where an event ends them."""
API_VERSION = "networking.gke.io/v1alpha1"
DESTINATIONS = ("8.8.8.0/24",)


@dataclass(slots=True)
class Expectation:
    """Which source the outside server may see of a selected pod, and since when."""

    since_ns: int
    source: str
    """Empty: that of its node, since no policy is in force."""


@dataclass
class ChaosSite:
    """What events act on and the judge asks. Owns no process: all are the lab's."""

    lab: Lab
    expectations: list[Expectation] = field(default_factory=list)
    ended: dict[tuple[str, str], str] = field(default_factory=dict)
    """Programs that an event has ended, by (kind, member), with the event's name: the others may not end."""
    beats: int = 0
    calm_s: float = 20.0
    """So soon after the last undo everything must work again. An agent that starts compiles its programs, for six
    seconds of a core, beside the traffic of twelve pods; how long it took is told of each round."""

    # -- who is who --

    @property
    def nodes(self) -> tuple[PlannedNode, ...]:
        """All of them, the control-plane node first."""
        return self.lab.plan.nodes

    @property
    def near(self) -> tuple[PlannedNode, ...]:
        """Those on the segment of the floating IPs: frames between them go over it, to the far ones by the tunnel."""
        return tuple(node for node in self.nodes if not node.is_far)

    @property
    def pods(self) -> tuple[PlannedPod, ...]:
        """All of them; a pod's place here is its number."""
        return self.lab.plan.pods

    @property
    def controllers(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(controller.name for controller in self.lab.plan.controllers)

    @property
    def selected(self) -> tuple[PlannedPod, ...]:
        """Pods that the policy selects."""
        return tuple(pod for pod in self.pods if pod.role == "frontend")

    def word(self, pod: PlannedPod) -> str:
        """The short name that a pod's requests begin with."""
        return f"p{self.pods.index(pod)}"

    def pod_of(self, word: str) -> PlannedPod | None:
        """The pod of that short name."""
        number = word.removeprefix("p")
        return self.pods[int(number)] if number.isdigit() and int(number) < len(self.pods) else None

    def flows_log(self, name: str) -> Path:
        """Where a pod's client (or `outside`) says what came of its flows."""
        return self.lab.folder / f"flows-{name}.log"

    @property
    def push_log(self) -> Path:
        """Whom the outside end pushed to."""
        return self.lab.folder / "push.log"

    def wait_until_whole(self) -> None:
        """Every agent sees the whole site in order. Raises TransientError saying what is missing."""
        wait_until_whole(self.lab)

    # -- objects --

    def apply_policy(self, source: str | None = FLOATING_IPS[0], destinations: tuple[str, ...] = DESTINATIONS) -> None:
        """Put the policy into force, or with None remove it; what is expected of the pods changes with it."""
        if source is None:
            self.put(POLICY_FILE)
        else:
            self.put(POLICY_FILE, policy(source, destinations))
        if not self.expectations or self.expectations[-1].source != (source or ""):
            self.expectations.append(Expectation(boot_ns(), source or ""))

    def apply_gateway(self, *floating_ips: str) -> None:
        """List these addresses, and no others."""
        document = {
            "apiVersion": API_VERSION,
            "kind": "AnthosNetworkGateway",
            "metadata": {"namespace": "kube-system", "name": "default"},
            "spec": {"floatingIPs": list(floating_ips or FLOATING_IPS)},
        }
        self.put(GATEWAY_FILE, document)

    def put(self, name: str, *documents: dict[str, Any]) -> None:
        """Have these objects in the place of those of that name; with none they go."""
        if documents:
            apply_manifest(self.lab.manifests, name, list(documents))
        else:
            (self.lab.manifests / name).unlink(missing_ok=True)

    def write_file(self, name: str, text: str) -> None:
        """Any file among the manifests."""
        write_manifest(self.lab.manifests, name, text)

    def allowed_sources(self, pod: PlannedPod, at_ns: int) -> set[str]:
        """What the outside server may see of the pod then, at a destination that the policy names."""
        node = str(self.lab.node(pod.node).ip)
        if pod.role != "frontend":
            return {node}
        allowed = set()
        for index, expectation in enumerate(self.expectations):
            following = self.expectations[index + 1].since_ns if index + 1 < len(self.expectations) else None
            if expectation.since_ns <= at_ns and (following is None or at_ns < following + SETTLED_S * 1e9):
                allowed.add(expectation.source or node)
        return allowed

    def beat(self) -> None:
        """One harmless policy goes and another comes: whoever reads objects must say so, or its task stands still."""
        self.beats += 1
        self.put(BEAT_FILE, beat_policy(f"{BEAT_NAME}{self.beats}"))

    def missed_beat(self, document: Mapping[str, Any]) -> str:
        """What a status document does not know yet of the last beat; empty where it does."""
        known = [name for name in document.get("policies", {}) if name.startswith(BEAT_NAME)]
        wanted = f"{BEAT_NAME}{self.beats}"
        return "" if not self.beats or known == [wanted] else f"knows of {', '.join(known) or 'none'}, not of {wanted}"

    # -- nodes --

    def on(self, place: str, *command: str, check: bool = True) -> str:
        """Run a command in the network of a node or other place of the lab. Raises OperatorError where it fails."""
        return run(self.lab.enter(place, *command), check=check)

    def restore_cni(self, node: PlannedNode) -> None:
        """What a CNI's agent puts back when somebody has flushed the ruleset."""
        nft(node.netns, "table ip cni\ndelete table ip cni\n" + masquerade_ruleset(node))
        nft(node.netns, inbound_ruleset(node))

    # -- programs --

    def records(self, member: str, kind: str = "") -> list[ProcessRecord]:
        """A member's programs, or the one of that kind."""
        found = [record for record in self.lab.state.processes if record.member == member]
        return [record for record in found if kind in ("", record.kind)]

    def start_programs(self) -> None:
        """All of them. What they keep in /run is on a disk of its own, that may be full without hurting the machine."""
        for member in (*(node.name for node in self.nodes), *self.controllers):
            size = f"size={RUN_KIB}k"
            run(
                [
                    "mount",
                    "-t",
                    "tmpfs",
                    "-o",
                    size,
                    f"{member}-run",
                    str(member_folder(self.lab.folder, member) / "run"),
                ]
            )
        for node in self.nodes:
            for kind in ("keeper", "agent"):
                self._start(kind, node.name, node.netns)
        for controller in self.lab.plan.controllers:
            self._start("controller", controller.name, controller.netns)

    def _start(self, kind: str, member: str, netns: str) -> None:
        config = str(member_folder(self.lab.folder, member) / "config.yaml")
        self.lab.start(kind, member, netns, "service", kind, "--config", config)

    def end(self, record: ProcessRecord, number: int, cause: str) -> None:
        """Send a signal that ends the program, and wait until it has. A frozen one is woken, so that it hears it."""
        self.ended[record.kind, record.member] = cause
        send_signal(record, number)
        send_signal(record, signal.SIGCONT)
        wait_for_end([record], 10.0)

    def restart(self, member: str) -> None:
        """Start what is dead of a member's programs."""
        for record in self.records(member):
            if (record.kind, record.member) in self.ended and not is_alive(record):
                self.lab.remember(respawn(record))
                del self.ended[record.kind, record.member]

    def ended_by_themselves(self) -> Iterator[str]:
        """Programs that run no more and that no event has ended, with their last words."""
        for record in self.lab.state.processes:
            is_watched = record.kind in WATCHED
            if is_watched and (record.kind, record.member) not in self.ended and not is_alive(record):
                yield f"{record.kind} of {record.member} (pid {record.pid}):\n{log_tail(record)}"

    def status(self, member: str) -> dict[str, Any]:
        """What an agent or controller says. Raises TransientError where it does not answer."""
        plan = self.lab.plan
        members: tuple[PlannedNode | PlannedController, ...] = (*plan.nodes, *plan.controllers)
        found = next(one for one in members if one.name == member)
        return fetch_json(found.netns, str(found.ip), "/v1/status")

    # -- traffic --

    def start_traffic(self) -> None:
        """A client in each pod, the far end that speaks, a port of each node that leads to a pod, and the asker."""
        for node in self.nodes:
            nft(node.netns, inbound_ruleset(node))
        nodes = [f"--node={node.name}={node.ip}" for node in self.nodes]
        logs = ("--log", str(self.push_log), "--flows", str(self.flows_log("outside")))
        module = "loadtest.chaos.outside"
        self.lab.start("far-end", "outside", self.lab.plan.outside, module, *logs, "--source", OUTSIDE, *nodes)
        own = str(SEGMENTS[0][ROUTER_OCTET])
        asker = ("loadtest.chaos.asker", "--device", "eth0", "--own", own, *FLOATING_IPS)
        self.lab.start("asker", "router", self.lab.plan.router, *asker)
        for pod in self.pods:
            self.start_client(pod)

    def start_client(self, pod: PlannedPod) -> None:
        """Start the traffic of one pod."""
        word = self.word(pod)
        ports = ("--tcp-port", str(TCP_PORT), "--udp-port", str(UDP_PORT), "--push-port", str(PUSH_PORT))
        arguments = ("--pod", word, "--destination", OUTSIDE, "--log", str(self.flows_log(word)), *ports)
        self.lab.start("client", word, pod.netns, "loadtest.chaos.client", *arguments)

    @property
    def flow_names(self) -> tuple[str, ...]:
        """Whose flows there are: every pod, and `outside`."""
        return (*(self.word(pod) for pod in self.pods), "outside")


def policy(source: str, destinations: tuple[str, ...]) -> dict[str, Any]:
    """The policy of the frontends of alice and paul."""
    pods = {"matchLabels": {"role": "frontend"}}
    users = ("alice", "paul")
    rules = [{"namespaceSelector": {"matchLabels": {"user": user}}, "podSelector": pods} for user in users]
    return {
        "apiVersion": API_VERSION,
        "kind": "EgressNATPolicy",
        "metadata": {"name": "chaos"},
        "spec": {"egress": rules, "destinationCIDRs": list(destinations), "egressSourceIP": source},
    }


def beat_policy(name: str) -> dict[str, Any]:
    """A policy that selects nobody."""
    nobody = {"namespaceSelector": {"matchLabels": {"user": "nobody"}}, "podSelector": {}}
    return {
        "apiVersion": API_VERSION,
        "kind": "EgressNATPolicy",
        "metadata": {"name": name},
        "spec": {"egress": [nobody], "destinationCIDRs": ["198.51.100.128/25"], "egressSourceIP": FLOATING_IPS[2]},
    }


def inbound_ruleset(node: PlannedNode) -> str:
    """A port of the node that leads to its last pod, as a NodePort does; idempotent."""
    pod = node.pods[-1]
    return f"""
table ip nodeport
delete table ip nodeport
table ip nodeport {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {node.ip} tcp dport {INBOUND_PORT} dnat to {pod.ip}:{SERVED_PORT}
  }}
}}
"""
