"""Reads the keyring again and again, so that keys can be rotated without a restart (gossip.md, Keys).

What cannot be read, or is no keyring, changes nothing: the keys that were read last stay in force, and status says so.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from service.model.errors import OperatorError
from service.wire.envelope import Envelope

_log = logging.getLogger(__name__)

PERIOD_S = 2.0
READ_TIMEOUT_S = 10.0


class KeyringWatch:
    """Of one envelope that knows where its keys come from."""

    def __init__(self, envelope: Envelope, *, looked: Callable[[], None]) -> None:
        """`looked` is called, on the loop, each time that the keyring has been read, changed or not."""
        self._envelope = envelope
        self._looked = looked
        self._failure = ""
        self._reading: asyncio.Task[Sequence[bytes]] | None = None

    def trouble(self) -> str:
        """Why the keyring cannot be read now, in one line for status; empty where it can."""
        return f"{self._failure}; the keys that were read last stay in force" if self._failure else ""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._look()
            self._looked()
            await asyncio.sleep(PERIOD_S)

    async def _look(self) -> None:
        before = self._envelope.key_ids
        try:
            self._envelope.replace_keys(await self._read())
        except OperatorError as error:
            if str(error) != self._failure:
                _log.error("%s: %s", self._envelope.purpose, error)
            self._failure = str(error)
            return
        self._failure = ""
        if self._envelope.key_ids != before:
            sealing, *others = self._envelope.key_ids
            accepted = ", ".join(others) or "none"
            _log.warning("%s: key %s seals from now on; opened besides: %s", self._envelope.purpose, sealing, accepted)

    async def _read(self) -> Sequence[bytes]:
        # Not on the loop: a slow disk must not hold up a lease. And never a second time beside one that is not over: a
        # disk that hangs must not take one thread after the other.
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(self._envelope.read_keys))
        done, _ = await asyncio.wait([self._reading], timeout=READ_TIMEOUT_S)
        if not done:
            raise OperatorError(f"keyring: cannot be read within {READ_TIMEOUT_S:g} s")
        reading, self._reading = self._reading, None
        return reading.result()
