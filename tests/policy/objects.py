"""Short ways to write typed objects in tests."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from service.model.objects import (
    NO_TIMEOUTS,
    EgressPolicy,
    EgressRule,
    FlowTimeouts,
    Kind,
    LabelSelector,
    Namespace,
    NetworkGateway,
    ObjectKey,
    Operator,
    Pod,
    Requirement,
)


def pod_key(name: str, namespace: str = "shop") -> ObjectKey:
    return ObjectKey(Kind.POD, namespace, name)


def policy_key(name: str) -> ObjectKey:
    return ObjectKey(Kind.POLICY, "", name)


def pod(
    name: str,
    ip: str | None = "10.0.0.1",
    *,
    namespace: str = "shop",
    node: str = "worker1",
    uid: str | None = None,
    **labels: str,
) -> Pod:
    address = IPv4Address(ip) if ip else None
    return Pod(pod_key(name, namespace), uid or f"uid-{name}", tuple(sorted(labels.items())), node, address)


def namespace(name: str = "shop", **labels: str) -> Namespace:
    return Namespace(ObjectKey(Kind.NAMESPACE, "", name), tuple(sorted(labels.items())))


def requirement(key: str, operator: str, *values: str) -> Requirement:
    return Requirement(key, Operator(operator), tuple(sorted(values)))


def selector(labels: Mapping[str, str] | None = None, *expressions: Requirement) -> LabelSelector:
    return LabelSelector(tuple(sorted((labels or {}).items())), expressions)


EVERYTHING = selector()


def policy(
    name: str = "egress",
    *,
    ip: str = "192.168.1.100",
    to: Sequence[str] = ("8.8.8.0/24",),
    excluded: Sequence[str] = (),
    timeouts: FlowTimeouts = NO_TIMEOUTS,
    pods: LabelSelector = EVERYTHING,
    namespaces: LabelSelector = EVERYTHING,
    rules: Sequence[EgressRule] | None = None,
    created: str = "2024-01-01T00:00:00.000000000Z",
) -> EgressPolicy:
    chosen = tuple(rules) if rules is not None else (EgressRule(namespaces, pods),)
    return EgressPolicy(
        policy_key(name),
        chosen,
        tuple(map(IPv4Network, to)),
        IPv4Address(ip),
        created,
        excluded=tuple(map(IPv4Network, excluded)),
        timeouts=timeouts,
    )


def gateway(*ips: str) -> NetworkGateway:
    key = ObjectKey(Kind.GATEWAY, "kube-system", "default")
    return NetworkGateway(key, tuple(map(IPv4Address, ips)))
