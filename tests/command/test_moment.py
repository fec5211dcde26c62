"""Times as people type them."""

import pytest

from service.audit.cloud_event import parse_time
from service.command.moment import parse_moment

NOW = "2026-11-28T04:30:00Z"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", "2026-11-28T04:28:30Z"),
        ("15m", "2026-11-28T04:15:00Z"),
        ("12h", "2026-11-27T16:30:00Z"),
        ("2d", "2026-11-26T04:30:00Z"),
        ("03:12", "2026-11-28T03:12:00Z"),
        ("3:12:30", "2026-11-28T03:12:30Z"),
        ("04:30", "2026-11-28T04:30:00Z"),
        ("04:31", "2026-11-27T04:31:00Z"),
        ("23:59:59", "2026-11-27T23:59:59Z"),
        ("2026-11-24T03:12:00Z", "2026-11-24T03:12:00Z"),
        ("2026-11-24T03:12:00+01:00", "2026-11-24T02:12:00Z"),
        ("2026-11-24", "2026-11-24T00:00:00Z"),
    ],
)
def test_a_time_is_understood(text: str, moment: str) -> None:
    assert parse_moment(text, now_ns=parse_time(NOW)) == parse_time(moment)


@pytest.mark.parametrize("text", ["noon", "", "24:00", "03:60", "12", "12 h", "-5m", "1w", "03:12Z"])
def test_what_is_no_time_is_told_with_what_can_be_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"write 12h \(ago\), 03:12 \(UTC, the last one\) or 2026-11-28T04:30:00Z"):
        parse_moment(text, now_ns=parse_time(NOW))
