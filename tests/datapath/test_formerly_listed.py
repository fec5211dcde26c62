"""Which addresses stay fenced once they are listed no more."""

from ipaddress import IPv4Address

from service.datapath.formerly_listed import STAYS_NS, FormerlyListed

FIRST, SECOND = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")


def listed(*addresses: IPv4Address) -> dict[IPv4Address, None]:
    return dict.fromkeys(addresses)


def test_what_is_taken_from_the_list_stays_for_a_while_and_no_longer() -> None:
    formerly = FormerlyListed()
    formerly.note(listed(FIRST, SECOND), now_ns=0)
    assert formerly.addresses == {}
    both = listed(SECOND)
    formerly.note(both, now_ns=10)
    assert list(formerly.addresses) == [FIRST]
    formerly.note(both, now_ns=9 + STAYS_NS)
    assert list(formerly.addresses) == [FIRST]
    formerly.note(both, now_ns=10 + STAYS_NS)
    assert formerly.addresses == {}


def test_what_is_listed_again_is_no_former_one_and_its_time_begins_anew_when_it_goes_again() -> None:
    formerly = FormerlyListed()
    formerly.note(listed(FIRST), now_ns=0)
    formerly.note(listed(), now_ns=10)
    formerly.note(listed(FIRST), now_ns=20)
    assert formerly.addresses == {}
    gone = listed()
    formerly.note(gone, now_ns=30)
    formerly.note(gone, now_ns=29 + STAYS_NS)
    assert list(formerly.addresses) == [FIRST]


def test_where_nothing_is_new_it_is_the_same_object() -> None:
    formerly = FormerlyListed()
    formerly.note(listed(FIRST, SECOND), now_ns=0)
    gone = listed()
    formerly.note(gone, now_ns=10)
    before = formerly.addresses
    formerly.note(gone, now_ns=20)
    assert formerly.addresses is before
