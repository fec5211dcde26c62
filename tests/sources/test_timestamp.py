import pytest

from service.sources.timestamp import microseconds_from_ns, normal_timestamp, timestamp_from_ns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00.000000000Z"),
        ("2024-05-01T12:00:00.5Z", "2024-05-01T12:00:00.500000000Z"),
        ("2024-05-01t12:00:00.123456789z", "2024-05-01T12:00:00.123456789Z"),
        ("2024-05-01T12:00:00+02:00", "2024-05-01T10:00:00.000000000Z"),
        ("2024-05-01 23:30:00-01:30", "2024-05-02T01:00:00.000000000Z"),
    ],
)
def test_every_form_becomes_the_one_form(text: str, expected: str) -> None:
    assert normal_timestamp(text) == expected


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2024-05-01", "2024-13-01T00:00:00Z", "2024-05-01T25:00:00Z", "0001-01-01T00:00:00+01:00"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        normal_timestamp(text)


def test_text_order_is_age_order() -> None:
    times = [0, 1, 999_999_999, 1_000_000_000, 1_714_521_600_000_000_001]
    texts = list(map(timestamp_from_ns, times))
    assert texts == sorted(texts)
    assert len({len(text) for text in texts}) == 1
    assert texts[-1] == "2024-05-01T00:00:00.000000001Z"


def test_events_get_microseconds_cut_and_not_rounded() -> None:
    assert microseconds_from_ns(1_714_521_600_999_999_999) == "2024-05-01T00:00:00.999999Z"
    assert microseconds_from_ns(0) == "1970-01-01T00:00:00.000000Z"
