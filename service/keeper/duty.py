"""What the heartbeats of a node's agent allow its lease keeper, and ask of it (rules S3, S5, S6)."""

from service.lease.holder import DesiredClaim
from service.model.keeper_message import Heartbeat, Uplink
from service.model.lease import Stamp

HEARTBEAT_AGE_NS_MAX = 1_000_000_000
"""S3: nothing new is claimed for an agent that has not been heard for so long."""


class AgentDuty:
    """What the agent's heartbeats allow and ask for (rules S3, S5, S6). Time is CLOCK_BOOTTIME, passed in.

    An agent that has just started does not know the assignments yet. So an address is handed over when this run of the
    agent has listed it and lists it no more, or has not listed it within the grace; never because it is not listed yet.
    """

    def __init__(self, *, grace_ns: int, now_ns: int) -> None:
        self._grace_ns = grace_ns
        self._heartbeat: Heartbeat | None = None
        self._heard_ns: int | None = None
        self._useful_ns = now_ns
        """When the agent was last of use: ready, or not yet late since this keeper started."""
        self._ready_since_ns: int | None = None
        self._listed: set[str] = set()
        """What this run of the agent has listed, as far as it is listed or held still."""
        self._uplinks: dict[str, list[Uplink]] = {}

    def hear(self, heartbeat: Heartbeat, *, now_ns: int) -> None:
        """Take the agent's newest word; it replaces the last one."""
        self._heartbeat, self._heard_ns = heartbeat, now_ns
        self._uplinks = {}
        for uplink in heartbeat.uplinks:
            self._uplinks.setdefault(uplink.floating_ip, []).append(uplink)
        if not heartbeat.ready:
            # A new run of the agent, or one whose datapath is gone: what it listed before says nothing now.
            self._ready_since_ns = None
            self._listed.clear()
            return
        self._useful_ns = now_ns
        if self._ready_since_ns is None:
            self._ready_since_ns = now_ns
        self._listed.update(claim.floating_ip for claim in heartbeat.claims)

    def uplink(self, floating_ip: str) -> Uplink | None:
        """Where the address is announced: an interface with carrier."""
        return next((uplink for uplink in self._uplinks.get(floating_ip, ()) if uplink.carrier), None)

    def may_claim(self, *, now_ns: int) -> bool:
        """S3: a heartbeat younger than a second, of an agent whose datapath works."""
        if self._heartbeat is None or self._heard_ns is None:
            return False
        return self._heartbeat.ready and now_ns - self._heard_ns < HEARTBEAT_AGE_NS_MAX

    def claims(self, held: dict[str, Stamp], *, now_ns: int) -> dict[str, DesiredClaim] | None:
        """What to hold and to stand for; None where nothing is known and nothing need be given up yet."""
        if now_ns - self._useful_ns >= self._grace_ns:
            # S6: an agent that has been stuck, absent or without datapath for so long serves nobody.
            return {}
        heartbeat = self._heartbeat
        if heartbeat is None:
            return None
        claims = {}
        for claim in heartbeat.claims:
            # S5: an address whose segment cannot be reached is of no use here.
            if self.uplink(claim.floating_ip) is not None:
                stamp = Stamp(claim.term, claim.version)
                claims[claim.floating_ip] = DesiredClaim("holder" if claim.role == "holder" else "successor", stamp)
        # What is neither listed nor held any more need not be known.
        self._listed &= {*held, *(claim.floating_ip for claim in heartbeat.claims)}
        for key, stamp in held.items():
            if key not in claims and self._is_kept(key, now_ns=now_ns):
                claims[key] = DesiredClaim("holder", stamp)
        return claims

    def _is_kept(self, key: str, *, now_ns: int) -> bool:
        """Whether an address that is held, but not claimed by this heartbeat, is kept for now."""
        uplinks = self._uplinks.get(key)
        if uplinks is not None and not any(uplink.carrier for uplink in uplinks):
            return False
        if key in self._listed:
            return False
        return self._ready_since_ns is None or now_ns - self._ready_since_ns < self._grace_ns
