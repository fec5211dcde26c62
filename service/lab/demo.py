"""`egressgw lab demo`: builds a lab, applies a policy, kills a node, reads the audit log; every step with its proof."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from service.audit.cloud_event import format_time
from service.audit.journal import CorruptRecord, read_outbox
from service.audit.timeline import merge, tenures
from service.lab.capture_site import capture_site
from service.lab.configuration import member_folder
from service.lab.example import (
    EGRESS_SOURCE_IP,
    EXPECTED_HOLDERS,
    FLOATING_IPS,
    GATEWAY,
    GATEWAY_FILE,
    MATCHING_DESTINATION,
    OTHER_DESTINATION,
    POLICY,
    POLICY_FILE,
    POLICY_NAME,
    SECOND_UPLINK_DESTINATION,
)
from service.lab.fault import Fault, apply_fault
from service.lab.lab import Lab, lab_up
from service.lab.manifest import write_manifest
from service.lab.narration import Narrator
from service.lab.plan import LabOptions, PlannedPod
from service.lab.process import is_alive, log_tail
from service.lab.status import fetch_json, wait_for
from service.lab.traffic.frame import ETH_ARP, read_frames
from service.lab.traffic.leak_check import find_leaks, is_steered, tenures_of
from service.lab.traffic.stream import boot_time_ns
from service.lab.witness import Check, PodStream, check_pod, look, same, wait_for_calls
from service.model.audit_record import AuditRecord, RecordKind
from service.model.errors import OperatorError, TransientError

ASSIGN_TIMEOUT_S = 30.0
EFFECT_TIMEOUT_S = 15.0
FAILOVER_TIMEOUT_S = 15.0
GAP_MAX_MS = 1000.0
GAP_AIM_MS = 1000.0 / 3
STREAM_INTERVAL_MS = 5.0
CALLS_BEFORE, CALLS_AFTER = 100, 200
RECORD_SLACK_NS = 100_000_000
"""A holder's first frames may be this much older than its record of having acquired the address."""


class LabDemo:
    """The demo of a lab without Kubernetes: four steps, in under 90 s."""

    def __init__(self, name: str) -> None:
        self.name = name

    def show(self, narrator: Narrator) -> None:
        """Raise the lab, in the place of one of that name, and go through the steps."""
        _Steps(_raise_lab(self.name, narrator), narrator).run()

    def show_last_words(self, narrator: Narrator) -> None:
        """Of every agent, keeper and controller; nothing where the lab was not even built."""
        with contextlib.suppress(OperatorError):
            for record in Lab.find(self.name).state.processes:
                if record.kind in ("agent", "keeper", "controller"):
                    state = "runs" if is_alive(record) else "has ended"
                    narrator.say(f"{record.kind} of {record.member} {state}; its last words:\n{log_tail(record, 6)}")

    def show_what_to_try(self, narrator: Narrator) -> None:
        """Raises OperatorError where the lab is not up."""
        lab = Lab.find(self.name)
        option = "" if self.name == LabOptions().name else f" --name {self.name}"
        pod = lab.plan.pods[0].full_name
        narrator.say(
            f"\nThe lab stays up. Try:\n"
            f"  egressgw lab info{option}\n"
            f"  egressgw lab exec{option} {pod} -- curl -s http://8.8.8.8:8080/\n"
            f"  egressgw lab exec{option} control1 -- egressgw status\n"
            f"  egressgw lab fault{option} worker1 heal; egressgw lab fault{option} worker1 restart\n"
            f"  edit {lab.manifests}/{POLICY_FILE}\n"
            f"  egressgw lab down{option}"
        )


class _Steps:
    """The four steps on a lab that is up."""

    def __init__(self, lab: Lab, narrator: Narrator) -> None:
        self.lab, self.narrator = lab, narrator
        self.capture = lab.folder / "capture"

    def run(self) -> None:
        self.lab.start_capture(self.capture)
        self.before_any_policy()
        self.apply_objects()
        self.node_dies()
        self.read_audit()

    # -- step 1 --

    def before_any_policy(self) -> None:
        self.narrator.step("1. Before any policy: a pod is seen as its node")
        for pod in self.lab.plan.pods:
            self._check_as_node(pod, MATCHING_DESTINATION)

    # -- step 2 --

    def apply_objects(self) -> None:
        self.narrator.step("2. A gateway with three floating IPs, and a policy for the frontends of alice and paul")
        self.narrator.show_yaml(f"{self.lab.manifests}/{GATEWAY_FILE}", GATEWAY)
        self.narrator.show_yaml(f"{self.lab.manifests}/{POLICY_FILE}", POLICY)
        write_manifest(self.lab.manifests, GATEWAY_FILE, GATEWAY)
        with self.narrator.progress("floating IPs are being placed"):
            wait_for("every floating IP to have a holder", self._all_held, timeout_s=ASSIGN_TIMEOUT_S)
        self._show_assignment()
        applied_ns = boot_time_ns()
        write_manifest(self.lab.manifests, POLICY_FILE, POLICY)
        with self.narrator.progress("the policy takes effect"):
            wait_for(f"policy {POLICY_NAME} to be accepted", self._is_accepted, timeout_s=EFFECT_TIMEOUT_S)
            for pod in self._matching():
                wait_for(f"{pod.full_name} to be steered", partial(self._is_steered, pod), timeout_s=EFFECT_TIMEOUT_S)
        self.narrator.say(f"in effect for every pod after {(boot_time_ns() - applied_ns) / 1e6:.0f} ms")
        for pod in self._matching():
            self.narrator.check(check_pod(self.lab, pod, MATCHING_DESTINATION, EGRESS_SOURCE_IP))
        self.narrator.say("Everything else is left as it was:")
        for pod in self.lab.plan.pods:
            matches = pod in self._matching()
            self._check_as_node(pod, OTHER_DESTINATION if matches else MATCHING_DESTINATION)
        self._check_as_node(self._matching()[0], SECOND_UPLINK_DESTINATION, segment=1)

    def _all_held(self) -> bool:
        rows = self._status()["floatingIPs"]
        return all(rows.get(address, {}).get("holder") for address in FLOATING_IPS)

    def _show_assignment(self) -> None:
        rows = self._status()["floatingIPs"]
        table = [(address, str(rows[address]["holder"]), str(rows[address]["successor"])) for address in FLOATING_IPS]
        self.narrator.table("status of the gateway", ("floating IP", "holder", "successor"), table)
        for address, expected in EXPECTED_HOLDERS.items():
            self.narrator.check(same(f"{address} is assigned to", expected, str(rows[address]["holder"])))

    def _is_accepted(self) -> bool:
        return bool(self._status().get("policies", {}).get(POLICY_NAME, {}).get("accepted"))

    def _is_steered(self, pod: PlannedPod) -> bool:
        return look(self.lab, pod, "udp", MATCHING_DESTINATION, timeout_s=0.2) == EGRESS_SOURCE_IP

    # -- step 3 --

    def node_dies(self) -> None:
        holder = str(self._status()["floatingIPs"][EGRESS_SOURCE_IP]["holder"])
        self.narrator.step(f"3. {holder}, which holds {EGRESS_SOURCE_IP}, dies")
        survivors = [pod for pod in self._matching() if pod.node != holder]
        with contextlib.ExitStack() as stack:
            streams = [self._stream(stack, pod, proto) for pod, proto in zip(survivors, ("udp", "tcp"), strict=False)]
            with self.narrator.progress("clients talk through it"):
                for stream in streams:
                    wait_for_calls(self.lab, stream.proto, EGRESS_SOURCE_IP, CALLS_BEFORE, timeout_s=EFFECT_TIMEOUT_S)
            died_ns = boot_time_ns()
            for fault in (Fault.KILL, Fault.CUT):
                for line in apply_fault(self.lab, holder, fault):
                    self.narrator.say(f"  {line}")
            with self.narrator.progress("the next node takes over"):
                new_holder = wait_for(
                    "a new holder", partial(self._holder_other_than, holder), timeout_s=FAILOVER_TIMEOUT_S
                )
                for stream in streams:
                    wait_for_calls(self.lab, stream.proto, EGRESS_SOURCE_IP, CALLS_AFTER, timeout_s=FAILOVER_TIMEOUT_S)
            self.narrator.say(f"{EGRESS_SOURCE_IP} is now with {new_holder}")
            for stream in streams:
                self._check_stream(stream, stream.report())
        for pod in survivors:
            self.narrator.check(check_pod(self.lab, pod, MATCHING_DESTINATION, EGRESS_SOURCE_IP))
        self._check_capture(new_holder, died_ns)

    def _stream(self, stack: contextlib.ExitStack, pod: PlannedPod, proto: str) -> PodStream:
        stream = PodStream(self.lab, pod, proto, MATCHING_DESTINATION, interval_ms=STREAM_INTERVAL_MS)
        stack.callback(stream.close)
        return stream

    def _holder_other_than(self, node: str) -> str | None:
        holder = self._status()["floatingIPs"][EGRESS_SOURCE_IP]["holder"]
        return str(holder) if holder not in (None, node) else None

    def _check_stream(self, stream: PodStream, report: dict[str, Any]) -> None:
        what = f"{stream.proto} stream of {stream.pod.full_name}"
        gap_ms = report["gap_max_ms"]
        aim = "within" if gap_ms <= GAP_AIM_MS else "above"
        told = f"{gap_ms:.0f} ms ({aim} the aim of {GAP_AIM_MS:.0f} ms), {report['lost']} of {report['sent']} lost"
        expected = f"below {GAP_MAX_MS:.0f} ms"
        self.narrator.check(Check(f"{what}: longest gap", expected, told, gap_ms < GAP_MAX_MS))
        sources = ", ".join(report["sources"]) or "nobody"
        self.narrator.check(same(f"{what}: seen all the time as", EGRESS_SOURCE_IP, sources))
        if stream.proto == "tcp":
            state = report["broken"] or "open"
            self.narrator.check(same(f"{what}: its one connection is", "open", state))

    def _check_capture(self, new_holder: str, died_ns: int) -> None:
        summary = self.lab.stop_capture(self.capture)
        frames = list(read_frames(self.capture))
        port = self.lab.node(new_holder).port(0)
        announced = [
            frame
            for frame in frames
            if frame.ethertype == ETH_ARP
            and frame.port == port
            and frame.time_ns >= died_ns
            and frame.source == frame.destination
            and str(frame.source) == EGRESS_SOURCE_IP
        ]
        told = f"{(announced[0].time_ns - died_ns) / 1e6:.0f} ms after the death" if announced else "none"
        claim = f"gratuitous ARP for {EGRESS_SOURCE_IP} by {new_holder}"
        self.narrator.check(Check(claim, "on the wire", told, bool(announced)))
        site = capture_site(self.lab.plan, FLOATING_IPS)
        translated = sum(frame.source in site.floating_ips and frame.ethertype != ETH_ARP for frame in frames)
        steered = sum(is_steered(frame, site) for frame in frames)
        leaks = find_leaks(frames, tenures_of(self._records()), site, slack_ns=RECORD_SLACK_NS)
        claim = f"leaks among {translated} translated packets ({steered} of them steered), captured at every port"
        # With nothing to judge there would be no leak either.
        self.narrator.check(Check(claim, "0", str(len(leaks)), not leaks and steered > 0 and translated > 0))
        for leak in leaks[:5]:
            self.narrator.say(f"    {leak}")
        self.narrator.check(same("frames that the capture missed", "0", str(summary["lost"])))

    # -- step 4 --

    def read_audit(self) -> None:
        self.narrator.step("4. The audit records of all that")
        records = merge(self._records())
        self.narrator.table(
            "audit log", ("time (UTC)", "event", "subject", "holder", "previous", "by"), [*map(_row, records)]
        )
        holders = [tenure.holder for tenure in tenures(records, EGRESS_SOURCE_IP)]
        seen = " then ".join(holders) or "nobody"
        self.narrator.check(same(f"{EGRESS_SOURCE_IP} was held by", "worker1 then worker2", seen))
        accepted = [record.subject for record in records if record.kind is RecordKind.POLICY_ACCEPTED]
        self.narrator.check(
            Check("acceptance of the policy", "on record", ", ".join(accepted) or "missing", bool(accepted))
        )

    # -- common --

    def _matching(self) -> list[PlannedPod]:
        return [pod for pod in self.lab.plan.pods if pod.role == "frontend"]

    def _check_as_node(self, pod: PlannedPod, destination: str, *, segment: int = 0) -> None:
        expected = str(self.lab.node(pod.node).address(segment))
        self.narrator.check(check_pod(self.lab, pod, destination, expected))

    def _status(self) -> dict[str, Any]:
        """What the leading controller says, or between two leaders another one. TransientError where none answers."""
        documents = []
        for controller in self.lab.plan.controllers:
            with contextlib.suppress(TransientError):
                documents.append(fetch_json(controller.netns, str(controller.ip), "/v1/status", timeout_s=1.0))
        if not documents:
            raise TransientError("no controller answers")
        return next((document for document in documents if document.get("leading")), documents[0])

    def _records(self) -> list[AuditRecord]:
        return [record for record in _all_records(self.lab) if not isinstance(record, CorruptRecord)]


def _all_records(lab: Lab) -> Iterator[AuditRecord | CorruptRecord]:
    for name in lab.plan.members:
        for folder in sorted((member_folder(lab.folder, name) / "state").glob("*/")):
            if any(folder.glob("*.audit")):
                yield from read_outbox(folder)


def _row(record: AuditRecord) -> tuple[str, ...]:
    time = format_time(record.wall_time_ns)[11:23]
    return (time, str(record.kind), record.subject, record.holder, record.previous, record.node)


def _raise_lab(name: str, narrator: Narrator) -> Lab:
    narrator.step("0. The lab: three nodes, nine pods, a router and an outside server in network namespaces")
    with narrator.progress("building") as detail:
        lab = lab_up(LabOptions(name=name), replace=True, report=detail)
    rows = [
        (node.name, str(node.role), str(node.ip), ", ".join(_briefly(pod) for pod in node.pods))
        for node in lab.plan.nodes
    ]
    narrator.table("nodes", ("node", "role", "address", "pods"), rows)
    narrator.say(f"manifests, for you to edit meanwhile: {lab.manifests}")
    return lab


def _briefly(pod: PlannedPod) -> str:
    return f"{pod.full_name} {pod.ip}"
