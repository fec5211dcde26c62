"""What one process knows of who the electors are, and from whom it takes a newer word (leases.md, M1, M2).

The newest epoch counts, whoever tells it: another keeper; the operator's configuration; the object, by the agent, where
what it says can be checked (M8). It never goes back. An offer that is older, or that contradicts, is refused and
reported.
"""

import logging
from collections.abc import Callable

from service.lease.electorate_message import decode_electorate_message, encode_electorate_message
from service.lease.succession import is_for_keepers_to_say, object_fault, succession_fault
from service.model.errors import PeerError
from service.model.lease import Electorate
from service.model.machine import Address, Source

_log = logging.getLogger(__name__)

_OFFERS_PATIENT = 10
"""So often in a row the object may be further ahead than one step before that is trouble: 2 s of an agent's heartbeats.
When one elector replaces another two steps follow each other, and not everybody hears of the first in time."""

OBJECT = "the electorate object"
"""The origin of what was read of it."""


class ElectorateBook:
    """The electorate in force in this process. `adopted` is called with each newer one.

    `is_configured`: the operator's configuration says who decides, and no object. A node with a new disk, or a
    controller, has nothing but its own then, an electorate that follows none: the word of nobody who knows.
    """

    def __init__(
        self, known: Electorate, *, adopted: Callable[[Electorate], None], is_configured: bool = False
    ) -> None:
        self.known = known
        self._is_configured = is_configured
        self._ignored_epoch = 0
        self._jumps = 0
        """How often in a row the object was found too far ahead."""
        self.trouble = ""
        """Why the last offer of the object or the configuration was refused; empty where it was not."""
        self._adopted = adopted

    def offer(self, electorate: Electorate, *, origin: str) -> bool:
        """Take it if it is newer and can be what it says; whether it is the one in force now."""
        if electorate.epoch > self.known.epoch:
            if fault := succession_fault(self.known, electorate):
                self.refuse(f"{origin}: {fault}")
                return False
            self.known = electorate
            self.trouble = ""
            names = ", ".join(member.name for member in electorate.members)
            _log.info("electorate of epoch %d, from %s: %s", electorate.epoch, origin, names)
            self._adopted(electorate)
            return True
        trouble = ""
        if electorate.epoch < self.known.epoch:
            trouble = f"{origin} names epoch {electorate.epoch}, older than {self.known.epoch}, which was accepted"
        elif electorate.members != self.known.members:
            trouble = f"{origin} names other electors for epoch {electorate.epoch} than were accepted"
        self.refuse(trouble)
        return not trouble

    def offer_written(
        self, electorate: Electorate, *, begun_anew: bool, may_follow: Callable[[Electorate], bool]
    ) -> bool:
        """What the object says: taken only as far as it can be checked here (M8); whether it is in force now.

        `may_follow`: that known was in force (M2). Where it was not yet, or nothing is known by which it could be
        checked, that is no trouble: it is to be offered again.
        """
        if electorate.epoch > self.known.epoch:
            if fault := object_fault(self.known, electorate, begun_anew=begun_anew):
                self._jumps += 1
                is_late = electorate.epoch > self.known.epoch + 1 and self._jumps < _OFFERS_PATIENT
                self.refuse("" if is_late else f"{OBJECT}: {fault}")
                return False
            self._jumps = 0
            if is_for_keepers_to_say(self.known, electorate, begun_anew=begun_anew) or not (
                begun_anew or self.known.epoch == 0 or may_follow(electorate)
            ):
                self.refuse("")
                return False
        return self.offer(electorate, origin=OBJECT)

    def refuse(self, trouble: str) -> None:
        """Report why an offer is not taken, once; empty: there is nothing to report any more."""
        if trouble and trouble != self.trouble:
            _log.error("electorate refused: %s", trouble)
        self.trouble = trouble

    def hear(self, electorate: Electorate, *, origin: str) -> None:
        """Another process names a newer one."""
        if self._is_configured and self.known.epoch and not electorate.previous:
            # M3: taken over it would ask nobody what was promised. Who goes over to it step by step says so soon.
            if electorate.epoch != self._ignored_epoch:
                text = "%s begins with epoch %d, which follows none: this node goes by its own configuration, from %d"
                _log.warning(text, origin, electorate.epoch, self.known.epoch)
            self._ignored_epoch = electorate.epoch
            return
        self.offer(electorate, origin=origin)

    def receive(self, source: Source, payload: bytes, *, send: Callable[[Address, bytes], None]) -> None:
        """Another process says who decides: learn it, or tell it better. Raises PeerError where it is malformed."""
        said = decode_electorate_message(payload)
        if not isinstance(said, Electorate):
            raise PeerError("lease datagram: not an electorate")
        if said.epoch > self.known.epoch:
            self.hear(said, origin=source.node)
        elif said.epoch < self.known.epoch:
            send(source.address, encode_electorate_message(self.known))
