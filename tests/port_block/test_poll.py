"""Q8: what a successor that asks is told."""

from ipaddress import IPv4Address

from service.model.machine import Address
from service.port_block.block import TIMES
from service.port_block.gateway_view import GatewayView
from service.port_block.leader_table import LeaderTable
from service.port_block.message import Poll
from service.port_block.poll import answer_poll

IP, OTHER = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")


def table(session: int, *, is_complete: bool = True, pending: int = 0) -> LeaderTable:
    made = LeaderTable(blocks=4, rest_ns=1, quiet_until_ns=0)
    view = GatewayView("worker1", Address("10.0.0.1", 1), TIMES, now_ns=0)
    view.edition = (session, 1)
    view.pending = dict.fromkeys(range(pending))
    made.gateways["worker1"], made.is_complete = view, is_complete
    return made


def asked(tables: dict[IPv4Address, LeaderTable], node: str = "worker1", session: int = 7) -> tuple[object, object]:
    return answer_poll(tables, node, Poll(1, (int(IP), int(OTHER)), (session, session)))


def test_an_address_is_whole_where_the_table_is_and_nothing_is_under_way_to_that_gateway() -> None:
    assert asked({IP: table(7), OTHER: table(7)}) == ((int(IP), int(OTHER)), ())
    assert asked({IP: table(7, pending=1), OTHER: table(7, is_complete=False)}) == ((), ())


def test_one_that_is_held_anew_is_told_apart_and_what_is_not_known_is_neither() -> None:
    assert asked({IP: table(8), OTHER: table(7)}) == ((int(OTHER),), (IP,))
    assert asked({IP: table(0)}) == ((), ())
    assert asked({IP: table(7)}, node="worker9") == ((), ())
    assert asked({}) == ((), ())
