"""What a driven agent is told of: policies, pods and floating IPs, each by its number. Pure, but for the telling.

Of one number there is one object, and of two numbers there are two with nothing in common: no address, no destination.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from loadtest.driven_agent import NODE, SUBNET, DrivenAgent
from service.model.assignment import Assignment, Location
from service.model.lease import Stamp, Token
from service.model.objects import (
    Change,
    EgressPolicy,
    EgressRule,
    Kind,
    LabelSelector,
    Namespace,
    NetworkGateway,
    ObjectKey,
    Pod,
    Upsert,
)

NAMESPACE = "load"
_GATEWAY_KEY = ObjectKey(Kind.GATEWAY, "kube-system", "default")
LISTED_MAX = 4096
"""Floating IPs for which the maps have room; further policies name addresses that nobody lists."""
_FIRST_POD = int(IPv4Address("10.0.0.0"))
_FIRST_DESTINATION = int(IPv4Address("20.0.0.0"))
_POLICY_BITS = 11
"""Of the addresses that one policy has for its destinations: as many as eight networks of 24 bits."""


def floating_ip(number: int) -> IPv4Address:
    """On the segment of the driven agent's uplink."""
    return IPv4Address(int(SUBNET[20_000]) + number)


def location(number: int, counter: int, holder: str = NODE) -> Location:
    """Where that floating IP is, by the word of a later holder where `counter` is higher."""
    return Location(floating_ip(number), holder, Token(1, 1, counter))


def namespace(name: str = NAMESPACE, **labels: str) -> Namespace:
    """With these labels."""
    return Namespace(ObjectKey(Kind.NAMESPACE, "", name), tuple(sorted(labels.items())))


def pod(number: int, group: str, node: str = NODE) -> Pod:
    """Selected by the policy of its group, where there is one."""
    key = ObjectKey(Kind.POD, NAMESPACE, f"pod-{number}")
    return Pod(key, f"uid-{number}", (("app", group),), node, IPv4Address(_FIRST_POD + number))


def group(number: int) -> str:
    """Of the pods that the policy of this number selects."""
    return f"group-{number}"


def networks(number: int, count: int = 8, length: int = 24) -> tuple[IPv4Network, ...]:
    """Destinations of a policy, 256 addresses apart: those of 24 bits are neighbours, of more bits they are not.

    More than eight overlap those of the next numbers.
    """
    first = _FIRST_DESTINATION + (number << _POLICY_BITS)
    return tuple(IPv4Network((first + (one << 8), length)) for one in range(count))


def policy(
    number: int, destinations: tuple[IPv4Network, ...], *, namespaces: LabelSelector | None = None
) -> EgressPolicy:
    """For the pods of its group; with `namespaces`, for all pods of those instead."""
    chosen = LabelSelector((("app", group(number)),)) if namespaces is None else LabelSelector()
    rule = EgressRule(namespaces or LabelSelector(), chosen)
    key = ObjectKey(Kind.POLICY, "", f"policy-{number:05}")
    return EgressPolicy(key, (rule,), destinations, floating_ip(number), f"2024-01-01T00:00:{number:05}Z")


def beginnings(policies: Sequence[EgressPolicy]) -> list[Change]:
    """The gateway with a floating IP for each, as far as there is room, and the policies themselves."""
    listed = tuple(floating_ip(number) for number in range(min(len(policies), LISTED_MAX)))
    return [Upsert(NetworkGateway(_GATEWAY_KEY, listed)), *(Upsert(one) for one in policies)]


def place_floating_ips(agent: DrivenAgent, count: int, members: int) -> None:
    """Tell it by gossip that each is assigned to, and held by, one of so many members in turn."""
    for number in range(count):
        holder = f"node-{number % members:04}"
        agent.cluster.publish_assignment(Assignment(floating_ip(number), holder, None, Stamp(1, 1)))
        agent.cluster.publish_location(location(number, 1, holder))
