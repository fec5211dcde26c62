"""Rule W13: which hook a device gives us, whatever others have put on it."""

import pytest

from service.model.errors import TransientError
from service.network.hook import Direction, HookKind, Occupancy, choose_hook

NOTHING = Occupancy()
CLSACT = Occupancy("clsact")
INGRESS = Occupancy("ingress")
SHAPED = Occupancy("ingress", "u32", redirect=7)
SHAPED_IN_CLSACT = Occupancy("clsact", "matchall", redirect=7)
POLICED = Occupancy("clsact", "u32")


@pytest.mark.parametrize("occupancy", [NOTHING, CLSACT, INGRESS, SHAPED, POLICED])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_tcx_is_taken_wherever_the_kernel_has_it(direction: Direction, occupancy: Occupancy) -> None:
    assert choose_hook(direction, occupancy, has_tcx=True) is HookKind.TCX


@pytest.mark.parametrize(
    ("direction", "occupancy", "kind"),
    [
        ("ingress", NOTHING, HookKind.CLSACT),
        ("egress", NOTHING, HookKind.CLSACT),
        ("ingress", CLSACT, HookKind.CLSACT),
        ("egress", CLSACT, HookKind.CLSACT),
        ("ingress", INGRESS, HookKind.INGRESS),
        ("ingress", SHAPED, HookKind.IFB),
        ("ingress", SHAPED_IN_CLSACT, HookKind.IFB),
    ],
)
def test_without_tcx_it_is_a_filter_that_sees_every_packet(
    direction: Direction, occupancy: Occupancy, kind: HookKind
) -> None:
    assert choose_hook(direction, occupancy, has_tcx=False) is kind


@pytest.mark.parametrize(
    ("direction", "occupancy", "reason"),
    [
        ("egress", INGRESS, "no room for egress"),
        ("egress", SHAPED, "no room for egress"),
        ("ingress", POLICED, "u32 filter runs before ours"),
        ("egress", POLICED, "u32 filter runs before ours"),
    ],
)
def test_half_a_fence_is_refused_with_the_reason(direction: Direction, occupancy: Occupancy, reason: str) -> None:
    with pytest.raises(TransientError, match=reason):
        choose_hook(direction, occupancy, has_tcx=False)
