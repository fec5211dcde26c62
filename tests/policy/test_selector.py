import pytest

from service.policy.selector import Constraint, constraints, is_match, mentioned_keys
from tests.policy.objects import requirement, selector


def test_the_empty_selector_matches_everything() -> None:
    assert is_match(selector(), {})
    assert is_match(selector(), {"role": "frontend"})


def test_all_labels_and_all_expressions_must_hold() -> None:
    chosen = selector({"role": "frontend"}, requirement("tier", "In", "a", "b"))
    assert is_match(chosen, {"role": "frontend", "tier": "b", "more": "x"})
    assert not is_match(chosen, {"role": "frontend", "tier": "c"})
    assert not is_match(chosen, {"tier": "a"})


@pytest.mark.parametrize(
    ("operator", "values", "absent", "equal", "other"),
    [
        ("In", ("x",), False, True, False),
        ("NotIn", ("x",), True, False, True),
        ("Exists", (), False, True, True),
        ("DoesNotExist", (), True, False, False),
    ],
)
def test_operators_mean_what_kubernetes_says(
    operator: str, values: tuple[str, ...], absent: bool, equal: bool, other: bool
) -> None:
    chosen = selector({}, requirement("key", operator, *values))
    assert is_match(chosen, {}) is absent
    assert is_match(chosen, {"key": "x"}) is equal
    assert is_match(chosen, {"key": "y"}) is other


def test_an_empty_label_value_is_a_value() -> None:
    assert is_match(selector({"marker": ""}), {"marker": ""})
    assert not is_match(selector({"marker": ""}), {})


def test_only_positive_requirements_narrow_the_candidates() -> None:
    chosen = selector(
        {"role": "frontend"},
        requirement("tier", "In", "a", "b"),
        requirement("owner", "Exists"),
        requirement("legacy", "DoesNotExist"),
        requirement("zone", "NotIn", "z"),
    )
    assert constraints(chosen) == (
        Constraint("role", ("frontend",)),
        Constraint("tier", ("a", "b")),
        Constraint("owner", None),
    )
    assert mentioned_keys(chosen) == ("role", "tier", "owner", "legacy", "zone")
