"""What policies in force name, counted."""

from ipaddress import IPv4Network

from service.model.objects import Delete, Upsert
from service.policy.index import PolicyIndex
from service.policy.named import NamedNetworks
from tests.policy.objects import policy, policy_key

FIRST, SECOND = IPv4Network("8.8.8.0/24"), IPv4Network("9.9.9.0/24")


def test_a_network_that_two_policies_name_stays_while_one_does() -> None:
    named = NamedNetworks()
    named.put(policy_key("one"), (FIRST, SECOND))
    named.put(policy_key("two"), (FIRST,))
    named.put(policy_key("one"), ())
    assert named.networks() == (FIRST,)
    named.put(policy_key("two"), ())
    assert named.networks() == ()


def test_what_is_named_is_the_same_value_until_something_new_is_named_or_nothing_is_any_more() -> None:
    named = NamedNetworks()
    named.put(policy_key("one"), (FIRST, SECOND))
    known = named.networks()
    named.put(policy_key("two"), (SECOND,))
    named.put(policy_key("one"), (SECOND, FIRST))
    assert named.networks() is known
    named.put(policy_key("one"), (FIRST,))
    assert named.networks() is known, "the other names it still"
    named.put(policy_key("two"), (FIRST,))
    assert named.networks() == (FIRST,)


def test_w11_policies_in_force_name_networks_and_refused_ones_do_not() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    index.apply([Upsert(policy("old")), Upsert(policy("young", to=["9.9.9.0/24"], created="2025"))])
    assert index.named.networks() == (FIRST,), "the address belongs to the older one"
    index.apply([Delete(policy_key("old"))])
    assert index.named.networks() == (SECOND,)
    index.apply([Upsert(policy("young", to=["9.9.9.0/24", "8.8.8.0/24"], created="2025"))])
    assert set(index.named.networks()) == {FIRST, SECOND}


def test_w11_a_policy_names_networks_though_no_pod_matches_it_and_no_gateway_has_its_address() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    index.apply([Upsert(policy("lonely", ip="192.168.1.77"))])
    assert index.named.networks() == (FIRST,)
