"""Agents, keepers and controllers driven by a real API server; the user is kubectl, the witness the outside server."""

import subprocess
import time
from collections.abc import Iterator

import pytest

from service.lab.fault import Fault
from service.lab.status import fetch_json
from service.report.validity import RENEW_NS, VALID_NS
from tests.e2e.conftest import new_name
from tests.e2e.kubernetes_site import GATEWAY, KubernetesSite, kubernetes_site, restart_as
from tests.e2e.site import FLOATING_IPS, gateway, policy

pytestmark = [
    pytest.mark.root,
    pytest.mark.bpf,
    pytest.mark.kubernetes,
    pytest.mark.e2e,
    pytest.mark.timeout(240),
]

FIRST, SECOND, THIRD = FLOATING_IPS
CONTROL1, WORKER1, WORKER2 = "192.168.1.11", "192.168.1.21", "192.168.1.22"
WIDE = ("8.0.0.0/8",)
RESUME_S = 5.0
UNKNOWN_S = (VALID_NS + 2 * RENEW_NS) / 1e9 + 5


@pytest.fixture(scope="module")
def site() -> Iterator[KubernetesSite]:
    with kubernetes_site(new_name()) as site:
        # Where one is late, on a busy machine, the leader places what there is to place without it.
        site.wait("three ready nodes", lambda: [one["ready"] for one in site.status()["nodes"].values()] == [True] * 3)
        site.kubectl.apply(gateway(*FLOATING_IPS), policy("alice", FIRST, user="alice"))
        site.wait("three holders", lambda: len(site.holders()) == 3)
        yield site


def test_the_three_floating_ips_are_placed_and_told_as_documented(site: KubernetesSite) -> None:
    status = site.told(*GATEWAY)
    assert status["floatingIPs"] == {FIRST: "worker1", SECOND: "worker2", THIRD: "worker1"}
    assert status["nodes"] == {"control1": "Up", "worker1": "Up", "worker2": "Up"}
    text = site.kubectl("get", *GATEWAY, "-oyaml")
    assert f"{FIRST}: worker1" in text
    assert "worker2: Up" in text


def test_a_node_object_tells_all_that_is_true_of_a_gateway_node(site: KubernetesSite) -> None:
    where = ("anthosnetworkgatewaynode.networking.gke.io", "worker1", "-n", "kube-system")
    status = site.told(*where)
    assert (status["state"], status["role"], status["tunnelEndpoint"]) == ("Up", "worker", WORKER1)
    assert [item["address"] for item in status["floatingIPs"]] == [FIRST, THIRD]
    assert status["segments"][0]["interface"] == "eth0"
    conditions = {item["type"]: item["status"] for item in status["conditions"]}
    assert conditions == {"Ready": "True", "Schedulable": "True", "KubernetesReady": "True"}
    role = site.told("angn", "control1", "-n", "kube-system")["role"]
    assert role == "control-plane", "from the Node object's label"
    assert "agentVersion" in site.kubectl("get", *where, "-oyaml")


@pytest.mark.parametrize("proto", ["udp", "tcp", "ping"])
def test_a_policy_applied_by_kubectl_gives_selected_pods_the_floating_ip(site: KubernetesSite, proto: str) -> None:
    site.wait_seen("alice/frontend-worker2", FIRST)
    for node in ("control1", "worker1", "worker2"):
        assert site.seen(f"alice/frontend-{node}", proto=proto) == FIRST
    assert site.seen("paul/frontend-worker2", proto=proto) == WORKER2


def test_ranges_come_from_the_cluster_so_a_policy_for_everything_leaves_it_alone(site: KubernetesSite) -> None:
    site.kubectl.apply(policy("paul", SECOND, user="paul", destinations=("0.0.0.0/0",)))
    site.wait("the policy", lambda: site.told("enp", "paul").get("holder") == "worker2")
    site.wait_seen("paul/frontend-worker1", SECOND, "9.9.9.9")
    reply = site.lab.enter("paul/frontend-worker1", "ping", "-c1", "-W2", str(site.pod("carol/other-worker2").ip))
    assert run(reply) == 0
    site.kubectl("delete", "enp", "paul")
    site.wait_seen("paul/frontend-worker1", WORKER1)


def test_an_unknown_egress_ip_is_described(site: KubernetesSite) -> None:
    site.kubectl.apply(policy("typo", "192.168.1.222", user="nobody"))
    said = site.wait("the Event", lambda: find(site.described("EgressNATPolicy", "typo"), "Warning", "UnknownEgressIP"))
    assert "192.168.1.222 is not in spec.floatingIPs" in said
    site.kubectl("delete", "enp", "typo")


def test_a_policy_in_anothers_shadow_says_so_and_the_other_one_s_address_is_seen(site: KubernetesSite) -> None:
    time.sleep(1.1)  # creation times have seconds
    site.kubectl.apply(policy("shadowed", SECOND, user="alice"), policy("wide", THIRD, user="alice", destinations=WIDE))

    def overlap(name: str) -> str:
        found = {item["type"]: item for item in site.told("enp", name).get("conditions", [])}
        return f"{found['Overlapped']['reason']}: {found['Overlapped']['message']}" if "Overlapped" in found else ""

    site.wait("Shadowed", lambda: overlap("shadowed").startswith("Shadowed: "))
    site.wait("PartlyOverlapped", lambda: overlap("wide").startswith("PartlyOverlapped: "))
    assert "all of its destinations: alice;" in overlap("shadowed")
    assert "destinations: alice;" in overlap("wide")
    assert overlap("alice").startswith("NoOverlap")
    site.wait_seen("alice/frontend-worker2", THIRD, "8.8.4.4")
    assert site.seen("alice/frontend-worker2") == FIRST, "what the condition says is what happens"
    site.wait("the Event", lambda: find(site.described("enp", "shadowed"), "Warning", "Shadowed"))
    site.kubectl("delete", "enp", "alice")
    site.wait("the shadow to end", lambda: overlap("shadowed").startswith("NoOverlap"))
    site.wait_seen("alice/frontend-worker2", SECOND)
    site.kubectl("delete", "enp", "shadowed", "wide")
    site.kubectl.apply(policy("alice", FIRST, user="alice"))
    site.wait_seen("alice/frontend-worker2", FIRST)


def test_a_policy_whose_address_is_on_no_node_is_not_ready_and_says_why(site: KubernetesSite) -> None:
    site.kubectl.apply(gateway(*FLOATING_IPS, "10.9.9.9"), policy("nowhere", "10.9.9.9", user="nobody"))
    site.wait("the reason", lambda: "no node has an interface" in site.kubectl("get", "enp", "nowhere", "-oyaml"))
    row = site.kubectl("get", "enp", "nowhere").splitlines()[1].split()
    assert row[:5] == ["nowhere", "10.9.9.9", "True", "False", "NoEligibleNode"]
    controller = site.lab.plan.controllers[0]
    why = fetch_json(controller.netns, str(controller.ip), "/v1/status")["floatingIPs"]["10.9.9.9"]["why"]
    assert "no node has an interface in a subnet that contains 10.9.9.9" in why
    site.kubectl("delete", "enp", "nowhere")
    site.kubectl.apply(gateway(*FLOATING_IPS))
    site.wait("three holders", lambda: len(site.holders()) == 3)


def test_labels_decide_at_once_of_pods_and_of_namespaces(site: KubernetesSite) -> None:
    pod = "alice/frontend-worker2"
    site.kubectl("label", "pod", "frontend-worker2", "-n", "alice", "role=backend", "--overwrite")
    site.wait_seen(pod, WORKER2)
    site.kubectl("label", "pod", "frontend-worker2", "-n", "alice", "role=frontend", "--overwrite")
    site.wait_seen(pod, FIRST)
    site.kubectl("label", "namespace", "alice", "user=somebody", "--overwrite")
    site.wait_seen(pod, WORKER2)
    site.kubectl("label", "namespace", "alice", "user=alice", "--overwrite")
    site.wait_seen(pod, FIRST)


def test_an_address_is_its_new_pod_s_however_late_the_old_one_s_end_is_seen(site: KubernetesSite) -> None:
    planned = site.pod("alice/frontend-worker1")
    site.write_pod(planned, name="newer", role="backend")
    site.wait_seen(planned.full_name, WORKER1)
    site.delete_pod("alice", "frontend-worker1")
    # Events of pods come in order: who has heard what the newer one's label became has heard of the older one's end.
    for role, source in (("frontend", FIRST), ("backend", WORKER1)):
        site.kubectl("label", "pod", "newer", "-n", "alice", f"role={role}", "--overwrite")
        site.wait_seen(planned.full_name, source)
    # And the other way round: completed pods and host-network pods own no address.
    site.write_pod(planned, name="done", phase="Succeeded", role="backend")
    site.delete_pod("alice", "newer")
    site.write_pod(planned)
    site.wait_seen(planned.full_name, FIRST)


def test_a_stateful_pod_made_anew_on_another_node_takes_its_name_with_it(site: KubernetesSite) -> None:
    here, there = site.pod("carol/other-worker1"), site.pod("carol/other-worker2")
    site.kubectl.apply(policy("carol", THIRD, user="carol", role="stateful"))
    for name in ("other-worker1", "other-worker2"):
        site.delete_pod("carol", name)
    site.write_pod(here, name="web-0", role="stateful")
    site.wait_seen(here.full_name, THIRD)
    site.delete_pod("carol", "web-0")
    site.write_pod(there, name="web-0", role="stateful")
    site.wait_seen(there.full_name, THIRD)
    # Without an object nobody knows who it is (rule W11).
    site.wait("the former place to be nobody's", lambda: site.seen(here.full_name, timeout_s=0.3) == "nothing came")
    site.write_pod(here)
    site.wait_seen(here.full_name, WORKER1)
    site.kubectl("delete", "enp", "carol")


def test_a_silent_kubelet_moves_nothing_and_is_shown(site: KubernetesSite) -> None:
    before = site.holders()
    site.report_node("worker1", ready="Unknown", message="Kubelet stopped posting node status.")
    where = ("angn", "worker1", "-n", "kube-system")

    def is_shown() -> bool:
        found = {item["type"]: item for item in site.told(*where)["conditions"]}
        return found["KubernetesReady"]["status"] == "Unknown" and found["Ready"]["status"] == "True"

    site.wait("KubernetesReady to be Unknown", is_shown)
    time.sleep(1)
    assert site.holders() == before
    site.report_node("worker1", ready="True")


def test_cordon_moves_addresses_away_and_uncordon_gives_nothing_back(site: KubernetesSite) -> None:
    site.wait_whole()
    cordoned = site.holders()[FIRST]
    site.kubectl("cordon", cordoned)
    site.wait("the node to be empty", lambda: cordoned not in site.holders().values() and len(site.holders()) == 3)
    site.wait_seen("alice/frontend-worker1", FIRST)
    words = (f"{FIRST} moved from {cordoned} to ", f"node {cordoned} is cordoned or draining; gap at most")
    site.wait("the Event", lambda: find(site.described(*GATEWAY), "FloatingIPMoved", *words))
    told = (f"{FIRST} is about to move from {cordoned}", f"{FIRST} moved from {cordoned}")
    site.wait("its policy's owner to be told", lambda: find(site.described("enp", "alice"), *told))
    site.kubectl("uncordon", cordoned)

    def is_schedulable() -> bool:
        conditions = site.told("angn", cordoned, "-n", "kube-system")["conditions"]
        return {item["type"]: item["status"] for item in conditions}["Schedulable"] == "True"

    site.wait("the leader to have heard", is_schedulable)
    assert cordoned not in site.holders().values()


def test_a_removed_floating_ip_that_is_in_use_is_told_on_gateway_and_policy(site: KubernetesSite) -> None:
    site.kubectl.apply(gateway(SECOND, THIRD))
    site.wait("the gateway's word", lambda: "FloatingIPInUse" in site.described(*GATEWAY))
    site.wait("the policy's word", lambda: "UnknownEgressIP" in site.described("enp", "alice"))

    def is_dropped() -> bool:
        seen = site.seen("alice/frontend-worker1", timeout_s=0.3)
        # Until the pod's node has heard of it too.
        assert seen == "nothing came" or seen.startswith(FIRST), "never from another source"
        return seen == "nothing came"

    site.wait("it to be dropped", is_dropped)
    site.kubectl.apply(gateway(*FLOATING_IPS))
    site.wait_seen("alice/frontend-worker1", FIRST)


OBJECTS = (GATEWAY, ("enp", "alice"), ("angn", "worker1", "-n", "kube-system"))


def is_said_of_all(site: KubernetesSite, status: str, reason: str = "") -> bool:
    """Every condition of every object that is looked at."""
    conditions = [item for where in OBJECTS for item in site.told(*where).get("conditions", [])]
    found = [item for item in conditions if item["type"] in ("Ready", "Accepted", "Schedulable")]
    return bool(found) and all(
        item["status"] == status and item["reason"] == (reason or item["reason"]) for item in found
    )


def answering(site: KubernetesSite) -> str:
    """The controller that answers for the statuses."""
    return site.kubectl(
        "get", "lease", "egressgw-status", "-n", "egressgw-system", "-o=jsonpath={.spec.holderIdentity}"
    )


def test_v1_with_the_majority_lost_every_object_says_unknown_and_true_again_when_it_is_back(
    site: KubernetesSite,
) -> None:
    site.wait_whole()
    site.wait("all to be well", lambda: is_said_of_all(site, "True"))
    assert "VALID UNTIL" in site.kubectl("get", *GATEWAY)
    began = time.monotonic()
    for node in ("worker1", "worker2"):
        site.fault(node, Fault.KILL, only="keeper")
    site.wait("Unknown", lambda: is_said_of_all(site, "Unknown", "MajorityLost"), timeout_s=UNKNOWN_S)
    print(f"Unknown everywhere {time.monotonic() - began:.1f} s after the majority was lost")
    said = site.told(*GATEWAY)
    assert "floatingIPs" not in said
    assert "control1, worker1, worker2 are silent: worker1, worker2;" in said["conditions"][0]["message"]
    assert "holder" not in site.told("enp", "alice")
    assert f"last known: {FIRST} on " in said["conditions"][0]["message"]
    site.wait("the Event", lambda: "StatusUnknown" in site.described(*GATEWAY))
    began = time.monotonic()
    for node in ("worker1", "worker2"):
        site.fault(node, Fault.RESTART, only="keeper")
    site.wait("all to be well", lambda: is_said_of_all(site, "True"))
    assert len(site.holders()) == 3
    print(f"True everywhere {time.monotonic() - began:.1f} s after the keepers' start")


def test_v2_a_leader_that_stands_still_is_followed_by_one_whose_word_counts(site: KubernetesSite) -> None:
    site.wait("all to be well", lambda: is_said_of_all(site, "True"))
    frozen = answering(site)
    before = site.told(*GATEWAY)["leaderTerm"]
    site.fault(frozen, Fault.STOP, only="controller")
    try:
        site.wait("another leader", lambda: answering(site) != frozen, timeout_s=UNKNOWN_S)
        site.wait("its word", lambda: site.told(*GATEWAY)["leaderTerm"] > before, timeout_s=UNKNOWN_S)
        assert is_said_of_all(site, "True"), "nothing was unknown meanwhile"
    finally:
        site.fault(frozen, Fault.CONT, only="controller")
    # Awake again, the old one neither doubts the new one nor speaks.
    time.sleep(12)
    assert is_said_of_all(site, "True")
    assert answering(site) != frozen


def test_without_an_api_server_a_node_s_death_is_survived_and_told_when_it_returns(site: KubernetesSite) -> None:
    site.wait_whole()
    # Status follows the traffic, by up to a report of the leader.
    site.wait("all of them to be shown", lambda: len(site.holders()) == 3)
    dead = site.holders()[FIRST]
    # Which node that is depends on what went before.
    witness = next(node for node in ("control1", "worker1", "worker2") if node != dead)
    pod = f"alice/frontend-{witness}"
    site.kill_api()
    with site.stream(pod, interval_ms=20):
        site.fault(dead, Fault.KILL, Fault.CUT)
        site.wait("the address elsewhere", lambda: site.holder(FIRST, asked=witness) not in (dead, None))
        site.wait_seen(pod, FIRST)
    heir = site.holder(FIRST, asked=witness)
    assert heir is not None
    # The heir's agent is restarted meanwhile: it goes on from the objects it knew.
    restart_as(site.lab, "agent", heir)
    site.wait("the restored objects", lambda: site.status(heir)["objects"]["restoredFrom"])
    time.sleep(16)
    assert site.holder(FIRST, asked=witness) == heir, "longer than the grace of an agent that knows nothing"
    assert site.seen(pod) == FIRST
    site.start_api()
    returned = time.monotonic()
    site.wait("status", lambda: site.holders().get(FIRST) == heir, timeout_s=RESUME_S * 3)
    site.wait("the node's state", lambda: site.told(*GATEWAY)["nodes"][dead] == "Down", timeout_s=RESUME_S * 3)
    said = site.wait("the Event", lambda: find(site.described(*GATEWAY), f"{FIRST} moved from {dead} to {heir}"))
    assert "gap at most" in said
    print(f"status and Events right {time.monotonic() - returned:.1f} s after the API server's return")
    site.wait("fresh objects", lambda: site.status(heir)["objects"]["restoredFrom"] is None)
    assert not site.bare_pod_sources()
    # The dead node is removed from the cluster: so is what is said of it, and only then.
    assert dead in site.told(*GATEWAY)["nodes"]
    site.kubectl("delete", "node", dead)
    site.wait("the node to be gone", lambda: dead not in site.told(*GATEWAY)["nodes"])
    site.wait("its object to be gone", lambda: site.told("angn", dead, "-n", "kube-system") == {})


def find(text: str, *words: str) -> str | None:
    return text if all(word in text for word in words) else None


def run(command: list[str]) -> int:
    return subprocess.run(command, capture_output=True, timeout=10).returncode
