"""What an agent says of its keeper and of drops; the shared parts are tested with `web.document`."""

from service.agent.status import drops_by_reason, keeper_status
from service.model.keeper_message import LeaseReport


def test_a_keeper_that_says_nothing_is_not_alive_and_nothing_is_claimed_of_it() -> None:
    assert keeper_status(None) == {
        "alive": False,
        "elector": None,
        "voting": None,
        "majority": None,
        "scheduling": None,
    }


def test_what_the_keeper_says_is_shown() -> None:
    said = keeper_status(LeaseReport(held=(), elector=True, voting=False, scheduling="nice", majority=True))
    assert said == {"alive": True, "elector": True, "voting": False, "majority": True, "scheduling": "nice"}


def test_drops_are_summed_over_addresses() -> None:
    drops = {("no_gateway", "192.168.1.100"): 2, ("no_gateway", "192.168.1.101"): 3, ("fragment", ""): 1}
    assert drops_by_reason(drops) == {"no_gateway": 5, "fragment": 1}
