"""Who makes room, where all places are taken."""

import asyncio
from typing import Any, cast

import pytest

from service.web import connections
from service.web.connections import Connections


class Connection:
    """A transport that knows its two ends, and whether it was ended."""

    def __init__(self, peer: str, *, reached: str = "10.0.0.7") -> None:
        self.names = {"peername": (peer, 1), "sockname": (reached, 9642)}
        self.is_ended = False

    def get_extra_info(self, name: str) -> Any:
        return self.names[name]

    def abort(self) -> None:
        self.is_ended = True


@pytest.fixture(autouse=True)
def three_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 3)


def admit(open_ones: Connections, *peers: str, now_s: float = 0) -> list[Connection]:
    made = [Connection(peer) for peer in peers]
    for one in made:
        open_ones.admit(asyncio.Protocol(), cast(asyncio.Transport, one), now_s=now_s)
    return made


def ended(made: list[Connection]) -> list[bool]:
    return [one.is_ended for one in made]


def test_nobody_makes_room_while_there_is_some() -> None:
    assert ended(admit(Connections(), "10.1.1.1", "10.1.1.1", "10.1.1.1")) == [False] * 3


def test_of_the_host_that_has_most_the_oldest_makes_room() -> None:
    assert ended(admit(Connections(), "10.1.1.1", "10.2.2.2", "10.2.2.2", "10.3.3.3")) == [False, True, False, False]


def test_of_hosts_that_have_one_each_the_oldest_makes_room_and_not_who_comes() -> None:
    assert ended(admit(Connections(), "10.1.1.1", "10.2.2.2", "10.3.3.3", "10.4.4.4")) == [True, False, False, False]


@pytest.mark.parametrize("own", ["127.0.0.1", "10.0.0.7"])
def test_this_machines_own_do_not_make_room_for_strangers(own: str) -> None:
    made = admit(Connections(), own, own, "10.3.3.3", "10.4.4.4", "10.5.5.5")
    assert ended(made) == [False, False, True, True, False]


def test_a_lone_stranger_does_not_displace_this_machines_own() -> None:
    assert ended(admit(Connections(), *["127.0.0.1"] * 3, "10.4.4.4")) == [False, False, False, True]


def test_where_all_are_this_machines_own_the_oldest_makes_room() -> None:
    assert ended(admit(Connections(), *["127.0.0.1"] * 4)) == [True, False, False, False]


def test_who_takes_too_long_is_ended_and_forgotten() -> None:
    open_ones = Connections()
    (early,) = admit(open_ones, "10.1.1.1", now_s=10)
    (late,) = admit(open_ones, "10.1.1.1", now_s=20)
    open_ones.expire(now_s=10 + connections.CONNECTION_S_MAX + 1)
    assert (early.is_ended, late.is_ended, len(open_ones)) == (True, False, 1)
    open_ones.end_all()
    assert (late.is_ended, len(open_ones)) == (True, 0)
