"""A whole lab: site, manifests, settings and programs; built, found again, described, cleared."""

import json
import secrets
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from service.lab.cgroup import cgroups_of
from service.lab.configuration import manifests_folder, member_folder, write_configuration
from service.lab.manifest import write_manifests
from service.lab.namespace import delete_namespaces, enter_command, namespaces_of, require_root, run
from service.lab.plan import (
    HTTP_PORT,
    OUTSIDE_ADDRESSES,
    TCP_PORT,
    UDP_PORT,
    LabOptions,
    Plan,
    PlannedController,
    PlannedNode,
    PlannedPod,
    make_plan,
)
from service.lab.process import ProcessRecord, end_processes, is_alive, kill_marked, log_tail, spawn
from service.lab.site import SEGMENT_BRIDGES, build_site
from service.lab.state import (
    LabState,
    create_folder,
    lab_folder,
    locked,
    read_state,
    remove_folder,
    write_state,
)
from service.lab.status import fetch, fetch_json, wait_for
from service.model.errors import OperatorError, TransientError

READY_TIMEOUT_S = 60.0
GRACE_S = 2.0
NEIGHBOUR_FOLDER = Path("/proc/sys/net/ipv4/neigh/default")
NEIGHBOURS_SPARE = 900
"""Entries that fit into the kernel's usual limit of 1024, shared by all namespaces, with room for the host's own."""

Report = Callable[[str], None]
L = TypeVar("L", bound="Lab")


class Lab:
    """A lab that is up. It holds no resources: any number of processes may look at the same lab."""

    def __init__(self, state: LabState) -> None:
        self.state = state
        self.plan = make_plan(state.options)
        self.folder = lab_folder(state.options.name)

    @classmethod
    def find(cls, name: str) -> "Lab":
        """The lab of that name. Raises OperatorError where there is none, or only a half-built one."""
        state = read_state(name)
        if state is None:
            raise OperatorError(f"there is no lab {name!r}; `egressgw lab up` builds one")
        if not state.complete:
            raise OperatorError(f"the lab {name!r} is only half built; `egressgw lab down` clears it")
        return cls(state)

    @property
    def manifests(self) -> Path:
        """The folder of manifests that members watch; a user's edits take effect."""
        return manifests_folder(self.folder)

    @property
    def outside_log(self) -> Path:
        """The outside server's log of calls; `outside` has its format. It only grows."""
        return self.folder / "outside.log"

    def node(self, name: str) -> PlannedNode:
        """Raises OperatorError naming those that there are."""
        for node in self.plan.nodes:
            if node.name == name:
                return node
        raise OperatorError(f"no node {name!r}; there are {', '.join(node.name for node in self.plan.nodes)}")

    def pod(self, full_name: str) -> PlannedPod:
        """By `namespace/name`."""
        for pod in self.plan.pods:
            if pod.full_name == full_name:
                return pod
        raise OperatorError(f"no pod {full_name!r}; `egressgw lab info` lists them")

    def ports(self, member: str) -> list[str]:
        """The fabric's ports of a node or controller."""
        for host in self.plan.hosts:
            if host.name == member:
                return [host.port]
        node = self.node(member)
        return [node.port(segment) for segment in node.segments]

    def remember(self, record: ProcessRecord) -> None:
        """Put a program on record, in the place of an earlier one of its kind and member, so that `down` ends it."""
        self.state = self.state.with_process(record)
        write_state(self.state)

    def start(self, kind: str, member: str, netns: str, module: str, *arguments: str) -> ProcessRecord:
        """Start a Python module in a namespace as one of the lab's programs: `down` ends it."""
        command = (sys.executable, "-m", module, *arguments)
        home = member_folder(self.folder, member)
        home.mkdir(exist_ok=True)
        record = spawn(kind, member, netns, command, home / f"{kind}.log", self.folder)
        self.remember(record)
        return record

    def start_outside(self) -> None:
        """Returns before it listens; see `wait_outside`."""
        arguments = ("--log", str(self.outside_log))
        self.start("outside", "outside", self.plan.outside, "service.lab.outside", *arguments)

    def wait_outside(self) -> None:
        """Until it listens, if it was started. Raises OperatorError with its last words where it ended."""
        record = self.state.process("outside", "outside")
        if record is not None:
            _wait_for_file(record, self.outside_log.with_suffix(".ready"))

    def complete(self) -> None:
        """From now on the lab can be found."""
        self.state = msgspec.structs.replace(self.state, complete=True)
        write_state(self.state)

    def enter(self, place: str, *command: str) -> list[str]:
        """The command that runs `command` in the network of a pod (`namespace/name`), member, or other place.

        Raises OperatorError where there is no such place.
        """
        return [*enter_command(self.netns(place)), *command]

    def netns(self, place: str) -> str:
        """The network namespace of that place. Raises OperatorError where there is no such place."""
        others = {"router": self.plan.router, "outside": self.plan.outside, "fabric": self.plan.fabric}
        others |= {host.name: host.netns for host in self.plan.hosts}
        return others.get(place) or (self.pod(place) if "/" in place else self.node(place)).netns

    def client_command(self, pod: PlannedPod, *arguments: str) -> list[str]:
        """The command of `service.lab.client` in a pod."""
        return [*enter_command(pod.netns), sys.executable, "-m", "service.lab.client", *arguments]

    def start_capture(self, path: Path) -> None:
        """Record what enters the fabric into `path` from now on. Raises OperatorError where it does not start."""
        record = self.start("capture", "fabric", self.plan.fabric, "service.lab.traffic.capture", str(path))
        _wait_for_file(record, path.with_suffix(path.suffix + ".ready"))

    def stop_capture(self, path: Path) -> dict[str, int]:
        """End the capture and return its summary: `frames`, and `lost`, which must be 0 for it to prove anything."""
        record = self.state.process("capture", "fabric")
        if record is None:
            raise OperatorError("no capture was started")
        end_processes([record], grace_s=READY_TIMEOUT_S)
        summary: dict[str, int] = json.loads(path.with_suffix(path.suffix + ".summary").read_bytes())
        return summary

    def info(self) -> dict[str, Any]:
        """What `lab info --json` prints. Pids are null where the program does not run."""
        plan, fabric = self.plan, self.plan.fabric
        return {
            "name": plan.options.name,
            "folder": str(self.folder),
            "nodes": [self._node_info(node) for node in plan.nodes],
            "controllers": [self._controller_info(controller) for controller in plan.controllers],
            "pods": [_pod_info(pod) for pod in plan.pods],
            "outside": {
                "netns": plan.outside,
                "ip": str(OUTSIDE_ADDRESSES[0]),
                "ips": [str(address) for address in OUTSIDE_ADDRESSES],
                "tcp_port": TCP_PORT,
                "udp_port": UDP_PORT,
                "log": str(self.outside_log),
                "pid": self._pid("outside", "outside"),
            },
            "router": {"netns": plan.router},
            "manifests": str(self.manifests),
            "bridge": {"netns": fabric, "name": SEGMENT_BRIDGES[0]},
            "second_bridge": {"netns": fabric, "name": SEGMENT_BRIDGES[1]},
        }

    def _pid(self, kind: str, member: str) -> int | None:
        record = self.state.process(kind, member)
        return record.pid if record is not None and is_alive(record) else None

    def _node_info(self, node: PlannedNode) -> dict[str, Any]:
        home = member_folder(self.folder, node.name)
        return {
            "name": node.name,
            "role": str(node.role),
            "netns": node.netns,
            "ip": str(node.ip),
            "mac": node.mac(node.segments[0]),
            "ports": self.ports(node.name),
            "agent_pid": self._pid("agent", node.name),
            "keeper_pid": self._pid("keeper", node.name),
            "http": f"http://{node.ip}:{HTTP_PORT}",
            "config": str(home / "config.yaml"),
            "folder": str(home),
        }

    def _controller_info(self, controller: PlannedController) -> dict[str, Any]:
        home = member_folder(self.folder, controller.name)
        return {
            "name": controller.name,
            "netns": controller.netns,
            "ip": str(controller.ip),
            "mac": controller.mac,
            "pid": self._pid("controller", controller.name),
            "http": f"http://{controller.ip}:{HTTP_PORT}",
            "config": str(home / "config.yaml"),
            "folder": str(home),
        }


def _pod_info(pod: PlannedPod) -> dict[str, Any]:
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "labels": pod.labels,
        "netns": pod.netns,
        "ip": str(pod.ip),
        "node": pod.node,
        "device": pod.device,
        "attached": "bridge" if pod.on_bridge else "veth",
    }


def lab_up(
    options: LabOptions,
    *,
    source: Path | None = None,
    processes: bool = True,
    replace: bool = False,
    wait: bool = True,
    report: Report = lambda line: None,
) -> Lab:
    """Build a lab and start its programs; with `wait`, return when every one of them says it is ready.

    Raises OperatorError where one is up already (without `replace`) or a step fails; what was built so far is cleared
    then, but for programs that do not become ready: that lab stays, so that its logs can be read.
    """
    require_root()
    plan = make_plan(options)

    def build() -> Lab:
        lab = _build(options, plan, source, report)
        _start(lab, processes, report)
        return lab

    lab = raise_lab(options.name, build, replace=replace)
    if processes and wait:
        wait_until_ready(lab, report)
    return lab


def raise_lab(name: str, build: Callable[[], L], *, replace: bool) -> L:
    """Call `build` while nobody else is at work on the lab of that name; clear what it leaves where it fails.

    Raises OperatorError where such a lab is up and not to be replaced, and whatever `build` raises.
    """
    with locked(name):
        if read_state(name) is not None or lab_folder(name).exists():
            if not replace:
                raise OperatorError(f"the lab {name!r} is up already; `--replace` or `egressgw lab down`")
            _clear(name)
        try:
            return build()
        except BaseException:
            _clear(name)
            raise


def lab_down(name: str) -> bool:
    """Clear the lab of that name, half built or whole; False where nothing of it was there."""
    require_root()
    with locked(name):
        return _clear(name)


def wait_until_ready(lab: Lab, report: Report = lambda line: None) -> None:
    """Wait until agents and controllers answer /readyz with 200, and the controllers have heard so of every node.

    Raises OperatorError with the log of one that died.
    """
    members: list[tuple[str, PlannedNode | PlannedController]] = [("agent", node) for node in lab.plan.nodes]
    members += [("controller", controller) for controller in lab.plan.controllers]
    members += [("witness", lab.plan.witness)] if lab.plan.witness else []
    for kind, member in members:
        report(f"{member.name} gets ready")
        try:
            wait_for(f"{kind} of {member.name} to be ready", _is_ready(lab, kind, member), timeout_s=READY_TIMEOUT_S)
        except TransientError as error:
            raise OperatorError(f"{error}; logs in {member_folder(lab.folder, member.name)}") from error
    for controller in lab.plan.controllers:
        try:
            what = f"{controller.name} to know that every node is ready"
            wait_for(what, partial(knows_every_node, lab, controller), timeout_s=READY_TIMEOUT_S)
        except TransientError as error:
            raise OperatorError(f"{error}; logs in {member_folder(lab.folder, controller.name)}") from error


def knows_every_node(lab: Lab, controller: PlannedController) -> bool:
    """What a node says of itself takes a moment to get around, and an address stays where it is placed first."""
    known = fetch_json(controller.netns, str(controller.ip), "/v1/status")["nodes"]
    return all(known.get(node.name, {}).get("ready") for node in lab.plan.nodes)


def _is_ready(lab: Lab, kind: str, member: PlannedNode | PlannedController) -> Callable[[], bool]:
    def is_ready() -> bool:
        for record in lab.state.processes:
            if record.member == member.name:
                _assert_alive(record)
        status, body = fetch(member.netns, str(member.ip), "/readyz")
        if status != 200:
            raise TransientError(body.decode("utf-8", "replace")[:200])
        return True

    return is_ready


def _build(options: LabOptions, plan: Plan, source: Path | None, report: Report) -> Lab:
    folder = create_folder(options.name)
    state = LabState(options=options, host_settings=_needed_host_settings(plan))
    # Written before the first change, so that `down` can undo whatever comes after.
    write_state(state)
    _raise_neighbour_limit(plan, state)
    for step in build_site(plan):
        report(step)
    report("settings and manifests")
    write_manifests(manifests_folder(folder), plan, source)
    key = secrets.token_hex(32)
    for node in plan.nodes:
        write_configuration(folder, plan, node, key)
        # Each mount of this type is an instance of its own: pins of the lab never mix with those of the host.
        run(["mount", "-t", "bpf", "bpf", str(member_folder(folder, node.name) / "bpf")])
    for host in plan.hosts:
        write_configuration(folder, plan, host, key)
    if options.state_kib:
        size = f"size={options.state_kib}k"
        for name in plan.members:
            run(["mount", "-t", "tmpfs", "-o", size, f"{name}-state", str(member_folder(folder, name) / "state")])
    lab = Lab(state)
    lab.complete()
    return lab


def _start(lab: Lab, processes: bool, report: Report) -> None:
    report("the outside server")
    lab.start_outside()
    if processes:
        for node in lab.plan.nodes:
            report(f"keeper and agent of {node.name}")
            config = str(member_folder(lab.folder, node.name) / "config.yaml")
            for kind in ("keeper", "agent"):
                lab.start(kind, node.name, node.netns, "service", kind, "--config", config)
        for controller in lab.plan.controllers:
            report(controller.name)
            config = str(member_folder(lab.folder, controller.name) / "config.yaml")
            lab.start("controller", controller.name, controller.netns, "service", "controller", "--config", config)
        if lab.plan.witness is not None:
            name = lab.plan.witness.name
            config = str(member_folder(lab.folder, name) / "config.yaml")
            lab.start("witness", name, lab.plan.witness.netns, "service", "agent", "--witness", "--config", config)
    lab.wait_outside()


def _wait_for_file(record: ProcessRecord, ready: Path) -> None:
    """Until the program has made its ready file. Raises OperatorError with its last words where it ends instead."""

    def is_ready() -> bool:
        _assert_alive(record)
        return ready.exists()

    wait_for(f"the {record.kind} of {record.member}", is_ready, timeout_s=READY_TIMEOUT_S)


def _assert_alive(record: ProcessRecord) -> None:
    if not is_alive(record):
        raise OperatorError(f"{record.kind} of {record.member} ended:\n{log_tail(record)}")


def _clear(name: str) -> bool:
    try:
        state = read_state(name)
    except OperatorError:
        # Unreadable: what its programs were is in their environment.
        state = None
    cgroups = cgroups_of(name)
    found = lab_folder(name).exists() or bool(namespaces_of(name)) or bool(cgroups)
    for cgroup in cgroups:
        cgroup.kill()
    if state is not None:
        end_processes(list(state.processes), grace_s=GRACE_S)
    kill_marked(lab_folder(name))
    # Once more: a program that was just being started has entered its node's only now.
    for cgroup in cgroups:
        cgroup.kill()
    delete_namespaces(namespaces_of(name))
    for cgroup in cgroups:
        cgroup.remove()
    if state is not None:
        for path, value in state.host_settings.items():
            Path(path).write_text(value, encoding="ascii")
    remove_folder(name)
    return found


def _needed_host_settings(plan: Plan) -> dict[str, str]:
    """Present values of the settings that have to change for a lab of this size."""
    if _neighbours(plan) <= NEIGHBOURS_SPARE:
        return {}
    paths = [NEIGHBOUR_FOLDER / f"gc_thresh{number}" for number in (1, 2, 3)]
    return {str(path): path.read_text(encoding="ascii").strip() for path in paths}


def _raise_neighbour_limit(plan: Plan, state: LabState) -> None:
    for factor, path in enumerate(state.host_settings, start=1):
        Path(path).write_text(str(_neighbours(plan) * factor), encoding="ascii")


def _neighbours(plan: Plan) -> int:
    """Neighbour entries when everybody has talked to everybody."""
    members = len(plan.nodes) + len(plan.hosts) + 1
    return members * members + 2 * len(plan.pods)
