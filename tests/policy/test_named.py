"""What policies in force name, counted."""

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from service.model.objects import Delete, Upsert
from service.model.span import network_of
from service.policy.index import PolicyIndex
from service.policy.named import NamedNetworks
from tests.policy.objects import policy, policy_key

FIRST, SECOND = IPv4Network("8.8.8.0/24"), IPv4Network("9.9.9.0/24")


def networks(named: NamedNetworks) -> tuple[IPv4Network, ...]:
    return tuple(map(network_of, named.numbers()))


def test_a_network_that_two_policies_name_stays_while_one_does() -> None:
    named = NamedNetworks()
    named.put(policy_key("one"), (FIRST, SECOND))
    named.put(policy_key("two"), (FIRST,))
    named.put(policy_key("one"), ())
    assert networks(named) == (FIRST,)
    named.put(policy_key("two"), ())
    assert networks(named) == ()


def test_what_is_named_is_the_same_value_until_something_new_is_named_or_nothing_is_any_more() -> None:
    named = NamedNetworks()
    named.put(policy_key("one"), (FIRST, SECOND))
    known = named.numbers()
    named.put(policy_key("two"), (SECOND,))
    named.put(policy_key("one"), (SECOND, FIRST))
    assert named.numbers() is known
    named.put(policy_key("one"), (FIRST,))
    assert named.numbers() is known, "the other names it still"
    named.put(policy_key("two"), (FIRST,))
    assert networks(named) == (FIRST,)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.lists(st.integers(1, 9), unique=True, max_size=6),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_after_any_edits_it_is_what_all_of_them_name(edits: list[tuple[str, list[int], bool]]) -> None:
    named, said = NamedNetworks(), dict[str, list[IPv4Network]]()
    for name, octets, is_asked in edits:
        said[name] = [IPv4Network(f"{octet}.0.0.0/8") for octet in octets]
        named.put(policy_key(name), said[name])
        if is_asked:
            assert networks(named) == tuple(sorted({one for several in said.values() for one in several}))
    assert networks(named) == tuple(sorted({one for several in said.values() for one in several}))


def test_w11_policies_in_force_name_networks_and_refused_ones_do_not() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    index.apply([Upsert(policy("old")), Upsert(policy("young", to=["9.9.9.0/24"], created="2025"))])
    assert networks(index.named) == (FIRST,), "the address belongs to the older one"
    index.apply([Delete(policy_key("old"))])
    assert networks(index.named) == (SECOND,)
    index.apply([Upsert(policy("young", to=["9.9.9.0/24", "8.8.8.0/24"], created="2025"))])
    assert set(networks(index.named)) == {FIRST, SECOND}


def test_w11_a_policy_names_networks_though_no_pod_matches_it_and_no_gateway_has_its_address() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    index.apply([Upsert(policy("lonely", ip="192.168.1.77"))])
    assert networks(index.named) == (FIRST,)
