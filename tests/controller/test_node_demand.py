"""Rule Q2: which nodes need ports of which address, kept in step by differences."""

import random
from ipaddress import IPv4Address

from service.controller.node_demand import NodeDemand
from service.model.objects import Change, Delete, Upsert
from service.policy.index import PolicyIndex
from tests.policy.objects import gateway, namespace, pod, pod_key, policy, policy_key

ADDRESSES = ("192.168.1.100", "192.168.1.101")
NODES = ("worker1", "worker2", "worker3")


def demand(index: PolicyIndex) -> dict[IPv4Address, set[str]]:
    """From all selections, anew."""
    found: dict[IPv4Address, set[str]] = {}
    for selection in index.selections().values():
        for floating_ip in selection.rule_set.addresses():
            found.setdefault(floating_ip, set()).add(selection.pod.node)
    return found


def told(kept: NodeDemand) -> dict[IPv4Address, set[str]]:
    return {floating_ip: set(nodes) for floating_ip, nodes in kept.nodes().items()}


def change(random_: random.Random) -> Change:
    number = random_.randrange(12)
    match random_.randrange(5):
        case 0:
            return Delete(pod_key(f"p{number}"))
        case 1:
            name = random_.choice(("one", "two"))
            return Delete(policy_key(name))
        case 2:
            name, address = random_.choice((("one", ADDRESSES[0]), ("two", ADDRESSES[1])))
            return Upsert(policy(name, ip=address))
        case _:
            return Upsert(pod(f"p{number}", f"10.0.0.{number + 1}", node=random_.choice(NODES)))


def test_after_any_changes_it_says_what_all_selections_say() -> None:
    for seed in range(20):
        random_ = random.Random(seed)
        index = PolicyIndex(pod_cidrs_known=True)
        index.apply([Upsert(gateway(*ADDRESSES)), Upsert(namespace()), *(change(random_) for _ in range(20))])
        kept = NodeDemand(index.selections())
        index.follow(lambda delta, kept=kept: kept.take(delta.selections))  # type: ignore[misc]
        for _ in range(60):
            index.apply([change(random_) for _ in range(random_.randrange(1, 4))])
            assert told(kept) == demand(index), f"seed {seed}"
