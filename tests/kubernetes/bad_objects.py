"""Objects that must be refused: (what is wrong, field as the user reads it, words of the advice, document)."""

from typing import Any, NamedTuple

API = "networking.gke.io/v1alpha1"


class Bad(NamedTuple):
    label: str
    field: str
    advice: str
    document: dict[str, Any]


def gateway(spec: Any = None, *, name: str = "default", namespace: str = "kube-system") -> dict[str, Any]:
    document = {
        "apiVersion": API,
        "kind": "AnthosNetworkGateway",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    return {key: value for key, value in document.items() if value is not None}


def policy(name: str = "bad", **fields: Any) -> dict[str, Any]:
    """A good policy with some fields replaced; `...` takes one away."""
    spec = {
        "egress": [{"podSelector": {"matchLabels": {"role": "frontend"}}}],
        "destinationCIDRs": ["8.8.8.0/24"],
        "egressSourceIP": "192.168.1.100",
    } | fields
    spec = {key: value for key, value in spec.items() if value is not ...}
    return {"apiVersion": API, "kind": "EgressNATPolicy", "metadata": {"name": name}, "spec": spec}


def _expression(**fields: Any) -> dict[str, Any]:
    return policy(egress=[{"podSelector": {"matchExpressions": [fields]}}])


_USED = "192.168.1.100"
_FIP, _SOURCE, _CIDR = "spec.floatingIPs[0]", "spec.egressSourceIP", "spec.destinationCIDRs[0]"
_EXCLUDED = "spec.excludedCIDRs[0]"
_EXPRESSION = "spec.egress[0].podSelector.matchExpressions[0]"
_NO_HOST = "no host can have this address"


def _selecting(selector: Any) -> dict[str, Any]:
    return gateway({"floatingIPs": [_USED], "nodeSelector": selector})


GATEWAYS = (
    Bad("no spec", "spec", "Required", gateway()),
    Bad("no addresses field", "spec.floatingIPs", "Required", gateway({})),
    Bad("addresses null", "spec.floatingIPs", "Required", gateway({"floatingIPs": None})),
    Bad("addresses as text", "spec.floatingIPs", "array", gateway({"floatingIPs": "192.168.1.100"})),
    Bad("an address as number", _FIP, "string", gateway({"floatingIPs": [1921681100]})),
    Bad("a host name", _FIP, "write one such as 192.168.1.100", gateway({"floatingIPs": ["gateway.example"]})),
    Bad("empty text", _FIP, "write one such as 192.168.1.100", gateway({"floatingIPs": [""]})),
    Bad("a prefix length", _FIP, "without a prefix length", gateway({"floatingIPs": ["192.168.1.100/24"]})),
    Bad("three octets", _FIP, "not an IP address", gateway({"floatingIPs": ["192.168.1"]})),
    Bad("an octet of 256", _FIP, "not an IP address", gateway({"floatingIPs": ["192.168.1.256"]})),
    Bad("a leading zero", _FIP, "not an IP address", gateway({"floatingIPs": ["192.168.001.100"]})),
    Bad("a blank", _FIP, "not an IP address", gateway({"floatingIPs": ["192.168.1.100 "]})),
    Bad("IPv6", _FIP, "only IPv4", gateway({"floatingIPs": ["2001:db8::1"]})),
    Bad("loopback", _FIP, _NO_HOST, gateway({"floatingIPs": ["127.0.0.1"]})),
    Bad("multicast", _FIP, _NO_HOST, gateway({"floatingIPs": ["224.0.0.5"]})),
    Bad("link-local", _FIP, _NO_HOST, gateway({"floatingIPs": ["169.254.1.1"]})),
    Bad("unspecified", _FIP, _NO_HOST, gateway({"floatingIPs": ["0.0.0.0"]})),
    Bad("this network", _FIP, _NO_HOST, gateway({"floatingIPs": ["0.1.2.3"]})),
    Bad("reserved", _FIP, _NO_HOST, gateway({"floatingIPs": ["240.0.0.1"]})),
    Bad("broadcast", _FIP, _NO_HOST, gateway({"floatingIPs": ["255.255.255.255"]})),
    Bad("the second one bad", "spec.floatingIPs[1]", "not an IP address", gateway({"floatingIPs": ["10.0.0.1", "x"]})),
    Bad("twice", "spec.floatingIPs", "remove the duplicate", gateway({"floatingIPs": ["10.0.0.1", "10.0.0.1"]})),
    Bad("unknown field", "spec.floatingIP", "unknown field", gateway({"floatingIPs": [], "floatingIP": "10.0.0.1"})),
    Bad("a selector as text", "spec.nodeSelector", "object", _selecting("rack=a")),
    Bad("a label beside matchLabels", "spec.nodeSelector.rack", "unknown field", _selecting({"rack": "a"})),
    Bad(
        "a value with a blank",
        "spec.nodeSelector.matchLabels",
        "correct the value",
        _selecting({"matchLabels": {"rack": "a b"}}),
    ),
    Bad("another name", "metadata.name", "set metadata.name to default", gateway({"floatingIPs": []}, name="mine")),
    Bad("too many", "spec.floatingIPs", "256", gateway({"floatingIPs": [f"10.0.{i}.1" for i in range(250)] * 2})),
)

POLICIES = (
    Bad("no rules field", "spec.egress", "Required", policy(egress=...)),
    Bad("no rule", "spec.egress", "at least one rule", policy(egress=[])),
    Bad("rules as mapping", "spec.egress", "array", policy(egress={})),
    Bad("a rule of nothing", "spec.egress[0]", "podSelector: {}", policy(egress=[{}])),
    Bad(
        "an unknown selector", "spec.egress[0].pods", "unknown field", policy(egress=[{"podSelector": {}, "pods": {}}])
    ),
    Bad("a selector null", "spec.egress[0]", "podSelector: {}", policy(egress=[{"podSelector": None}])),
    Bad("a selector as list", "spec.egress[0].podSelector", "object", policy(egress=[{"podSelector": []}])),
    Bad(
        "a label as number",
        "spec.egress[0].podSelector.matchLabels.tier",
        "string",
        policy(egress=[{"podSelector": {"matchLabels": {"tier": 1}}}]),
    ),
    Bad(
        "a label value with a blank",
        "spec.egress[0].podSelector.matchLabels",
        "correct the value",
        policy(egress=[{"podSelector": {"matchLabels": {"tier": "a b"}}}]),
    ),
    Bad(
        "a label value of 64 letters",
        "spec.egress[0].namespaceSelector.matchLabels",
        "at most 63",
        policy(egress=[{"namespaceSelector": {"matchLabels": {"tier": "a" * 64}}}]),
    ),
    Bad(
        "a label key with a blank",
        "spec.egress[0].podSelector.matchLabels",
        "correct the key",
        policy(egress=[{"podSelector": {"matchLabels": {"a b": "c"}}}]),
    ),
    Bad("no operator", f"{_EXPRESSION}.operator", "Required", _expression(key="tier")),
    Bad("no key", f"{_EXPRESSION}.key", "Required", _expression(operator="Exists")),
    Bad("an unknown operator", f"{_EXPRESSION}.operator", '"In", "NotIn"', _expression(key="tier", operator="Is")),
    Bad("In without values", _EXPRESSION, "add values", _expression(key="tier", operator="In")),
    Bad("NotIn with no value", _EXPRESSION, "add values", _expression(key="tier", operator="NotIn", values=[])),
    Bad("Exists with values", _EXPRESSION, "remove values", _expression(key="tier", operator="Exists", values=["a"])),
    Bad("a bad key", f"{_EXPRESSION}.key", "correct the key", _expression(key="-tier", operator="Exists")),
    Bad(
        "a bad value",
        f"{_EXPRESSION}.values[0]",
        "correct the value",
        _expression(key="tier", operator="In", values=["a,b"]),
    ),
    Bad("no destinations field", "spec.destinationCIDRs", "Required", policy(destinationCIDRs=...)),
    Bad("no destination", "spec.destinationCIDRs", "write 0.0.0.0/0", policy(destinationCIDRs=[])),
    Bad("no prefix length", _CIDR, "write 8.8.8.8/32", policy(destinationCIDRs=["8.8.8.8"])),
    Bad("host bits", _CIDR, "host bits are set", policy(destinationCIDRs=["8.8.8.8/24"])),
    Bad("a prefix of 33", _CIDR, "not a CIDR", policy(destinationCIDRs=["8.8.8.0/33"])),
    Bad("a netmask", _CIDR, "not a CIDR", policy(destinationCIDRs=["8.8.8.0/255.255.255.0"])),
    Bad("a range", _CIDR, "not a CIDR", policy(destinationCIDRs=["8.8.8.0-8.8.8.9"])),
    Bad("an IPv6 network", _CIDR, "only IPv4", policy(destinationCIDRs=["2001:db8::/32"])),
    Bad("a name", _CIDR, "such as 8.8.8.0/24", policy(destinationCIDRs=["dns.example"])),
    Bad("an exclusion without length", _EXCLUDED, "write 8.8.8.8/32", policy(excludedCIDRs=["8.8.8.8"])),
    Bad("host bits in an exclusion", _EXCLUDED, "host bits are set", policy(excludedCIDRs=["8.8.8.9/31"])),
    Bad("an excluded IPv6 network", _EXCLUDED, "only IPv4", policy(excludedCIDRs=["2001:db8::/32"])),
    Bad("exclusions as text", "spec.excludedCIDRs", "array", policy(excludedCIDRs="8.8.8.8/32")),
    Bad("an exclusion twice", "spec.excludedCIDRs", "duplicate", policy(excludedCIDRs=["8.8.8.8/32"] * 2)),
    Bad("a destination excluded", "spec", "remove it from one of the two", policy(excludedCIDRs=["8.8.8.0/24"])),
    Bad(
        "too many exclusions",
        "spec.excludedCIDRs",
        "64",
        policy(destinationCIDRs=["8.0.0.0/8"], excludedCIDRs=[f"8.8.{index}.0/24" for index in range(65)]),
    ),
    Bad("a destination twice", "spec.destinationCIDRs", "duplicate", policy(destinationCIDRs=["8.8.8.0/24"] * 2)),
    Bad("no source field", _SOURCE, "Required", policy(egressSourceIP=...)),
    Bad("a source list", _SOURCE, "string", policy(egressSourceIP=["192.168.1.100"])),
    Bad("a source name", _SOURCE, "write one of the floating IPs", policy(egressSourceIP="gateway")),
    Bad("a source with prefix", _SOURCE, "without a prefix length", policy(egressSourceIP="192.168.1.100/32")),
    Bad("an IPv6 source", _SOURCE, "only IPv4", policy(egressSourceIP="2001:db8::1")),
    Bad("a loopback source", _SOURCE, _NO_HOST, policy(egressSourceIP="127.0.0.1")),
    Bad("a multicast source", _SOURCE, _NO_HOST, policy(egressSourceIP="239.1.1.1")),
    Bad("a reserved source", _SOURCE, _NO_HOST, policy(egressSourceIP="250.1.1.1")),
    Bad("an unknown field", "spec.destinations", "unknown field", policy(destinations=["8.8.8.0/24"])),
)

BAD = GATEWAYS + POLICIES


def _labelled(key: str, value: str = "a") -> dict[str, Any]:
    return policy("edge", egress=[{"podSelector": {"matchLabels": {key: value}}}])


EDGES = (
    *(_labelled(key) for key in ("a/b", "a/b/c", "/b", "a.b/c", "a" * 63, "a" * 64, "x" * 253 + "/" + "a" * 63)),
    *(_labelled("tier", value) for value in ("", "a" * 63, "-a", "a-", "a.b_c", "A", "a\n")),
    policy("edge", egress=[{"podSelector": {"matchLabels": {f"k{index}": "" for index in range(16)}}}]),
    policy("edge", egress=[{"podSelector": {"matchLabels": {f"k{index}": "" for index in range(17)}}}]),
    *(policy("edge", egress=[{"podSelector": {}}] * count) for count in (64, 65)),
    *(
        policy("edge", destinationCIDRs=[f"10.{index % 250}.{index // 250}.0/24" for index in range(n)])
        for n in (256, 257)
    ),
    *(
        policy("edge", destinationCIDRs=[text])
        for text in ("0.0.0.0/0", "8.8.8.0/024", "8.8.8.0/+24", "8.8.8.0/", "/24", "::ffff:8.8.8.0/120", "8.8.8.0/24 ")
    ),
    *(
        policy("edge", egressSourceIP=text)
        for text in (
            "1.2.3.4",
            "::ffff:1.2.3.4",
            "fe80::1%eth0",
            "239.255.255.255",
            "223.255.255.255",
            "1.2.3.4\n",
            "1.2.3",
        )
    ),
    *(_expression(key="tier", operator="In", values=[f"v{index}" for index in range(count)]) for count in (32, 33)),
    _expression(key="tier", operator="Exists", values=[]),
    _expression(key="tier", operator="In", values=[""]),
    _expression(key="tier", operator="In", values=None),
    policy("edge", egress=[{"podSelector": {"matchLabels": None}}]),
    policy("edge", egress=[{"podSelector": {}, "namespaceSelector": {"matchExpressions": []}}]),
    *(gateway({"floatingIPs": [f"10.0.{index}.1" for index in range(count)]}) for count in (256, 257)),
    gateway({"floatingIPs": []}, namespace="default"),
)
"""Good or bad: where a limit lies, and texts that two parsers of addresses might take differently."""


class Doubtful(NamedTuple):
    """Good by itself, and wrong where it is used: reported on the object whose owner can mend it."""

    label: str
    where: tuple[str, ...]
    """As kubectl names the object that tells of it."""
    reason: str
    advice: str
    documents: tuple[dict[str, Any], ...]


_GATEWAY = ("ang", "default", "-n", "kube-system")


def _listing(*more: str) -> dict[str, Any]:
    return gateway({"floatingIPs": [_USED, "192.168.1.101", *more]})


DOUBTFUL = (
    Doubtful(
        "an unknown source",
        ("enp", "typo"),
        "UnknownEgressIP",
        "192.168.1.222 is not in spec.floatingIPs",
        (_listing(), policy("typo", egressSourceIP="192.168.1.222")),
    ),
    Doubtful(
        "an unknown source seen from the gateway",
        _GATEWAY,
        "FloatingIPInUse",
        "192.168.1.222 is in use by EgressNATPolicy typo",
        (_listing(), policy("typo", egressSourceIP="192.168.1.222")),
    ),
    Doubtful(
        "a source of two policies",
        ("enp", "younger"),
        "EgressIPConflict",
        "belongs to the older policy",
        (
            _listing(),
            policy("a-older", egressSourceIP="192.168.1.101"),
            policy("younger", egressSourceIP="192.168.1.101"),
        ),
    ),
    Doubtful(
        "a node's own address",
        _GATEWAY,
        "InvalidFloatingIP",
        "is the own address of node worker1",
        (_listing("192.168.1.1"),),
    ),
    Doubtful(
        "a network address", _GATEWAY, "InvalidFloatingIP", "is the network address of", (_listing("192.168.1.0"),)
    ),
    Doubtful(
        "a broadcast address", _GATEWAY, "InvalidFloatingIP", "is the broadcast address", (_listing("192.168.1.255"),)
    ),
    Doubtful("an address of no subnet", _GATEWAY, "NoEligibleNode", "10.9.9.9", (_listing("10.9.9.9"),)),
    Doubtful("a single address", _GATEWAY, "FewFloatingIPs", "list a second", (gateway({"floatingIPs": [_USED]}),)),
)
