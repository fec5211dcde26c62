"""Kernel settings of the node's network, changed so that they can be put back (kernel: networking/ip-sysctl).

Before a key of the node's own is changed for the first time, its value is noted in a file that outlives the process.
Where the disk does not take the note, the key is changed all the same: without it the node could not serve, and the
note is only for whoever uninstalls. It is kept, told of, and written with a later call.
"""

import json
import logging
import os
from pathlib import Path

from service.model.errors import OperatorError

_log = logging.getLogger(__name__)

PROC_SYS_NET = Path("/proc/sys/net")


class Sysctl:
    """Keys are paths below `folder`, such as `ipv4/conf/all/send_redirects`. Blocking, but never for long."""

    def __init__(self, folder: Path = PROC_SYS_NET, journal: Path | None = None) -> None:
        """`journal`: where former values are noted; None: nowhere, and `restore` does nothing."""
        self._folder = folder
        self._journal = journal
        self._unnoted: dict[str, tuple[str, str]] = {}
        """Former value and ours of keys that are not in the journal yet."""
        self.trouble = ""
        """Why former values are not on disk, in one line for status; empty where they are."""

    def write(self, key: str, value: str, *, keep_former: bool = True) -> None:
        """Set one key unless it is so already. Left alone are keys of IPv6 and of connection tracking where the kernel
        has none (yet), and those of a device that is gone by now: it may vanish at any moment.

        `keep_former=False` is for devices of ours, which take their keys with them. Raises OperatorError naming the
        key; nothing has changed then.
        """
        path = self._folder / key
        self._write_journal()
        if key.startswith(("ipv6/", "netfilter/")) and not path.exists():
            return
        try:
            former = path.read_text(encoding="ascii").strip()
            if former != value:
                if keep_former:
                    self._note(key, former, value)
                path.write_text(value, encoding="ascii")
        except OSError as error:
            if self._is_of_gone_device(path):
                return
            name = "net." + ".".join(key.split("/"))
            raise OperatorError(
                f"cannot set {name}={value}: {error.strerror}; set it on the node, run the agent privileged, or mount "
                f"the node's /proc/sys/net where it can be written and name it in datapath.sysctl_dir"
            ) from error

    def _is_of_gone_device(self, path: Path) -> bool:
        # Where there is neither of those of the system, it is the folder that is the wrong one.
        devices = path.parent.parent
        is_there = (devices / "all").exists() or (devices / "default").exists()
        return devices.name in ("conf", "neigh") and not path.parent.exists() and is_there

    def restore(self) -> None:
        """Put back what was changed and is still as it was changed to, and forget it. A key that is gone is skipped."""
        for key, (former, ours) in sorted((self._unnoted | self._noted()).items()):
            path = self._folder / key
            try:
                if path.read_text(encoding="ascii").strip() == ours:
                    path.write_text(former, encoding="ascii")
            except OSError as error:
                _log.warning(
                    "net.%s was %s before and stays %s: %s", key.replace("/", "."), former, ours, error.strerror
                )
        self._unnoted.clear()
        if self._journal is not None:
            self._journal.unlink(missing_ok=True)

    def _note(self, key: str, former: str, ours: str) -> None:
        if self._journal is None or key in self._unnoted or key in self._noted():
            return
        self._unnoted[key] = (former, ours)
        self._write_journal()

    def _write_journal(self) -> None:
        if self._journal is None or not self._unnoted:
            return
        new = self._journal.with_suffix(".new")
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(self._unnoted | self._noted(), indent=1), encoding="ascii")
            os.replace(new, self._journal)
        except OSError as error:
            trouble = f"state_dir: former kernel settings cannot be noted in {self._journal}: {error.strerror}"
            if trouble != self.trouble:
                _log.error("%s; until they are, `egressgw uninstall` cannot put them back", trouble)
            self.trouble = trouble
        else:
            self._unnoted.clear()
            self.trouble = ""

    def _noted(self) -> dict[str, tuple[str, str]]:
        if self._journal is None or not self._journal.exists():
            return {}
        try:
            noted = json.loads(self._journal.read_text(encoding="ascii"))
            return {str(key): (str(former), str(ours)) for key, (former, ours) in noted.items()}
        except (OSError, ValueError, AttributeError) as error:
            _log.warning("%s cannot be read, so former kernel settings are not known: %s", self._journal, error)
            return {}
