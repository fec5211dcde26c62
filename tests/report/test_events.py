from service.model.object_event import ObjectEvent
from service.model.objects import Kind, ObjectKey
from service.report.events import BURST, REFILL_NS, REPEAT_NS, EventRecorder

KEY = ObjectKey(Kind.POLICY, "", "egress")
OTHER = ObjectKey(Kind.POLICY, "", "other")


def event(
    note: str = "unknown", *, key: ObjectKey = KEY, reason: str = "UnknownEgressIP", subject: str = ""
) -> ObjectEvent:
    return ObjectEvent(key, reason, note, "Judge", True, subject)


def test_a_problem_is_said_once_and_again_after_a_while() -> None:
    recorder = EventRecorder()
    said = []
    for now_ns in range(0, 3 * REPEAT_NS, REPEAT_NS // 100):
        recorder.hold([event()], now_ns=now_ns)
        said += [now_ns for _ in recorder.due(now_ns=now_ns)]
    assert said == [0, REPEAT_NS, 2 * REPEAT_NS]


def test_a_problem_that_comes_back_is_said_again() -> None:
    recorder = EventRecorder()
    for problems in ([event()], [], [event()]):
        recorder.hold(problems, now_ns=0)
        assert recorder.due(now_ns=0) == problems


def test_a_problem_over_before_it_was_said_is_never_said() -> None:
    recorder = EventRecorder()
    recorder.hold([event()], now_ns=0)
    recorder.hold([], now_ns=0)
    assert recorder.due(now_ns=0) == []


def test_another_note_is_another_event() -> None:
    recorder = EventRecorder()
    recorder.hold([event("a")], now_ns=0)
    assert recorder.due(now_ns=0) == [event("a")]
    recorder.hold([event("b")], now_ns=0)
    assert recorder.due(now_ns=0) == [event("b")]


def test_a_flood_is_cut_to_the_budget_and_counted() -> None:
    recorder = EventRecorder()
    said = []
    for index in range(1000):
        recorder.occur(event(f"move {index}", reason="FloatingIPMoved"))
        said += recorder.due(now_ns=0)
    assert len(said) == BURST
    (last,) = recorder.due(now_ns=REFILL_NS)
    assert last.note == f"move 999 (stands for {1000 - BURST - 1} more like it)"
    assert recorder.due(now_ns=10 * REFILL_NS) == []


def test_one_objects_flood_is_not_anothers() -> None:
    recorder = EventRecorder()
    for index in range(100):
        recorder.occur(event(f"move {index}"))
        recorder.due(now_ns=0)
    recorder.occur(event(key=OTHER))
    assert event(key=OTHER) in recorder.due(now_ns=0)


def test_subjects_of_one_object_do_not_replace_each_other() -> None:
    recorder = EventRecorder()
    moves = [event(f"{address} moved", subject=address) for address in ("10.0.0.1", "10.0.0.2")]
    for move in moves:
        recorder.occur(move)
    assert recorder.due(now_ns=0) == moves


def test_what_could_not_be_posted_comes_back_at_no_cost() -> None:
    recorder = EventRecorder()
    recorder.occur(event())
    for _ in range(100):
        (found,) = recorder.due(now_ns=0)
        recorder.put_back(found)
    assert recorder.due(now_ns=0) == [event()]


def test_a_new_leader_says_what_is_still_wrong() -> None:
    recorder = EventRecorder()
    recorder.hold([event()], now_ns=0)
    recorder.due(now_ns=0)
    recorder.forget()
    recorder.hold([event()], now_ns=1)
    assert recorder.due(now_ns=1) == [event()]


def test_what_waits_is_bounded_and_a_lost_problem_is_said_later() -> None:
    recorder = EventRecorder()
    problems = [event(key=ObjectKey(Kind.POLICY, "", f"p{index}")) for index in range(3000)]
    said: dict[ObjectEvent, None] = {}
    for now_ns in range(5):
        recorder.hold(problems, now_ns=now_ns)
        said |= dict.fromkeys(recorder.due(now_ns=now_ns))
    assert recorder.lost > 0
    assert len(said) == 3000
