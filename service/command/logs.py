"""Where the commands `egressgw audit ...` read, as their options say. Imports happen when they run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from service.audit.consumer import AuditSource, Entry, Unreadable

DEFAULT_STATE = "/var/lib/egressgw"
_OUTBOXES = ("outbox", "keeper-outbox")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Logs:
    """Where to read, as the options say."""

    outboxes: tuple[Path, ...]
    kafka: str | None
    topic: str | None
    config: str | None
    url: str | None = None

    def sources(self) -> "list[AuditSource]":
        """Outboxes first: what they hold is then in the topic, or not there yet."""
        from service.audit.consumer import KafkaSource, OutboxSource
        from service.command.members import member_sources
        from service.settings import KafkaSettings, load_settings

        kafka, outboxes = KafkaSettings(), self.outboxes
        if self.config:
            settings = load_settings(self.config)
            kafka = settings.kafka
            if not outboxes and not self.kafka and not kafka.bootstrap_servers:
                outboxes = _outboxes_of(Path(settings.state_dir))
        if self.kafka:
            kafka = _changed(kafka, bootstrap_servers=tuple(filter(None, self.kafka.split(","))))
        if self.topic:
            kafka = _changed(kafka, topic=self.topic)
        if not outboxes and not kafka.bootstrap_servers and not self.url:
            outboxes = _outboxes_of(Path(DEFAULT_STATE))
        sources: list[AuditSource] = [OutboxSource(folder) for folder in outboxes]
        if self.url:
            sources += member_sources(self.url)
        if kafka.bootstrap_servers:
            sources.append(KafkaSource(kafka))
        return sources


def _outboxes_of(state: Path) -> tuple[Path, ...]:
    """Those of a node's processes; where there is none, the agent's, so that it is told which one is missing."""
    return tuple(state / name for name in _OUTBOXES if (state / name).is_dir()) or (state / _OUTBOXES[0],)


def _changed(settings: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(settings, **changes)


def log_options(command: F) -> F:
    """Give a command the options that say where to read, as its first argument, and `--json`."""

    def with_logs(
        *,
        outboxes: tuple[Path, ...],
        kafka: str | None,
        topic: str | None,
        config: str | None,
        url: str | None,
        **more: Any,
    ) -> Any:
        return command(Logs(outboxes, kafka, topic, config, url), **more)

    with_logs.__doc__, with_logs.__name__ = command.__doc__, command.__name__
    wrapped: Any = with_logs
    wrapped.__click_params__ = getattr(command, "__click_params__", [])
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--config", metavar="FILE", help="Settings file, for how to reach Kafka (TLS, SASL)."),
        click.option("--url", metavar="URL", help="Ask this agent or controller, and every member that it knows."),
        click.option("--topic", metavar="NAME", help="Default: egress-gateway.assignments."),
        click.option("--kafka", metavar="HOST:PORT,...", help="Read the topic from these brokers."),
        click.option(
            "--outbox",
            "outboxes",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="DIR",
            help=f"Outbox folder; give it once for each. Default: those in {DEFAULT_STATE} where no Kafka is given.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def read(logs: Logs) -> "list[Entry]":
    """All readable records; what is missing from them is told on standard error."""
    import asyncio

    from service.audit.consumer import Unreadable, read_all
    from service.model.audit_record import RecordKind

    entries = []
    for item in asyncio.run(read_all(logs.sources())):
        if isinstance(item, Unreadable):
            warn(item)
            continue
        entries.append(item)
        record = item.record
        if record.kind is RecordKind.GAP:
            count = record.detail.get("records", "some")
            click.echo(f"egressgw: warning: {record.node}: {count} records are missing: {record.reason}", err=True)
    return entries


def warn(item: "Unreadable") -> None:
    """Tell on standard error what could not be read."""
    click.echo(f"egressgw: warning: bytes at {item.place} are not readable: {item.reason}", err=True)


def dotted(token: tuple[int, int, int] | None) -> str:
    """A token as people see it; empty for none."""
    return ".".join(str(part) for part in token) if token is not None else ""
