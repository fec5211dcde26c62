"""What a full map costs is told so that somebody can act on it."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from service.datapath import layout
from service.datapath.layout import MapName
from service.datapath.shortage import shortages
from service.datapath.worker_pool import FULL
from service.policy.rule_set import RuleSet

ONE, TWO = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
FIRST, SECOND = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
DESTINATION = IPv4Network("8.8.8.0/24")
RULES_OF_ONE, RULES_OF_TWO = RuleSet(1, ((DESTINATION, FIRST),)), RuleSet(2, ((DESTINATION, SECOND),))
PODS = ((ONE, RULES_OF_ONE), (TWO, RULES_OF_TWO))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (MapName.SELECTED, layout.selected_key(TWO, 0)),
        (MapName.SELECTED, layout.selected_key(TWO, 2)),
        (MapName.WAYS, SECOND.packed),
        (MapName.FLOATING_IPS, SECOND.packed),
        (MapName.RULES, layout.rule_key(2, DESTINATION)),
    ],
)
def test_each_map_names_the_pods_that_go_without(name: str, key: bytes) -> None:
    (shortage,) = shortages({name: {key: FULL}}, {}, (), PODS)
    assert (shortage.map, shortage.entries, shortage.pods) == (name, 1, (TWO,))
    assert str(shortage) == f"map {name}: 1 entries wait (no room); dropped are packets of pods 10.0.0.2"


def test_a_map_that_no_pod_depends_on_is_told_too() -> None:
    (shortage,) = shortages({MapName.MEMBERS: {b"m": "no memory"}}, {}, (), PODS)
    assert str(shortage) == "map members: 1 entries wait (no memory)"


def test_rule_sets_that_do_not_fit_are_told_with_all_their_entries() -> None:
    (shortage,) = shortages({}, {1: RULES_OF_ONE}, (), PODS)
    assert (shortage.map, shortage.entries, shortage.pods) == (MapName.RULES, 1, (ONE,))


def test_of_many_pods_some_are_named_and_the_rest_counted() -> None:
    keys = {layout.selected_key(IPv4Address(f"10.0.0.{last}"), 0): FULL for last in range(1, 31)}
    (shortage,) = shortages({MapName.SELECTED: keys}, {}, (), ())
    assert str(shortage).endswith("10.0.0.7, 10.0.0.8 and 22 more")


def test_where_nothing_waits_there_is_nothing_to_tell() -> None:
    assert shortages({}, {}, (), PODS) == ()


def test_pods_for_which_there_is_no_room_are_told_with_the_rows_they_need() -> None:
    (shortage,) = shortages({}, {}, {TWO}, PODS)
    assert (shortage.map, shortage.entries, shortage.pods) == (MapName.SELECTED, 2, (TWO,))
