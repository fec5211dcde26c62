"""Who may answer for the statuses: rules V1 and V2, by values and a clock."""

from dataclasses import replace

from service.model.validity import LEADER_SILENT, Loss, Validity
from service.report.validity import RENEW_NS, VALID_NS, ValidityView

LOST = Loss("MajorityLost", "no majority of electors answers")
SAID = Validity("controller1", 7, "2024-01-01T00:00:00Z", version="1")
WALL = "2024-01-01T00:01:00Z"


def watched(seen: Validity | None, *, until_ns: int, name: str = "controller2") -> ValidityView:
    """Read unchanged at each turn from zero on."""
    view = ValidityView(name)
    for now_ns in range(0, until_ns + 1, RENEW_NS):
        assert view.is_due(now_ns=now_ns)
        view.note(seen, now_ns=now_ns)
    return view


def test_v1_who_does_not_lead_answers_only_when_nothing_was_renewed_for_the_whole_time() -> None:
    view = watched(SAID, until_ns=VALID_NS - RENEW_NS)
    assert view.claim_as_witness(LOST, now_ns=VALID_NS - 1) is None
    assert view.claim_as_witness(LOST, now_ns=VALID_NS) == replace(SAID, speaker="controller2", loss=LOST, version="")


def test_v1_a_renewal_seen_begins_the_time_anew() -> None:
    view = watched(SAID, until_ns=VALID_NS - RENEW_NS)
    view.note(replace(SAID, version="2"), now_ns=VALID_NS)
    assert view.claim_as_witness(LOST, now_ns=2 * VALID_NS - 1) is None
    assert view.claim_as_witness(LOST, now_ns=2 * VALID_NS) is not None


def test_v1_who_could_not_read_for_long_does_not_hold_that_against_the_leader() -> None:
    """The source was away for everybody, or this controller was stopped: the leader gets its time from now on."""
    view = watched(SAID, until_ns=0)
    view.note(SAID, now_ns=60 * RENEW_NS)
    assert view.claim_as_witness(LOST, now_ns=60 * RENEW_NS) is None


def test_v1_statuses_that_nobody_ever_answered_for_end_too() -> None:
    view = watched(None, until_ns=VALID_NS)
    assert view.claim_as_witness(LOST, now_ns=VALID_NS) == Validity("controller2", 0, "", LOST)


def test_a_leader_of_a_release_without_validity_is_left_alone_while_it_leads() -> None:
    silent = Loss(LEADER_SILENT, "controller controller1 leads, and has not reported")
    assert watched(None, until_ns=VALID_NS).claim_as_witness(silent, now_ns=VALID_NS) is None
    assert watched(SAID, until_ns=VALID_NS).claim_as_witness(silent, now_ns=VALID_NS) is not None


def test_v2_a_leader_waits_for_nobody_but_a_leader_of_a_higher_term() -> None:
    view = watched(replace(SAID, loss=LOST), until_ns=0)
    assert view.claim_as_leader(7, wall=WALL, now_ns=0) == Validity("controller2", 7, WALL)
    assert view.claim_as_leader(6, wall=WALL, now_ns=0) is None
    # Every elector lost its disk, so terms begin anew: nobody lives who could renew the old one.
    assert watched(SAID, until_ns=VALID_NS).claim_as_leader(1, wall=WALL, now_ns=VALID_NS) is not None


def test_who_says_unknown_goes_on_at_once_with_the_same_words_until_the_reason_is_another() -> None:
    view = watched(replace(SAID, speaker="controller2", loss=LOST), until_ns=0)
    again = view.claim_as_witness(Loss("MajorityLost", "other words"), now_ns=1)
    assert again is not None
    assert again.loss == LOST
    other = view.claim_as_witness(Loss("NoLeader", "no controller leads"), now_ns=1)
    assert other is not None
    assert (other.loss, other.confirmed) == (Loss("NoLeader", "no controller leads"), SAID.confirmed)


def test_a_leader_that_lost_its_lease_does_not_take_its_own_word_for_a_doubt() -> None:
    view = watched(SAID, until_ns=0, name="controller1")
    assert view.claim_as_witness(LOST, now_ns=1) is None, "the next leader has its time, too"


def test_only_what_this_leader_wrote_in_this_term_is_its_own() -> None:
    view = watched(SAID, until_ns=0, name="controller1")
    assert view.is_own(7)
    assert not view.is_own(8)
    assert not watched(replace(SAID, loss=LOST), until_ns=0, name="controller1").is_own(7)
    assert not watched(None, until_ns=0).is_own(0)


def test_it_is_read_at_intervals_and_at_once_where_that_is_asked_for() -> None:
    view = watched(SAID, until_ns=0)
    assert not view.is_due(now_ns=RENEW_NS - 1)
    view.hurry()
    assert view.is_due(now_ns=1)
