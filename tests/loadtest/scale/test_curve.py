import pytest

from loadtest.scale.curve import QUADRATIC, Curve, Point, curve_of, sizes_up_to


def curve(*costs: float) -> Curve:
    sizes = (100, 200, 400, 800)
    return Curve("one more", "of them", "ms", tuple(Point(size, cost) for size, cost in zip(sizes, costs, strict=True)))


def test_a_cost_that_doubles_with_the_size_has_exponent_1_and_a_slope() -> None:
    linear = curve(1, 2, 4, 8)
    assert linear.exponent == pytest.approx(1)
    assert linear.each == pytest.approx(0.01)


def test_a_quadratic_cost_is_told_from_a_linear_one_and_a_constant_one_from_both() -> None:
    assert curve(1, 4, 16, 64).exponent == pytest.approx(2)
    assert curve(1, 4, 16, 64).exponent > QUADRATIC > curve(1, 2, 4, 8).exponent
    assert curve(3, 3, 3, 3).exponent == pytest.approx(0)


def test_what_is_measured_first_is_small_and_never_nothing() -> None:
    assert sizes_up_to(5000) == (625, 1250, 2500, 5000)
    assert sizes_up_to(2) == (1, 2)


def test_a_curve_has_the_costs_in_their_order() -> None:
    assert curve_of("one more", "of them", {2: 5.0, 4: 10.0}).points == (Point(2, 5.0), Point(4, 10.0))
