"""Which difference our netfilter table gets."""

from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from service.agent.netfilter import NetfilterDifference
from service.datapath.reconciler import Reconciler
from service.model.errors import TransientError
from service.model.objects import Delete, Upsert
from service.policy.index import PolicyIndex
from tests.agent.site import node, settings_of
from tests.datapath.stand_in import UPLINK, StandInDatapath
from tests.policy.objects import gateway, namespace, pod, pod_key, policy

DESTINATION = IPv4Network("8.8.8.0/24")


class Site:
    """One node's netfilter, with one selected pod."""

    def __init__(self, folder: Path) -> None:
        settings = settings_of(folder)
        self.datapath = StandInDatapath(settings, UPLINK)
        self.index = PolicyIndex(pod_cidrs_known=True)
        self.index.apply([Upsert(item) for item in (gateway("192.168.1.100"), namespace(), pod("first"), policy())])
        self.reconciler = Reconciler(settings, self.index)
        self.reconciler.learn_uplinks((UPLINK,))
        self.netfilter = NetfilterDifference(self.datapath, self.reconciler)


async def test_the_table_is_written_whole_once_and_then_only_pods_that_come_or_go(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.netfilter.write()
    await site.netfilter.write()
    ((uplinks, steer),) = site.datapath.named("set_netfilter")
    assert (uplinks, steer) == (("eth0",), {IPv4Address("10.0.0.1"): [DESTINATION]})
    site.index.apply([Upsert(pod("second", "10.0.0.2")), Delete(pod_key("first"))])
    await site.netfilter.write()
    await site.netfilter.write()
    assert len(site.datapath.named("set_netfilter")) == 1
    assert site.datapath.named("replace_steer") == [({IPv4Address("10.0.0.2"): [DESTINATION]},)]


async def test_the_table_is_written_whole_again_when_uplinks_change_or_somebody_removed_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.netfilter.write()
    site.reconciler.learn_uplinks(())
    await site.netfilter.write()
    assert [uplinks for uplinks, _ in site.datapath.named("set_netfilter")] == [("eth0",), ()]
    site.netfilter.forget()
    await site.netfilter.write()
    assert len(site.datapath.named("set_netfilter")) == 3


async def test_u1_pods_of_other_nodes_are_kept_out_while_a_member_steers_without_translating(tmp_path: Path) -> None:
    site = Site(tmp_path)
    former = replace(node("worker2", 22), translates=False)
    for member, count in ((former, 1), (former, 1), (node("worker2", 22), 2)):
        site.reconciler.learn_members((member,), {})
        await site.netfilter.write()
        assert len(site.datapath.named("set_netfilter")) == count
    assert site.datapath.keeps_out_pods == [True, False]


async def test_what_nft_refused_is_written_at_the_next_turn(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.failing = {"set_netfilter": 1, "replace_steer": 1}
    with pytest.raises(TransientError):
        await site.netfilter.write()
    await site.netfilter.write()
    assert len(site.datapath.named("set_netfilter")) == 2
    site.index.apply([Upsert(pod("second", "10.0.0.2"))])
    with pytest.raises(TransientError):
        await site.netfilter.write()
    await site.netfilter.write()
    refused, written = site.datapath.named("replace_steer")
    assert refused == written == ({IPv4Address(f"10.0.0.{last}"): [DESTINATION] for last in (1, 2)},)


async def test_only_pods_that_changed_are_looked_at_and_all_of_them_after_a_refusal(tmp_path: Path) -> None:
    """Another may have changed the table meanwhile: that is mostly why something is refused."""
    site = Site(tmp_path)
    await site.netfilter.write()
    for last, failures in ((2, 0), (3, 1), (5, 0)):
        site.index.apply([Upsert(pod(f"pod-{last}", f"10.0.0.{last}"))])
        site.datapath.failing = {"replace_steer": failures}
        for _ in range(1 + failures):
            with suppress(TransientError):
                await site.netfilter.write()
    second, third, fifth = (IPv4Address(f"10.0.0.{last}") for last in (2, 3, 5))
    assert site.datapath.changed_pods == [[second], [third], None, [fifth]]


async def test_i2_a_table_that_was_refused_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    """The uplink came and went again meanwhile: what is wanted is what it was, what is there nobody knows."""
    site = Site(tmp_path)
    await site.netfilter.write()
    site.reconciler.learn_uplinks(())
    site.datapath.failing = {"set_netfilter": 1}
    with pytest.raises(TransientError):
        await site.netfilter.write()
    site.reconciler.learn_uplinks((UPLINK,))
    await site.netfilter.write()
    assert [uplinks for uplinks, _ in site.datapath.named("set_netfilter")] == [("eth0",), (), ("eth0",)]


async def test_w11_destinations_are_closed_to_the_unclassified_once_pods_are_known_and_follow_the_policies(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    await site.netfilter.guard(is_ready=False)
    assert site.datapath.named("replace_named") == []
    await site.netfilter.guard(is_ready=True)
    site.index.apply([Upsert(policy(to=["9.9.9.0/24"]))])
    await site.netfilter.guard(is_ready=False)
    assert site.datapath.named("replace_named") == [(DESTINATION,), (IPv4Network("9.9.9.0/24"),)]
