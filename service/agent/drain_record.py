"""What a node remembers of being drained (rule O3): gossip forgets a drain when all its members stop at once."""

import asyncio
import logging
from pathlib import Path

import msgspec

from service.host.durable_file import replace_durably
from service.model.errors import TransientError
from service.model.order import Drain
from service.wire.order_board import OrderBoard

_log = logging.getLogger(__name__)

FILE_NAME = "drain"
"""In `state_dir`."""
_LOOK_S = 0.5
_PATIENCE_S = 1.0


class DrainRecord:
    """The file has the last word that this node has heard on itself, and says it again where gossip has lost it."""

    def __init__(self, path: Path, node: str, board: OrderBoard) -> None:
        self._path = path
        self._node = node
        self._board = board
        self._kept: Drain | None = None
        """What the file says of this node."""
        self._is_read = False
        self.trouble = ""
        """Why the node may forget that it is drained; empty where it will not."""

    async def recall(self) -> None:
        """Read the file and say what it says, before anybody is given an address; a slow disk is waited for later."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._read()
        except TimeoutError:
            self.trouble = f"state_dir: {self._path} is not read yet; whether this node is drained, others must know"

    async def _read(self) -> None:
        try:
            kept = msgspec.json.decode(await asyncio.to_thread(self._path.read_bytes), type=Drain)
        except FileNotFoundError:
            kept = None
        except (OSError, msgspec.MsgspecError) as error:
            # One that is no record says nothing.
            self.trouble = (
                f"state_dir: cannot read {self._path}: {error}; whether this node is drained, others must know"
            )
            _log.error("%s", self.trouble)
            kept = None
        else:
            self.trouble = ""
        self._is_read = True
        if kept is not None and kept.node == self._node:
            self._kept = kept
            self._board.remember(kept)

    async def run(self) -> None:
        """Keep file and gossip in step until cancelled."""
        if not self._is_read:
            await self._read()
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Once: what gossip says is kept, and what it does not say any more is said again."""
        said = self._board.drains().get(self._node)
        if said is None:
            self._say_again()
        elif self._kept is None or said.id > self._kept.id:
            await self._keep(said)

    def _say_again(self) -> None:
        kept = self._kept
        # Only that it is drained: of one that is not, nothing need be known.
        if kept is None or not kept.is_drained:
            return
        if not self._board.remember(kept):
            # It ended as the node was no member for days; no operator has said so.
            self._board.drain(self._node, is_drained=True, at_s=kept.id[0])

    async def _keep(self, said: Drain) -> None:
        try:
            await asyncio.to_thread(self._write, said)
        except OSError as error:
            self.trouble = (
                f"state_dir: cannot write {self._path}: {error.strerror}; a drain of this node may be forgotten"
            )
            raise TransientError(self.trouble) from error
        self._kept, self.trouble = said, ""

    def _write(self, said: Drain) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(self._path, msgspec.json.encode(said))
