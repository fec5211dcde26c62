"""Which policies name what is never steered, kept as long as nothing changes."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from service.gateway.exemption import ExemptRanges
from service.model.cluster_range import ClusterRanges
from service.model.objects import Delete, Upsert
from service.policy.index import PolicyIndex
from service.report import exemption
from service.report.exemption import PolicyExemptions
from tests.policy.objects import gateway, policy
from tests.report.facts import node

RANGES = ClusterRanges((IPv4Network("10.244.0.0/16"),))
NODES = (node("worker1", 21), node("worker2", 22))


def index_of(*destinations: str) -> PolicyIndex:
    index = PolicyIndex(pod_cidrs_known=True)
    index.apply([Upsert(gateway("192.168.1.100")), Upsert(policy("egress", to=destinations))])
    return index


def test_w12_ranges_nodes_floating_ips_and_the_api_server_are_exempt() -> None:
    index = index_of("10.244.7.0/24", "192.168.1.0/24", "203.0.113.0/24")
    (found,) = PolicyExemptions().of(index, RANGES, NODES, IPv4Address("203.0.113.9")).values()
    assert found.parts == ("10.244.0.0/16 (pods)", "192.168.1.21/32 (node)", "192.168.1.22/32 (node)")
    assert (found.more, found.is_whole) == (2, False)


def test_w12_a_policy_for_everything_and_for_a_node_names_the_node_and_is_not_wholly_exempt() -> None:
    (found,) = PolicyExemptions().of(index_of("0.0.0.0/0", "192.168.1.21/32"), RANGES, NODES, None).values()
    assert (found.parts, found.is_whole) == (("192.168.1.21/32 (node)",), False)


def test_a_changed_policy_or_cluster_is_looked_at_and_an_unchanged_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    known, index, looks = PolicyExemptions(), index_of("192.168.1.0/24"), 0
    compute = exemption.exempted_of

    def look(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(exemption, "exempted_of", look)
    for _ in range(3):
        (found,) = known.of(index, RANGES, NODES, None).values()
    assert (looks, len(found.parts)) == (1, 3)
    (found,) = known.of(index, RANGES, NODES[:1], None).values()
    assert len(found.parts) == 2
    index.apply([Upsert(policy("egress", to=("8.8.8.0/24",)))])
    (found,) = known.of(index, RANGES, NODES[:1], None).values()
    assert found.parts == ()
    index.apply([Delete(policy("egress").key)])
    assert known.of(index, RANGES, NODES[:1], None) == {}


def test_w14_a_policy_that_excludes_everything_itself_says_so() -> None:
    excluding = policy("egress", to=("8.8.8.0/24",), excluded=("8.8.8.0/25", "8.8.8.128/25"))
    assert exemption.exempt_reason(exemption.exempted_of(excluding, ExemptRanges({}))) == "AllExcluded"
