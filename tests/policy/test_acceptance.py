from service.policy.acceptance import PolicyReason, judge
from tests.policy.objects import gateway, policy, policy_key

OLD, NEW = "2024-01-01T00:00:00.000000000Z", "2024-01-01T00:00:00.000000001Z"
GATEWAY = gateway("192.168.1.100")


def test_the_older_policy_of_an_address_wins_and_the_other_hears_why() -> None:
    verdicts = judge([policy("a", created=NEW), policy("b", created=OLD)], GATEWAY, pod_cidrs_known=True)
    assert verdicts[policy_key("b")].accepted
    refused = verdicts[policy_key("a")]
    assert (refused.accepted, refused.reason) == (False, PolicyReason.EGRESS_IP_CONFLICT)
    assert "policy b" in refused.message


def test_ties_go_by_name() -> None:
    verdicts = judge([policy("b"), policy("a")], GATEWAY, pod_cidrs_known=True)
    assert verdicts[policy_key("a")].accepted
    assert not verdicts[policy_key("b")].accepted


def test_an_address_no_gateway_lists_keeps_the_policy_in_force() -> None:
    for holder in (None, gateway(), gateway("192.168.1.7")):
        verdict = judge([policy("a")], holder, pod_cidrs_known=True)[policy_key("a")]
        assert (verdict.accepted, verdict.reason) == (True, PolicyReason.UNKNOWN_EGRESS_IP)
        assert "192.168.1.100" in verdict.message
        assert "dropped" in verdict.message


def test_everything_is_refused_as_destination_while_no_pod_range_is_known() -> None:
    whole = policy("a", to=("0.0.0.0/0",), created=OLD)
    verdicts = judge([whole, policy("b", created=NEW)], GATEWAY, pod_cidrs_known=False)
    assert verdicts[policy_key("a")].reason is PolicyReason.CLUSTER_CIDRS_UNKNOWN
    assert not verdicts[policy_key("a")].accepted
    # What can never be in force does not stand in the way of a younger policy.
    assert verdicts[policy_key("b")].accepted
    assert judge([whole], GATEWAY, pod_cidrs_known=True)[policy_key("a")].accepted
