"""The far end that speaks by itself: pushes to whoever connects, and opens connections to pods through their nodes.

Log lines are those of `service.lab.outside` for what is pushed to, and those of `client` (kind `inbound`) for what is
opened from here.
"""

import argparse
import asyncio
import json
import os
import time

PUSH_PORT = 8092
INBOUND_PORT = 30080
"""Of each node; the chaos site has it translated to a pod, as a NodePort is."""
PUSH_S = 0.2
ANSWER_S = 1.0


def _append(path: str, entry: dict[str, object], descriptors: dict[str, int]) -> None:
    if path not in descriptors:
        descriptors[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptors[path], (json.dumps(entry) + "\n").encode())


async def _push(log: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    source, port = writer.get_extra_info("peername")[:2]
    descriptors: dict[str, int] = {}
    try:
        payload = (await asyncio.wait_for(reader.readline(), 5)).decode("ascii", "replace").strip()
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        call = {"time_ns": now_ns, "proto": "tcp", "source": source, "source_port": port, "payload": payload}
        _append(log, call, descriptors)
        while True:
            writer.write(f"{source} {port}\n".encode())
            await asyncio.wait_for(writer.drain(), 10)
            await asyncio.sleep(PUSH_S)
    except (OSError, TimeoutError):
        pass  # The pod is gone, or silent.
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
        writer.transport.abort()


async def _call(node: str, address: str, source: str, log: str) -> None:
    """A connection to a pod through its node, again and again, with requests on it for a while."""
    descriptors: dict[str, int] = {}

    def say(what: str, detail: str) -> None:
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        _append(log, {"t": now_ns, "pod": node, "kind": "inbound", "what": what, "detail": detail}, descriptors)

    while True:
        writer = None
        try:
            # From an address that the policies name: what is opened from outside is none of their business.
            opening = asyncio.open_connection(address, INBOUND_PORT, local_addr=(source, 0))
            reader, writer = await asyncio.wait_for(opening, ANSWER_S)
            say("opened", "")
            while True:
                writer.write(b"hello\n")
                if not await asyncio.wait_for(reader.readline(), 8):
                    raise ConnectionError
                say("ok", "")
                await asyncio.sleep(0.25)
        except (OSError, TimeoutError) as error:
            say("broken" if writer else "lost", type(error).__name__)
        finally:
            if writer is not None:
                writer.transport.abort()
        await asyncio.sleep(0.25)


async def run(options: argparse.Namespace) -> None:
    """Serve and call until killed."""
    server = await asyncio.start_server(lambda r, w: _push(options.log, r, w), "0.0.0.0", PUSH_PORT)
    async with server, asyncio.TaskGroup() as group:
        for target in options.node:
            name, _, address = target.partition("=")
            group.create_task(_call(name, address, options.source, options.flows))
        group.create_task(server.serve_forever())


def main() -> None:
    """`python -m loadtest.chaos.outside`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--log", required=True, help="of what is pushed to")
    parser.add_argument("--flows", required=True, help="of what is opened from here")
    parser.add_argument("--source", required=True, help="address that connections are opened from")
    parser.add_argument("--node", action="append", default=[], metavar="NAME=ADDRESS")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
