"""Creation times in one form: RFC 3339, UTC, nine digits of a second, so that text order is age order."""

import re
from datetime import UTC, datetime, timedelta

_RFC3339 = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_SECOND_NS = 1_000_000_000


def timestamp_from_ns(wall_time_ns: int) -> str:
    """Write nanoseconds since 1970."""
    seconds, fraction = divmod(wall_time_ns, _SECOND_NS)
    return _write(datetime.fromtimestamp(seconds, UTC), f"{fraction:09}")


def microseconds_from_ns(wall_time_ns: int) -> str:
    """Write nanoseconds since 1970 with six digits of a second: what Kubernetes calls MicroTime, and Events need."""
    return f"{timestamp_from_ns(wall_time_ns)[:-4]}Z"


def normal_timestamp(text: str) -> str:
    """Rewrite any RFC 3339 time. Raises ValueError where it is not one."""
    found = _RFC3339.fullmatch(text.strip())
    if found is None:
        raise ValueError("not an RFC 3339 time")
    date, clock, fraction, offset = found.groups()
    moment = datetime.fromisoformat(f"{date}T{clock}").replace(tzinfo=UTC)
    if offset not in "Zz":
        hours, minutes = int(offset[1:3]), int(offset[4:6])
        shift = timedelta(hours=hours, minutes=minutes)
        try:
            moment += shift if offset[0] == "-" else -shift
        except OverflowError as error:
            raise ValueError("out of range") from error
    return _write(moment, (fraction or "").ljust(9, "0"))


def _write(moment: datetime, fraction: str) -> str:
    return f"{moment.year:04}-{moment:%m-%dT%H:%M:%S}.{fraction}Z"
