"""Row `moves`: how many open connections of every kind live through a change of gateway, unplanned and planned.

They are of pods of the two nodes that do not hold the address. A crash is that of `failover`: the holder's links go
silent, and its processes are killed. A planned move is a keeper that is told to stop, which hands over what it holds.
"""

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from loadtest import gateway, peer
from loadtest.conversation import KINDS
from loadtest.gateway import SOURCE_IP, Report
from loadtest.goal import Figure, Row, at_least
from loadtest.rows.flood import check
from loadtest.rows.options import DatapathOptions
from loadtest.station import Station
from service.lab.fault import Fault, apply_fault
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.process import send_signal, wait_for_end
from service.lab.status import wait_for
from service.model.errors import TransientError

PORT = 9040
LEAD_S = 1.0
MOVED_S = 20.0
ALIVE_S = 8.0
_STOPPED_S = 10.0
_PATIENCE_S = 60.0


def measure_moves(options: DatapathOptions, report: Report) -> Row:
    """In one lab: a crash, the way back to a whole cluster, a planned move; each with connections of its own."""
    row, count = Row("moves"), options.sizes.conversations
    with gateway.running_lab(LabOptions(name=f"{options.name}g"), report) as lab:
        peer.add_server(lab)
        gateway.apply_policy(lab, (f"{gateway.OUTSIDE}/32", peer.SERVER_NETWORK))
        with Station(lab.plan.router, "conversation") as server:
            server.ask("serve", address=peer.SERVER, port=PORT)
            for name, move in (("a crash", crash), ("a planned move", hand_over)):
                report(f"{count} connections, and {name}")
                holder = gateway.wait_until_whole(lab)["floatingIPs"][SOURCE_IP]["holder"]
                with conversations(lab, others(lab, holder), count) as clients:
                    move(lab, holder)
                    found = alive(clients, server)
                row.detail[name] = found | {"from": holder, "to": holder_of(lab, holder)}
                living = sum(found["alive"].values())
                row.figures.append(
                    Figure(f"of {count} mixed connections alive after {name}", living, digits=0, goal=at_least(count))
                )
                mend(lab, holder)
    return row


def others(lab: Lab, *holders: str) -> list[str]:
    """The nodes that are none of these."""
    return [node.name for node in lab.plan.nodes if node.name not in holders]


@contextlib.contextmanager
def conversations(lab: Lab, nodes: Sequence[str], count: int, kinds: Sequence[str] = KINDS) -> Iterator[list[Station]]:
    """So many, of all kinds alike, by one pod on each of the nodes. Raises TransientError for a source that is not the
    floating IP."""
    pods = [gateway.selected_pod(lab, node, on_bridge=number % 2 == 0) for number, node in enumerate(nodes)]
    for pod in pods:
        gateway.wait_until_translated(lab, pod)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Station(pod.netns, "conversation")) for pod in pods]
        for client, counts in zip(clients, dealt(count, len(clients), kinds), strict=True):
            opened = client.ask("open", timeout_s=_PATIENCE_S, address=peer.SERVER, port=PORT, counts=counts)
            if opened["opened"] != sum(counts.values()) or set(opened["sources"]) != {SOURCE_IP}:
                raise TransientError(f"of {counts}: {opened}")
        time.sleep(LEAD_S)
        yield clients


def dealt(count: int, clients: int, kinds: Sequence[str] = KINDS) -> list[dict[str, int]]:
    """How many of each kind each client opens: `count` in all, and of no kind many more than of another."""
    shares: list[Counter[str]] = [Counter() for _ in range(clients)]
    for number in range(count):
        shares[number // len(kinds) % clients][kinds[number % len(kinds)]] += 1
    return [dict(share) for share in shares]


def crash(lab: Lab, holder: str) -> None:
    """The holder is gone all at once; returns when another node holds the address."""
    apply_fault(lab, holder, Fault.CUT)
    apply_fault(lab, holder, Fault.KILL)
    wait_until_moved(lab, holder)


def hand_over(lab: Lab, holder: str) -> None:
    """The holder's keeper is told to stop; returns when another node holds the address."""
    keeper = lab.state.process("keeper", holder)
    if keeper is None:
        raise TransientError(f"{holder} has no keeper")
    send_signal(keeper, signal.SIGTERM)
    wait_for_end([keeper], _STOPPED_S)
    wait_until_moved(lab, holder)


def wait_until_moved(lab: Lab, holder: str, *, timeout_s: float = MOVED_S) -> None:
    """Until another node holds the address. Raises TransientError where none does in time."""
    wait_for(f"{SOURCE_IP} to leave {holder}", lambda: bool(holder_of(lab, holder)), timeout_s=timeout_s)


def holder_of(lab: Lab, but: str) -> str:
    """Who holds the address now, as the other nodes say; empty where it is still that one, or nobody."""
    asked = next(node.name for node in lab.plan.nodes if node.name != but)
    row: dict[str, Any] = gateway.status(lab, asked)["floatingIPs"].get(SOURCE_IP, {})
    found: str = row.get("holder") or ""
    return "" if found == but else found


def mend(lab: Lab, member: str) -> None:
    """Everything of that node runs again."""
    apply_fault(lab, member, Fault.HEAL)
    apply_fault(lab, member, Fault.RESTART)


def alive(clients: list[Station], server: Station) -> dict[str, Any]:
    """Kind -> how many were asked, and how many live. Raises TransientError for a wrong source."""
    asked: Counter[str] = Counter()
    living: Counter[str] = Counter()
    for client in clients:
        checked = check(client, server, ALIVE_S)
        asked.update(checked["asked"])
        living.update(checked["alive"])
        if set(checked["sources"]) != {SOURCE_IP}:
            raise TransientError(f"seen as {checked['sources']}")
    return {"asked": dict(asked), "alive": dict(living)}
