from random import Random

from hypothesis import given
from hypothesis import strategies as st

from service.gossip.admission import MEMBERS_RATE
from service.gossip.config import DEFAULT_CONFIG, GossipConfig
from service.gossip.digest import Index
from service.gossip.dissemination import Broadcasts
from service.gossip.event import MemberChanged, NameConflict
from service.gossip.member import Member, MemberState
from service.gossip.message import ALIVE, DEAD, LEFT, Record
from service.gossip.roster import Roster
from service.model.machine import Address

SECOND = 1_000_000_000
HOUR = 3600 * SECOND


def roster(config: GossipConfig = DEFAULT_CONFIG, incarnation: int = 5) -> Roster:
    local = Member("m0", Address("10.0.0.1", 9640), MemberState.ALIVE, b"own", incarnation)
    return Roster(local, config=config, random=Random(1), index=Index(), broadcasts=Broadcasts(4))


def record(
    name: str = "m1", incarnation: int = 1, state: int = ALIVE, *, metadata: bytes = b"", host: str = "", age_s: int = 0
) -> Record:
    address = host or f"10.0.0.{int(name[1:]) + 1}"
    return Record(name, address, 9640, incarnation, state, age_s, metadata)  # type: ignore[arg-type]


def state(members: Roster, name: str = "m1") -> MemberState | None:
    member = members.get(name)
    return None if member is None else member.state


def with_members(count: int) -> Roster:
    members = roster()
    for index in range(1, count):
        members.merge(record(f"m{index}"), hearsay_of=None, now_ns=0)
    members.outputs.clear()
    return members


# Merging

news = st.lists(
    st.builds(record, st.sampled_from(["m1", "m2"]), st.integers(1, 3), st.sampled_from([ALIVE, DEAD, LEFT])),
    max_size=8,
)


@given(news, st.randoms(use_true_random=False))
def test_what_is_believed_does_not_depend_on_order_or_duplicates(records: list[Record], shuffler: Random) -> None:
    """SWIM 4.2: the order of news makes merging commutative, associative and idempotent."""
    again = records + records
    shuffler.shuffle(again)
    views = []
    for history in (records, again):
        members = roster()
        for item in history:
            members.merge(item, hearsay_of=None, now_ns=0)
        views.append(members.all())
    assert views[0] == views[1]


def test_a_stale_record_changes_nothing() -> None:
    members = roster()
    members.merge(record(incarnation=3), hearsay_of=None, now_ns=0)
    members.outputs.clear()
    members.merge(record(incarnation=2, state=DEAD), hearsay_of=None, now_ns=0)
    assert state(members) is MemberState.ALIVE
    assert members.outputs == []


def test_a_raised_incarnation_alone_is_not_told_but_new_metadata_is() -> None:
    members = with_members(2)
    members.merge(record(incarnation=2), hearsay_of=None, now_ns=0)
    assert members.outputs == []
    members.merge(record(incarnation=3, metadata=b"ready"), hearsay_of=None, now_ns=0)
    (change,) = members.outputs
    assert (change.member.metadata, change.previous_state) == (b"ready", MemberState.ALIVE)


def test_hearsay_of_a_death_is_an_accusation_of_who_we_hold_alive() -> None:
    members = with_members(3)
    members.merge(record(state=DEAD, age_s=600), hearsay_of="m2", now_ns=0)
    assert state(members) is MemberState.SUSPECT
    members.merge(record(incarnation=2), hearsay_of=None, now_ns=0)
    assert state(members) is MemberState.ALIVE


def test_hearsay_of_a_death_is_believed_of_the_unknown() -> None:
    members = roster()
    members.merge(record(state=DEAD), hearsay_of="m2", now_ns=0)
    assert state(members) is MemberState.DEAD


def test_a_full_roster_refuses_strangers_and_counts_them() -> None:
    members = roster(GossipConfig(members_max=2))
    members.merge(record("m1"), hearsay_of=None, now_ns=0)
    members.merge(record("m2"), hearsay_of=None, now_ns=0)
    assert state(members, "m2") is None
    assert members.counters["members_refused"] == 1


def names_of(members: Roster) -> set[str]:
    return {member.name for member in members.all()}


def test_in_a_full_roster_who_is_dead_longest_makes_room_for_the_living_and_is_not_brought_back() -> None:
    members = roster(GossipConfig(members_max=4))
    for name, age_s in (("m1", 5), ("m2", 50), ("m3", 20)):
        members.merge(record(name, state=DEAD, age_s=age_s), hearsay_of=None, now_ns=60 * SECOND)
    members.merge(record("m4"), hearsay_of=None, now_ns=60 * SECOND)
    assert names_of(members) == {"m0", "m1", "m3", "m4"}
    members.merge(record("m2", state=DEAD, age_s=50), hearsay_of="m3", now_ns=60 * SECOND)
    assert names_of(members) == {"m0", "m1", "m3", "m4"}
    assert members.record("m2", now_ns=60 * SECOND) is None


def test_a_flood_of_new_names_comes_no_faster_than_people_can_see_it_and_is_offered_again() -> None:
    reasons: list[str] = []
    local = Member("m0", Address("10.0.0.1", 9640), MemberState.ALIVE, b"own", 5)
    config = GossipConfig(joins_burst=3, joins_per_second=2)
    members = Roster(
        local, config=config, random=Random(1), index=Index(), broadcasts=Broadcasts(4), refused=reasons.append
    )
    for index in range(1, 11):
        members.merge(record(f"m{index}"), hearsay_of="m1", now_ns=SECOND)
    assert names_of(members) == {"m0", "m1", "m2", "m3"}
    assert reasons == [MEMBERS_RATE] * 7
    for index in range(1, 11):
        members.merge(record(f"m{index}"), hearsay_of="m1", now_ns=3 * SECOND)
    assert len(names_of(members)) == 7, "two seconds later, at most three more"


# Suspicion


def test_an_accusation_counts_only_for_the_incarnation_it_names() -> None:
    members = with_members(3)
    for incarnation in (0, 2):
        members.accuse("m1", incarnation, accuser="m2", now_ns=0)
        assert state(members) is MemberState.ALIVE
    members.accuse("m1", 1, accuser="m2", now_ns=0)
    assert state(members) is MemberState.SUSPECT


def test_a_suspect_dies_when_its_time_is_over_and_not_before() -> None:
    members = with_members(10)
    members.accuse("m1", 1, accuser="m2", now_ns=0)
    deadline_ns = members.suspicions["m1"].deadline_ns
    members.bury_overdue(now_ns=deadline_ns - 1)
    assert state(members) is MemberState.SUSPECT
    members.bury_overdue(now_ns=deadline_ns)
    assert state(members) is MemberState.DEAD
    assert [change.previous_state for change in members.outputs] == [MemberState.ALIVE, MemberState.SUSPECT]


def test_a_higher_incarnation_acquits() -> None:
    members = with_members(10)
    members.accuse("m1", 1, accuser="m2", now_ns=0)
    members.merge(record(incarnation=2), hearsay_of=None, now_ns=0)
    assert members.suspicions == {}
    members.bury_overdue(now_ns=HOUR)
    assert state(members) is MemberState.ALIVE


def test_the_dead_are_not_accused() -> None:
    members = with_members(3)
    members.merge(record(state=DEAD), hearsay_of=None, now_ns=0)
    members.accuse("m1", 1, accuser="m2", now_ns=0)
    assert state(members) is MemberState.DEAD


# The local member


def test_an_accusation_of_ourselves_is_refuted_by_the_next_higher_incarnation() -> None:
    """SWIM 4.2: only the accused raises its incarnation. Lifeguard: having to do so is a sign of ill health."""
    members = roster(incarnation=5)
    members.accuse("m0", 5, accuser="m1", now_ns=0)
    assert members.local.incarnation == 6
    assert members.awareness.score == 1
    members.accuse("m0", 5, accuser="m2", now_ns=0)
    assert members.local.incarnation == 6


def test_our_own_death_notice_is_beaten_whatever_incarnation_it_has() -> None:
    members = roster(incarnation=1)
    members.merge(record("m0", 900, DEAD), hearsay_of=None, now_ns=0)
    assert (members.local.incarnation, members.local.state) == (901, MemberState.ALIVE)


def test_old_words_of_an_earlier_life_are_replaced_by_ours_at_equal_incarnation_too() -> None:
    members = roster(incarnation=5)
    members.merge(record("m0", 5, metadata=b"earlier"), hearsay_of=None, now_ns=0)
    assert members.local == Member("m0", Address("10.0.0.1", 9640), MemberState.ALIVE, b"own", 6)


def test_our_own_present_words_coming_back_change_nothing() -> None:
    members = roster(incarnation=5)
    members.merge(record("m0", 5, metadata=b"own"), hearsay_of=None, now_ns=0)
    assert members.local.incarnation == 5


def test_after_leaving_nothing_is_refuted() -> None:
    members = roster(incarnation=5)
    members.announce(now_ns=0, state=MemberState.LEFT)
    members.accuse("m0", 6, accuser="m1", now_ns=0)
    members.merge(record("m0", 9, DEAD), hearsay_of=None, now_ns=0)
    assert (members.local.state, members.local.incarnation) == (MemberState.LEFT, 6)


def test_an_earlier_life_elsewhere_is_outbid_once_and_a_namesake_is_reported() -> None:
    members = roster(incarnation=1)
    members.merge(record("m0", 7, host="10.9.9.9"), hearsay_of=None, now_ns=0)
    assert (members.local.incarnation, members.outputs) == (8, [])
    members.merge(record("m0", 9, host="10.9.9.9"), hearsay_of=None, now_ns=0)
    assert members.outputs == [NameConflict("m0", Address("10.9.9.9", 9640))]
    raised = members.local.incarnation
    members.merge(record("m0", 20, host="10.9.9.9"), hearsay_of=None, now_ns=SECOND)
    assert members.local.incarnation == raised, "an argument, not a storm"
    members.merge(record("m0", 20, host="10.9.9.9"), hearsay_of=None, now_ns=6 * SECOND)
    assert members.local.incarnation == 21


# Forgetting


def test_the_dead_and_the_gone_are_forgotten_after_their_time() -> None:
    members = with_members(4)
    members.merge(record("m1", 1, DEAD), hearsay_of=None, now_ns=0)
    members.merge(record("m2", 1, LEFT), hearsay_of=None, now_ns=0)
    members.forget_expired(now_ns=72 * HOUR - 1)
    assert (state(members, "m1"), state(members, "m2")) == (MemberState.DEAD, MemberState.LEFT)
    members.forget_expired(now_ns=72 * HOUR)
    assert [member.name for member in members.all()] == ["m0", "m3"]


def test_who_left_is_not_taken_for_dead_by_the_word_of_one_who_was_away_meanwhile() -> None:
    members = with_members(4)
    members.merge(record("m2", 1, LEFT), hearsay_of=None, now_ns=0)
    members.forget_expired(now_ns=2 * HOUR)
    members.merge(record("m2", 1, DEAD, age_s=2 * 3600), hearsay_of="m3", now_ns=2 * HOUR)
    assert state(members, "m2") is MemberState.LEFT


def test_the_name_of_one_that_was_forgotten_can_be_used_again() -> None:
    members = with_members(3)
    members.merge(record("m1", 9, DEAD), hearsay_of=None, now_ns=0)
    members.forget_expired(now_ns=72 * HOUR)
    members.merge(record("m1", 1, host="10.0.0.99"), hearsay_of=None, now_ns=72 * HOUR)
    found = members.get("m1")
    assert found is not None
    assert (found.state, found.address.host) == (MemberState.ALIVE, "10.0.0.99")


def test_age_travels_so_that_all_forget_together() -> None:
    members = roster()
    members.merge(record("m1", 1, DEAD, age_s=60 * 3600), hearsay_of="m2", now_ns=0)
    members.forget_expired(now_ns=12 * HOUR)
    assert state(members, "m1") is None


def test_what_is_about_to_be_forgotten_is_not_learned_again() -> None:
    members = roster()
    members.merge(record("m1", 1, DEAD, age_s=71 * 3600), hearsay_of="m2", now_ns=0)
    assert state(members, "m1") is None


def test_who_returns_is_told_as_alive_with_the_state_it_had() -> None:
    members = with_members(3)
    members.merge(record("m1", 1, DEAD), hearsay_of=None, now_ns=0)
    members.merge(record("m1", 2), hearsay_of=None, now_ns=0)
    assert [(c.member.state, c.previous_state) for c in members.outputs if isinstance(c, MemberChanged)] == [
        (MemberState.DEAD, MemberState.ALIVE),
        (MemberState.ALIVE, MemberState.DEAD),
    ]
