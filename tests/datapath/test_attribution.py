"""Which policy a flow goes by."""

from ipaddress import IPv4Address

from service.datapath.attribution import Attribution
from service.datapath.reconciler import Reconciler
from service.model.objects import Upsert
from service.policy.index import PolicyIndex
from service.settings import Settings
from tests.policy.objects import gateway, namespace, policy

F, OTHER = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
OLDER = policy("older", to=("0.0.0.0/0",), created="2024-01-01T00:00:00.000000000Z")
YOUNGER = policy("younger", to=("8.8.8.8/32",), created="2024-01-02T00:00:00.000000000Z")


def attribution(*policies: object) -> Attribution:
    """As an agent's reconciler says it."""
    index = PolicyIndex(pod_cidrs_known=True)
    index.apply([Upsert(one) for one in (gateway(str(F), str(OTHER)), namespace(), *policies)])  # type: ignore[type-var]
    return Reconciler(Settings(node="worker1"), index).attribution()


def test_b6_of_two_policies_with_one_floating_ip_the_one_in_force_has_its_flows() -> None:
    assert attribution(OLDER, YOUNGER).label_of(F.packed) == ("older", F.packed)
    assert attribution(YOUNGER).label_of(F.packed) == ("younger", F.packed)


def test_b6_an_address_that_no_policy_has_is_of_no_policy() -> None:
    assert attribution(OLDER).label_of(OTHER.packed) == ("", OTHER.packed)


def test_what_exists_is_of_a_floating_ip_that_is_there_and_of_a_policy_that_is_or_of_none() -> None:
    found = attribution(OLDER, YOUNGER)
    for label, exists in ((("older", F), True), (("", F), True), (("younger", F), True), (("gone", F), False)):
        assert found.exists((label[0], label[1].packed)) == exists
    assert not found.exists(("older", b"\1\2\3\4"))


def test_only_addresses_that_changed_hands_differ() -> None:
    both = attribution(OLDER, YOUNGER)
    assert attribution(OLDER).differing(both) == frozenset()
    assert attribution(YOUNGER).differing(both) == attribution().differing(both) == both.differing(attribution())
    assert attribution(YOUNGER).differing(both) == {F.packed}
