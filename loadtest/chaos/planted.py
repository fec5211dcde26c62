"""Is the machine too tame? Each of these takes one line out of the product, in a copy; chaos must find it.

A planted fault is a place in the tree and the rounds that must show it, played with a fixed seed. The same rounds in
the untouched tree are the other half: what is found there too says nothing of the fault.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtest.chaos.judge import Promise
from service.lab.lab import lab_down
from service.model.errors import OperatorError, TransientError

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = ("service", "loadtest", "bpf", "deploy", "pyproject.toml")
RUN_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Planted:
    """One line removed, and what chaos must say of it."""

    name: str
    why: str
    file: str
    text: str
    """What is replaced; it must be there once."""
    by: str
    event: str
    rounds: str
    """Of SEED, with this event alone."""
    promises: frozenset[Promise]
    """One of these must be found."""

    def plant(self, tree: Path) -> None:
        """Write the fault into a copy. Raises OperatorError where the line is not there, or more than once."""
        path = tree / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.text) != 1:
            raise OperatorError(f"{self.name}: {self.file} has {text.count(self.text)} times: {self.text.strip()}")
        path.write_text(text.replace(self.text, self.by), encoding="utf-8")


SEED = 7
LAB = "planted"
PLANTED: tuple[Planted, ...] = (
    Planted(
        "deadline-not-checked",
        "the kernel opens the fence for whoever has ever held the address",
        "bpf/verdict.h",
        "return lease && bpf_ktime_get_boot_ns() < lease->deadline_ns;",
        "return lease && lease->deadline_ns;",
        "stop-keeper",
        "1,2,3",
        frozenset((Promise.SPEAKERS,)),
    ),
    Planted(
        "release-leaves-fence-open",
        "the keeper gives a lease back and does not close the fence",
        "service/keeper/fenced_leases.py",
        "            self._fence.write(IPv4Address(output.key), output.token, 0)\n",
        "            pass\n",
        "restart-keeper",
        "1,2,3",
        frozenset((Promise.SPEAKERS,)),
    ),
    Planted(
        "drop-not-counted",
        "what a gateway drops because its lease is over is counted nowhere",
        "bpf/holder.h",
        "        return drop(skb, DROP_LEASE_EXPIRED_INGRESS, floating_ip);\n    }\n",
        "        return TC_ACT_SHOT;\n    }\n",
        "majority-lost",
        "1,2,3",
        frozenset((Promise.UNCOUNTED,)),
    ),
    Planted(
        "dead-keeper-looks-alive",
        "an agent goes on telling the last word of a keeper that has fallen silent",
        "service/agent/agent.py",
        "return self._holdings.report if self._keeper.is_keeper_alive else None",
        "return self._holdings.report",
        "stop-keeper",
        "1",
        frozenset((Promise.SILENT,)),
    ),
    Planted(
        "rows-not-deleted",
        "rows that nobody wants any more stay in the maps",
        "service/datapath/bpf_map.py",
        '            bpf_call(_MAP_DELETE, make_attributes(("=i", 0, self.fd), ("=Q", 8, _address(name))))\n',
        "            pass\n",
        "many-cidrs",
        "1",
        frozenset((Promise.GROWN,)),
    ),
    Planted(
        "unknown-address-lets-go",
        "a policy whose address no gateway lists is not in force, so its pods leave with their node's address",
        "service/policy/acceptance.py",
        "True, PolicyReason.UNKNOWN_EGRESS_IP",
        "False, PolicyReason.UNKNOWN_EGRESS_IP",
        "address-removed",
        "1,2",
        frozenset((Promise.SOURCE,)),
    ),
    Planted(
        "unreachable-is-an-error",
        "a datagram for which there is no way raises, and whoever sends it ends",
        "service/wire/sealed_socket.py",
        "        except OSError as error:\n            if error.errno == errno.EMSGSIZE:",
        "        except ConnectionError as error:\n            if error.errno == errno.EMSGSIZE:",
        "no-uplink",
        "1",
        frozenset((Promise.ENDED, Promise.ERROR)),
    ),
)
"""A guard that is planted without one of these lines is another fault, so a line that is gone fails a test."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What chaos said of one planted fault."""

    planted: Planted
    findings: tuple[tuple[str, str], ...]
    """(promise, detail)."""

    @property
    def is_caught(self) -> bool:
        """Whether it was found by what it must be found by."""
        return any(promise in self.planted.promises for promise, _ in self.findings)


def try_planted(planted: Planted, report: Callable[[str], None], *, is_planted: bool = True) -> Outcome:
    """Play its rounds in a copy of the tree. Raises OperatorError or TransientError where the run fails."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        if is_planted:
            planted.plant(tree)
        report(f"{planted.name}: {planted.event}, rounds {planted.rounds}")
        try:
            return Outcome(planted, _play(tree, planted))
        finally:
            # A run that was ended because it took too long had no time to clear its lab.
            lab_down(LAB)


def copy_tree(tree: Path) -> None:
    """What a run needs of the repository."""
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)


def _play(tree: Path, planted: Planted) -> tuple[tuple[str, str], ...]:
    document = tree / "result.json"
    chaos = ("chaos", "--seed", str(SEED), "--events", planted.event, "--rounds", planted.rounds, "--strict")
    command = [sys.executable, "-m", "loadtest", *chaos, "--shorten", "0", "--name", LAB, "--json", str(document)]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"{planted.name}: the run took longer than {RUN_TIMEOUT_S:.0f} s") from error
    if not document.exists():
        raise OperatorError(f"{planted.name}: the run did not end well: {(ended.stdout + ended.stderr)[-800:]}")
    rounds = json.loads(document.read_bytes())["rounds"]
    return tuple((one["promise"], one["detail"]) for played in rounds for one in played["findings"])
