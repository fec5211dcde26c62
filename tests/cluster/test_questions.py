"""What an operator asks first, with kubectl as the README says, when all is well and with the majority lost."""

import pytest

from service.lab.cluster.cluster import SERVICE_NAMESPACE
from service.lab.cluster.installation import AGENT
from service.lab.fault import Fault
from tests.cluster.service_site import NODES, ServiceSite
from tests.e2e.site import FLOATING_IPS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

FIRST = FLOATING_IPS[0]
MOVES = ("audit", "moves", "--since", "12h", "--url", "http://127.0.0.1:9642")


def asked(service: ServiceSite, place: str, *arguments: str) -> tuple[int, str]:
    """What the command says in a container of the service: (exit status, output)."""
    kubectl = service.cluster.kubectl
    done = kubectl.run("-n", SERVICE_NAMESPACE, "exec", place, "--", "egressgw", *arguments, check=False)
    return done.returncode, done.stdout + done.stderr


def agent_pod(service: ServiceSite, node: str) -> str:
    pods = service.cluster.kubectl.get("-n", SERVICE_NAMESPACE, "pods", "--field-selector", f"spec.nodeName={node}")
    names = [str(pod["metadata"]["name"]) for pod in pods["items"]]
    return next(name for name in names if name.startswith(f"{AGENT.rpartition('/')[2]}-"))


def wait_healthy(service: ServiceSite) -> None:
    service.wait("all to be well", lambda: asked(service, AGENT, "status")[1].startswith("healthy"))


def test_three_questions_are_answered_with_one_command_each_also_with_the_majority_lost(service: ServiceSite) -> None:
    service.wait_whole()
    wait_healthy(service)
    assert asked(service, AGENT, "status")[0] == 0
    code, said = asked(service, AGENT, "why", FIRST)
    assert (code, said.startswith(f"{FIRST} is held by ")) == (0, True), said
    holder = service.shown_holder(FIRST)
    assert holder is not None
    lost = [holder, next(name for name in NODES if name != holder)]
    witness = agent_pod(service, next(name for name in NODES if name not in lost))
    try:
        for name in lost:
            service.fault(name, Fault.STOP, only="keeper")
        service.wait(
            "who is silent to be told",
            lambda: all(f"{name} silent for" in asked(service, witness, "status")[1] for name in lost),
        )
        code, said = asked(service, witness, "status")
        assert (code, said.startswith("trouble ")) == (1, True), said
        code, said = asked(service, witness, "why", FIRST)
        assert (code, f"{FIRST} is held by no node: " in said) == (1, True), said
        service.wait(
            "the end to be among the moves",
            lambda: any(
                FIRST in line and holder in line and "expired" in line
                for line in asked(service, witness, *MOVES)[1].splitlines()
            ),
        )
    finally:
        for name in lost:
            service.fault(name, Fault.CONT, only="keeper")
    service.wait_whole()
    wait_healthy(service)
    code, said = asked(service, witness, *MOVES)
    assert (code, "not read" in said) == (0, False), said
