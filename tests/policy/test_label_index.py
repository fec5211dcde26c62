import pickle

from service.policy.label_index import LabelIndex
from service.policy.selector import Constraint


def test_it_answers_equality_membership_and_existence() -> None:
    index: LabelIndex[str] = LabelIndex()
    index.add("a", {"role": "front"})
    index.add("b", {"role": "back"})
    index.add("c", {"tier": "1"})
    assert list(index.items(Constraint("role", ("front",)))) == ["a"]
    assert list(index.items(Constraint("role", ("back", "front", "none")))) == ["b", "a"]
    assert index.count(Constraint("role", None)) == 2
    assert index.count(Constraint("nobody", None)) == 0


def test_removal_leaves_nothing_behind() -> None:
    index: LabelIndex[int] = LabelIndex()
    for number in range(100):
        index.add(number, {"pod-template-hash": str(number)})
    for number in range(100):
        index.remove(number, {"pod-template-hash": str(number)})
    assert index.count(Constraint("pod-template-hash", None)) == 0
    # Not even an empty bucket: byte for byte it is one that never held anything.
    assert pickle.dumps(index) == pickle.dumps(LabelIndex())
