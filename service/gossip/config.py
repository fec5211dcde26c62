"""The numbers of the gossip protocol, and how they hang together."""

from dataclasses import dataclass

_MS = 1_000_000
_SECOND = 1_000 * _MS
_HOUR = 3_600 * _SECOND


@dataclass(frozen=True, slots=True)
class GossipConfig:
    """Equal on all members, or nearly: a member that differs is only slower or faster than the others."""

    probe_interval_ns: int = 500 * _MS
    """The protocol period T' (SWIM 3.1). A crashed member is first suspected 1.6 periods later on
    average. Half a second is what a report within 2-3 s needs; accuracy is the affair of suspicion."""
    probe_timeout_ns_min: int = 50 * _MS
    """Floor of the timeout derived from round trips, after which indirect probes start."""
    probe_timeout_ns_max: int = 200 * _MS
    """Its ceiling, and the timeout where no round trip is known. The rest of the period is for indirect probes, so
    keep it below half the interval."""
    indirect_probes: int = 3
    """Helpers asked to probe a silent target (SWIM's k)."""
    gossip_interval_ns: int = 150 * _MS
    """Between repeats of what is being disseminated; nothing is sent while there is nothing to say."""
    gossip_gap_ns: int = 20 * _MS
    """Fresh news leaves at once, but bursts are at least this far apart: a bound on packets per second."""
    gossip_fanout: int = 3
    """Members told per burst."""
    retransmit_multiplier: int = 4
    """Lambda: an item is sent at most lambda * ceil(ln(n + 1)) times by each member (SWIM 4.1)."""
    suspicion_multiplier: int = 2
    """Shortest suspicion in units of max(1, log10 n) probe intervals: with all confirmations in."""
    suspicion_multiplier_max: int = 6
    """Longest suspicion as a multiple of the shortest: with none in (Lifeguard, dynamic suspicion timeout)."""
    suspicion_confirmations: int = 3
    """Independent accusers beside the first that bring the timeout down to its shortest (Lifeguard's K)."""
    awareness_max: int = 7
    """Worst local health score; periods and timeouts are multiplied by score + 1."""
    lag_ns_min: int = 100 * _MS
    """A timer that fires later than this means that this process stood still, and is ill health."""
    sync_interval_ns: int = 1 * _SECOND
    """Shortest time between anti-entropy rounds this member starts; rounds start only where fingerprints differ."""
    reconnect_interval_ns_min: int = 500 * _MS
    """First wait before a dead member or an unheard seed is tried again; doubles each time."""
    reconnect_interval_ns_max: int = 8 * _SECOND
    """Longest such wait. It bounds how long a healed partition stays unnoticed, and it never grows further."""
    retain_dead_ns: int = 72 * _HOUR
    """How long a dead member is remembered, and so probed; seeds are tried for ever."""
    retain_left_ns: int = 72 * _HOUR
    """How long a member that left is remembered: as long as a dead one. Who was away when it left takes it for dead,
    and would bring it back to those who had forgotten it sooner."""
    tombstone_ticks: int = 72
    """Ticks after which a row that ended is forgotten (retention.py): hours in which somebody led."""
    away_ticks_max: int = 36
    """A member whose tick is further behind was away, and its word does not bring back what others lack."""
    payload_bytes_max: int = 1250
    """Budget of one datagram before sealing; 1400 B on the wire with envelope and headers."""
    members_max: int = 4096
    """Bound of the roster. A new member takes the place of who is dead longest; others are refused and counted."""
    joins_burst: int = 1024
    """Members that may become known at once; a cluster that starts, or is joined, is told faster than it fails."""
    joins_per_second: int = 200
    """At which others follow."""
    tables_max: int = 8
    """More than a release has; those of later ones are passed on as well."""
    table_rows_max: int = 8192
    """Bound of one table, twice the floating IPs there can be; further keys are refused and counted. So a writer that
    runs away fills its own table only."""


DEFAULT_CONFIG = GossipConfig()
