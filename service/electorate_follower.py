"""The agent's part in who the electors are: it reads the electorate object and tells its keeper.

The keeper has what it was told on disk and asks its like; so an API server that is away costs nothing here.
"""

import asyncio
from collections.abc import Callable

from service.model.keeper_message import ElectorateRecord
from service.settings import Settings


class ElectorateFollower:
    """`record` is what the object says; `changed` is called when it changes."""

    def __init__(self, settings: Settings, *, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._changed = changed
        self.record: ElectorateRecord | None = None

    async def run(self) -> None:
        """Follow the object until cancelled; only with `electors: auto` is there one."""
        if self._settings.electors != "auto":
            return
        # Lazily: hosts without Kubernetes do without its client.
        from service.sources.electorate_object import ElectorateObject, open_electorate

        def take(found: ElectorateObject | None) -> None:
            self.record = ElectorateRecord.of(found.electorate) if found is not None else None
            self._changed()

        async with open_electorate(self._settings.namespace, changed=take):
            await asyncio.get_running_loop().create_future()
