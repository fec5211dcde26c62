"""The stamps of a term."""

import pytest

from service.model.errors import InvariantError
from service.model.lease import VERSION_MAX, Stamp
from service.port_block import stamps


def test_each_stamp_is_newer_than_the_one_before() -> None:
    one = stamps.Stamps(7)
    assert [one.next(), one.next()] == [Stamp(7, 1), Stamp(7, 2)]


def test_a_term_ends_before_a_stamp_is_given_twice() -> None:
    one = stamps.Stamps(7)
    one._version = VERSION_MAX - 1
    assert one.next() == Stamp(7, VERSION_MAX)
    with pytest.raises(InvariantError):
        one.next()
