"""Keepers in virtual time, for tests of whole ones."""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from service.settings import Settings
from tests.keeper.node import (
    Node,
    free_port,
    settings_of,
    with_memory,
)
from tests.virtual_time import now_ns

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Does at once what it is given: virtual time cannot see a thread that is not the loop's."""

    def __init__(self, **_: object) -> None:
        """Takes what a pool of threads does."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except OSError as error:
            done.set_exception(error)
        return done


def virtual_node(settings: Settings) -> Node:
    return Node(settings, boot_clock=now_ns)


@asynccontextmanager
async def three_nodes(folder: Path) -> AsyncIterator[tuple[list[Node], AsyncExitStack]]:
    port = free_port()
    nodes = [virtual_node(with_memory(settings_of(folder, index, port))) for index in range(3)]
    async with AsyncExitStack() as stack:
        for node in nodes[1:]:
            await stack.enter_async_context(node.running())
        yield nodes, stack
