"""Findings: what was seen that no event may cause. Judged by frames and by the outside server's log before all else.

Nothing here asks the product who holds an address: who speaks for it on the wire is what counts.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from loadtest.chaos.client import ANSWER_S, IDLE_S, STALL_S
from loadtest.chaos.event import Cost
from loadtest.chaos.outside import PUSH_S
from loadtest.chaos.site import ChaosSite
from loadtest.gateway import FLOATING_IPS
from service.lab.traffic.frame import Frame
from service.lab.traffic.leak_check import CaptureSite, is_pod_to_outside, is_steered

OVERLAP_NS = 200_000_000
"""A node that spoke for an address before another did, and speaks again so shortly after, is a second speaker."""
TENURE_NS = 600_000_000
"""A node that has not spoken for so long, with somebody asking all the while, holds the address no more."""
FINDINGS_MAX = 5
"""Of one promise and round; the rest are counted."""


class Promise(StrEnum):
    """What was not kept."""

    SOURCE = "wrong source"
    LEAK = "leak"
    SPEAKERS = "two speakers for one address"
    ENDED = "a process ended by itself"
    ERROR = "a task met an error that it does not expect"
    CALM = "not whole again in time"
    SILENT = "status said nothing"
    STALE = "status tells of what is over"
    UNCOUNTED = "packets were lost and not counted"
    GROWN = "something has grown"
    LOST = "requests lost that the event does not explain"
    BROKEN = "connections ended that the event does not explain"
    HARNESS = "the test itself failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise that was not kept in one round."""

    round: int
    promise: Promise
    detail: str

    def __str__(self) -> str:
        return f"round {self.round}: {self.promise}: {self.detail}"


Flow = tuple[IPv4Address, int, IPv4Address, int, int]
"""Source and port, destination and port, protocol."""


def judge_frames(
    frames: Iterable[Frame], site: CaptureSite, *, selected: frozenset[IPv4Address], told: set[Flow]
) -> Iterator[str]:
    """Leaks of selected pods' packets. What others send bare after an event at the CNI's NAT is the CNI's business.

    `told`: flows that have leaked before, and are told by it. A connection that left bare once is sent again by its pod
    for minutes, and no event of those minutes has done it.
    """
    for frame in frames:
        flow = frame.source, frame.source_port, frame.destination, frame.destination_port, frame.protocol
        if not is_pod_to_outside(frame, site) or frame.source not in selected or flow in told:
            continue
        told.add(flow)
        yield f"{'on the second uplink' if frame.port in site.second_uplink_ports else 'bare'}: {frame}"


def judge_speakers(
    frames: Iterable[Frame], site: CaptureSite, strangers: frozenset[tuple[str, str]] = frozenset()
) -> Iterator[str]:
    """Frames, IP and ARP, from a floating IP by a node after another has begun to speak for it.

    What one node steers to another, over the segment or by the tunnel, is not spoken.
    `strangers`: (node, floating IP) of whoever speaks there beside us.
    """
    began: dict[IPv4Address, tuple[str, int]] = {}
    spoke: dict[tuple[IPv4Address, str], int] = {}
    returned: dict[tuple[IPv4Address, str], tuple[int, str]] = {}
    for frame in frames:
        if frame.source not in site.floating_ips or frame.encapsulated:
            continue
        if frame.port in site.second_uplink_ports:
            yield f"on the second uplink: {frame}"
            continue
        node = site.node_of_port.get(frame.port)
        if node is None or (node, str(frame.source)) in strangers or is_steered(frame, site):
            # The router forwards nothing inwards from a floating IP; a stranger who takes one is no node.
            continue
        address, now_ns = frame.source, frame.time_ns
        return_ns, told = returned.pop((address, node), (0, ""))
        if told and now_ns - return_ns < OVERLAP_NS:
            yield told
        speaker, since_ns = began.get(address, ("", 0))
        last_ns = spoke.get((address, node))
        if speaker not in ("", node) and last_ns is not None and _goes_on(last_ns, since_ns, now_ns):
            after_ms, silent_ms = (now_ns - since_ns) / 1e6, (since_ns - last_ns) / 1e6
            told = f"{node} spoke {after_ms:.1f} ms after {speaker} had begun, and {silent_ms:.1f} ms before: {frame}"
            returned[address, speaker] = (now_ns, told)
        spoke[address, node] = now_ns
        if speaker != node:
            began[address] = (node, now_ns)


def _goes_on(last_ns: int, since_ns: int, now_ns: int) -> bool:
    """Whether a node that spoke at `last_ns` and speaks now may do so across another's begin at `since_ns`.

    It does if the other goes on as well. Else it has taken the address anew, as where a majority that comes back
    grants it to the one, and a moment later to whom the leader has assigned it; so it has where it was silent for long.
    """
    return last_ns <= since_ns and since_ns - last_ns < TENURE_NS and now_ns - since_ns < OVERLAP_NS


def judge_calls(calls: Iterable[Mapping[str, Any]], site: ChaosSite, *, may_be_bare: bool) -> Iterator[str]:
    """Calls whose source is not the one that was due at that moment."""
    for call in calls:
        payload, source = str(call["payload"]), str(call["source"])
        pod = site.pod_of(payload.partition(":")[0])
        if pod is not None:
            allowed = site.allowed_sources(pod, call["time_ns"])
            if may_be_bare and pod.role != "frontend":
                allowed.add(str(pod.ip))
            if source not in allowed:
                yield f"{pod.full_name} ({payload}) was seen as {source}, not {' or '.join(sorted(allowed))}"
        elif payload == "forged" and source in FLOATING_IPS:
            yield f"a forged datagram left with {source}"


def judge_flows(
    lines: Sequence[Mapping[str, Any]], rounds: Sequence[tuple[int, Cost]], *, selected: frozenset[str]
) -> Iterator[tuple[Promise, str]]:
    """Losses and breaks that no event explains. `selected`: pods whose connections are our business in any case.

    `rounds`: when each of the last ones began, and what its events may cost; the one that is judged is the last. A
    request or connection is given up seconds after it went unanswered: it is of the round in which that was.
    """
    for what, promise in (("lost", Promise.LOST), ("broken", Promise.BROKEN)):
        told_of = [line for line in lines if line["what"] == what and not _may_be(line, rounds, selected)]
        counts = Counter(f"{line['kind']} of {line['pod']}" for line in told_of)
        if counts:
            told = ", ".join(f"{number} {whose}" for whose, number in sorted(counts.items())[:FINDINGS_MAX])
            yield promise, f"{counts.total()} in {len(counts)} flows: {told}"


def _may_be(line: Mapping[str, Any], rounds: Sequence[tuple[int, Cost]], selected: frozenset[str]) -> bool:
    """Whether a round in which it may have gone unanswered may cost it.

    Without the CNI's NAT, those whom no policy selects lose what only the other side speaks in.
    """
    first_ns, last_ns = _unanswered_ns(line)
    ends_ns = [began_ns for began_ns, _ in rounds[1:]]
    for (began_ns, cost), end_ns in zip(rounds, (*ends_ns, last_ns + 1), strict=True):
        is_of_it = began_ns <= last_ns and first_ns < end_ns
        is_of_cni = cost.bare and line["pod"] not in selected
        if is_of_it and (is_of_cni or (cost.loses if line["what"] == "lost" else cost.breaks)):
            return True
    return last_ns < rounds[0][0]


def _unanswered_ns(line: Mapping[str, Any]) -> tuple[int, int]:
    """The first and last moment at which it may have begun."""
    is_given_up = line["detail"] in ("", TimeoutError.__name__)
    waited_s = (STALL_S if line["what"] == "broken" else ANSWER_S) if is_given_up else 0.0
    # An idle connection finds out when it asks again.
    silent_s = IDLE_S if line["kind"] == "tcp-idle" else 0.0
    # Who only listens has waited since the last word that came: the one that did not was due somewhat later.
    due_s = PUSH_S if line["kind"] == "tcp-push" and is_given_up else 0.0
    last_ns = int(line["t"]) - int(waited_s * 1e9)
    return last_ns - int(silent_s * 1e9), last_ns + int(due_s * 1e9)


COUNTED_LOSSES = 10
"""Fewer lost requests may have been on their way when something moved."""
ONE_PACKET_KINDS = ("udp-stream", "udp", "ping")
"""A lost request of these is a packet that was dropped, or whose answer was."""


def judge_drops(
    lines: Sequence[Mapping[str, Any]],
    before: Mapping[str, int],
    after: Mapping[str, int],
    *,
    fitting: frozenset[str],
    selected: frozenset[str],
) -> Iterator[str]:
    """Losses of selected pods that no counter of a fitting reason tells of. `before`, `after`: drops by reason.

    Half of them are enough: a request that met a hole of half a second may have been lost in the next one's place.
    """
    lost = sum(
        1 for line in lines if line["what"] == "lost" and line["kind"] in ONE_PACKET_KINDS and line["pod"] in selected
    )
    counted = sum(after.get(reason, 0) - before.get(reason, 0) for reason in fitting)
    if fitting and lost >= COUNTED_LOSSES and counted < lost / 2:
        grown = {reason: after[reason] - before.get(reason, 0) for reason in after}
        others = ", ".join(f"{number} {reason}" for reason, number in sorted(grown.items()) if number)
        yield f"{lost} requests, {counted} drops as {' or '.join(sorted(fitting))}; in all {others or 'none'}"


def limited(number: int, promise: Promise, details: Iterable[str]) -> list[Finding]:
    """The first few, and how many there were."""
    found: list[Finding] = []
    further = 0
    for detail in details:
        if len(found) < FINDINGS_MAX:
            found.append(Finding(number, promise, detail))
        else:
            further += 1
    if further:
        found.append(Finding(number, promise, f"and {further} more"))
    return found
