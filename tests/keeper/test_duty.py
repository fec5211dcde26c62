from service.keeper.duty import AgentDuty
from service.model.keeper_message import Heartbeat
from service.model.lease import Stamp
from tests.keeper.node import IP, SECOND, claims_of, heartbeat

GRACE = 15 * SECOND
HELD = {IP: Stamp(1, 1)}


def duty_after(*heartbeats: tuple[int, Heartbeat]) -> AgentDuty:
    duty = AgentDuty(grace_ns=GRACE, now_ns=0)
    for when, beat in heartbeats:
        duty.hear(beat, now_ns=when)
    return duty


def test_claiming_needs_a_ready_agent_heard_within_a_second() -> None:
    duty = duty_after((SECOND, heartbeat()))
    assert duty.may_claim(now_ns=SECOND + SECOND // 2)
    assert not duty.may_claim(now_ns=2 * SECOND)
    assert not duty_after((SECOND, heartbeat(ready=False))).may_claim(now_ns=SECOND)
    assert not AgentDuty(grace_ns=GRACE, now_ns=0).may_claim(now_ns=0)


def test_a_silent_agent_loses_nothing_before_its_grace_is_over_and_everything_after() -> None:
    duty = duty_after((SECOND, heartbeat()))
    assert IP in (duty.claims(HELD, now_ns=SECOND + GRACE - 1) or {})
    assert duty.claims(HELD, now_ns=SECOND + GRACE) == {}


def test_an_agent_that_was_never_heard_costs_what_was_adopted_only_after_the_grace() -> None:
    duty = AgentDuty(grace_ns=GRACE, now_ns=0)
    assert duty.claims(HELD, now_ns=GRACE - 1) is None
    assert duty.claims(HELD, now_ns=GRACE) == {}


def test_an_address_no_longer_listed_is_handed_over_at_once() -> None:
    duty = duty_after((0, heartbeat()), (SECOND, heartbeat(claims=False)))
    assert duty.claims(HELD, now_ns=SECOND) == {}


def test_an_agent_that_has_just_started_and_knows_no_assignment_yet_costs_nothing() -> None:
    duty = duty_after((0, heartbeat()), (SECOND, heartbeat(ready=False, claims=False)))
    assert IP in (duty.claims(HELD, now_ns=SECOND) or {})
    duty.hear(heartbeat(claims=False), now_ns=2 * SECOND)
    assert IP in (duty.claims(HELD, now_ns=2 * SECOND) or {})
    duty.hear(heartbeat(claims=False), now_ns=2 * SECOND + GRACE)
    assert duty.claims(HELD, now_ns=2 * SECOND + GRACE) == {}


def test_a_lost_carrier_gives_the_address_up_even_before_the_agent_lists_anything() -> None:
    duty = duty_after((0, heartbeat(ready=False, claims=False, carrier=False)))
    assert duty.claims(HELD, now_ns=0) == {}


def test_addresses_that_come_and_go_are_not_kept_in_mind() -> None:
    duty = AgentDuty(grace_ns=GRACE, now_ns=0)
    for number in range(20):
        duty.hear(claims_of(f"198.51.100.{number}"), now_ns=number)
        duty.claims(HELD, now_ns=number)
    assert duty._listed == {"198.51.100.19"}
