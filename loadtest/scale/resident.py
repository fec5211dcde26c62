"""What members of the cluster take of the memory of each process that knows them: agent and controller alike."""

import asyncio
import gc
import tempfile
import tracemalloc
from pathlib import Path

from loadtest.driven_agent import DrivenAgent
from service.model.errors import TransientError


def members_mb(count: int) -> float:
    """MB of Python's objects once so many members have told of themselves by gossip, each as a gateway node of one
    segment, and all of them have been asked for. Raises TransientError where they are not known."""
    with tempfile.TemporaryDirectory(prefix="egressgw-resident-") as folder:
        return asyncio.run(_members_mb(count, Path(folder)))


async def _members_mb(count: int, folder: Path) -> float:
    agent = DrivenAgent(folder)
    gc.collect()
    tracemalloc.start()
    try:
        agent.meet(count)
        nodes = agent.cluster.gateway_nodes()
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if len(nodes) < count - 1:
        raise TransientError(f"{len(nodes)} of {count} members are known")
    return held / 1e6
