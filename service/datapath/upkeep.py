"""Keeps the node's kernel state in step with what happens on the node itself: pods and their devices come and go, links
change, connection tracking has to be cleared, and others flush rulesets or delete devices."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network

from service.datapath.layout import MapName
from service.datapath.node_datapath import NodeDatapath
from service.datapath.reconciler import Reconciler
from service.gateway.exemption import unchanged
from service.model.errors import TransientError

_log = logging.getLogger(__name__)

_RETRY_S = 0.2
_DEVICE_REFRESH_S = 5.0
_ATTACH_RETRY_S = 1.0
_LINK_REFRESH_S = 5.0
_LINK_PAUSE_S = 0.1
"""Between two looks at all links, however many events come, and at least as long as the look took: a look is a dump,
and pods come and go in hundreds (rule C3)."""
_REPAIR_S = 2.0
_CLEARED_PODS = 64
"""At a time: those that are done do not wait for the rest, and are not looked for again where it takes too long."""


class Upkeep:
    """Five tasks for the process's TaskGroup. `changed` is called when the reconciler has something new to write."""

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
        self._exempt: tuple[IPv4Network, ...] | None = None
        """What is never steered now; None: not known yet."""
        self._tracked_exempt: tuple[IPv4Network, ...] | None = None
        """What was never steered when connection tracking was last in step with it."""

    @property
    def is_clearing_due(self) -> bool:
        """Connections are tracked that began while their destination was steered and is not, or the reverse."""
        return self._exempt != self._tracked_exempt

    def note_exempt(self, networks: tuple[IPv4Network, ...]) -> None:
        """What is never steered from now on; its rows are on their way."""
        if self._tracked_exempt is None:
            self._tracked_exempt = networks
        self._exempt = networks

    async def clear_connections(self) -> None:
        """Delete connection-tracking entries of pods whose selection is changing (rule W10)."""
        while True:
            await self.clearing_wanted.wait()
            self.clearing_wanted.clear()
            if not await self._forget_exempt():
                await asyncio.sleep(_RETRY_S)
                self.clearing_wanted.set()
                continue
            turn = self._reconciler.to_clear(self._datapath.pool)
            for start in range(0, len(turn), _CLEARED_PODS):
                part = turn[start : start + _CLEARED_PODS]
                if not await self._forget([clearing.pod_ip for clearing in part]):
                    await asyncio.sleep(_RETRY_S)
                    self.clearing_wanted.set()
                    break
                self._reconciler.steering.cleared(part, now_ns=self._clock())
                self._changed()

    async def _forget_exempt(self) -> bool:
        """Connections to what is steered now and was not, or the reverse (rule W12); True where nothing is to be done.

        Their entries have the source of then: one would have a steered packet dropped, the other one would let it leave
        with the bare pod address.
        """
        now, before = self._exempt, self._tracked_exempt
        if now is None or before is None or now == before or not self._datapath.pool.is_settled(MapName.CLUSTER):
            return True
        # Their whole difference: what changed back meanwhile need not be cleared.
        if not await self._forget(list(self._reconciler.local_selections()), unchanged(before, now)):
            return False
        self._tracked_exempt = now
        return True

    async def _forget(self, pod_ips: list[IPv4Address], keep: tuple[IPv4Network, ...] | None = None) -> bool:
        """Their connections to the outside, or to all but `keep`; False where the kernel did not do it all."""
        kept = self._reconciler.cluster_networks() if keep is None else keep
        try:
            await self._datapath.conntrack.forget(pod_ips, kept)
        except TransientError as error:
            _log.warning("connection tracking: %s; trying again", error)
            return False
        return True

    async def follow_rows(self) -> None:
        """What waits for rows is looked at again whenever some have been written (rule C1)."""
        written = self._datapath.pool.written
        while True:
            await written.wait()
            written.clear()
            self._changed()

    async def find_devices(self) -> None:
        """Learn which device each selected local pod is behind; soon while one is missing, now and then otherwise."""
        while True:
            began = asyncio.get_running_loop().time()
            is_complete = await self._find_devices()
            await _pause(began)
            wait_s = _ATTACH_RETRY_S if self._datapath.unattached else _DEVICE_REFRESH_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if is_complete else _RETRY_S):
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
        """New pod devices are attached and lost carriers noticed as the kernel reports them; and all is compared again
        now and then, soon where a look has failed (rule C2)."""
        is_known = False
        async with self._datapath.link_monitor() as monitor:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LINK_REFRESH_S if is_known else _RETRY_S):
                        await anext(monitor)
                        self.devices_wanted.set()
                began = asyncio.get_running_loop().time()
                is_known = await self._follow_uplinks()
                await _pause(began)

    async def _follow_uplinks(self) -> bool:
        """False where not all uplinks are known and attached to."""
        try:
            is_whole = await self._datapath.refresh_uplinks()
        except TransientError as error:
            _log.warning("uplinks: %s", error)
            is_whole = False
        self._compare_uplinks()
        return is_whole

    def _compare_uplinks(self) -> None:
        # What is known there and what is known here: whatever failed in between at an earlier time is made up for.
        if self._datapath.uplinks != self._reconciler.uplinks:
            self._reconciler.learn_uplinks(self._datapath.uplinks)
            self._uplinks_changed()
        if self._reconciler.learn_addresses(self._datapath.addresses):
            self._changed()

    async def repair(self) -> None:
        """Others flush rulesets and delete devices. Meanwhile packets are dropped; this brings them back."""
        gap: list[IPv4Address] = []
        while True:
            await asyncio.sleep(_REPAIR_S)
            # Flows that began in a gap have the source of the moment in connection tracking, for ever.
            while gap and await self._forget(gap[:_CLEARED_PODS]):
                del gap[:_CLEARED_PODS]
            if await self._repair():
                self._uplinks_changed()
                gap = list(self._reconciler.local_selections())

    async def _repair(self) -> bool:
        """True where everything has to be written anew."""
        try:
            is_damaged = await self._datapath.repair()
        except TransientError as error:
            _log.warning("repair: %s", error)
            is_damaged = False
        self._compare_uplinks()
        return self._reconciler.learn_steering_device(self._datapath.egw_ifindex) or is_damaged


async def _pause(began: float) -> None:
    await asyncio.sleep(max(_LINK_PAUSE_S, asyncio.get_running_loop().time() - began))
