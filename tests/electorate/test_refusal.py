"""What the owner of the electorate object is told: what lasts, once, and until it is over."""

from service.electorate.refusal import LASTING_NS, TOLD_NS, Refusal
from service.model.object_event import ObjectEvent
from service.model.objects import Kind, ObjectKey

KEY = ObjectKey(Kind.CONFIG_MAP, "egressgw-system", "egressgw-electorate")
SECOND = 1_000_000_000
FAULT, OTHER = "epoch 9 of b, c is refused", "epoch 2 of a is refused"


def event_of(note: str) -> ObjectEvent:
    return ObjectEvent(KEY, "ElectorateRefused", note, "Judge", True, uid="u1")


class Owner:
    def __init__(self) -> None:
        self.now_ns = 0
        self.refusal = Refusal(KEY.namespace, KEY.name)

    def sees(self, note: str, *, after_ns: int = 0, is_final: bool = False) -> ObjectEvent | None:
        self.now_ns += after_ns
        self.refusal.see(note, uid="u1", is_final=is_final, now_ns=self.now_ns)
        return self.refusal.event(now_ns=self.now_ns)


def test_what_lasts_is_told_and_what_is_wrong_for_a_moment_is_not() -> None:
    owner = Owner()
    assert owner.sees(FAULT) is None
    assert owner.sees("", after_ns=LASTING_NS - 1) is None
    assert owner.sees(FAULT) is None
    assert owner.sees(FAULT, after_ns=LASTING_NS) == event_of(FAULT)


def test_what_is_written_anew_for_it_is_told_at_once_and_for_long_enough_to_be_posted() -> None:
    owner = Owner()
    assert owner.sees(FAULT, is_final=True) == event_of(FAULT)
    assert owner.sees("", after_ns=SECOND) == event_of(FAULT)
    assert owner.sees("", after_ns=TOLD_NS - 1) == event_of(FAULT)
    assert owner.sees("", after_ns=1) is None


def test_other_content_is_another_event_and_the_one_before_stands_until_then() -> None:
    owner = Owner()
    owner.sees(FAULT, is_final=True)
    assert owner.sees(OTHER, after_ns=1) == event_of(FAULT)
    assert owner.sees(OTHER, after_ns=LASTING_NS) == event_of(OTHER)
