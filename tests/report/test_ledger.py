from service.model.objects import Kind, ObjectKey
from service.report.ledger import NODE_GONE_NS, UNHEARD_NS, StatusLedger
from service.report.objects import GATEWAY

POLICY = ObjectKey(Kind.POLICY, "", "egress")
NODE = ObjectKey(Kind.NODE, "kube-system", "worker1")
FORMER = ObjectKey(Kind.NODE, "kube-system", "former")


def is_removed(key: ObjectKey) -> bool:
    return key == FORMER


OLD, NEW = {"matchedPods": 1}, {"matchedPods": 2}


def written(*keys: ObjectKey) -> StatusLedger:
    ledger = StatusLedger()
    for key in keys:
        ledger.wrote(key, OLD)
    return ledger


def test_a_leader_writes_everything_once_and_then_what_differs() -> None:
    ledger = written(POLICY)
    assert ledger.changed({POLICY: OLD, GATEWAY: OLD}) == [GATEWAY]
    assert ledger.changed({POLICY: NEW}) == [POLICY]


def test_what_could_not_be_written_is_still_due() -> None:
    ledger = StatusLedger()
    assert ledger.changed({POLICY: OLD}) == [POLICY]
    assert ledger.changed({POLICY: OLD}) == [POLICY]


def test_a_policy_that_is_gone_goes_at_once_and_is_deleted_once() -> None:
    ledger = written(POLICY, GATEWAY)
    assert ledger.gone({GATEWAY: OLD}, (), is_removed, now_ns=0) == [POLICY]
    assert ledger.gone({GATEWAY: OLD}, (), is_removed, now_ns=1) == [POLICY], "as long as it could not be deleted"
    ledger.deleted(POLICY)
    assert ledger.gone({GATEWAY: OLD}, (), is_removed, now_ns=2) == []


def test_a_policy_made_anew_is_written_anew_even_with_the_same_status() -> None:
    ledger = written(POLICY)
    ledger.gone({}, (), is_removed, now_ns=0)
    ledger.deleted(POLICY)
    assert ledger.changed({POLICY: OLD}) == [POLICY]


def test_a_node_keeps_its_object_until_it_has_been_missing_for_long() -> None:
    ledger = written(NODE)
    assert ledger.gone({}, (), is_removed, now_ns=100) == []
    assert ledger.gone({}, (), is_removed, now_ns=100 + NODE_GONE_NS) == []
    assert ledger.gone({}, (), is_removed, now_ns=101 + NODE_GONE_NS) == [NODE]


def test_a_node_that_returns_is_missed_from_the_beginning_when_it_goes_again() -> None:
    ledger = written(NODE)
    ledger.gone({}, (), is_removed, now_ns=0)
    ledger.gone({NODE: OLD}, (), is_removed, now_ns=NODE_GONE_NS)
    assert ledger.gone({}, (), is_removed, now_ns=NODE_GONE_NS + 1) == []
    assert ledger.gone({}, (), is_removed, now_ns=2 * NODE_GONE_NS + 2) == [NODE]


def test_a_node_object_of_an_earlier_leader_goes_though_nothing_was_written_to_it() -> None:
    ledger = written(NODE)
    ledger.gone({NODE: OLD}, (FORMER,), is_removed, now_ns=0)
    assert ledger.gone({NODE: OLD}, (FORMER,), is_removed, now_ns=NODE_GONE_NS + 1) == [FORMER]


def test_who_leads_again_writes_everything_and_misses_nothing_of_before() -> None:
    ledger = written(NODE, POLICY)
    ledger.gone({}, (FORMER,), is_removed, now_ns=0)
    ledger.forget()
    assert ledger.changed({POLICY: OLD}) == [POLICY]
    assert ledger.gone({}, (FORMER,), is_removed, now_ns=NODE_GONE_NS + 1) == [], "another leader has written since"


def test_v6_what_an_earlier_leader_reported_on_and_nobody_has_heard_of_goes_after_a_while() -> None:
    """Its node object is there still, so the node itself may come back: the agent has gone for good."""
    unheard, policy = ObjectKey(Kind.NODE, "kube-system", "unheard"), ObjectKey(Kind.POLICY, "", "left")
    ledger = StatusLedger()
    assert ledger.gone({}, (unheard, policy), is_removed, now_ns=0) == []
    assert ledger.gone({}, (unheard, policy), is_removed, now_ns=NODE_GONE_NS) == []
    assert ledger.gone({}, (unheard, policy), is_removed, now_ns=UNHEARD_NS) == [policy]
    assert ledger.gone({}, (unheard, policy), is_removed, now_ns=UNHEARD_NS + 1) == [unheard, policy]
    # One that is heard of in time stays.
    ledger.forget()
    ledger.gone({}, (unheard,), is_removed, now_ns=0)
    ledger.gone({unheard: OLD}, (unheard,), is_removed, now_ns=UNHEARD_NS)
    assert ledger.gone({}, (unheard,), is_removed, now_ns=UNHEARD_NS + 1) == []
