"""The peer of `failover`: keepalived (VRRP version 3) on two nodes of a segment of their own, beside the lab.

A client asks a virtual address; the master's link goes silent and its keepalived is killed, as a lab's holder is. What
is measured is the gap of the address alone, which has no connections to keep and no ports to know.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.outage import Outage, find_outage
from loadtest.station import Station
from loadtest.traffic import boot_time_ns
from service.lab.namespace import create_namespaces, delete_namespaces, enter_command, ip_batch, run
from service.lab.plan import UDP_PORT
from service.lab.status import wait_for
from service.model.errors import OperatorError, TransientError

VIRTUAL = "172.31.0.100"
_CLIENT = "172.31.0.10"
_NODES = {"a": "172.31.0.1", "b": "172.31.0.2"}
_PRIORITIES = {"a": 150, "b": 100}
_READY_S = 20.0
_LEAD_S = 0.4
_MASTER_DOWN, _BACK_S = 4, 1.0
"""RFC 5798, 6.1: a backup waits for three intervals and a skew of less than one; then traffic is to be back."""
_CHECKOUT = Path(__file__).resolve().parents[1]


def require_keepalived() -> None:
    """Raises OperatorError, with the mend, where it is not installed."""
    if shutil.which("keepalived") is None:
        raise OperatorError("--peer: keepalived is not installed; on Debian: apt-get install keepalived")


def configuration(node: str, advert_s: float) -> str:
    """Of keepalived.conf(5): one instance, which gives nothing back to who comes again."""
    return f"""global_defs {{
  vrrp_version 3
  script_user root
}}
vrrp_instance virtual {{
  state BACKUP
  nopreempt
  interface eth0
  virtual_router_id 51
  priority {_PRIORITIES[node]}
  advert_int {advert_s:g}
  virtual_ipaddress {{
    {VIRTUAL}/24 dev eth0
  }}
}}
"""


@dataclass(slots=True)
class KeepalivedPair:
    """Two nodes with a virtual address between them; `running` builds them."""

    name: str
    advert_s: float
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def netns(self, place: str) -> str:
        """Of `a`, `b`, `client` or `switch`."""
        return f"{self.name}-ka-{place}"

    def start(self, node: str) -> None:
        """Begin keepalived there."""
        config = self.folder / f"{node}.conf"
        config.write_text(configuration(node, self.advert_s))
        files = [f"--{kind}={self.folder / f'{node}-{kind}'}" for kind in ("pid", "vrrp_pid")]
        self.processes[node] = subprocess.Popen(
            [*enter_command(self.netns(node)), "keepalived", "--dont-fork", "--vrrp", f"--use-file={config}", *files],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self, node: str) -> None:
        """Its link is silent, and its processes are gone: nobody is told."""
        self._set_link(node, forwarding=False)
        for kind in ("vrrp_pid", "pid"):
            file = self.folder / f"{node}-{kind}"
            with contextlib.suppress(OSError, ValueError):
                run(["kill", "-9", file.read_text().strip()], check=False)
            # Its next start would take whoever has that number by then for itself, and end.
            file.unlink(missing_ok=True)
        self.processes.pop(node).wait(5)

    def heal(self, node: str) -> None:
        """It comes back with nothing of what it had."""
        ip_batch(self.netns(node), [f"addr flush dev eth0 to {VIRTUAL}"])
        self._set_link(node, forwarding=True)
        self.start(node)

    def _set_link(self, node: str, *, forwarding: bool) -> None:
        state = 3 if forwarding else 0
        run([*enter_command(self.netns("switch")), "bridge", "link", "set", "dev", f"port-{node}", "state", str(state)])

    def master(self) -> str:
        """The one node that has the address. Raises TransientError where it is none, or both."""
        shown = {node: run(["ip", "-n", self.netns(node), "-4", "addr", "show", "dev", "eth0"]) for node in _NODES}
        found = [node for node, text in shown.items() if f"{VIRTUAL}/" in text]
        if len(found) != 1:
            raise TransientError(f"the virtual address is on {found or 'no node'}")
        return found[0]

    def wait_until_whole(self) -> str:
        """Both run and one has the address; which."""
        return wait_for("keepalived to have a master", self.master, timeout_s=_READY_S)


@contextlib.contextmanager
def running_pair(name: str, advert_s: float) -> Iterator[KeepalivedPair]:
    """Built, and cleared on the way out. `name`: what its namespaces begin with."""
    require_keepalived()
    with tempfile.TemporaryDirectory(prefix="egressgw-keepalived-") as folder, contextlib.ExitStack() as stack:
        pair = KeepalivedPair(name, advert_s, Path(folder))
        places = [pair.netns(place) for place in ("switch", "client", *_NODES)]
        delete_namespaces(places)
        stack.callback(delete_namespaces, places)
        create_namespaces(places)
        _wire(pair)
        for node in _NODES:
            log = pair.folder / f"{node}.log"
            command = [*enter_command(pair.netns(node)), sys.executable, "-m", "service.lab.outside", "--log", str(log)]
            server = subprocess.Popen(command, cwd=_CHECKOUT)
            stack.callback(_end, server)
            wait_for(f"the server of {node}", log.with_suffix(".ready").exists, timeout_s=_READY_S)
        stack.callback(_end_all, pair.processes)
        for node in _NODES:
            pair.start(node)
        yield pair


def _wire(pair: KeepalivedPair) -> None:
    switch = pair.netns("switch")
    ip_batch(switch, ["link add br0 type bridge", "link set br0 up"])
    for place, address in {**_NODES, "client": _CLIENT}.items():
        ip_batch(switch, [f"link add port-{place} type veth peer name eth0 netns {pair.netns(place)}"])
        ip_batch(switch, [f"link set port-{place} master br0 up"])
        ip_batch(pair.netns(place), [f"addr add {address}/24 dev eth0", "link set lo up", "link set eth0 up"])


def _end_all(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for process in processes.values():
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)
    if process.poll() is None:
        process.kill()
        process.wait(3)


def kill_master(pair: KeepalivedPair, interval_s: float, lead_s: float) -> Outage | None:
    """What a client that asks each `interval_s` felt of one kill; None where traffic did not come back.

    `lead_s`: so much longer it asks before. The killed node is back, and the pair whole, when it returns.
    """
    master = pair.wait_until_whole()
    with Station(pair.netns("client")) as station:
        station.tell("stream", destination=VIRTUAL, port=UDP_PORT, interval_ns=int(interval_s * 1e9))
        station.answer()
        time.sleep(_LEAD_S + lead_s)
        kill_ns = boot_time_ns()
        pair.kill(master)
        time.sleep(_MASTER_DOWN * pair.advert_s + _BACK_S)
        station.end()
        streamed = station.answer()
    pair.heal(master)
    pair.wait_until_whole()
    with contextlib.suppress(ValueError):
        return find_outage(kill_ns, streamed["sent"], streamed["answers"])
    return None
