"""What the next agent finds."""

import errno
from ipaddress import IPv4Address

import pytest

from service.datapath.attribution import Attribution
from service.datapath.traffic import Account, Changes, Numbers
from service.datapath.traffic_map import TrafficMap
from tests.datapath.stand_in import StandInMap

F = IPv4Address("192.168.1.100").packed
ACCOUNT = Account(Numbers(9, 900, 4, 400, 2), Numbers(-1, -100, 4, 400, 1))


def attribution(*names: str) -> Attribution:
    return Attribution({}, policies=names, floating_ips=[F])


def test_b6_it_finds_what_was_stored_of_policies_that_are_there_and_forgets_the_rest() -> None:
    rows = StandInMap()
    labels = [("all", F), ("", F), ("gone", F), ("all", b"\1\1\1\1")]
    TrafficMap(rows).store(Changes(dict.fromkeys(labels, ACCOUNT)))
    assert {len(key) for key in rows.rows} == {16}
    assert {len(value) for value in rows.rows.values()} == {80}
    assert TrafficMap(rows).load(attribution("all")) == {("all", F): ACCOUNT, ("", F): ACCOUNT}
    assert len(rows.rows) == 2


def test_what_is_gone_is_taken_out() -> None:
    rows = StandInMap()
    TrafficMap(rows).store(Changes({("all", F): ACCOUNT}))
    TrafficMap(rows).store(Changes(gone=[("all", F), ("never", F)]))
    assert rows.rows == {}


class FullMap(StandInMap):
    def update(self, key: bytes, value: bytes, *, flags: int = 0) -> None:
        raise OSError(errno.E2BIG, "full")


def test_a_full_map_is_told_once_and_costs_no_sweep(caplog: pytest.LogCaptureFixture) -> None:
    TrafficMap(FullMap()).store(Changes({("all", F): ACCOUNT, ("dns", F): ACCOUNT}))
    assert caplog.text.count("has no room") == 1
