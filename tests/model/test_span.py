"""Networks as numbers, against what `ipaddress` makes of them."""

from ipaddress import IPv4Address, IPv4Network, collapse_addresses, summarize_address_range
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.model.span import merged, networks_of, spans

NETWORKS = st.lists(
    st.builds(
        lambda address, length: IPv4Network((address, length), strict=False),
        st.one_of(st.integers(0, (1 << 32) - 1), st.integers(0, 600), st.integers((1 << 32) - 600, (1 << 32) - 1)),
        st.one_of(st.integers(0, 32), st.integers(22, 32)),
    ),
    max_size=12,
)


@given(NETWORKS)
def test_the_fewest_networks_with_the_same_addresses(networks: list[IPv4Network]) -> None:
    assert merged(networks) == list(collapse_addresses(networks))


@given(NETWORKS)
def test_spans_are_in_order_and_apart(networks: list[IPv4Network]) -> None:
    found = list(spans(networks))
    assert all(first < end for first, end in found)
    assert all(end < first for (_, end), (first, _) in pairwise(found))


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_a_span_is_the_fewest_networks(one: int, other: int) -> None:
    first, last = sorted((one, other))
    assert list(networks_of(first, last + 1)) == list(summarize_address_range(IPv4Address(first), IPv4Address(last)))
