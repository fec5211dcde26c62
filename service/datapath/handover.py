"""Where packets of a floating IP that moves on purpose wait on this node (rule R4): device, program and map."""

import logging

from service.datapath.handover_row import handover_device_value
from service.datapath.hook_book import HookBook
from service.datapath.layout import MapName
from service.datapath.loader import LoadedDatapath
from service.model.errors import OperatorError, TransientError
from service.network.handover_device import HANDOVER_DEVICE
from service.network.netlink import Netlink

_log = logging.getLogger(__name__)
_ONLY = bytes(4)
"""Key of the only entry of an array."""


class HandoverDevice:
    """Without it a planned move loses what a crash would in as many milliseconds, and nothing else: told, and that is
    all."""

    def __init__(self, hooks: HookBook) -> None:
        self._hooks = hooks
        self._ifindex = 0
        self.trouble = ""
        """Why nothing waits; empty where it does."""

    async def ensure(self, netlink: Netlink, loaded: LoadedDatapath) -> None:
        """Make it, or put back what others have removed."""
        try:
            await self._ensure(netlink, loaded)
        except (OperatorError, TransientError) as error:
            self._ifindex = 0
            told = f"planned moves lose packets: {error}"
            if told != self.trouble:
                _log.warning("%s", told)
            self.trouble = told
        else:
            self.trouble = ""

    async def _ensure(self, netlink: Netlink, loaded: LoadedDatapath) -> None:
        device = await netlink.ensure_handover_device()
        if device.index == self._ifindex and await netlink.attached(device.index):
            return
        # The program first: until it is there nothing may be sent to the device.
        program = loaded.programs["handover_egress"]
        kind = await netlink.attach(device.index, "egress", program, "handover_egress")
        self._hooks.attached(device.index, HANDOVER_DEVICE, kind)
        loaded.map(MapName.HANDOVER_DEVICE).update(_ONLY, handover_device_value(device.index, device.mac))
        self._ifindex = device.index
