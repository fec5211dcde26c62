"""Times as people type them in the middle of the night. Pure."""

import re

from service.audit.cloud_event import format_time, parse_time

_SECOND = 1_000_000_000
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"(\d{1,6})([smhd])")
_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


def parse_moment(text: str, *, now_ns: int) -> int:
    """Unix nanoseconds of `12h` ago (s, m, h, d), of the last `03:12` or `03:12:30` UTC, or of an RFC 3339 time.

    Raises ValueError, which says what can be written.
    """
    if ago := _AGO.fullmatch(text):
        return now_ns - int(ago[1]) * _UNITS_S[ago[2]] * _SECOND
    if of_day := _OF_DAY.fullmatch(text):
        return _last(3600 * int(of_day[1]) + 60 * int(of_day[2]) + int(of_day[3] or 0), now_ns)
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no time: write 12h (ago), 03:12 (UTC, the last one) or {format_time(now_ns)[:19]}Z"
        ) from error


def _last(second_of_day: int, now_ns: int) -> int:
    """The newest moment, not after now, at that second of a UTC day; Unix days have no leap seconds."""
    day_ns = _UNITS_S["d"] * _SECOND
    moment_ns = now_ns // day_ns * day_ns + second_of_day * _SECOND
    return moment_ns if moment_ns <= now_ns else moment_ns - day_ns
