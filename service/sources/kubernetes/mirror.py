"""Keeps the gateway in kube-system in step with the one of the cluster's namespace: a leader's duty, step by step."""

import logging

import msgspec

from service.model.objects import Kind
from service.sources.kubernetes.api_object import ClusterSwitch, decode_own
from service.sources.kubernetes.api_server import APPLY, ApiServer
from service.sources.kubernetes.custom_resource import APPLY_QUERY, manifest, object_path
from service.sources.kubernetes.gateway_mirror import GATEWAY, MIRRORED_FROM, Follow, Withdraw, mirror_step
from service.sources.kubernetes.ledger import ObjectLedger
from service.sources.kubernetes.resource import Difference

_log = logging.getLogger(__name__)


class GatewayMirror:
    """Writes into one API server. `ledger` has the gateways; the switches come by `take_switches`."""

    def __init__(self, api: ApiServer, ledger: ObjectLedger) -> None:
        self._api = api
        self._ledger = ledger
        self._switches: dict[str, ClusterSwitch] = {}
        """Cluster objects by namespace and name."""
        self._are_switches_known = False

    async def take_switches(self, difference: Difference[ClusterSwitch]) -> None:
        """Note what the reflector of Cluster objects tells."""
        for cluster in difference.upserts:
            self._switches[cluster.identity] = cluster
        for identity in difference.deletes:
            self._switches.pop(identity, None)
        self._are_switches_known |= difference.is_listed

    async def step(self) -> None:
        """Write what is missing for the two to agree, if anything. Raises TransientError.

        Until all gateways and switches are known nothing is done: one that is not known yet would look switched off.
        """
        if not self._ledger.is_synced or not self._are_switches_known:
            return
        step = mirror_step(self._ledger.all_seen(Kind.GATEWAY), self._namespaces())
        if isinstance(step, Withdraw):
            _log.info("%s %s: removed, as the one it followed is gone or switched off", GATEWAY.kind, GATEWAY)
            await self._api.delete(object_path(GATEWAY), uid=step.uid)
        elif isinstance(step, Follow):
            await self._follow(step)

    async def _follow(self, step: Follow) -> None:
        document = manifest(GATEWAY)
        document["metadata"]["annotations"] = {MIRRORED_FROM: step.namespace}
        document["spec"] = step.spec
        body = await self._api.patch(object_path(GATEWAY), document, APPLY, APPLY_QUERY)
        _log.info("%s %s: follows the one in %s", GATEWAY.kind, GATEWAY, step.namespace)
        self._ledger.note_written(decode_own(msgspec.Raw(body), Kind.GATEWAY).value)

    def _namespaces(self) -> dict[str, bool]:
        """Which namespaces with a Cluster are switched on: by all of their Clusters, or not."""
        namespaces: dict[str, bool] = {}
        for cluster in self._switches.values():
            namespaces[cluster.namespace] = namespaces.get(cluster.namespace, True) and cluster.is_on
        return namespaces
