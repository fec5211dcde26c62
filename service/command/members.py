"""The audit records of a whole cluster without Kafka: each member is asked for its newest ones, over HTTP."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.model.errors import OperatorError, TransientError

if TYPE_CHECKING:
    from service.audit.consumer import Extent, Item
    from service.web.client import Records

_AT_ONCE = 16
_TIMEOUT_S = 5.0


@dataclass(slots=True)
class MemberSource:
    """What one member gave, or why it gave nothing; see AuditSource."""

    url: str
    records: "Records | None"
    trouble: str = ""
    extents: "list[Extent]" = field(default_factory=list)

    async def items(self, *, follow: bool) -> "AsyncIterator[Item]":
        """Every record that it gave. Raises OperatorError for `follow`: a member is asked once."""
        from service.audit.cloud_event import decode
        from service.audit.consumer import CaughtUp, Entry, Extent, Unreadable
        from service.model.errors import PeerError

        if follow:
            raise OperatorError("--url: members are asked once; follow outboxes or the topic")
        self.extents = [Extent(self.url, False, self.records is None or not self.records.is_whole, is_published=False)]
        if self.records is None:
            yield Unreadable(self.url, self.url, self.trouble)
        for number, payload in enumerate(self.records.payloads if self.records else ()):
            place = f"{self.url}#{number}"
            try:
                yield Entry(self.url, place, 1, payload, decode(payload))
            except PeerError as error:
                yield Unreadable(self.url, place, str(error))
        if self.records is not None and not self.records.is_whole:
            yield Unreadable(self.url, self.url, "it gives its newest records only, and has older ones")
        yield CaughtUp()


def member_sources(url: str) -> list[MemberSource]:
    """Ask every member that the process at `url` knows. Raises TransientError where that one does not answer."""
    from service.web.client import fetch_status, member_urls

    urls = member_urls(fetch_status(url, timeout_s=_TIMEOUT_S), url)
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        return list(pool.map(_ask, urls))


def _ask(url: str) -> MemberSource:
    from service.web.client import fetch_records

    try:
        return MemberSource(url, fetch_records(url, timeout_s=_TIMEOUT_S))
    except TransientError as error:
        return MemberSource(url, None, str(error))
