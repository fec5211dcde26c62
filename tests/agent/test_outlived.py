"""A lease whose word is below what is known by all is given up (K1)."""

from ipaddress import IPv4Address

from service.agent.outlived import outlived
from service.model.assignment import Location
from service.model.lease import Token

FIRST, SECOND = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
TOKEN = Token(1, 1, 1)


class Table:
    """Where addresses are, as all know it; `ended` takes no word any more."""

    def __init__(self, *told: Location, ended: frozenset[IPv4Address] = frozenset()) -> None:
        self.told = {location.floating_ip: location for location in told}
        self.ended = ended

    def tell(self, location: Location) -> bool:
        if location.floating_ip in self.ended:
            return False
        self.told[location.floating_ip] = location
        return True

    def outlived(self, *held: IPv4Address, assigned: tuple[IPv4Address, ...] = (FIRST, SECOND)) -> set[IPv4Address]:
        tokens = dict.fromkeys(held, TOKEN)
        return set(outlived("worker1", tokens, is_assigned=assigned.__contains__, told=self.told, tell=self.tell))


def test_a_lease_of_before_the_address_was_unlisted_is_given_up_once_it_is_listed_again() -> None:
    table = Table(Location(SECOND, "worker1", TOKEN), ended=frozenset((FIRST,)))
    assert table.outlived(FIRST, SECOND) == {FIRST}
    assert table.outlived(SECOND) == set(), "given up"


def test_an_address_that_is_listed_no_more_is_given_up_for_that_reason_alone() -> None:
    assert Table(ended=frozenset((FIRST,))).outlived(FIRST, assigned=()) == set()


def test_a_word_that_has_not_been_said_yet_is_said() -> None:
    table = Table()
    assert table.outlived(FIRST) == set()
    assert table.told == {FIRST: Location(FIRST, "worker1", TOKEN)}


def test_where_another_node_is_known_to_hold_it_nothing_is_said_against_that() -> None:
    there = Location(FIRST, "worker2", Token(1, 1, 2))
    table = Table(there)
    assert table.outlived(FIRST) == set()
    assert table.told == {FIRST: there}
