"""docker-compose.yml as its first lines say, on a docker daemon of the test's own."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from loadtest.broker import libraries
from service.lab.cluster.assets import program
from tests.deploy.docker_daemon import running_daemon
from tests.deploy.manifests import DEPLOY

pytestmark = [
    pytest.mark.root,
    pytest.mark.docker,
    pytest.mark.kubernetes,
    pytest.mark.kafka,
    pytest.mark.timeout(1200),
]

FLOATING_IP = "172.30.99.100"
PODS = ("pod1", "pod2", "pod3")
CALL = ("curl", "-s", "--max-time", "3", "203.0.113.8:8080")

Compose = Callable[..., str]


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """Everything is up, and removed afterwards."""
    subprocess.run([str(DEPLOY / "build-image"), "--dev"], check=True, timeout=900, capture_output=True)
    with running_daemon() as host:
        environment = os.environ | {
            "DOCKER_HOST": host,
            "KUBEBUILDER_ASSETS": str(program("kubectl").parent),
            "KAFKA_LIBRARIES": str(libraries()),
        }

        def run(*arguments: str, check: bool = True) -> str:
            command = ["docker-compose", "--project-name", "egressgw-test", *arguments]
            done = subprocess.run(
                command, cwd=DEPLOY.parent, env=environment, capture_output=True, text=True, timeout=400
            )
            assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
            return done.stdout

        try:
            run("up", "--detach")
            yield run
        finally:
            run("down", "--volumes", "--timeout", "5", check=False)


def seen_as(compose: Compose, pod: str) -> str:
    """The address that the server outside sees; empty where there is no answer."""
    return compose("exec", "-T", pod, *CALL, check=False).partition(" ")[0]


def until(is_so: Callable[[], bool], what: Callable[[], str], timeout_s: float = 240.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, what()
        time.sleep(1)


def test_pods_of_every_node_leave_with_the_floating_ip(compose: Compose) -> None:
    for pod in PODS:
        until(lambda pod=pod: seen_as(compose, pod) == FLOATING_IP, lambda: compose("logs", "--tail=30"))
    calls = [line.partition("{")[2] for line in compose("logs", "--no-color", "outside").splitlines() if "{" in line]
    sources = [json.loads("{" + call)["source"] for call in calls]
    assert sources[-len(PODS) :].count(FLOATING_IP) == len(PODS)


def test_kubectl_shows_who_holds_the_addresses(compose: Compose) -> None:
    def status() -> dict[str, dict[str, str]]:
        arguments = ("kubectl", "-n", "kube-system", "get", "anthosnetworkgateway", "default", "-o", "json")
        return json.loads(compose("exec", "-T", "setup", *arguments)).get("status", {})

    until(lambda: len(status().get("floatingIPs", {})) == 3, lambda: str(status()))
    assert set(status()["floatingIPs"].values()) <= {"node1", "node2", "node3"}
    assert set(status()["nodes"]) == {"node1", "node2", "node3"}


def test_the_holder_is_stopped_and_another_node_takes_over(compose: Compose) -> None:
    arguments = ("kubectl", "get", "egressnatpolicy", "egress", "-o", "jsonpath={.status.holder}")

    def holder() -> str:
        return compose("exec", "-T", "setup", *arguments)

    until(lambda: bool(holder()), holder)
    first = holder()
    compose("kill", first)
    pod = next(pod for pod in PODS if pod[-1] != first[-1])
    until(lambda: holder() not in ("", first), holder)
    until(lambda: seen_as(compose, pod) == FLOATING_IP, lambda: compose("logs", "--tail=30"))


def test_every_move_is_in_kafka(compose: Compose) -> None:
    arguments = ("egressgw", "audit", "who", FLOATING_IP, "--kafka", "172.30.99.4:9092")

    def told() -> str:
        return compose("exec", "-T", "controller", *arguments, check=False)

    until(lambda: "node" in told(), told)
