"""One recording process as the chaos test runs it: an outbox and its publisher, put together as the agent does it.

It appends assignment events in small bursts and prints `durable GENERATION COUNT` when the outbox has made the first
COUNT of this generation durable, `outbox REASON` when the outbox's state changes. When its standard input ends it stops
appending, waits until everything is published, prints `done` and ends.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from service.audit.outbox import Origin, Outbox
from service.audit.publisher import Publisher
from service.host import clock, identity, signals
from service.model.audit_record import RecordKind
from service.settings import load_settings

ADDRESSES = 20
BURST = 8
PENDING_MAX = 2000
SEGMENT_BYTES = 64 * 1024


def event(node: int, number: int) -> str:
    """The floating IP that the event is about: each process has its own."""
    return f"10.0.{node}.{number % ADDRESSES}"


async def main(arguments: argparse.Namespace) -> None:
    name = f"worker{arguments.node}"
    kafka = {"bootstrap_servers": [arguments.brokers], "request_timeout_ms": 2000}
    settings = load_settings(None, {"node": name, "kafka": kafka})
    outbox = Outbox(
        arguments.folder,
        Origin(name, identity.boot_id(), component="agent"),
        clock=lambda: (clock.wall_ns(), clock.boot_ns()),
        segment_bytes=SEGMENT_BYTES,
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stopping.set)
    publisher = Publisher(settings.kafka, outbox, node=name)
    async with publisher, outbox, asyncio.TaskGroup() as group:
        tasks = [group.create_task(outbox.run()), group.create_task(publisher.run())]
        await record(outbox, arguments, stopping)
        is_idle = False
        while not is_idle:
            await asyncio.sleep(0.2)
            is_idle = await outbox.flush(5) and publisher.state.published > 0 and not publisher.state.lag_seconds
        for task in tasks:
            task.cancel()
    say("done")


async def record(outbox: Outbox, arguments: argparse.Namespace, stopping: asyncio.Event) -> None:
    number, reason = 0, ""
    while not stopping.is_set():
        for _ in range(BURST if outbox.state.pending < PENDING_MAX else 0):
            number += 1
            outbox.append(
                RecordKind.ASSIGNED,
                subject=event(arguments.node, number),
                token=(1, arguments.generation, number),
                holder=f"worker{number % 3}",
            )
        if await outbox.flush(0.5):
            say(f"durable {arguments.generation} {number}")
        if reason != outbox.reason:
            reason = outbox.reason
            say(f"outbox {reason or 'healthy'}")
        await asyncio.sleep(BURST / arguments.rate)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--node", type=int, required=True)
    parser.add_argument("--generation", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    signals.run_until_signalled(lambda: main(parser.parse_args()))
