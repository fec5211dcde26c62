"""What is never steered, and what of a policy that is, asked address by address."""

from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway.exemption import Exempted, ExemptionMemo, ExemptRanges, Insiders, unchanged
from service.model.cluster_range import ClusterRanges

PODS, SERVICES = IPv4Network("10.244.0.0/16"), IPv4Network("10.96.0.0/16")
RANGES = ClusterRanges(
    (PODS,), (SERVICES,), (IPv4Network("192.168.1.11/32"),), servers=(IPv4Network("203.0.113.10/32"),)
)
NODE, FLOATING_IP, SERVER = IPv4Address("192.168.1.21"), IPv4Address("192.168.1.100"), IPv4Address("203.0.113.9")


INSIDERS = Insiders(RANGES, (NODE,), (FLOATING_IP,))


def exempted(*destinations: str, insiders: Insiders = INSIDERS) -> Exempted:
    return ExemptRanges(insiders.exemptions()).exempted([IPv4Network(text) for text in destinations])


def test_each_kind_of_exemption_is_told_as_what_it_is() -> None:
    known = Insiders(RANGES, (NODE, NODE), (FLOATING_IP,), SERVER, (IPv4Address("192.168.1.22"),)).exemptions()
    told = {str(network): label for network, label in known.items() if label != "no host"}
    assert told == {
        str(PODS): "pods",
        str(SERVICES): "services",
        "192.168.1.11/32": "node",
        "192.168.1.21/32": "node",
        "192.168.1.22/32": "node",
        "192.168.1.100/32": "floating IP",
        "203.0.113.9/32": "API server",
        "203.0.113.10/32": "API server",
    }


def test_an_api_server_behind_a_service_is_told_as_one_of_the_services() -> None:
    insiders = Insiders(RANGES, server=IPv4Address("10.96.0.1"))
    assert exempted("10.96.0.1/32", insiders=insiders).parts == (f"{SERVICES} (services)",)


def test_w12_a_server_in_the_nodes_subnet_is_not_exempt_and_the_subnet_is_in_part() -> None:
    assert exempted("192.168.1.50/32") == Exempted()
    found = exempted("192.168.1.0/24")
    assert found.parts == ("192.168.1.11/32 (node)", "192.168.1.21/32 (node)", "192.168.1.100/32 (floating IP)")
    assert (found.more, found.is_whole) == (0, False)


def test_w12_a_destination_within_what_is_exempt_is_so_wholly_however_it_is_covered() -> None:
    assert exempted("10.244.7.0/24") == Exempted((f"{PODS} (pods)",), is_whole=True)
    assert exempted("10.244.7.0/24", "8.8.8.0/24") == Exempted((f"{PODS} (pods)",))
    halves = Insiders(ClusterRanges((IPv4Network("10.0.0.0/9"), IPv4Network("10.128.0.0/9"))))
    assert exempted("10.0.0.0/8", insiders=halves).is_whole


def test_of_many_a_few_are_named_and_that_there_are_more_is_said() -> None:
    nodes = tuple(IPv4Network("192.168.1.0/24"))[:6]
    found = exempted("192.168.1.0/24", insiders=Insiders(ClusterRanges(), nodes))
    assert str(found).endswith("192.168.1.2/32 (node) and 3 more")


def test_what_has_not_changed_is_not_made_anew() -> None:
    memo = ExemptionMemo()
    first = memo.of(Insiders(RANGES))
    assert memo.of(Insiders(RANGES)) is first
    assert memo.of(Insiders(RANGES, (NODE,))) is not first


NETWORKS = st.lists(
    st.builds(
        lambda address, length: IPv4Network((address, length), strict=False),
        st.integers(0x08080800, 0x0808080F),
        st.integers(27, 32),
    ),
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(NETWORKS, NETWORKS)
def test_unchanged_is_what_is_in_both_or_in_neither(before: list[IPv4Network], after: list[IPv4Network]) -> None:
    kept = unchanged(before, after)
    for address in IPv4Network("8.8.8.0/27"):
        is_same = any(address in network for network in before) == any(address in network for network in after)
        assert any(address in network for network in kept) == is_same
    assert any(IPv4Address("1.1.1.1") in network for network in kept)


@settings(max_examples=200, deadline=None)
@given(NETWORKS, NETWORKS)
def test_a_policy_is_exempt_as_its_addresses_are(named: list[IPv4Network], pods: list[IPv4Network]) -> None:
    destinations = list(collapse_addresses(named))
    found = ExemptRanges(Insiders(ClusterRanges(tuple(pods))).exemptions()).exempted(destinations)
    inside = [any(address in pod for pod in pods) for network in destinations for address in network]
    assert (bool(found.parts), found.is_whole) == (any(inside), bool(inside) and all(inside))
