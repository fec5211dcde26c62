"""Pods of a lab that come and go, and the policies that select them; none of these pods is run.

They are objects of the manifests source, behind one veth of their node with a route for each: agents do for them what
they do for real ones, but nobody sends. Most stay. The others stand in files of a few pods, and with each change all
pods of one file go and as many others come, of other names and addresses, on the same nodes and under the same
policies: whenever it is quiet, there is as much of everything as before.
"""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from loadtest import gateway
from loadtest.rows.options import Sizes
from loadtest.rows.scale import apply_namespaces, many_pods, policies, provide_device
from loadtest.scale.floating_ips import apply_floating_ips, floating_ips
from loadtest.scale.options import ScaleSizes
from service.lab.lab import Lab
from service.lab.manifest import apply_manifest, pod_manifest
from service.lab.plan import PlannedPod, pod_mac
from service.model.errors import TransientError

FILE_PODS = 5
"""Of one file: they change together."""
FILES_MIN = 4
"""What a file no longer names goes a second after its last change, so one file must not be written all the time."""
CHANGES = 2 * FILE_PODS
"""Of one write: so many pods go, and as many come."""
_STAYING = 0.9
"""So much of the crowd never changes."""
_FIRST = IPv4Address("10.244.128.0")
_GENERATIONS = 2
"""Addresses of one place in the crowd, taken in turn."""


class Crowd:
    """`begin`, then any number of `change`. Numbers of pods stand for places: each has a node and a policy for good."""

    def __init__(self, lab: Lab, sizes: ScaleSizes) -> None:
        """Raises ValueError for fewer pods than there must be for some to change while others stay."""
        files = max(FILES_MIN, round(sizes.churn_pods * (1 - _STAYING)) // FILE_PODS)
        if sizes.churn_pods < files * FILE_PODS:
            raise ValueError(f"a crowd has at least {FILES_MIN * FILE_PODS} pods, not {sizes.churn_pods}")
        self._lab = lab
        self._sizes = sizes
        self._places = list(
            many_pods(lab, lab.plan.nodes[0].name, Sizes(policies=sizes.churn_policies, pods=sizes.churn_pods))
        )
        self._generations = [0] * files
        self._next = 0

    def begin(self) -> None:
        """Tell of everything: floating IPs, policies, namespaces, pods; and provide the devices."""
        lab, sizes = self._lab, self._sizes
        for node in lab.plan.nodes:
            provide_device(lab, node.name, self._addresses(node.name))
        pods = [self._pod(number) for number in range(sizes.churn_pods)]
        apply_namespaces(lab, pods)
        apply_floating_ips(lab, sizes.churn_floating_ips, has_policy=False)
        apply_manifest(lab.manifests, "many-policies.yaml", self._policies())
        apply_manifest(lab.manifests, "many-pods.yaml", [pod_manifest(pod) for pod in pods[self._first_staying :]])
        for file in range(len(self._generations)):
            self._write(file)

    def change(self) -> int:
        """Replace the pods of the next file by others; how many came and went."""
        file, self._next = self._next, (self._next + 1) % len(self._generations)
        self._generations[file] += 1
        self._write(file)
        return CHANGES

    def is_served(self) -> bool:
        """Every agent serves just the pods of its node that there are now; raises TransientError where one does not."""
        for node in self._lab.plan.nodes:
            wanted = {str(pod.ip) for pod in self._pods() if pod.node == node.name}
            ours = {str(address) for address in self._addresses(node.name)}
            phases = gateway.status(self._lab, node.name)["pods"]
            steered = {address for address, phase in phases.items() if address in ours and phase == "steering"}
            if steered != wanted or (phases.keys() & ours) - wanted:
                raise TransientError(f"{node.name} steers {len(steered)} pods, and {len(wanted)} there are")
        return True

    @property
    def _first_staying(self) -> int:
        return len(self._generations) * FILE_PODS

    def _pods(self) -> Iterator[PlannedPod]:
        return (self._pod(number) for number in range(self._sizes.churn_pods))

    def _write(self, file: int) -> None:
        numbers = range(file * FILE_PODS, (file + 1) * FILE_PODS)
        apply_manifest(self._lab.manifests, f"crowd-{file:03}.yaml", [pod_manifest(self._pod(one)) for one in numbers])

    def _pod(self, number: int) -> PlannedPod:
        generation = self._generations[number // FILE_PODS] if number < self._first_staying else 0
        nodes = self._lab.plan.nodes
        node, ip = nodes[number % len(nodes)], _FIRST + number * _GENERATIONS + generation % _GENERATIONS
        name = f"crowd-{number}-{generation}"
        return replace(self._places[number], name=name, node=node.name, netns=node.netns, ip=ip, mac=pod_mac(ip))

    def _addresses(self, node: str) -> list[IPv4Address]:
        """All that places of that node ever have."""
        nodes = [planned.name for planned in self._lab.plan.nodes]
        numbers = range(nodes.index(node), self._sizes.churn_pods, len(nodes))
        return [_FIRST + number * _GENERATIONS + turn for number in numbers for turn in range(_GENERATIONS)]

    def _policies(self) -> list[dict[str, Any]]:
        """A floating IP belongs to one policy; what policies there are beyond them name addresses that nobody has."""
        documents = policies(self._sizes.churn_policies)
        for document, address in zip(documents, floating_ips(self._sizes.churn_floating_ips), strict=False):
            document["spec"]["egressSourceIP"] = str(address)
        return documents
