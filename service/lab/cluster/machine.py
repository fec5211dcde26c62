"""What makes a network namespace a machine: a mount namespace with private /run, /var and bpffs, and a cgroup."""

import contextlib
import os
from pathlib import Path

from service.lab.cgroup import Cgroup
from service.lab.cluster.runtime import CONTAINERD_SOCKET
from service.lab.namespace import enter_command, run
from service.lab.plan import PlannedNode
from service.lab.process import ProcessRecord, spawn
from service.model.errors import OperatorError, TransientError

# /run is built aside, with the lab's folder in it, and then takes the place of the host's: what containerd and the CNI
# plugins leave there must not be seen outside, nor may two nodes share a lock. Mounts are shared below, as on a real
# machine, so that containers can see those which come later. The service's own folders are the lab's, as in a lab
# without Kubernetes, so that they can be read from outside. -n: there is no /run to note mounts in meanwhile.
_SETUP = """
folder=$1 lab=$2
mount -n --bind "$folder/bpf" /sys/fs/bpf
mount -n -t tmpfs -o mode=755 run "$folder/aside"
mkdir -p "$folder/aside/${lab#/run/}" "$folder/aside/netns" "$folder/aside/egressgw"
mount -n --bind "$lab" "$folder/aside/${lab#/run/}"
mount -n --bind "$folder/run" "$folder/aside/egressgw"
mount -n --move "$folder/aside" /run
mount -n -t tmpfs -o mode=755 var-lib /var/lib
mkdir /var/lib/egressgw
mount -n --bind "$folder/state" /var/lib/egressgw
mount -n -t tmpfs -o mode=755 var-log /var/log
mount -n --make-rshared /
"""
# The shell replaces itself, so the pid on record is the program's own.
_ENTER = 'echo $$ > "$1/cgroup.procs"; shift; exec nsenter --mount="$@"'


class Machine:
    """One node as a machine. It holds no resources; everything is found again by name."""

    def __init__(self, lab: str, lab_folder: Path, node: PlannedNode) -> None:
        self.node = node
        self.lab_folder = lab_folder
        self.folder = lab_folder / node.name
        self.cgroup = Cgroup(lab, node.name)

    @property
    def mount_namespace(self) -> Path:
        """Keeps the mount namespace; unmounting it, once no process is in it, releases every mount within."""
        return self.folder / "mnt"

    def create(self) -> None:
        """Make mount namespace and cgroup. The lab's folder must be a mount that is not shared."""
        for name in ("aside", "state", "run", "bpf"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # An instance of its own: pins of the lab never mix with those of the host.
        run(["mount", "-t", "bpf", "bpf", str(self.folder / "bpf")])
        self.mount_namespace.touch()
        self.cgroup.create()
        setup = ["sh", "-euc", _SETUP, "setup", str(self.folder), str(self.lab_folder)]
        self._unshare(["unshare", f"--mount={self.mount_namespace}", "--propagation", "private", *setup])

    def _unshare(self, command: list[str]) -> None:
        # A mount namespace can be kept only in one of a lower number, and newer kernels number them by processor: where
        # the caller's is not the machine's first, only some processors make one that can be kept.
        *others, last = sorted(os.sched_getaffinity(0))
        for processor in others:
            with contextlib.suppress(OperatorError):
                run(["taskset", "-c", str(processor), *command])
                return
        run(["taskset", "-c", str(last), *command])

    def enter(self, *command: str) -> list[str]:
        """The command that runs `command` on this machine: its network, its files."""
        return [*enter_command(self.node.netns), f"--mount={self.mount_namespace}", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on this machine to its end and return what it printed, as `namespace.run`."""
        return run(self.enter(*command), check=check)

    def containerd_answers(self) -> bool:
        """Raises TransientError while its containerd does not."""
        try:
            self.run("ctr", "--address", str(CONTAINERD_SOCKET), "--timeout", "5s", "version")
        except OperatorError as error:
            raise TransientError(str(error)) from error
        return True

    def start(self, kind: str, command: tuple[str, ...]) -> ProcessRecord:
        """Start one of its programs, which `Cgroup.kill` ends with all that it has started."""
        words = ("sh", "-euc", _ENTER, "start", str(self.cgroup.system), str(self.mount_namespace), *command)
        return spawn(kind, self.node.name, self.node.netns, words, self.folder / f"{kind}.log", self.lab_folder)
