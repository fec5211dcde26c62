"""Made anew where something has changed, and never else."""

from service.model.kept import Kept


class Maker:
    def __init__(self) -> None:
        self.says: object = [1]
        self.asked = 0

    def __call__(self) -> object:
        self.asked += 1
        return self.says


def test_it_is_made_anew_only_where_a_source_differs() -> None:
    kept, make = Kept[object](), Maker()
    one = (1, 2)
    assert kept.of(make, one, "a") is kept.of(make, one, "a")
    assert kept.of(make, (1, 2), "a") is make.says, "another object that says the same"
    assert make.asked == 1
    kept.of(make, one, "b")
    assert make.asked == 2


def test_what_is_made_anew_and_says_the_same_is_the_same_object() -> None:
    """So what is made of it in turn is kept too."""
    kept, make = Kept[object](), Maker()
    first = kept.of(make, 1)
    make.says = [1]
    assert kept.of(make, 2) is first
    make.says = [2]
    assert kept.of(make, 3) == [2]


def test_none_is_a_value_too_and_what_is_forgotten_is_made_anew() -> None:
    kept, make = Kept[object](), Maker()
    make.says = None
    assert kept.of(make, 1) is kept.of(make, 1) is None
    assert make.asked == 1
    kept.forget()
    kept.of(make, 1)
    assert make.asked == 2


def test_what_could_not_be_made_is_tried_again() -> None:
    kept = Kept[int]()

    def refuse() -> int:
        raise ValueError

    assert kept.of(lambda: 1, 1) == 1
    for _ in range(2):
        try:
            kept.of(refuse, 2)
        except ValueError:
            continue
        raise AssertionError("the former value was taken for that of other sources")
