"""Of thousands of floating IPs only those that moved are made anew."""

from collections.abc import Mapping
from ipaddress import IPv4Address

from service.datapath.desired import Rows
from service.datapath.located_rows import LocatedRows
from service.model.assignment import Location
from service.model.lease import Token

ONE, TWO = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")


def at(floating_ip: IPv4Address, node: str) -> Location:
    return Location(floating_ip, node, Token(1, 1, 1))


class Maker:
    def __init__(self) -> None:
        self.made: list[set[IPv4Address]] = []

    def __call__(self, locations: Mapping[IPv4Address, Location]) -> Rows:
        self.made.append(set(locations))
        return {one.packed: location.node.encode() for one, location in locations.items() if location.node != "far"}


def test_what_moved_is_made_anew_and_nothing_else() -> None:
    rows, make, source, base = LocatedRows(), Maker(), object(), Rows()
    locations = {ONE: at(ONE, "a"), TWO: at(TWO, "a")}
    first = rows.renew(make, locations, base, source)
    assert rows.renew(make, locations, base, source) is first
    locations[TWO] = at(TWO, "b")
    rows.move(TWO)
    assert rows.renew(make, locations, base, source) == {ONE.packed: b"a", TWO.packed: b"b"}
    assert make.made == [{ONE, TWO}, {TWO}]
    assert first == {ONE.packed: b"a", TWO.packed: b"a"}, "who has it goes on with it"


def test_all_is_made_anew_where_something_else_changed_or_it_is_forgotten() -> None:
    rows, make, base = LocatedRows(), Maker(), Rows()
    locations = {ONE: at(ONE, "a"), TWO: at(TWO, "a")}
    first = rows.renew(make, locations, base, "segments")
    assert rows.renew(make, locations, base, "others") is first, "and says the same"
    rows.forget()
    rows.renew(make, locations, base, "others")
    assert make.made == [{ONE, TWO}] * 3


def test_one_that_is_nowhere_any_more_or_where_there_is_no_way_has_what_was_inherited() -> None:
    rows, make, base = LocatedRows(), Maker(), {ONE.packed: b"inherited"}
    locations = {ONE: at(ONE, "a"), TWO: at(TWO, "a")}
    rows.renew(make, locations, base)
    del locations[ONE]
    locations[TWO] = at(TWO, "far")
    rows.move(ONE)
    rows.move(TWO)
    assert rows.renew(make, locations, base) == {ONE.packed: b"inherited"}
