"""Row `placement`: what a leading controller costs its event loop, by the number of gateway nodes.

The product's Leader, Knowledge, ClusterView, Observer, Intake and LeaderPortBlocks, put together as in a controller,
but with nothing to wait for (`driven_controller`). All times are CPU time of the one thread. Not measured: what sealing
and the sockets cost, what the log and the disk of records cost, the timers of gossip and of the port blocks' leader
(row `port-blocks`), and the writing of status.

A turn is `Leader.place` and `LeaderPortBlocks.update`, without an await in between. One is taken, in an idle second,
for each round of the electors' answers that says anything else than the one before, and for each refresh.
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_most
from loadtest.scale.curve import Curve, Point
from loadtest.scale.driven_controller import ELECTORS, SUBNET, TERM, DrivenController, node_address, node_name
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.steps import Steps, frozen_heap
from loadtest.statistics import median, percentile
from service.controller.controller import COALESCE_S, REFRESH_S
from service.controller.elector_client import OBSERVE_NS
from service.model.errors import TransientError
from service.model.gateway_node import NodeRole
from service.model.objects import (
    GATEWAY_NAME,
    GATEWAY_NAMESPACE,
    ClusterNode,
    EgressPolicy,
    EgressRule,
    Kind,
    LabelSelector,
    Namespace,
    NetworkGateway,
    Object,
    ObjectKey,
    Pod,
    Synced,
    Upsert,
)

DEATHS = 20
"""Of nodes that hold addresses, at each size; a third of the nodes at most."""
WORDS = 20
"""Of one member, each heard and then asked for."""
IDLE, AFTER_WORD, AFTER_FAILOVER, AFTER_DEATH, ASKED_SAME, ASKED_NEW, FACTS = (
    "a turn in which nothing has changed",
    "a turn after a member's word",
    "a turn after leases went to successors",
    "a turn after gossip buried a node",
    "members are asked for, nothing new",
    "members are asked for, one has said something",
    "facts for the reports",
)
"""Steps, beside those of the controller."""
_PODS_PER_NODE = 5
"""Selected ones."""
_STATE_PORT = 9641
_IDLE_MS, _DEATH_MS, _MEMBERS_MS, _STEP_MS = 5, 50, 5, 20
"""Goals."""


@dataclass(frozen=True, slots=True)
class Death:
    """One node's, in ms; each from the first word of it to the end of the turn that published new assignments."""

    failover_ms: float
    """After the electors' answers: where its addresses are now, and who succeeds there."""
    burial_ms: float
    """After gossip's: who succeeds where it stood by."""
    rows: int
    """Assignments that were published."""

    @property
    def slower_ms(self) -> float:
        """What of it took longer."""
        return max(self.failover_ms, self.burial_ms)


@dataclass(slots=True)
class Measured:
    """At one size; one value per repeat, in ms of the event loop."""

    steps: Steps
    idle: list[float] = field(default_factory=list)
    """All turns of a second."""
    turns: list[float] = field(default_factory=list)
    """How many there were."""
    heard: list[float] = field(default_factory=list)
    """All reports of electors in a second."""
    deaths: list[Death] = field(default_factory=list)

    @property
    def death_ms(self) -> list[float]:
        """The slower part of each."""
        return [death.slower_ms for death in self.deaths]


def measure_placement(options: ScaleOptions, report: Report) -> Row:
    """At a tenth, three tenths and all of the gateway nodes, each with all floating IPs."""
    found: dict[int, Measured] = {}
    for nodes in node_counts(options.sizes):
        report(f"{nodes} gateway nodes, {options.sizes.floating_ips} floating IPs")
        with tempfile.TemporaryDirectory(prefix="egressgw-placement-") as folder:
            found[nodes] = measure_size(Path(folder), nodes, options)
    return _row(found, options.sizes)


def node_counts(sizes: ScaleSizes) -> list[int]:
    """Ascending; never fewer than there are electors and one more."""
    return sorted({max(ELECTORS + 1, sizes.gateway_nodes * tenths // 10) for tenths in (1, 3, 10)})


def measure_size(folder: Path, nodes: int, options: ScaleOptions) -> Measured:
    """Everything at one size. Raises TransientError where what was driven did not come about."""
    controller = DrivenController(folder)
    fill(controller, nodes, options.sizes.floating_ips)
    with frozen_heap():
        controller.lead()
        return _measure(controller, nodes, options.repeats)


def _measure(controller: DrivenController, nodes: int, repeats: int) -> Measured:
    found = Measured(controller.steps)
    for _ in range(repeats):
        _idle_second(controller, found)
        controller.steps.take(FACTS, lambda: controller.knowledge.facts(TERM))
    for number in range(WORDS):
        # An elector's: its word is never old when a node that dies is buried.
        controller.change_member(1, 2 + number)
        controller.steps.take(ASKED_NEW, lambda: _ask_members(controller))
        controller.steps.take(ASKED_SAME, lambda: _ask_members(controller))
    controller.turn(AFTER_WORD)
    found.deaths = list(_deaths(controller, min(DEATHS, nodes // 3)))
    return found


def fill(controller: DrivenController, nodes: int, floating_ips: int) -> None:
    """Tell it of so much: members, Node objects, and for each address a policy with pods all over the nodes."""
    controller.meet(nodes)
    controller.take([*map(Upsert, _objects(nodes, floating_ips)), Synced()])


def _idle_second(controller: DrivenController, found: Measured) -> None:
    heard, turns = 0.0, []
    for _ in range(10**9 // OBSERVE_NS):
        heard += controller.hear_electors()
        if controller.is_dirty:
            turns.append(controller.turn(IDLE))
    turns += [controller.turn(IDLE) for _ in range(round(1 / REFRESH_S))]
    found.heard.append(heard)
    found.idle.append(sum(turns))
    found.turns.append(len(turns))


def _ask_members(controller: DrivenController) -> None:
    """What a reconcile asks for of an agent and of a controller, as far as it is about members."""
    cluster = controller.cluster
    cluster.members()
    cluster.gateway_nodes()
    cluster.answering()
    cluster.sockets(_STATE_PORT)


def _deaths(controller: DrivenController, count: int) -> Iterator[Death]:
    chance = random.Random(1)
    electors = {node_name(number) for number in range(ELECTORS)}
    for _ in range(count):
        holding = sorted({node for node, _ in controller.leases.values()} - electors)
        if not holding:
            raise TransientError("no node that could die holds an address")
        yield _die(controller, chance.choice(holding))


def _die(controller: DrivenController, node: str) -> Death:
    before = controller.rows()
    controller.fail_over(node)
    failover_ms = controller.hear_electors() + controller.turn(AFTER_FAILOVER)
    between = controller.rows()
    burial_ms = controller.bury_member(int(node.rpartition("-")[2])) + controller.turn(AFTER_DEATH)
    after = controller.rows()
    if any(node in (row.holder, row.successor) for row in after.values()):
        raise TransientError(f"{node} is dead, and still named in the leader's table")
    rows = sum(between[key] != row for key, row in before.items()) + sum(
        after[key] != row for key, row in between.items()
    )
    waited_ms = COALESCE_S * 1e3
    return Death(failover_ms + waited_ms, burial_ms + waited_ms, rows)


def _objects(nodes: int, floating_ips: int) -> Iterator[Object]:
    key = ObjectKey(Kind.GATEWAY, GATEWAY_NAMESPACE, GATEWAY_NAME)
    yield NetworkGateway(key, tuple(map(_floating_ip, range(floating_ips))), 1)
    yield Namespace(ObjectKey(Kind.NAMESPACE, "", "load"), ())
    for number in range(nodes):
        key = ObjectKey(Kind.CLUSTER_NODE, "", node_name(number))
        yield ClusterNode(key, NodeRole.WORKER, (node_address(number),), is_ready=True)
    for number in range(floating_ips):
        rule = EgressRule(LabelSelector(), LabelSelector((("app", f"group-{number}"),)))
        network = IPv4Network((int(IPv4Address("20.0.0.0")) + (number << 8), 24))
        key = ObjectKey(Kind.POLICY, "", f"policy-{number:05}")
        yield EgressPolicy(key, (rule,), (network,), _floating_ip(number), "2024-01-01T00:00:00Z", 1)
    for number in range(nodes * _PODS_PER_NODE):
        key = ObjectKey(Kind.POD, "load", f"pod-{number}")
        labels = (("app", f"group-{number % floating_ips}"),)
        address = IPv4Address("10.0.0.1") + number
        yield Pod(key, f"uid-{number}", labels, node_name(number % nodes), address)


def _floating_ip(number: int) -> IPv4Address:
    return SUBNET[20_000 + number]


def _row(found: dict[int, Measured], sizes: ScaleSizes) -> Row:
    largest = found[max(found)]
    taken, longest = largest.steps.taken, largest.steps.longest
    of = f"{max(found)} nodes, {sizes.floating_ips} addresses"
    turns = f"{median(largest.turns):.0f} turns"
    figures = [
        Figure(f"an idle second of turns, {of}", median(largest.idle), "ms", 1, at_most(_IDLE_MS), turns),
        Figure("electors' reports in it", median(largest.heard), "ms", 1),
        Figure(
            "a node dies until new assignments are published, p99",
            percentile(largest.death_ms, 0.99),
            "ms",
            1,
            at_most(_DEATH_MS),
            f"{len(largest.deaths)} deaths, {COALESCE_S * 1e3:.0f} ms of it waited",
        ),
        Figure(
            f"members' metadata, {max(found)} of them, one anew",
            median(taken[ASKED_NEW]),
            "ms",
            2,
            at_most(_MEMBERS_MS),
        ),
        Figure("members' metadata, nothing new", median(taken[ASKED_SAME]), "ms", 3),
        Figure("facts for the reports, each time", median(taken[FACTS]), "ms", 1),
        Figure("the longest step", longest.ms, "ms", 1, at_most(_STEP_MS), longest.name),
    ]
    curves = _curves(list(found.items()))
    detail = {
        "curves": [curve.document() for curve in curves],
        "sizes": [_document(nodes, measured) for nodes, measured in found.items()],
    }
    return Row("placement", figures, detail)


def _curves(found: Sequence[tuple[int, Measured]]) -> list[Curve]:
    def curve(title: str, costs: Sequence[float]) -> Curve:
        points = tuple(Point(nodes, cost) for (nodes, _), cost in zip(found, costs, strict=True))
        return Curve(title, "gateway nodes", "ms", points)

    return [
        curve("an idle turn", [median(one.steps.taken[IDLE]) for _, one in found]),
        curve("a node dies", [median(one.death_ms) for _, one in found]),
        curve("members' metadata, one anew", [median(one.steps.taken[ASKED_NEW]) for _, one in found]),
    ]


def _document(nodes: int, measured: Measured) -> dict[str, object]:
    return {
        "nodes": nodes,
        "idle_ms": measured.idle,
        "turns": measured.turns,
        "heard_ms": measured.heard,
        "deaths": [(death.failover_ms, death.burial_ms, death.rows) for death in measured.deaths],
        "steps": measured.steps.document(),
    }
