"""What an operator is told while something is wrong, and that it is told no more when it is right again."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from service.lab.configuration import member_folder
from service.lab.fault import Fault
from service.lab.lab import Lab
from service.model.errors import TransientError
from service.web.verdict import troubles
from tests.e2e.site import FLOATING_IPS, Site

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST = FLOATING_IPS[0]


def told(site: Site, node: str) -> str:
    """What is wrong by that node's own word."""
    try:
        return "\n".join(troubles(site.status(node)))
    except TransientError as error:
        return str(error)


def wait_healthy(site: Site) -> None:
    nodes = [node.name for node in site.lab.plan.nodes]
    site.wait("everybody to say that all is well", lambda: not any(told(site, node) for node in nodes))


@contextmanager
def another_key(lab: Lab, node: str) -> Iterator[None]:
    """In the settings of that node, for whatever is started there meanwhile."""
    path = member_folder(lab.folder, node) / "config.yaml"
    good = path.read_text(encoding="utf-8")
    path.write_text(yaml.safe_dump(yaml.safe_load(good) | {"keyring": ["ab" * 32]}), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(good, encoding="utf-8")


def test_a_node_with_another_key_is_told_of_on_both_sides_while_it_has_it(site: Site) -> None:
    wait_healthy(site)
    holder = str(site.holder(FIRST))
    wrong = next(node.name for node in site.lab.plan.nodes if node.name != holder)
    site.fault(wrong, Fault.KILL, only="agent")
    with another_key(site.lab, wrong):
        site.fault(wrong, Fault.RESTART, only="agent")
        site.wait("the node itself to tell of it", lambda: "unknown-key" in told(site, wrong))
        site.wait("the others to tell of it", lambda: "unknown-key" in told(site, holder))
        site.wait("the others to think it down", lambda: f"node {wrong} is Down" in told(site, holder))
        site.fault(wrong, Fault.KILL, only="agent")
    site.fault(wrong, Fault.RESTART, only="agent")
    site.wait_whole()
    wait_healthy(site)


def asked(site: Site, place: str, *arguments: str) -> tuple[int, str]:
    """What the command says in the network of a member: (exit status, output)."""
    command = site.lab.enter(place, sys.executable, "-m", "service", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_three_questions_are_answered_with_one_command_each_also_with_the_majority_lost(site: Site) -> None:
    site.wait_whole()
    wait_healthy(site)
    nodes = [node.name for node in site.lab.plan.nodes]
    places = [*nodes, *(controller.name for controller in site.lab.plan.controllers)]
    everybody = ("audit", "moves", "--url", "http://127.0.0.1:9642")
    assert asked(site, nodes[0], "status")[0] == 0
    code, said = asked(site, nodes[0], "why", FIRST)
    assert (code, said.startswith(f"{FIRST} is held by ")) == (0, True)
    holder = str(site.holder(FIRST))
    lost = [holder, next(name for name in nodes if name != holder)]
    witness = next(name for name in nodes if name not in lost)
    try:
        for name in lost:
            site.fault(name, Fault.KILL, only="keeper")
        site.wait("who is silent to be told", lambda: all(f"{name} silent for" in told(site, witness) for name in lost))
        for place in places:
            # A node misses its own keeper after three seconds, and others do after two.
            site.wait(f"{place} to be in trouble", lambda place=place: asked(site, place, "status")[0] == 1)
            code, said = asked(site, place, "status")
            assert (code, said.startswith("trouble ")) == (1, True), f"{place}: {said}"
            code, said = asked(site, place, "why", FIRST)
            assert (code, f"{FIRST} is held by no node: " in said) == (1, True), f"{place}: {said}"
        # Its agent waits for a second word that its keeper is gone: a stalled loop alone ends nothing.
        site.wait(
            "the end to be among the moves",
            lambda: any(
                FIRST in line and holder in line and "expired" in line
                for line in asked(site, witness, *everybody)[1].splitlines()
            ),
        )
    finally:
        for name in lost:
            site.fault(name, Fault.RESTART, only="keeper")
    site.wait_whole()
    wait_healthy(site)
    code, said = asked(site, witness, *everybody)
    assert (code, "not read" in said) == (0, False), said
