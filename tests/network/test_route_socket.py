"""Dumps that are decoded once: what they say is what pyroute2 says, and what changes is seen."""

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from socket import AF_BRIDGE, AF_INET
from typing import Any

import pytest
from pyroute2 import IPRoute

from service.network.netlink_message import DONE, ERROR, INTERRUPTED, message, split_messages
from service.network.route_socket import RouteSocket, RouteTables
from tests.network.namespace import Namespace, namespaces

pytestmark = pytest.mark.root
TABLE = 9640
VETHS = 120
"""More than one datagram's worth."""


@pytest.fixture(scope="module")
def node() -> Iterator[Namespace]:
    with namespaces("r") as (node,):
        node.run("ip -b -", "".join(f"link add v{number} type veth peer name w{number}\n" for number in range(VETHS)))
        node.run("ip -b -", "".join(f"link set v{number} up\n" for number in range(VETHS)))
        node.run("ip -b -", "".join(f"route add 10.0.0.{number} dev v{number}\n" for number in range(VETHS)))
        node.ip("addr add 192.168.7.1/24 dev v1")
        node.ip(f"route add 10.9.0.0/16 dev v2 table {TABLE}")
        node.ip(f"rule add priority 50 fwmark 0x1 lookup {TABLE}")
        with node.entered():
            yield node


def link(message: Any) -> tuple[Any, ...]:
    return message["index"], message["flags"], message.get_attr("IFLA_IFNAME"), message.get_attr("IFLA_MTU")


def address(message: Any) -> tuple[Any, ...]:
    return message["index"], message["prefixlen"], message.get_attr("IFA_LOCAL")


def route(message: Any) -> tuple[Any, ...]:
    return message["dst_len"], message.get_attr("RTA_DST"), message.get_attr("RTA_OIF"), message.get_attr("RTA_TABLE")


def rule(message: Any) -> tuple[Any, ...]:
    return message.get_attr("FRA_PRIORITY"), message.get_attr("FRA_FWMARK"), message.get_attr("FRA_TABLE")


def everything(tables: RouteTables) -> list[list[Any]]:
    return [
        tables.links(link),
        tables.addresses(address, family=AF_INET),
        tables.rules(rule, family=AF_INET),
        tables.routes(route, family=AF_INET, table=254),
        tables.routes(route, family=AF_INET, table=TABLE),
    ]


def test_each_dump_says_what_pyroute2_says(node: Namespace) -> None:
    with IPRoute() as ipr, closing(RouteSocket()) as tables:
        for number in range(2):
            assert everything(tables) == [
                [link(one) for one in ipr.get_links()],
                [address(one) for one in ipr.get_addr(family=AF_INET)],
                [rule(one) for one in ipr.get_rules(family=AF_INET)],
                [route(one) for one in ipr.get_routes(family=AF_INET, table=254)],
                [route(one) for one in ipr.get_routes(family=AF_INET, table=TABLE)],
            ]
            node.ip("link set v3 mtu 1400")
            node.ip(f"addr add 192.168.8.{number + 1}/24 dev v4")


def test_what_is_as_it_was_is_not_read_again(node: Namespace) -> None:
    read: list[Any] = []

    def note(message: Any) -> Any:
        read.append(message.get_attr("IFLA_IFNAME"))
        return message.get_attr("IFLA_IFNAME")

    with closing(RouteSocket()) as tables:
        first = tables.links(note)
        assert len(first) == len(read) == 2 * VETHS + 1
        read.clear()
        node.ip("link set v5 alias other")
        assert tables.links(note) == first
        assert read == ["v5"]


def neighbour(message: Any) -> tuple[Any, ...]:
    return message["ifindex"], message["state"], message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR")


def test_neighbours_are_read_again_when_they_change_and_not_as_they_grow_older(node: Namespace) -> None:
    read: list[Any] = []

    def note(message: Any) -> Any:
        read.append(message.get_attr("NDA_DST"))
        return neighbour(message)

    for number in range(VETHS):
        node.ip(f"neigh replace 10.0.0.{number} lladdr 02:00:00:00:00:{number:02x} dev v{number} nud stale")
    with IPRoute() as ipr, closing(RouteSocket()) as tables:
        first = tables.neighbours(note, family=AF_INET)
        assert sorted(first) == sorted(neighbour(one) for one in ipr.get_neighbours(family=AF_INET))
        assert len(first) >= VETHS
        read.clear()
        node.ip("neigh replace 10.0.0.9 lladdr 02:00:00:00:01:09 dev v9 nud stale")
        assert tables.neighbours(note, family=AF_INET) != first
        assert read == ["10.0.0.9"]
        assert tables.neighbours(neighbour, family=AF_BRIDGE) == [
            neighbour(one) for one in ipr.get_neighbours(family=AF_BRIDGE)
        ]


def test_links_are_found_by_name_and_one_that_is_not_there_is_none(node: Namespace) -> None:
    with closing(RouteSocket()) as tables:
        found = tables.link_named("v7", link)
        assert found is not None
        assert found[2] == "v7"
        node.ip("link set v7 mtu 1300")
        assert tables.link_named("v7", link) != found
        assert tables.link_named("v999", link) is None


def test_a_table_that_does_not_exist_has_no_routes(node: Namespace) -> None:
    with closing(RouteSocket()) as tables:
        assert tables.routes(route, family=AF_INET, table=4711) == []


def test_everything_else_is_pyroute2s(node: Namespace) -> None:
    with closing(RouteSocket()) as tables:
        before = tables.link_named("v8", link)
        assert before is not None
        tables.link("set", index=before[0], mtu=1280)
        assert tables.link_named("v8", link) == (*before[:3], 1280)


def test_only_so_many_answers_are_kept(node: Namespace) -> None:
    with closing(RouteSocket()) as tables:
        for number in range(200):
            tables.link_named(f"x{number}", link)
            tables.link_named(f"v{number % VETHS}", link)
        assert len(tables._known) <= 64
        assert tables.link_named("v9", link) is not None


class Spoken:
    """A socket whose answers are given: each of one question."""

    def __init__(self, answer: Callable[[int, int], bytes]) -> None:
        self._answer, self._number = answer, 0
        self._sequence = 0

    def send(self, data: bytes) -> None:
        ((_, _, self._sequence, _),) = split_messages(data)
        self._number += 1

    def recv(self, size: int) -> bytes:
        return self._answer(self._sequence, self._number)

    def close(self) -> None:
        pass


def speaking(answer: Callable[[int, int], bytes]) -> RouteSocket:
    tables = RouteSocket()
    tables._socket.close()
    tables._socket = Spoken(answer)  # type: ignore[assignment]
    return tables


def test_a_dump_that_a_change_came_into_is_taken_again_and_not_for_ever() -> None:
    def settled_at(last: int) -> Callable[[int, int], bytes]:
        return lambda sequence, number: message(DONE, INTERRUPTED if number < last else 0, sequence, bytes(4))

    with closing(speaking(settled_at(3))) as tables:
        assert tables.links(link) == []
    with closing(speaking(settled_at(1000))) as tables, pytest.raises(OSError, match="changes all the time") as raised:
        tables.links(link)
    assert raised.value.errno == errno.EAGAIN


def test_the_late_answer_to_a_question_that_was_given_up_is_passed_over() -> None:
    def answer(sequence: int, number: int) -> bytes:
        return message(ERROR, 0, sequence - 1, (-1).to_bytes(4, "little", signed=True)) + message(
            DONE, 0, sequence, bytes(4)
        )

    with closing(speaking(answer)) as tables:
        assert tables.rules(rule, family=AF_INET) == []


def test_a_refusal_is_raised_by_its_number_and_silence_by_its_time(node: Namespace) -> None:
    refused = (-errno.EPERM).to_bytes(4, "little", signed=True)
    with closing(speaking(lambda sequence, _: message(ERROR, 0, sequence, refused))) as tables:
        for ask in (
            lambda: tables.links(link),
            lambda: tables.link_named("v1", link),
            lambda: tables.routes(route, family=AF_INET, table=TABLE),
        ):
            with pytest.raises(PermissionError):
                ask()
    ours, silent = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with silent, closing(RouteSocket(timeout_s=0.05)) as tables:
        tables._socket.close()
        ours.settimeout(0.05)
        tables._socket = ours
        with pytest.raises(TimeoutError):
            tables.links(link)
