"""Who asks an elector for what: sessions that replace each other, lists that change, and which claim goes first."""

from service.lease.claimants import IDLE_NS, Claimants
from service.lease.message import ClaimRole, Renew
from service.lease.standing_claim import ClaimedGroup, HolderSession
from service.model.lease import LEADER_KEY, ZERO_TOKEN, Token
from tests.lease.site import BOOT, IP, LEASE_NS, MS, RENEW_NS, at, claim, source

OTHER_IP = "192.0.2.101"
OLD, NEW = Token(1, 1, 1), Token(1, 2, 1)
STANDING, HOLDER = ClaimRole.STANDING, ClaimRole.HOLDER


def session_of(claimants: Claimants, name: str, ms: float = 0, *, start_id: int = 1) -> HolderSession | None:
    message = Renew(1, BOOT, 1, LEASE_NS, RENEW_NS, 0, 1, None)
    return claimants.session(source(name, start_id), message, now=at(ms))


def one(claimants: Claimants, name: str, ms: float = 0, *, start_id: int = 1) -> HolderSession:
    session = session_of(claimants, name, ms, start_id=start_id)
    assert session is not None
    return session


def put(
    claimants: Claimants, name: str, token: Token, role: ClaimRole, ms: float = 0, *, is_open: bool = False
) -> HolderSession:
    session = one(claimants, name, ms)
    claimants.put(session, 0, claim(token, role), is_open=is_open, now=at(ms))
    return session


def first(claimants: Claimants, ms: float = 0, *, above: Token = ZERO_TOKEN) -> str | None:
    best = claimants.best(IP, above=above, now=at(ms))
    return best.session.identity.node if best is not None else None


def test_p4_the_newer_assignment_goes_before_the_holder_and_the_holder_before_the_successor() -> None:
    claimants = Claimants(at(0))
    put(claimants, "node-b", OLD, STANDING)
    assert first(claimants) == "node-b"
    put(claimants, "node-c", OLD, HOLDER)
    assert first(claimants) == "node-c"
    put(claimants, "node-d", NEW, STANDING)
    assert first(claimants) == "node-d"


def test_p4_between_equals_the_first_by_name_goes_first_whoever_was_heard_first() -> None:
    for names in (("node-b", "node-c"), ("node-c", "node-b")):
        claimants = Claimants(at(0))
        for name in names:
            put(claimants, name, OLD, HOLDER)
        assert first(claimants) == "node-b"


def test_k1_a_token_that_is_not_above_the_highest_does_not_count() -> None:
    claimants = Claimants(at(0))
    put(claimants, "node-b", OLD, HOLDER)
    assert first(claimants, above=OLD) is None
    assert first(claimants, above=Token(1, 0, 9)) == "node-b"


def test_s1_a_claim_is_void_after_three_intervals_without_refresh() -> None:
    claimants = Claimants(at(0))
    put(claimants, "node-b", OLD, HOLDER)
    assert first(claimants, 3 * RENEW_NS / MS - 1) == "node-b"
    assert first(claimants, 3 * RENEW_NS / MS) is None


def test_on_an_open_key_a_successor_waits_one_lease_from_the_first_word_of_the_assignment() -> None:
    claimants = Claimants(at(0))
    session = put(claimants, "node-b", OLD, STANDING, 0, is_open=True)
    lease_ms = LEASE_NS // MS
    # Given up and made again: it does not wait anew.
    claimants.drop(IP, session.identity)
    put(claimants, "node-b", OLD, STANDING, lease_ms - 1, is_open=True)
    assert first(claimants, lease_ms - 1) is None
    assert first(claimants, lease_ms) == "node-b"


def test_s1_a_claim_made_while_the_key_was_promised_does_not_wait() -> None:
    claimants = Claimants(at(0))
    put(claimants, "node-b", OLD, STANDING, 0, is_open=False)
    assert first(claimants, 0) == "node-b"


def test_candidates_for_leadership_do_not_wait_for_each_other() -> None:
    claimants = Claimants(at(0))
    session = one(claimants, "node-b")
    claimants.put(session, 0, claim(OLD, STANDING, key=LEADER_KEY), is_open=True, now=at(0))
    assert claimants.best(LEADER_KEY, above=ZERO_TOKEN, now=at(0)) is not None


def test_a_restarted_process_takes_the_place_of_the_one_before_with_none_of_its_claims() -> None:
    claimants = Claimants(at(0))
    put(claimants, "node-b", OLD, HOLDER)
    new = one(claimants, "node-b", 1, start_id=2)
    assert new.start_id == 2
    assert first(claimants, 1) is None
    assert session_of(claimants, "node-b", 2, start_id=1) is None


def test_if_the_newcomer_falls_silent_the_process_that_it_replaced_is_heard_again() -> None:
    claimants = Claimants(at(0))
    one(claimants, "node-b", start_id=1)
    one(claimants, "node-b", 1, start_id=2)
    quiet_ms = 1 + 3 * RENEW_NS / MS
    assert session_of(claimants, "node-b", quiet_ms - 1, start_id=1) is None
    assert one(claimants, "node-b", quiet_ms, start_id=1).start_id == 1


def test_a_key_that_vanishes_from_its_groups_list_is_no_longer_claimed() -> None:
    claimants = Claimants(at(0))
    session = one(claimants, "node-b")
    group, both = ClaimedGroup(), (claim(OLD), claim(OLD, key=OTHER_IP))
    claimants.replace_list(session, 0, group, both)
    for entry in both:
        claimants.put(session, 0, entry, is_open=False, now=at(0))
    claimants.replace_list(session, 0, group, both[:1])
    assert list(claimants.claims) == [IP]


def test_a_session_that_is_heard_is_not_forgotten_with_the_others() -> None:
    claimants = Claimants(at(0))
    put(claimants, "node-b", OLD, HOLDER)
    put(claimants, "node-c", OLD, HOLDER, IDLE_NS / MS - 1)
    claimants.purge(at(IDLE_NS / MS))
    assert [identity.node for identity in claimants.sessions] == ["node-c"]
    assert [identity.node for identity in claimants.of(IP)] == ["node-c"]
