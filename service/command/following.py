"""Follows an order until it is known what became of it, and says so line by line (rules O3, O4)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

LOOK_S = 0.1
STAYS_S = 3.0
"""What nobody can take for so long stays: a leader has looked at it several times by then."""


class Client(Protocol):
    """Asks a process of this machine; see `service.web.order_client`."""

    def get(self, page: str, **query: str) -> dict[str, Any]:
        """Ask how far something is."""

    def post(self, page: str, order: dict[str, Any]) -> dict[str, Any]:
        """Order something."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What following needs of the world. `clock` is in seconds and does not go back."""

    client: Client
    say: Callable[[str], None]
    clock: Callable[[], float]
    sleep: Callable[[float], None]


@dataclass(slots=True)
class _Emptying:
    """The addresses of a node that is being drained."""

    node: str
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the node had, each with what was last known of it."""
    gone: dict[str, str] = field(default_factory=dict)
    """Where each went."""
    stays_since: dict[str, float] = field(default_factory=dict)

    def take(self, document: dict[str, Any], now: float) -> list[str]:
        """One answer; returns what is new in it."""
        held, holders, lines = document["held"], document["holders"], []
        for address, row in held.items():
            if self.found.get(address, {}).get("to") != row["to"] and row["to"] and not row["stays"]:
                lines.append(f"{address}: to move from {self.node} to {row['to']}")
            self.found[address] = row
            self.gone.pop(address, None)
            if row["stays"]:
                self.stays_since.setdefault(address, now)
            else:
                self.stays_since.pop(address, None)
        for address in self.found:
            if address not in held and address not in self.gone and address in holders:
                self.gone[address] = holders[address]
                self.stays_since.pop(address, None)
                lines.append(f"{address}: moved from {self.node} to {holders[address]}")
        return lines

    @property
    def left(self) -> list[str]:
        return [address for address in self.found if address not in self.gone]


def follow_drain(watch: Watch, node: str, *, timeout_s: float) -> bool:
    """Drain a node, and wait until it has nothing any more; False where that is not reached: it stays drained."""
    state, began = _Emptying(node), watch.clock()
    document = watch.client.post("/v1/drain", {"node": node, "drained": True})
    watch.say(f"node {node} is drained: it is given no floating IP until egressgw undrain {node}")
    while True:
        now = watch.clock()
        for line in state.take(document, now):
            watch.say(line)
        left = state.left
        if not left and now - began >= LOOK_S:
            watch.say(f"{len(state.gone)} floating IPs moved, none is left on {node}")
            return True
        if left and all(now - state.stays_since.get(address, now) >= STAYS_S for address in left):
            for address in left:
                watch.say(f"{address}: stays on {node}: {state.found[address]['stays']}")
            watch.say(f"{len(state.gone)} floating IPs moved, {len(left)} stay on {node}; it is drained all the same")
            return False
        if now - began >= timeout_s:
            leader = document["leader"] or "none"
            watch.say(f"after {timeout_s:g} s still on {node}: {', '.join(left) or 'nothing known'} (leader: {leader})")
            watch.say(f"{node} is drained all the same; what is left moves when it can")
            return False
        watch.sleep(LOOK_S)
        document = watch.client.get("/v1/drain", node=node)


def follow_undrain(watch: Watch, node: str) -> None:
    """End a drain, and say what still keeps the node from holding anything."""
    document = watch.client.post("/v1/drain", {"node": node, "drained": False})
    watch.say(f"node {node} is not drained any more; nothing is given back to it (egressgw rebalance does that)")
    if not document["schedulable"]:
        watch.say(f"{node} is still given nothing: Kubernetes has it cordoned or shuts it down, or it is no member")


def follow_move(watch: Watch, floating_ip: str, node: str, *, timeout_s: float) -> bool:
    """Order one move and wait for its end; False where it did not come to be. Who waits no longer withdraws it."""
    began = watch.clock()
    document = watch.client.post("/v1/move", {"floatingIP": floating_ip, "node": node})
    number, told = document["id"], ""
    try:
        while document["id"] == number:
            if (line := _progress(document)) != told:
                told = line
                watch.say(line)
            if document["state"] in ("done", "failed"):
                return bool(document["state"] == "done")
            if watch.clock() - began >= timeout_s:
                leader = document["leader"] or "none"
                watch.say(f"{floating_ip}: not moved within {timeout_s:g} s, given up (leader: {leader})")
                break
            watch.sleep(LOOK_S)
            document = watch.client.get("/v1/move", floatingIP=floating_ip)
        else:
            watch.say(f"{floating_ip}: another order has taken the place of this one")
            return False
    except KeyboardInterrupt:
        watch.client.post("/v1/withdraw", {"floatingIP": floating_ip, "id": number})
        raise
    watch.client.post("/v1/withdraw", {"floatingIP": floating_ip, "id": number})
    return False


def _progress(document: dict[str, Any]) -> str:
    address, source, target = document["floatingIP"], document["from"], document["to"]
    match document["state"]:
        case "moving":
            return f"{address}: to move from {source} to {target}"
        case "done":
            return f"{address}: moved from {source} to {target}" if source else f"{address}: {document['reason']}"
        case "failed":
            return f"{address}: not moved: {document['reason']}"
    return f"{address}: ordered to {target or 'another node'}; on {document['holder'] or 'no node'} now"


def follow_rebalance(watch: Watch, *, is_dry: bool, timeout_s: float) -> bool:
    """Make the load even, one address after the other; False where one did not move. `is_dry`: only say what would."""
    plan = watch.client.get("/v1/rebalance")
    moves = plan["moves"]
    if not moves:
        watch.say(f"the load is even, nothing is to move: {_loads(plan['load'])}")
        return True
    watch.say(f"now: {_loads(plan['load'])}; {len(moves)} moves make it: {_loads(plan['after'])}")
    if is_dry:
        for move in moves:
            watch.say(f"{move['floatingIP']}: would move from {move['from']} to {move['to']}")
        return True
    failed = [
        move["floatingIP"]
        for move in moves
        if not follow_move(watch, move["floatingIP"], move["to"], timeout_s=timeout_s)
    ]
    done = len(moves) - len(failed)
    watch.say(f"{done} of {len(moves)} moved" + (f"; not moved: {', '.join(failed)}" if failed else ""))
    return not failed


def _loads(load: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(load.items()))
