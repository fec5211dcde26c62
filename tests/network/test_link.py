"""What is read from the kernel's words about interfaces and routes; real ones are in test_netlink."""

from collections.abc import Mapping
from ipaddress import IPv4Interface
from typing import Any, TypeVar

import pytest

from service.network.link import (
    Interface,
    by_index,
    choose_uplinks,
    find_interface,
    link_kind,
    next_hop_indices,
    parse_mac,
)
from service.network.link import read_default_route_interfaces as default_route_interfaces
from service.network.route_socket import Read

T = TypeVar("T")


class Message:
    """A netlink message as pyroute2 gives it: header fields by key, attributes by name."""

    def __init__(self, fields: Mapping[str, Any] = {}, **attributes: Any) -> None:
        self._fields, self._attributes = fields, attributes

    def __getitem__(self, field: str) -> Any:
        return self._fields[field]

    def get_attr(self, name: str) -> Any:
        return self._attributes.get(name)


class Kernel:
    """Three interfaces, and routes by word."""

    def __init__(self, *routes: Message) -> None:
        self.routes_ = routes

    def addresses(self, read: Read[T], *, family: int) -> list[T]:
        found = [
            Message({"index": 2, "prefixlen": 24}, IFA_LOCAL="192.168.7.1", IFA_ADDRESS="192.168.7.1"),
            Message({"index": 3, "prefixlen": 32}, IFA_ADDRESS="10.0.0.1"),
            Message({"index": 2, "prefixlen": 16}, IFA_LOCAL="10.1.0.1"),
        ]
        return [read(message) for message in found]

    def links(self, read: Read[T]) -> list[T]:
        veth = Message({}, IFLA_INFO_KIND="veth")
        found = [
            Message({"index": 3, "flags": 0}, IFLA_IFNAME="ppp0"),
            Message({"index": 2, "flags": 1}, IFLA_IFNAME="up0", IFLA_ADDRESS="02:00:00:00:00:07", IFLA_LINKINFO=veth),
            Message({"index": 4, "flags": 1}, IFLA_IFNAME="up1", IFLA_CARRIER=1),
        ]
        return [read(message) for message in found]

    def link_named(self, name: str, read: Read[T]) -> T | None:
        messages = [
            message for message in self.links(lambda message: message) if message.get_attr("IFLA_IFNAME") == name
        ]
        return read(messages[0]) if messages else None

    def rules(self, read: Read[T], *, family: int) -> list[T]:
        return []

    def routes(self, read: Read[T], *, family: int, table: int) -> list[T]:
        assert table == 254
        return [read(message) for message in self.routes_]


def route(index: int, metric: int = 0, *, length: int = 0, kind: int = 1) -> Message:
    return Message({"dst_len": length, "type": kind}, RTA_OIF=index, RTA_PRIORITY=metric or None)


def test_an_interface_is_found_by_name_with_all_its_addresses() -> None:
    found = find_interface(Kernel(), "up0")
    assert found is not None
    assert (found.index, found.kind, found.up, found.carrier) == (2, "veth", True, False)
    assert [str(address) for address in found.addresses] == ["192.168.7.1/24", "10.1.0.1/16"]
    assert find_interface(Kernel(), "up9") is None


def test_the_own_address_counts_and_not_the_peers_but_where_there_is_no_other() -> None:
    found = find_interface(Kernel(), "ppp0")
    assert found is not None
    assert [str(address) for address in found.addresses] == ["10.0.0.1/32"]
    assert (found.mac, found.up, found.mtu) == (b"", False, 1500)


def test_devices_of_default_routes_come_best_metric_first_and_once() -> None:
    kernel = Kernel(route(2, 200), route(4, 100), route(2, 300), route(2, length=24), route(3, kind=6), route(9, 50))
    assert default_route_interfaces(kernel) == ("up1", "up0")


def test_a_multipath_route_has_several_devices() -> None:
    several = Message({}, RTA_MULTIPATH=[{"oif": 2}, {"oif": 4}])
    assert next_hop_indices(several) == (2, 4)
    assert next_hop_indices(Message({}, RTA_OIF=3)) == (3,)
    assert next_hop_indices(Message()) == ()


def test_a_physical_device_has_no_kind() -> None:
    assert link_kind(Message()) is None
    assert link_kind(Message({}, IFLA_LINKINFO=Message({}, IFLA_INFO_KIND="bridge"))) == "bridge"


@pytest.mark.parametrize(("text", "mac"), [("02:65:67:00:01:0b", b"\x02\x65\x67\x00\x01\x0b"), ("", b""), (None, b"")])
def test_a_mac_is_six_bytes_or_none(text: str | None, mac: bytes) -> None:
    assert parse_mac(text) == mac


def test_interfaces_are_known_by_index() -> None:
    first, second = (Interface(index, "x", b"", True, True, None, ()) for index in (7, 5))
    assert by_index([first, second]) == {7: first, 5: second}


def interface(name: str, *addresses: str) -> Interface:
    return Interface(1, name, bytes(6), True, True, None, tuple(map(IPv4Interface, addresses)))


INTERFACES = (interface("eth0", "10.0.0.1/24"), interface("eth1", "10.0.1.1/24"), interface("eth2"))


@pytest.mark.parametrize(
    ("named", "routed", "bind_address", "chosen"),
    [
        (("eth1",), ("eth0",), "10.0.0.1", ["eth1"]),
        ((), ("eth0",), "10.0.1.1", ["eth0", "eth1"]),
        ((), (), "10.0.1.1", ["eth1"]),
        (("eth2", "eth9"), (), "10.0.0.1", []),
    ],
    ids=["named ones alone", "default route and own address", "no default route", "without an address, or not there"],
)
def test_uplinks_are_those_that_are_named_or_else_lead_out_or_have_the_nodes_address(
    named: tuple[str, ...], routed: tuple[str, ...], bind_address: str, chosen: list[str]
) -> None:
    found = choose_uplinks(INTERFACES, named=named, routed=routed, bind_address=bind_address)
    assert [one.name for one in found] == chosen
