"""Beside a CNI that was not tested with the agent takes no policies, and says why (rule N2)."""

from service.agent.cni_in_place import CniInPlace
from service.model.objects import Delete, Synced, Upsert
from tests.policy.objects import gateway, policy

POLICY = policy("alice")
BATCH = (Upsert(gateway("192.168.1.100")), Upsert(POLICY), Delete(POLICY.key), Synced())


def test_n2_policies_are_not_taken_and_everything_else_is() -> None:
    cni = CniInPlace(is_tried=False)
    cni.look(["eth0", "cilium_host"])
    assert cni.admit(BATCH) == (BATCH[0], BATCH[3])
    (reason,) = cni.reasons()
    assert "Cilium (device cilium_host)" in reason


def test_beside_any_other_cni_all_is_taken() -> None:
    cni = CniInPlace(is_tried=False)
    cni.look(["eth0", "cni0"])
    assert cni.admit(BATCH) == BATCH
    assert (cni.name, cni.reasons()) == ("", [])


def test_who_wants_it_tried_gets_it() -> None:
    cni = CniInPlace(is_tried=True)
    cni.look(["eth0", "cilium_host"])
    assert cni.admit(BATCH) == BATCH
    assert (cni.name, cni.reasons()) == ("", [])
