from dataclasses import replace

import pytest

from service.host.loop_lag import NO_LAGS, Lags
from service.keeper.report import KeeperState, compose
from service.lease.holder import HeldKey
from service.lease.tiebreaker import Swap
from service.model.keeper_message import ElectorateRecord, HeldLease, LeaseReport
from service.model.lease import Elector, Electorate, Token

TWO = Electorate(4, (Elector("node0", "127.0.0.1", 7), Elector("node1", "127.0.0.2", 8)))
ALONE = Electorate(5, TWO.members[:1], TWO.members)
STATE = KeeperState(
    now_ns=1000,
    held={"192.0.2.101": HeldKey(Token(2, 3, 4), 1700), "192.0.2.100": HeldKey(Token(1, 1, 1), 1500)},
    released=("192.0.2.102",),
    is_leaving=False,
    known=TWO,
    is_elector=True,
    is_voting=True,
    is_settled=True,
    swap=None,
    trouble="",
    sees_majority=True,
    silent={},
    scheduling="fifo",
)


def test_a_report_says_the_whole_state_with_leases_in_order() -> None:
    assert compose(STATE) == LeaseReport(
        held=(HeldLease("192.0.2.100", 1, 1, 1, 1500), HeldLease("192.0.2.101", 2, 3, 4, 1700)),
        elector=True,
        voting=True,
        scheduling="fifo",
        at_ns=1000,
        released=("192.0.2.102",),
        electorate=ElectorateRecord.of(TWO),
        settled=True,
        trouble="",
        wanted=None,
        majority=True,
        lags=NO_LAGS.counts,
    )


def test_what_differs_is_said() -> None:
    state = replace(
        STATE, is_settled=False, trouble="refused", sees_majority=False, silent={"b": 5, "a": 7}, scheduling="nice"
    )
    lags = Lags(tuple(range(len(NO_LAGS.counts))), 1.5)
    assert (compose(replace(STATE, lags=lags)).lags, compose(replace(STATE, lags=lags)).lag_sum_s) == lags
    said = compose(state)
    assert (said.settled, said.trouble, said.majority, said.scheduling) == (False, "refused", False, "nice")
    assert said.silent == (("a", 7), ("b", 5))


@pytest.mark.parametrize(("is_elector", "is_voting"), [(True, False), (False, True), (False, False)])
def test_who_is_silent_or_no_elector_does_not_vote(is_elector: bool, is_voting: bool) -> None:
    said = compose(replace(STATE, is_elector=is_elector, is_voting=is_voting))
    assert (said.elector, said.voting) == (is_elector, False)


def test_one_of_two_that_lost_the_other_asks_for_the_swap() -> None:
    assert compose(replace(STATE, swap=Swap(TWO, ALONE))).wanted == ElectorateRecord.of(ALONE)


def test_nothing_is_asked_for_once_a_newer_epoch_is_known() -> None:
    assert compose(replace(STATE, swap=Swap(TWO, ALONE), known=ALONE)).wanted is None


def test_who_leaves_does_not_ask_to_be_the_only_elector() -> None:
    assert compose(replace(STATE, swap=Swap(TWO, ALONE), is_leaving=True)).wanted is None
