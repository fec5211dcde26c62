"""A token is packed whole or not at all: cut, it would be a lower one (K1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.model.errors import InvariantError
from service.model.lease import COUNTER_MAX, TERM_MAX, VERSION_MAX, Stamp, Token

tokens = st.builds(Token, st.integers(0, TERM_MAX), st.integers(0, VERSION_MAX), st.integers(0, COUNTER_MAX))
BEYOND = [(TERM_MAX + 1, 0, 0), (0, VERSION_MAX + 1, 0), (0, 0, COUNTER_MAX + 1), (-1, 0, 0), (0, -1, 0), (0, 0, -1)]


@given(tokens, tokens)
def test_k1_packed_tokens_are_in_the_order_of_tokens_and_fill_64_bits(first: Token, second: Token) -> None:
    assert (first.packed() < second.packed()) == (first < second)
    assert Token.checked(*first) == first
    assert first.packed() < 2**64


@pytest.mark.parametrize("beyond", BEYOND)
def test_what_is_beyond_its_bits_is_refused_from_outside_and_never_cut(beyond: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="beyond"):
        Token.checked(*beyond)
    with pytest.raises(InvariantError):
        Token(*beyond).packed()


def test_a_stamp_fits_where_its_tokens_do() -> None:
    assert Stamp(TERM_MAX, VERSION_MAX).fits
    assert not Stamp(TERM_MAX + 1, 0).fits
    assert not Stamp(0, VERSION_MAX + 1).fits
