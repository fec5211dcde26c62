"""What an operator is told while something is wrong, and that it is told no more when it is right again."""

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
