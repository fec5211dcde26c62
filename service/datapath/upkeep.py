"""Keeps the node's kernel state in step with what happens on the node itself: pods and their devices come and go, links
change, connection tracking has to be cleared, and others flush rulesets or delete devices."""

import asyncio
import logging
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from ipaddress import IPv4Address, IPv4Network

from service.datapath.layout import MapName
from service.datapath.node_datapath import NodeDatapath
from service.datapath.recent_drops import RecentDrops
from service.datapath.reconciler import Reconciler
from service.datapath.steering import Clearing, Phase
from service.datapath.work_and_rest import WorkAndRest
from service.gateway.exemption import unchanged
from service.model.drop import DropReason
from service.model.errors import TransientError
from service.network.conntrack import Networks

_log = logging.getLogger(__name__)

_RETRY_S = 0.2
_DEVICE_REFRESH_S = 5.0
_MISSED_NS = 3_000_000_000
"""For so long a pod that no policy selects is looked for all the time; then now and then, and with each event."""
_SHOWN_PODS = 5
"""Of many in one line of trouble."""
_ATTACH_RETRY_S = 1.0
_LINK_REFRESH_S = 5.0
_LINK_PAUSE_S = 0.1
"""Between two looks at all links, however many events come, and at least as long as the look took: a look is a dump,
and pods come and go in hundreds (rule I3)."""
_BURST_S = 0.1
"""Of looks for devices without a rest: a pod that comes while a look is under way does not wait twice."""
_REPAIR_S = 2.0
_CLEARED_PODS = 512
"""At a time: those that are done do not wait for the rest, and are not looked for again where it takes too long. Not
few: each look is one through all of connection tracking, 11 ms with nothing in it (measured)."""
_LOOKS = 4
"""For what has to go of connection tracking, before it is tried again later."""


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
        held: Callable[[], Collection[IPv4Address]],
    ) -> None:
        """`uplinks_changed`: the uplinks, or what others removed beside them, have to be written anew; `held`: what
        this node holds now."""
        self._datapath = datapath
        self._reconciler = reconciler
        self._clock = clock
        self._changed = changed
        self._uplinks_changed = uplinks_changed
        self._held = held
        self.is_synced = False
        """Objects have been read; until then nobody is known to be unselected."""
        self.has_looked = False
        """The devices of the pods that were known then have been looked for."""
        self._missing: dict[IPv4Address, int] = {}
        """Pods without a device, and since when."""
        self._sought: frozenset[IPv4Address] = frozenset()
        """Pods for which the last look was made."""
        self._pod_came = asyncio.Event()
        self._looks = WorkAndRest(burst_s=_BURST_S)
        self._waited_s = 0.0
        """Of the present look, for pods that had to be asked."""
        self.devices_wanted = asyncio.Event()
        self.clearing_wanted = asyncio.Event()
        self._unrouted = RecentDrops(DropReason.NO_ROUTE)
        self._over_quota = RecentDrops(DropReason.QUOTA, self._policy_of)
        self._out_of_ports = RecentDrops(DropReason.PORTS_EXHAUSTED, self._policy_of)
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
                if not await self._clear(turn[start : start + _CLEARED_PODS]):
                    await asyncio.sleep(_RETRY_S)
                    self.clearing_wanted.set()
                    break

    async def _clear(self, part: Sequence[Clearing]) -> bool:
        leaving = [clearing.pod_ip for clearing in part if clearing.phase is Phase.LEAVING]
        if leaving:
            # First what comes back for them ends: it would make an entry by which the pod's next packet leaves bare.
            present = self._reconciler.local_pods()
            gone = frozenset(pod_ip for pod_ip in leaving if pod_ip not in present)
            await self._datapath.flows.end_pods(leaving, gone)

        def clear(pod_ips: Container[IPv4Address]) -> None:
            self._reconciler.steering.cleared(clearing for clearing in part if clearing.pod_ip in pod_ips)
            self._changed()

        return await self._forget({one.pod_ip: one.keep for one in part}, leaving=leaving, forgotten=clear)

    async def _forget_exempt(self) -> bool:
        """Connections to what is steered now and was not, or the reverse (rule W12); True where nothing is to be done.

        Their entries have the source of then: one would have a steered packet dropped, the other one would let it leave
        with the bare pod address.
        """
        now, before = self._exempt, self._tracked_exempt
        if now is None or before is None or now == before or not self._datapath.pool.is_settled(MapName.CLUSTER):
            return True
        # Their whole difference: what changed back meanwhile need not be cleared.
        keep = unchanged(before, now)
        if not await self._forget(dict.fromkeys(self._reconciler.local_selections(), keep), cluster=()):
            return False
        self._tracked_exempt = now
        return True

    async def _forget(
        self,
        pods: Mapping[IPv4Address, tuple[IPv4Network, ...]],
        *,
        cluster: tuple[IPv4Network, ...] | None = None,
        leaving: Iterable[IPv4Address] = (),
        forgotten: Callable[[Container[IPv4Address]], None] = lambda pods: None,
    ) -> bool:
        """Connections of these pods to the outside, but to what each keeps; False where some may be left.

        What is steered now becomes an ended flow first (rule E3). Looked up again until nothing is found: what comes
        back may make an entry anew. `forgotten` gets pods as soon as nothing is found of them: a new pod does not wait
        for one that leaves.
        """
        kept = Networks(self._reconciler.cluster_networks() if cluster is None else cluster)
        keeps, steered = _as_networks(pods), pods.keys() - set(leaving)
        flows, conntrack = self._datapath.flows, self._datapath.conntrack
        ended: set[bytes] = set()
        try:
            for _ in range(_LOOKS):
                doomed = await flows.end_older(await conntrack.find(keeps, kept), steered, ended)
                left = {IPv4Address(connection.source) for connection in doomed}
                clean = {pod_ip.packed for pod_ip in keeps.keys() - left}
                await flows.release({key for key in ended if key[:4] in clean})
                forgotten(keeps.keys() - left)
                if not doomed:
                    return True
                keeps = {pod_ip: keeps[pod_ip] for pod_ip in left}
                await conntrack.delete(doomed)
        except TransientError as error:
            _log.warning("connection tracking: %s; trying again", error)
        return False

    async def follow_rows(self) -> None:
        """What waits for rows is looked at again whenever some have been written (rule I1)."""
        written = self._datapath.pool.written
        while True:
            await written.wait()
            written.clear()
            self._changed()

    async def find_devices(self) -> None:
        """Learn which device each local pod is behind; soon while one is missing, now and then otherwise."""
        loop = asyncio.get_running_loop()
        while True:
            began, self._waited_s = loop.time(), 0.0
            is_complete = await self._find_devices()
            rested = loop.time()
            await self._rest(rested - began - self._waited_s)
            wait_s = _ATTACH_RETRY_S if self._datapath.unattached else _DEVICE_REFRESH_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if is_complete else _RETRY_S):
                    await self.devices_wanted.wait()
            self.devices_wanted.clear()
            self._looks.rest(loop.time() - rested)

    async def _wait_for_answers(self, seconds: float) -> None:
        """While silent pods have time to answer: no work, and no longer than until a pod comes."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pod_came.wait()
        self._waited_s += loop.time() - began

    async def _rest(self, took_s: float) -> None:
        """As long as looks take where there are many (rule I3), and then until a pod comes, though not for long."""
        rest_s = self._looks.work(took_s)
        await asyncio.sleep(rest_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINK_PAUSE_S - took_s):
                await self._pod_came.wait()
        self._pod_came.clear()

    async def _find_devices(self) -> bool:
        """False where it is worth looking again soon."""
        # As they are now: pods come and go while the kernel is asked.
        is_synced, pods = self.is_synced, tuple(self._reconciler.local_pods())
        self._sought = frozenset(pods)
        self._pod_came.clear()
        try:
            await self._datapath.attach_pod_devices(set(self._reconciler.devices.values()))
            async with aclosing(self._datapath.pod_devices(pods, self._wait_for_answers)) as looks:
                async for found in looks:
                    self._learn_devices(found)
                    if not self._datapath.unattached.isdisjoint(found.values()):
                        await self._datapath.attach_pod_devices(set(found.values()))
                    if self._pod_came.is_set():
                        # The next look is for it too, and does not wait for who is silent now.
                        return False
        except TransientError as error:
            _log.warning("pod devices: %s", error)
            self._learn_devices({})
        else:
            self.has_looked |= is_synced
        return not self.lacks_devices()

    def _learn_devices(self, found: Mapping[IPv4Address, int]) -> None:
        reconciler = self._reconciler
        # A pod that is silent just now is still where it was; who is local may have changed meanwhile.
        wanted = reconciler.local_pods()
        devices = {
            pod_ip: device
            for pod_ip, device in ({**reconciler.devices, **found}).items()
            if pod_ip in wanted or not self.is_synced
        }
        if reconciler.learn_devices(devices):
            self._changed()

    def ask_for_devices(self) -> None:
        """Have missing ones looked for: those of pods that have just come before anything else."""
        if self.lacks_devices():
            self.devices_wanted.set()
        if self._missing.keys() - self._sought:
            self._pod_came.set()

    def lacks_devices(self) -> bool:
        """Whether a pod is without a device: a selected one, or another that has not been so for long. Those whose
        device is of no kind that we know shall not be looked for all the time."""
        reconciler, now_ns = self._reconciler, self._clock()
        missing = reconciler.pods_without_device()
        self._missing = {pod_ip: self._missing.get(pod_ip, now_ns) for pod_ip in missing}
        selected = reconciler.local_selections()
        if self.is_synced and not self.has_looked:
            return True
        return any(pod_ip in selected or now_ns - since < _MISSED_NS for pod_ip, since in self._missing.items())

    def troubles(self) -> list[str]:
        """Which pods of the pod ranges are cut off from where policies point, for want of a device that is known; and
        which floating IPs' packets find no route."""
        reconciler, now_ns = self._reconciler, self._clock()
        late = [pod_ip for pod_ip, since in self._missing.items() if now_ns - since >= _MISSED_NS]
        bare = [pod_ip for pod_ip, device in reconciler.devices.items() if device in self._datapath.unattached]
        return _unrouted_troubles(self.unrouted()) + [
            f"{_listed(pod_ips)}: {reason}; what they send to where policies point is dropped (datapath.unclassified)"
            for found, reason in (
                (late, "their device is not found"),
                (bare, "our program cannot be attached to their device"),
            )
            if (pod_ips := [pod_ip for pod_ip in found if reconciler.is_guarded(pod_ip)])
        ]

    def unrouted(self) -> tuple[IPv4Address, ...]:
        """Floating IPs whose packets find no route here: what a node may hold and not serve (rule H1). What it has let
        go of since is another's to serve."""
        held = self._held()
        return tuple(one for one in self._unrouted.addresses(now_ns=self._clock()) if one in held)

    def over_quota(self) -> tuple[IPv4Address, ...]:
        """Floating IPs of pods here that had as many flows as a pod may have, and wanted more (rule B4)."""
        return self._over_quota.addresses(now_ns=self._clock())

    def out_of_ports(self) -> tuple[IPv4Address, ...]:
        """Floating IPs of which all ports of this node were taken towards some remote (rule Q4)."""
        return self._out_of_ports.addresses(now_ns=self._clock())

    def _policy_of(self, floating_ip: IPv4Address) -> str:
        return self._datapath.flows.policy_of(floating_ip)

    async def follow_links(self) -> None:
        """New pod devices are attached and lost carriers noticed as the kernel reports them; and all is compared again
        now and then, soon where a look has failed (rule I2)."""
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
            drops = self._datapath.drops()
            for recent in (self._unrouted, self._over_quota, self._out_of_ports):
                recent.note(drops, now_ns=self._clock())
            # Flows that began in a gap have the source of the moment in connection tracking, for ever.
            while gap and await self._forget(dict.fromkeys(gap[:_CLEARED_PODS], ())):
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


def _as_networks(named: Mapping[IPv4Address, tuple[IPv4Network, ...]]) -> dict[IPv4Address, Networks]:
    """Many pods have the same, and it may be long."""
    made: dict[int, Networks] = {}
    for networks in named.values():
        if id(networks) not in made:
            made[id(networks)] = Networks(networks)
    return {key: made[id(networks)] for key, networks in named.items()}


def _unrouted_troubles(floating_ips: Iterable[IPv4Address]) -> list[str]:
    return [
        f"{address}: packets from it have no route by the uplink on its segment and are dropped (no_route); give "
        f"this node one, as `ip route get DESTINATION from {address} oif UPLINK` would show it"
        for address in floating_ips
    ]


async def _pause(began: float) -> None:
    await asyncio.sleep(max(_LINK_PAUSE_S, asyncio.get_running_loop().time() - began))


def _listed(pod_ips: list[IPv4Address]) -> str:
    shown = ", ".join(map(str, sorted(pod_ips)[:_SHOWN_PODS]))
    return f"pods {shown}" + (f" and {len(pod_ips) - _SHOWN_PODS} more" if len(pod_ips) > _SHOWN_PODS else "")
