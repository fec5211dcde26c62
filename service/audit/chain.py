"""The records of one outbox, made one after the other: each has the next sequence and the digest of the one before.

So none can be taken away, doubled or altered unseen (`verification` checks it). Sequences count per boot, digests go on
over boots. A record is part of the chain once it is made: whoever makes one has to write it, or to say that it is lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypedDict

from service.audit.cloud_event import digest, encode
from service.audit.segment import PAYLOAD_BYTES_MAX
from service.model.audit_record import AuditRecord, RecordKind

_REASON_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where records come from: what all of one outbox have in common."""

    node: str
    boot_id: str
    """Of the machine (/proc/sys/kernel/random/boot_id): boot-time clocks and sequences count within one boot."""
    cluster: str = "default"
    component: str = ""
    """The process: agent, keeper or controller; empty where it does not matter who acted."""

    @property
    def actor(self) -> str:
        """Such as `agent/worker1`."""
        return f"{self.component}/{self.node}" if self.component else ""


class Facts(TypedDict, total=False):
    """What is recorded of one event; AuditRecord says what each of them means."""

    subject: str
    token: tuple[int, int, int] | None
    holder: str
    previous: str
    reason: str
    detail: dict[str, str]
    generation: int


class Chain:
    """`clock` returns (wall_ns, boot_ns); `context` the leader's term and the electorate's epoch as known here.

    `name` is of the outbox. An older one goes on under the name that its records carry: see `resume`.
    """

    def __init__(
        self,
        origin: Origin,
        name: str,
        *,
        clock: Callable[[], tuple[int, int]],
        context: Callable[[], tuple[int, int]],
    ) -> None:
        self._origin = origin
        self._name = name
        self._clock = clock
        self._context = context
        self._sequence = 0
        self._digest = ""
        """Of the last record; empty before the very first."""

    def begin_unread(self) -> None:
        """Go on where the old records cannot be read, so that no sequence is given out twice in this boot.

        Microseconds since boot are beyond any of them.
        """
        self._sequence = self._clock()[1] // 1000

    def resume(self, sequence: int, name: str, last_digest: str) -> None:
        """Go on behind the newest record: its sequence in this boot, its outbox's name (empty: none), its digest."""
        self._sequence = sequence
        self._name = name or self._name
        # Records without a name were written before there were chains.
        self._digest = last_digest if name else ""

    def next(self, kind: RecordKind, facts: Facts) -> tuple[AuditRecord, bytes]:
        """Make the record of something that happened now; return it and how it is encoded.

        A reason and a detail that are too long for a frame, or no text, are cut in the bytes, which say so.
        """
        self._sequence += 1
        wall_ns, boot_ns = self._clock()
        term, lease_epoch = self._context()
        record = AuditRecord(
            kind=kind,
            node=self._origin.node,
            boot_id=self._origin.boot_id,
            sequence=self._sequence,
            wall_time_ns=wall_ns,
            boot_time_ns=boot_ns,
            outbox=self._name,
            prev=self._digest,
            actor=self._origin.actor,
            term=term,
            lease_epoch=lease_epoch,
            **facts,
        )
        record = replace(record, detail={key: str(value) for key, value in record.detail.items()})
        payload = self._encode(record)
        self._digest = digest(payload)
        return record, payload

    def _encode(self, record: AuditRecord) -> bytes:
        cluster = self._origin.cluster
        try:
            payload = encode(record, cluster=cluster)
        except UnicodeEncodeError:  # a surrogate from a file name or a process's output
            return self._encode(
                replace(record, reason=ascii(record.reason), detail={"unreadable": ascii(record.detail)})
            )
        if len(payload) > PAYLOAD_BYTES_MAX:
            reason = record.reason[:_REASON_CHARS_MAX]
            short = replace(record, reason=reason, detail={"truncatedBytes": str(len(payload))})
            payload = encode(short, cluster=cluster)
        return payload
