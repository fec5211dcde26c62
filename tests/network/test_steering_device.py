"""Rules W3, F3, G7, G8: the steering device, its table and the ip rules."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import pytest

from service.model.errors import OperatorError
from service.network.link import Interface
from service.network.netlink import Netlink
from service.network.route_socket import RouteSocket
from service.network.steering_device import SteeringSpec, ensure_steering_device, remove_steering_device
from service.network.sysctl import Sysctl
from tests.network.namespace import Namespace, namespaces

pytestmark = pytest.mark.root
MARK, TABLE = 0x1000, 9640


@pytest.fixture
def node() -> Iterator[Namespace]:
    with namespaces("n", "o") as (node, outside):
        node.link("up0", outside, "eth0")
        node.ip("addr add 192.168.7.1/24 dev up0")
        node.ip("route add default via 192.168.7.2")
        node.sysctl("ipv4/ip_forward", "1")
        with node.entered():
            yield node


async def ensure(netlink: Netlink, port: int = 9643, mtu: int = 1500) -> Interface:
    return await netlink.ensure_steering_device(
        vni_port=port, table=TABLE, mark=MARK, vtep_address=IPv4Address("192.168.7.1"), uplinks=["up0"], mtu=mtu
    )


def picture(node: Namespace) -> tuple[str, str, str]:
    return node.ip("rule"), node.ip(f"route show table {TABLE}"), node.ip("-d -o link show egw0")


async def test_w3_marked_forwarding_goes_to_egw0_and_the_nodes_own_lookups_do_not(node: Namespace) -> None:
    async with Netlink() as netlink:
        device = await ensure(netlink)
    assert (device.name, device.kind, device.up) == ("egw0", "vxlan", True)
    assert device.mac == bytes.fromhex("02e9c0a80701")
    link = node.ip("-d link show egw0")
    assert all(word in link for word in ("NOARP", "external", "dstport 9643"))
    assert "dev egw0" in node.ip("route get 203.0.113.1 from 192.168.7.9 iif up0 mark 0x1000")
    assert "dev up0" in node.ip("route get 203.0.113.1 from 192.168.7.9 iif up0 mark 0x2000")
    assert "dev up0" in node.ip("route get 203.0.113.1 mark 0x1000")


async def test_ensure_twice_changes_nothing(node: Namespace) -> None:
    async with Netlink() as netlink:
        first = await ensure(netlink)
        before = picture(node)
        assert await ensure(netlink) == first
    assert picture(node) == before


async def test_what_others_removed_is_repaired_and_doubles_go(node: Namespace) -> None:
    async with Netlink() as netlink:
        await ensure(netlink)
        before = picture(node)
        node.ip("rule del priority 96")
        node.ip(f"rule add priority 98 fwmark 0x1000/0x1000 lookup {TABLE}")
        node.ip(f"route flush table {TABLE}")
        node.ip("link set egw0 down")
        await ensure(netlink)
    assert picture(node)[:2] == before[:2]


async def test_i2_an_uplink_that_is_gone_by_now_keeps_nothing_from_being_set_up(node: Namespace) -> None:
    async with Netlink() as netlink:
        device = await netlink.ensure_steering_device(vni_port=9643, table=TABLE, mark=MARK, uplinks=["gone0", "up0"])
    assert device.up
    assert node.run("cat /proc/sys/net/ipv4/conf/up0/send_redirects").strip() == "0"
    assert f"lookup {TABLE}" in node.ip("rule")


async def test_a_changed_port_makes_a_new_device_with_its_routes(node: Namespace) -> None:
    async with Netlink() as netlink:
        first = await ensure(netlink)
        second = await ensure(netlink, port=9700, mtu=9000)
    assert second.index != first.index
    assert second.mtu == 9000
    assert "dstport 9700" in node.ip("-d link show egw0")
    assert "dev egw0" in node.ip("route get 203.0.113.1 from 192.168.7.9 iif up0 mark 0x1000")


async def test_a_device_of_somebody_else_is_not_touched(node: Namespace) -> None:
    node.ip("link add egw0 type bridge")
    async with Netlink() as netlink:
        with pytest.raises(OperatorError, match="egw0 exists and is not ours"):
            await ensure(netlink)
    assert "bridge" in node.ip("-d link show egw0")


async def test_g7_redirects_are_off_and_the_device_accepts_pod_sources(node: Namespace) -> None:
    node.sysctl("ipv4/conf/all/rp_filter", "1")
    async with Netlink() as netlink:
        await ensure(netlink)
    for device in ("all", "up0", "egw0"):
        assert node.sysctl(f"ipv4/conf/{device}/send_redirects") == "0"
    assert node.sysctl("ipv4/conf/egw0/rp_filter") == "2"
    assert node.sysctl("ipv4/conf/egw0/forwarding") == "1"
    # Strict reverse path filtering everywhere, and yet a source that is routed elsewhere may come in by egw0.
    assert "dev lo" in node.ip("route get 192.168.7.1 from 203.0.113.7 iif egw0")


@pytest.mark.parametrize("are_samples", [True, False], ids=["direct path", "none"])
async def test_f3_connection_tracking_takes_samples_where_it_sees_no_more_and_is_as_before_afterwards(
    node: Namespace, tmp_path: Path, are_samples: bool
) -> None:
    key = "netfilter/nf_conntrack_tcp_be_liberal"
    node.run("nft -f -", "table ip t { chain c { type filter hook forward priority 0; ct state new accept; }; }")
    node.sysctl(key, "0")
    async with Netlink(sysctl=Sysctl(journal=tmp_path / "sysctls.json")) as netlink:
        await netlink.ensure_steering_device(
            vni_port=9643, table=TABLE, mark=MARK, uplinks=["up0"], are_samples=are_samples
        )
        assert node.sysctl(key) == ("1" if are_samples else "0")
        await netlink.remove_steering_device(table=TABLE, mark=MARK)
    assert node.sysctl(key) == "0"


async def test_g8_removal_leaves_nothing_and_may_be_repeated(node: Namespace) -> None:
    rules = node.ip("rule")
    async with Netlink() as netlink:
        await ensure(netlink)
        for _ in range(2):
            await netlink.remove_steering_device(table=TABLE, mark=MARK)
    assert node.ip("rule") == rules
    assert "egw0" not in node.ip("link")
    assert node.run("ip route show table all").count(f"table {TABLE}") == 0


class Watched:
    """A socket that says what was changed by it, in order."""

    def __init__(self, ipr: RouteSocket) -> None:
        self._ipr = ipr
        self.done: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            if name == "flush_routes" or words[:1] in (("add",), ("set",), ("replace",), ("del",)):
                self.done.append(name)
            return getattr(self._ipr, name)(*words, **named)

        return call


def test_g8_rules_go_first_then_the_table_then_the_device(node: Namespace) -> None:
    with closing(RouteSocket()) as ipr:
        ensure_steering_device(ipr, SteeringSpec("egw0", 9643, TABLE, MARK), Sysctl())
        watched = Watched(ipr)
        remove_steering_device(cast("RouteSocket", watched), name="egw0", table=TABLE, mark=MARK)
    assert list(dict.fromkeys(watched.done)) == ["rule", "flush_routes", "link"]


BROKEN = (
    ("ip link set egw0 down", ["link", "route"]),
    ("ip link set egw0 arp on", ["link"]),
    ("ip link set egw0 mtu 1400", ["link"]),
    ("ip addr flush dev egw0", ["addr", "route"]),
    (f"ip route del default table {TABLE}", ["route"]),
    (f"ip route del blackhole default table {TABLE} metric 4294967295", ["route"]),
    ("ip rule del priority 97", ["rule"]),
    (f"ip rule add priority 5 fwmark {MARK} lookup {TABLE}", ["rule"]),
    ("ip link del egw0", ["link", "link", "addr", "route"]),
)


@pytest.mark.parametrize(("command", "mended"), [("true", []), *BROKEN], ids=lambda one: one if one else "nothing")
def test_what_others_broke_is_put_back_and_nothing_else_is_written(
    node: Namespace, command: str, mended: list[str]
) -> None:
    """Each write would be told to everybody who follows the kernel's links, addresses and routes."""
    spec = SteeringSpec("egw0", 9643, TABLE, MARK)

    def look() -> str:
        shown = "".join(map(node.ip, (f"route show table {TABLE}", "rule", "addr show dev egw0")))
        return re.sub(r"\d+: egw0|link/ether \S+", "", shown)

    with closing(RouteSocket()) as ipr:
        watched = Watched(ipr)
        ensure_steering_device(cast("RouteSocket", watched), spec, Sysctl())
        before = look()
        node.run(command)
        watched.done.clear()
        ensure_steering_device(cast("RouteSocket", watched), spec, Sysctl())
        assert watched.done == mended
        assert look() == before


async def test_w6_an_ip_rule_on_our_bit_is_named(node: Namespace) -> None:
    async with Netlink() as netlink:
        await ensure(netlink)
        node.ip("rule add priority 50 fwmark 0x1 lookup 100")
        await netlink.check_mark(table=TABLE, mark=MARK)
        node.ip("rule add priority 51 fwmark 0xf000/0xf000 lookup 100")
        with pytest.raises(OperatorError, match=r"0x1000 is in use.*ip rule 51: fwmark 0xf000/0xf000 lookup 100"):
            await netlink.check_mark(table=TABLE, mark=MARK)
