import pytest

from loadtest.statistics import median, percentile, ratio_median


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [30.0, 10.0, 20.0, 40.0]
    assert [percentile(values, fraction) for fraction in (0.25, 0.26, 0.5, 0.75, 1.0)] == [10, 20, 20, 30, 40]


def test_p99_of_few_values_is_their_maximum_and_of_many_is_not() -> None:
    assert percentile([float(value) for value in range(99)], 0.99) == 98
    assert percentile([float(value) for value in range(1, 201)], 0.99) == 198


def test_median_of_an_even_number_is_between_the_middle_two() -> None:
    assert median([4.0, 1.0, 3.0]) == 3
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_an_empty_sample_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="no values"):
        median([])
    with pytest.raises(ValueError, match="fraction"):
        percentile([1.0], 0)


def test_ratios_are_taken_within_a_round() -> None:
    # A disturbed second round doubles both values and must not show.
    assert ratio_median([10.0, 20.0, 11.0], [5.0, 10.0, 5.5]) == 2
    assert ratio_median([1.0], [0.0]) is None
