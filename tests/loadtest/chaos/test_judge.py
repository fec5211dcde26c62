"""What the judge of chaos finds in frames, calls and flows."""

from dataclasses import replace
from ipaddress import IPv4Address

from loadtest.chaos.client import ANSWER_S, IDLE_S, SERVED_PORT, STALL_S
from loadtest.chaos.event import QUIET, Cost
from loadtest.chaos.judge import (
    COUNTED_LOSSES,
    OVERLAP_NS,
    TENURE_NS,
    Flow,
    Promise,
    judge_calls,
    judge_drops,
    judge_flows,
    judge_frames,
    judge_speakers,
    limited,
)
from loadtest.chaos.outside import PUSH_S
from loadtest.chaos.site import SETTLED_S, ChaosSite, Expectation, inbound_ruleset
from loadtest.gateway import FLOATING_IPS
from service.lab.capture_site import capture_site
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.state import LabState
from service.lab.traffic.frame import ETH_IPV4, Frame

SECOND = 1_000_000_000
SITE = ChaosSite(Lab(LabState(options=LabOptions(name="unbuilt"), host_settings={})))
CAPTURE = capture_site(SITE.lab.plan, FLOATING_IPS)
POD = SITE.selected[0]
ROUTER = bytes.fromhex("026567000001")
NOBODY: frozenset[str] = frozenset()


def frame(source: str, port: str, *, at_ms: int = 0, destination_mac: bytes = ROUTER) -> Frame:
    address = IPv4Address(source)
    return Frame(at_ms * 1_000_000, port, bytes(6), destination_mac, ETH_IPV4, address, IPv4Address("8.8.8.8"), 17)


def spoken(*said: tuple[str, int]) -> list[Frame]:
    return [frame(FLOATING_IPS[0], port, at_ms=at_ms) for port, at_ms in said]


def test_a_node_that_speaks_again_just_after_the_next_one_is_a_second_speaker() -> None:
    said = [("worker1-0", 0), ("worker2-0", 100), ("worker1-0", 103), ("worker2-0", 105)]
    found = list(judge_speakers(spoken(*said), CAPTURE))
    assert len(found) == 1
    assert "worker1 spoke 3.0 ms after worker2 had begun" in found[0]


def test_a_node_that_has_the_address_back_from_one_that_falls_silent_has_taken_it_anew() -> None:
    """Seen: a majority that came back granted it to the successor, and 80 ms later to whom the leader had chosen."""
    back = [("worker1-0", 0), ("worker2-0", 100), ("worker1-0", 180), ("worker1-0", 190)]
    assert list(judge_speakers(spoken(*back), CAPTURE)) == []
    later_ms = 180 + OVERLAP_NS // 1_000_000
    assert list(judge_speakers(spoken(*back, ("worker2-0", later_ms)), CAPTURE)) == [], "and once more"


def test_a_node_that_was_dark_for_long_and_speaks_again_has_taken_the_address_anew() -> None:
    dark_ms = TENURE_NS // 1_000_000
    again = [("worker2-0", 0), ("worker1-0", dark_ms), ("worker2-0", dark_ms + 60)]
    assert list(judge_speakers(spoken(*again), CAPTURE)) == []
    # But the one in between must have stopped by then.
    both = spoken(*again, ("worker1-0", dark_ms + 65), ("worker2-0", dark_ms + 67))
    found = list(judge_speakers(both, CAPTURE))
    assert len(found) == 1
    assert found[0].startswith("worker1 spoke 5.0 ms after worker2 had begun, and 60.0 ms before: ")


def test_an_address_that_moves_and_comes_back_later_has_one_speaker_at_a_time() -> None:
    later_ms = 100 + OVERLAP_NS // 1_000_000
    moved = spoken(("worker1-0", 0), ("worker2-0", 100), ("worker2-0", 150), ("worker1-0", later_ms))
    assert list(judge_speakers(moved, CAPTURE)) == []


def test_a_floating_ip_on_the_second_uplink_is_told() -> None:
    assert "second uplink" in next(judge_speakers(spoken(("worker1-1", 0)), CAPTURE))


def test_a_selected_pods_bare_packet_may_go_to_nobody() -> None:
    gateway = bytes.fromhex(SITE.nodes[1].mac(0).replace(":", ""))
    selected = frozenset({POD.ip})

    def leaks(one: Frame) -> list[str]:
        return list(judge_frames([one], CAPTURE, selected=selected, told=set()))

    for found in (
        leaks(frame(str(POD.ip), "control1-0", destination_mac=gateway)),
        leaks(frame(str(POD.ip), "control1-0")),
    ):
        assert found[0].startswith("bare")
    assert "second uplink" in leaks(frame(str(POD.ip), "control1-1", destination_mac=gateway))[0]
    other = next(pod for pod in SITE.lab.plan.pods if pod not in SITE.selected)
    assert leaks(frame(str(other.ip), "control1-0")) == []


def test_who_steers_to_another_node_does_not_speak() -> None:
    holder = bytes.fromhex(next(node for node in SITE.nodes if node.name == "worker2").mac(0).replace(":", ""))
    steered = [replace(one, destination_mac=holder) for one in spoken(("worker1-0", 0), ("worker1-0", 103))]
    (by_holder,) = spoken(("worker2-0", 100))
    assert list(judge_speakers([steered[0], by_holder, steered[1]], CAPTURE)) == []


def test_a_connection_that_leaks_again_is_told_once() -> None:
    bare = frame(str(POD.ip), "control1-0")
    told: set[Flow] = set()
    for found in (1, 0):
        assert len(list(judge_frames([bare, bare], CAPTURE, selected=frozenset({POD.ip}), told=told))) == found
    another = replace(bare, source_port=7)
    assert len(list(judge_frames([another], CAPTURE, selected=frozenset({POD.ip}), told=told))) == 1


def call(source: str, at_ns: int, payload: str = "p0:udp:1") -> dict[str, object]:
    return {"payload": payload, "source": source, "time_ns": at_ns}


def test_a_call_must_have_the_source_that_is_due_or_just_was() -> None:
    first, second = FLOATING_IPS[:2]
    site = replace(SITE, expectations=[Expectation(0, first), Expectation(10 * SECOND, second)])

    def wrong(source: str, at_s: float, *, may_be_bare: bool = False) -> list[str]:
        return list(judge_calls([call(source, int(at_s * SECOND))], site, may_be_bare=may_be_bare))

    assert wrong(first, 5) == wrong(first, 10 + SETTLED_S / 2) == wrong(second, 11) == []
    assert "was seen as 192.168.1.101" in wrong(second, 5)[0]
    assert wrong(first, 11 + SETTLED_S)
    assert wrong(str(POD.ip), 11, may_be_bare=True), "a selected pod never leaves bare"


def test_a_pod_that_no_policy_selects_is_seen_as_its_node_and_bare_only_without_masquerade() -> None:
    other = next(pod for pod in SITE.lab.plan.pods if pod not in SITE.selected)
    word = f"{SITE.word(other)}:tcp:4"
    node = str(SITE.lab.node(other.node).ip)
    assert list(judge_calls([call(node, 5, word)], SITE, may_be_bare=False)) == []
    assert list(judge_calls([call(str(other.ip), 5, word)], SITE, may_be_bare=False))
    assert list(judge_calls([call(str(other.ip), 5, word)], SITE, may_be_bare=True)) == []


def test_a_forged_datagram_that_leaves_with_a_floating_ip_is_told() -> None:
    assert list(judge_calls([call(FLOATING_IPS[2], 5, "forged")], SITE, may_be_bare=False))
    assert list(judge_calls([call("10.99.1.1", 5, "forged")], SITE, may_be_bare=False)) == []


def test_losses_are_told_where_the_event_costs_none() -> None:
    kinds = ("lost", "ok", "lost", "broken")
    lines = [{"pod": "p1", "kind": "udp", "what": what, "detail": "ConnectionError", "t": 9} for what in kinds]
    found = dict(judge_flows(lines, [(9, QUIET)], selected=NOBODY))
    assert found[Promise.LOST].startswith("2 in 1 flows: 2 udp of p1")
    assert set(found) == {Promise.LOST, Promise.BROKEN}
    assert dict(judge_flows(lines, [(9, Cost())], selected=NOBODY)) == {}


def test_without_the_cnis_nat_only_selected_pods_connections_must_live() -> None:
    bare = Cost(loses=False, breaks=False, bare=True)
    line = {"pod": "p1", "kind": "tcp-push", "what": "broken", "detail": "ConnectionError", "t": 9}
    assert list(judge_flows([line], [(9, bare)], selected=frozenset(("p1",))))
    assert list(judge_flows([line], [(9, bare)], selected=NOBODY)) == []
    assert list(judge_flows([line], [(9, QUIET)], selected=NOBODY))


def test_what_went_unanswered_before_the_round_began_is_of_the_round_before() -> None:
    given_up_ns = 20 * 10**9
    line = {"pod": "p1", "kind": "tcp-stream", "what": "broken", "detail": "TimeoutError", "t": given_up_ns}

    def is_told(began_s: float, before: Cost, now: Cost, **other: str) -> bool:
        rounds = [(0, before), (given_up_ns - int(began_s * 1e9), now)]
        return bool(list(judge_flows([line | other], rounds, selected=NOBODY)))

    assert not is_told(STALL_S - 0.1, before=Cost(), now=QUIET)
    assert is_told(STALL_S - 0.1, before=QUIET, now=Cost())
    assert is_told(STALL_S, before=Cost(), now=QUIET)
    assert is_told(STALL_S - 0.1, before=Cost(), now=QUIET, detail="ConnectionError")
    idle = {"kind": "tcp-idle", "detail": "ConnectionResetError"}
    assert not is_told(IDLE_S - 0.1, before=Cost(), now=QUIET, **idle)
    assert not is_told(IDLE_S - 0.1, before=QUIET, now=Cost(), **idle)
    assert is_told(IDLE_S, before=Cost(), now=QUIET, **idle)
    # Who only listens was told something for the last time a moment before the event, in the round before.
    pushed = {"kind": "tcp-push"}
    assert not is_told(STALL_S - PUSH_S / 2, before=QUIET, now=Cost(), **pushed)
    assert is_told(STALL_S - PUSH_S / 2, before=QUIET, now=QUIET, **pushed)
    assert is_told(STALL_S - PUSH_S - 0.1, before=QUIET, now=Cost(), **pushed)
    datagram = {"kind": "udp-stream", "what": "lost", "detail": ""}
    assert not is_told(0.1, before=Cost(), now=QUIET, **datagram)
    assert is_told(ANSWER_S, before=Cost(), now=QUIET, **datagram)


def test_a_node_may_speak_for_an_address_that_somebody_gave_to_it_as_its_own() -> None:
    frames = spoken(("worker1-0", 0), ("worker2-0", 100), ("worker1-0", 103), ("worker2-0", 105))
    assert list(judge_speakers(frames, CAPTURE, frozenset((("worker1", FLOATING_IPS[0]),)))) == []
    assert list(judge_speakers(frames, CAPTURE, frozenset((("worker1", FLOATING_IPS[1]),))))


def drops(lost: int, counted: dict[str, int], pod: str = "p1", kind: str = "udp") -> list[str]:
    lines = [{"pod": pod, "kind": kind, "what": "lost", "t": 0}] * lost
    before = {"lease_expired_ingress": 7, "no_gateway": 1}
    after = {reason: before.get(reason, 0) + counted.get(reason, 0) for reason in {*before, *counted}}
    return list(judge_drops(lines, before, after, fitting=frozenset(before), selected=frozenset({"p1", "p3"})))


def test_what_selected_pods_lose_is_counted_under_a_reason_that_fits() -> None:
    assert drops(40, {"lease_expired_ingress": 15, "no_gateway": 6}) == []
    assert drops(40, {"lease_expired_ingress": 15, "malformed": 90})[0].startswith("40 requests, 15 drops as ")
    assert "in all none" in drops(COUNTED_LOSSES, {})[0]


def test_losses_that_no_counter_can_know_of_are_not_held_against_it() -> None:
    assert drops(COUNTED_LOSSES - 1, {}) == []
    assert drops(40, {}, pod="p2") == [], "nobody selects it"
    assert drops(40, {}, kind="tcp") == [], "a connection is lost with more or fewer packets"
    lines = [{"pod": "p1", "kind": "udp", "what": "lost"}] * 40
    assert list(judge_drops(lines, {}, {}, fitting=frozenset(), selected=frozenset({"p1"}))) == []


def test_a_flood_of_findings_is_counted_and_not_printed() -> None:
    found = limited(3, Promise.LEAK, (f"frame {number}" for number in range(20)))
    assert [str(one) for one in found][-1] == "round 3: leak: and 15 more"
    assert len(found) == 6


def test_the_port_of_a_node_leads_to_its_last_pod() -> None:
    node = SITE.nodes[1]
    assert f"dnat to {node.pods[-1].ip}:{SERVED_PORT}" in inbound_ruleset(node)
