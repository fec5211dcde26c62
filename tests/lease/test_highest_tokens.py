"""What a claimant proposes, given what electors have named (rule K1)."""

from service.lease.highest_tokens import HighestTokens
from service.model.lease import COUNTER_MAX, LEADER_KEY, ZERO_TOKEN, Stamp, Token
from tests.lease.site import IP


def proposal(stamp: Stamp, *known: Token, key: str = IP) -> Token:
    highest = HighestTokens()
    for token in known:
        highest.note(key, token)
    return highest.proposal(key, stamp, own=ZERO_TOKEN)


def test_k1_a_newer_assignment_begins_to_count_anew() -> None:
    assert proposal(Stamp(2, 1), Token(1, 9, 9)) == Token(2, 1, 1)


def test_k1_of_the_same_assignment_the_counter_goes_above_the_highest_that_was_named() -> None:
    assert proposal(Stamp(1, 9), Token(1, 9, 4), Token(1, 9, 2)) == Token(1, 9, 5)


def test_p4_a_claim_of_an_older_assignment_stays_as_old_as_it_is() -> None:
    assert proposal(Stamp(1, 8), Token(1, 9, 4)) == Token(1, 8, 1)


def test_k1_a_leaders_term_goes_above_every_term_of_every_key() -> None:
    highest = HighestTokens()
    highest.note(IP, Token(7, 3, 1))
    highest.note(LEADER_KEY, Token(5, 0, 1))
    assert highest.proposal(LEADER_KEY, Stamp(0, 0), own=Token(6, 0, 1)) == Token(8, 0, 1)
    assert highest.proposal(LEADER_KEY, Stamp(0, 0), own=Token(8, 0, 1)) == Token(9, 0, 1)


def test_after_the_last_token_of_an_assignment_its_key_waits_and_costs_no_other_in_the_datagram() -> None:
    highest = HighestTokens()
    highest.note("192.0.2.1", Token(1, 2, COUNTER_MAX))
    proposed = highest.proposal("192.0.2.1", Stamp(1, 2), own=ZERO_TOKEN)
    assert proposed.fits
    assert proposed == Token(1, 2, COUNTER_MAX), "refused by each elector, as it is not above what was granted"
    assert highest.proposal("192.0.2.1", Stamp(1, 3), own=ZERO_TOKEN) == Token(1, 3, 1)
