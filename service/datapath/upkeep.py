"""Keeps the node's kernel state in step with what happens on the node itself: pods and their devices come and go, links
change, connection tracking has to be cleared, and others flush rulesets or delete devices."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from service.datapath.node_datapath import NodeDatapath
from service.datapath.reconciler import Reconciler
from service.model.errors import TransientError

_log = logging.getLogger(__name__)

_RETRY_S = 0.2
_DEVICE_REFRESH_S = 5.0
_REPAIR_S = 2.0


class Upkeep:
    """Four tasks for the process's TaskGroup. `changed` is called when the reconciler has something new to write."""

    def __init__(
        self,
        datapath: NodeDatapath,
        reconciler: Reconciler,
        *,
        clock: Callable[[], int],
        changed: Callable[[], None],
        uplinks_changed: Callable[[], None],
    ) -> None:
        """`uplinks_changed`: the uplinks, or what others removed beside them, have to be written anew."""
        self._datapath = datapath
        self._reconciler = reconciler
        self._clock = clock
        self._changed = changed
        self._uplinks_changed = uplinks_changed
        self.is_synced = False
        """Objects have been read; until then nobody is known to be unselected."""
        self.devices_wanted = asyncio.Event()
        self.clearing_wanted = asyncio.Event()

    async def clear_connections(self) -> None:
        """Delete connection-tracking entries of pods whose selection is changing (rule W10)."""
        while True:
            await self.clearing_wanted.wait()
            self.clearing_wanted.clear()
            turn = self._reconciler.steering.to_clear()
            try:
                await self._datapath.clear_connections(
                    [clearing.pod_ip for clearing in turn], self._reconciler.cluster_networks()
                )
            except TransientError as error:
                _log.warning("connection tracking: %s; trying again", error)
                await asyncio.sleep(_RETRY_S)
                self.clearing_wanted.set()
                continue
            self._reconciler.steering.cleared(turn, now_ns=self._clock())
            self._changed()

    async def find_devices(self) -> None:
        """Learn which device each selected local pod is behind; soon while one is missing, now and then otherwise."""
        while True:
            is_complete = await self._find_devices()
            if not is_complete:
                await asyncio.sleep(_RETRY_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEVICE_REFRESH_S if is_complete else _RETRY_S):
                    await self.devices_wanted.wait()
            self.devices_wanted.clear()

    async def _find_devices(self) -> bool:
        reconciler = self._reconciler
        try:
            await self._datapath.attach_pod_devices()
            found = await self._datapath.pod_devices(reconciler.local_selections())
        except TransientError as error:
            _log.warning("pod devices: %s", error)
            found = {}
        # A pod that is silent just now is still where it was; who is selected may have changed meanwhile.
        wanted = reconciler.local_selections()
        devices = {
            pod_ip: device
            for pod_ip, device in ({**reconciler.devices, **found}).items()
            if pod_ip in wanted or not self.is_synced
        }
        if reconciler.learn_devices(devices):
            self._changed()
        return all(pod_ip in devices for pod_ip in wanted)

    async def follow_links(self) -> None:
        """New pod devices are attached and lost carriers noticed as the kernel reports them."""
        async with self._datapath.link_monitor() as monitor:
            async for _ in monitor:
                try:
                    if await self._datapath.refresh_uplinks():
                        await self._datapath.attach_uplinks()
                        self._reconciler.learn_uplinks(self._datapath.uplinks)
                        self._uplinks_changed()
                except TransientError as error:
                    _log.warning("uplinks: %s", error)
                if self._reconciler.learn_addresses(self._datapath.addresses):
                    self._changed()
                self.devices_wanted.set()

    async def repair(self) -> None:
        """Others flush rulesets and delete devices. Meanwhile packets are dropped; this brings them back."""
        while True:
            await asyncio.sleep(_REPAIR_S)
            try:
                if await self._datapath.repair():
                    self._reconciler.learn_steering_device(self._datapath.egw_ifindex)
                    self._uplinks_changed()
                    await asyncio.sleep(_REPAIR_S)
                    # Flows that began meanwhile have the source of the moment in connection tracking, for ever.
                    pods = list(self._reconciler.local_selections())
                    await self._datapath.conntrack.forget(pods, self._reconciler.cluster_networks())
            except TransientError as error:
                _log.warning("repair: %s", error)
