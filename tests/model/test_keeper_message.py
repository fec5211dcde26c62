"""What agent and keeper tell each other: the parts that are computed, and the bytes that both must agree on."""

import msgspec

from service.model.keeper_message import HeldLease
from service.model.lease import Token


def test_a_held_lease_names_the_token_it_is_held_under() -> None:
    assert HeldLease("10.0.0.9", 7, 3, 12, 5_000).token == Token(term=7, version=3, counter=12)


def test_the_token_of_a_held_lease_is_not_on_the_wire() -> None:
    lease = HeldLease("10.0.0.9", 7, 3, 12, 5_000)
    encoded = msgspec.json.encode(lease)
    assert encoded == b'["10.0.0.9",7,3,12,5000]'
    assert msgspec.json.decode(encoded, type=HeldLease) == lease
