import pytest

from service.gossip.member import Member, MemberState, member_of, record_of, record_version
from service.model.machine import Address


def member(state: MemberState = MemberState.ALIVE, incarnation: int = 1) -> Member:
    return Member("a", Address("10.0.0.1", 9640), state, b"metadata", incarnation)


@pytest.mark.parametrize("state", [MemberState.ALIVE, MemberState.DEAD, MemberState.LEFT])
def test_a_record_says_all_there_is_to_say(state: MemberState) -> None:
    assert member_of(record_of(member(state))) == member(state)


def test_suspicion_is_not_news_about_the_member() -> None:
    assert record_of(member(MemberState.SUSPECT)) == record_of(member())
    assert member(MemberState.SUSPECT).version == member().version


def test_within_an_incarnation_dead_supersedes_alive_and_left_supersedes_dead() -> None:
    """SWIM 4.2: confirm overrides alive and suspect of any earlier or equal incarnation."""
    states = (MemberState.ALIVE, MemberState.DEAD, MemberState.LEFT)
    versions = [member(state).version for state in states]
    assert versions == sorted(set(versions))


def test_a_higher_incarnation_supersedes_everything() -> None:
    assert member(MemberState.ALIVE, 2).version > member(MemberState.LEFT, 1).version


def test_record_and_member_agree_on_the_order_of_news() -> None:
    for state in (MemberState.ALIVE, MemberState.DEAD, MemberState.LEFT):
        assert record_version(record_of(member(state, 7))) == member(state, 7).version


def test_age_is_told_only_of_the_dead() -> None:
    assert record_of(member(), age_ns=5_000_000_000).age_s == 0
    assert record_of(member(MemberState.DEAD), age_ns=5_900_000_000).age_s == 5
