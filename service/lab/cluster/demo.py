"""`egressgw lab --kubernetes`: a cluster, the service in it, the user's two objects; with the proof of each."""

from functools import partial
from typing import Any

from service.lab.cluster.build import PHASES_FILE, cluster_up
from service.lab.cluster.clients import USERS, client_name, create_clients
from service.lab.cluster.cluster import SERVICE_NAMESPACE, Cluster
from service.lab.cluster.installation import deploy_folder, install, last_words
from service.lab.example import (
    EGRESS_SOURCE_IP,
    EXPECTED_HOLDERS,
    FLOATING_IPS,
    GATEWAY,
    MATCHING_DESTINATION,
    OTHER_DESTINATION,
    POLICY,
)
from service.lab.narration import Narrator
from service.lab.plan import LabOptions, PlannedPod
from service.lab.witness import check_pod, look, same
from service.model.errors import OperatorError, TransientError

EFFECT_TIMEOUT_S = 60.0
STATUS = ("-n", "kube-system", "get", "anthosnetworkgateway.networking.gke.io", "default")


class ClusterDemo:
    """The demo of a whole cluster, with the service installed as a user installs it."""

    def __init__(self, options: LabOptions) -> None:
        self.name = options.name
        self._options = options

    def show(self, narrator: Narrator) -> None:
        """Raise the cluster, in the place of a lab of that name, and go through the steps."""
        _Steps(_raise_cluster(self._options, narrator), narrator).run()

    def show_last_words(self, narrator: Narrator) -> None:
        """Of every container of the service, or why there are none to be had."""
        try:
            told = last_words(Cluster.find(self.name))
        except (OperatorError, TransientError) as error:
            told = [f"nothing more can be told: {error}"]
        for line in told:
            narrator.say(line)

    def show_what_to_try(self, narrator: Narrator) -> None:
        """Raises OperatorError where the cluster is not up."""
        cluster = Cluster.find(self.name)
        option = "" if self.name == LabOptions().name else f" --name {self.name}"
        narrator.say(
            f"\nThe cluster stays up. Try:\n"
            f"  alias kubectl={cluster.control_plane.kubectl}\n"
            f"  kubectl get nodes,pods -A -o wide\n"
            f"  kubectl {' '.join(STATUS)} -oyaml\n"
            f"  kubectl describe egressnatpolicy egress\n"
            f"  egressgw lab exec{option} alice/frontend-worker2 -- python -m service.lab.client tcp 8.8.8.8\n"
            f"  egressgw lab fault{option} worker1 kill; egressgw lab fault{option} worker1 cut\n"
            f"  egressgw lab fault{option} worker1 heal; egressgw lab fault{option} worker1 restart\n"
            f"  kubectl apply -k {deploy_folder(cluster.folder)}\n"
            f"  egressgw lab down{option}"
        )


class _Steps:
    def __init__(self, cluster: Cluster, narrator: Narrator) -> None:
        self.cluster, self.narrator = cluster, narrator
        self._pods: dict[str, PlannedPod] = {}

    def run(self) -> None:
        self.narrator.step("1. kubectl apply -k: agents on every node, two controllers")
        with self.narrator.progress("installing"):
            install(self.cluster)
        self.narrator.say(self.cluster.kubectl("-n", SERVICE_NAMESPACE, "get", "pods", "-o", "wide"))
        self.before_any_policy()
        self.apply_objects()

    def before_any_policy(self) -> None:
        self.narrator.step("2. Before any policy: a pod is seen as its node")
        with self.narrator.progress("pods of alice, carol and paul start"):
            names = create_clients(self.cluster)
        self._pods = {name: self.cluster.pod(name) for name in names}
        for pod in self._pods.values():
            self._check_as_node(pod, MATCHING_DESTINATION)

    def apply_objects(self) -> None:
        self.narrator.step("3. The user's two objects")
        self.narrator.show_yaml("kubectl apply -f gateway.yaml", GATEWAY)
        self.narrator.show_yaml("kubectl apply -f policy.yaml", POLICY)
        self.cluster.kubectl.apply(GATEWAY)
        with self.narrator.progress("floating IPs are being placed"):
            held = self.cluster.wait("every floating IP to have a holder", self._held, timeout_s=EFFECT_TIMEOUT_S)
        self.narrator.say(f"$ kubectl {' '.join(STATUS)} -oyaml")
        self.narrator.show_yaml("", self.cluster.kubectl(*STATUS, "-o", "yaml"))
        for address, expected in EXPECTED_HOLDERS.items():
            self.narrator.check(same(f"{address} is assigned to", expected, held.get(address, "nobody")))
        self.cluster.kubectl.apply(POLICY)
        with self.narrator.progress("the policy takes effect"):
            for pod in self._matching():
                self.cluster.wait(
                    f"{pod.full_name} to be steered", partial(self._is_steered, pod), timeout_s=EFFECT_TIMEOUT_S
                )
        for pod in self._matching():
            self.narrator.check(check_pod(self.cluster, pod, MATCHING_DESTINATION, EGRESS_SOURCE_IP))
        self.narrator.say("Everything else is left as it was:")
        for pod in self._pods.values():
            self._check_as_node(pod, OTHER_DESTINATION if pod in self._matching() else MATCHING_DESTINATION)
        self.narrator.say(self.cluster.kubectl("describe", "egressnatpolicy", "egress"))

    def _held(self) -> dict[str, str] | None:
        status: dict[str, Any] = self.cluster.kubectl.get(*STATUS[:2], *STATUS[3:]).get("status", {})
        held: dict[str, str] = status.get("floatingIPs", {})
        return held if all(held.get(address) for address in FLOATING_IPS) else None

    def _matching(self) -> list[PlannedPod]:
        users = [user for user, role in USERS.items() if role == "frontend"]
        names = [client_name(user, node.name) for user in users for node in self.cluster.plan.nodes]
        return [self._pods[name] for name in names]

    def _is_steered(self, pod: PlannedPod) -> bool:
        return look(self.cluster, pod, "udp", MATCHING_DESTINATION, timeout_s=0.3) == EGRESS_SOURCE_IP

    def _check_as_node(self, pod: PlannedPod, destination: str) -> None:
        self.narrator.check(check_pod(self.cluster, pod, destination, str(self.cluster.node(pod.node).ip)))


def _raise_cluster(options: LabOptions, narrator: Narrator) -> Cluster:
    narrator.step("0. The cluster: an API server, and three nodes with kubelet and containerd in network namespaces")
    with narrator.progress("building") as detail:
        cluster = cluster_up(options, replace=True, report=detail)
    narrator.say((cluster.folder / PHASES_FILE).read_text(encoding="ascii"))
    narrator.say(cluster.kubectl("get", "nodes", "-o", "wide"))
    return cluster
