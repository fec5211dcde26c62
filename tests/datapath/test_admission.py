"""Rule sets come into the map whole, in an order that keeps what is there, and leave when nothing names them."""

import asyncio
import logging
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from service.datapath import layout
from service.datapath.admission import Admission
from service.datapath.desired import Rows, rule_rows
from service.datapath.layout import MapName
from service.datapath.loader import LoadedDatapath, load_datapath
from service.datapath.map_size import RowRoom
from service.datapath.reconciler import Reconciler
from service.datapath.worker_pool import WorkerPool
from service.model.assignment import Location
from service.model.lease import Token
from service.model.objects import Delete, Upsert
from service.policy.index import PolicyIndex
from service.policy.rule_set import RuleSet
from service.settings import Settings
from tests.datapath import packet
from tests.datapath.node import Flow, Node
from tests.datapath.program import COMPILED_DIR, POD_DEVICE, SHOT, UNSPEC, Namespace, Programs
from tests.datapath.stand_in import UPLINK, StandInPool
from tests.policy.objects import gateway, namespace, pod, pod_key, policy, selector

FLOATING_IP = IPv4Address("192.168.1.100")


def rule_set(identity: int, size: int) -> RuleSet:
    return RuleSet(identity, tuple((IPv4Network((f"8.{identity}.{last}.0", 24)), FLOATING_IP) for last in range(size)))


def admit_once(admission: Admission, maps: StandInPool, *sets: RuleSet) -> Rows:
    """What the map shall contain where these sets are wanted, and no others."""
    wanted = {one.id: one for one in sets}
    for identity in {**dict.fromkeys(admission.ids()), **wanted}:
        admission.want(identity, wanted.get(identity))
    maps.change(MapName.RULES, admission.admit(maps).rows)
    return maps.wanted(MapName.RULES)


def admit(admission: Admission, maps: StandInPool, *sets: RuleSet) -> Rows:
    """Until it is in the map, as far as it comes."""
    for _ in range(3):
        rows = admit_once(admission, maps, *sets)
    return rows


def test_a_set_is_whole_once_all_its_rows_are_in_the_kernel() -> None:
    admission, maps = Admission(), StandInPool()
    maps.stuck = {MapName.RULES}
    rows = admit(admission, maps, rule_set(1, 2))
    assert (rows, admission.whole) == (rule_rows(rule_set(1, 2)), frozenset())
    maps.release(MapName.RULES)
    admit(admission, maps, rule_set(1, 2))
    assert admission.whole == {1}


def test_what_is_there_keeps_its_place_and_what_is_small_enough_fits_beside_it() -> None:
    admission, maps = Admission(), StandInPool()
    maps.rooms[MapName.RULES] = 5
    admit(admission, maps, rule_set(3, 3))
    rows = admit(admission, maps, rule_set(1, 4), rule_set(2, 2), rule_set(3, 3))
    assert (admission.whole, admission.unfit) == ({2, 3}, {1})
    assert rows == rule_rows(rule_set(2, 2)) | rule_rows(rule_set(3, 3))


def test_what_did_not_fit_comes_when_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    admission, maps = Admission(), StandInPool()
    maps.rooms[MapName.RULES] = 3
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            admit(admission, maps, rule_set(1, 3), rule_set(2, 2))
    assert (admission.whole, admission.unfit, len(caplog.records)) == ({1}, {2}, 1)
    admit(admission, maps, rule_set(2, 2))
    assert (admission.whole, admission.unfit) == ({2}, frozenset())


def test_a_set_that_went_stays_for_one_turn_and_while_rows_that_name_it_are_not_written() -> None:
    admission, maps = Admission(), StandInPool()
    admit(admission, maps, rule_set(1, 2))
    assert admit_once(admission, maps) == rule_rows(rule_set(1, 2)), "rows that name it go with this very turn"
    maps.stuck = {MapName.SELECTED}
    assert admit_once(admission, maps) == rule_rows(rule_set(1, 2))
    maps.stuck = set()
    assert admit_once(admission, maps) == {}


def test_a_set_that_went_is_no_shortage_where_it_finds_no_room() -> None:
    admission, maps = Admission(), StandInPool()
    maps.rooms[MapName.RULES] = 1
    admit_once(admission, maps, rule_set(1, 2))
    admit_once(admission, maps)
    assert admission.unfit == frozenset()


def test_a_set_that_is_wanted_again_before_it_went_is_a_shortage_again() -> None:
    admission, maps = Admission(), StandInPool()
    maps.rooms[MapName.RULES] = 3
    both = rule_set(1, 2), rule_set(2, 2)
    admit(admission, maps, *both)
    admit_once(admission, maps, both[0])
    assert admission.unfit == frozenset()
    admit_once(admission, maps, *both)
    assert admission.unfit == {2}


def test_of_an_inherited_set_that_was_cut_the_rest_comes_with_the_objects() -> None:
    admission, maps = Admission(), StandInPool()
    admit(admission, maps, RuleSet(1, rule_set(1, 3).entries[:1]))
    assert admit(admission, maps, rule_set(1, 3)) == rule_rows(rule_set(1, 3))


def test_pods_are_admitted_whole_and_those_that_are_there_keep_their_place(caplog: pytest.LogCaptureFixture) -> None:
    admission, maps = Admission(), StandInPool()
    first, second, third = (IPv4Address(f"10.0.0.{last}") for last in (1, 2, 3))
    maps.rooms[MapName.SELECTED] = 5
    maps.replace(MapName.SELECTED, {layout.selected_key(third, 0): b""})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert admission.admit_pods((first, second, third), maps) == (third, first)
    assert (admission.unfit_pods, len(caplog.records)) == ({second}, 1)
    assert admission.admit_pods((second, third), maps) == (third, second)
    assert admission.unfit_pods == frozenset()


SMALL = RowRoom(pods=2, rules=3, floating_ips=1)
"""Of a node that is far too small."""
DRIVEN = (MapName.SELECTED, MapName.RULES, MapName.WAYS, MapName.FLOATING_IPS)
FIRST, SECOND = IPv4Address("10.244.1.10"), IPv4Address("10.244.1.11")
SERVER = IPv4Address("8.8.8.8")


@pytest.fixture(scope="module")
def small(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedDatapath]:
    """The real programs over real maps that hold next to nothing."""
    run_dir = str(tmp_path_factory.mktemp("run"))
    with load_datapath(str(bpffs / "small"), run_dir, rows=SMALL, compiled_dir=COMPILED_DIR) as datapath:
        yield datapath


class Kernel:
    """A node's knowledge, brought into real maps by a real pool, as turns of the agent do it."""

    def __init__(self, loaded: LoadedDatapath) -> None:
        self.index = PolicyIndex(pod_cidrs_known=True)
        self.reconciler = Reconciler(Settings(node="worker1"), self.index)
        self.reconciler.learn_uplinks((UPLINK,))
        self.reconciler.learn_devices({FIRST: POD_DEVICE.ifindex, SECOND: POD_DEVICE.ifindex})
        self.names = DRIVEN
        self.pool = WorkerPool({name: loaded.map(name) for name in self.names})

    async def settle(self) -> None:
        """As many turns as it takes."""
        for _ in range(30):
            known = self.reconciler
            known.select()
            wish = known.wish(self.pool)
            for name in self.names:
                if name in wish.whole:
                    self.pool.replace(name, wish.whole[name])
                else:
                    self.pool.change(name, wish.changes[name])
            known.steering.cleared(known.to_clear(self.pool))
            await asyncio.sleep(0.01)

    def short(self) -> dict[str, tuple[IPv4Address, ...]]:
        return {shortage.map: shortage.pods for shortage in self.reconciler.shortages(self.pool)}


@pytest.mark.bpf
async def test_i1_in_maps_that_are_full_what_fits_is_served_and_the_rest_drops_until_there_is_room(
    small: LoadedDatapath, netns: Namespace
) -> None:
    node = Node(small, Programs(netns, small.programs))
    node.empty()
    node.configure()
    kernel = Kernel(small)
    labelled = selector({"app": "wide"})
    kernel.index.apply(
        [
            *map(Upsert, (gateway("192.168.1.100", "192.168.1.101"), namespace())),
            *map(Upsert, (pod("first", str(FIRST), app="narrow"), pod("second", str(SECOND), app="wide"))),
            Upsert(policy("narrow", to=("8.8.8.0/24",), pods=selector({"app": "narrow"}))),
            Upsert(policy("wide", ip="192.168.1.101", to=("8.0.0.0/8", "8.8.8.0/24", "9.0.0.0/8"), pods=labelled)),
        ]
    )
    kernel.reconciler.learn_location(Location(FLOATING_IP, "worker1", Token(1, 1, 1)))
    running = asyncio.ensure_future(kernel.pool.run())
    try:
        await kernel.settle()
        assert leave_pod(node, FIRST) == "marked"
        assert leave_pod(node, SECOND) == "passed on, for netfilter's guard to drop"
        short = kernel.short()
        assert short[MapName.RULES] == (SECOND,)
        assert short[MapName.FLOATING_IPS] == (SECOND,)
        assert MapName.SELECTED not in short
        kernel.index.apply([Delete(pod_key("first"))])
        await kernel.settle()
        assert leave_pod(node, SECOND) == "marked"
        assert MapName.RULES not in kernel.short()
    finally:
        running.cancel()


def leave_pod(node: Node, address: IPv4Address) -> str:
    frame = packet.ethernet(
        POD_DEVICE.mac, b"\x02pod\0\1", packet.IPV4, Flow(packet.TCP, address).to(SERVER).outbound()
    )
    outcome = node.programs.run("pod_ingress", frame, device=POD_DEVICE)
    if outcome.verdict == SHOT:
        return "dropped"
    assert outcome.verdict == UNSPEC
    return "marked" if outcome.mark else "passed on, for netfilter's guard to drop"
