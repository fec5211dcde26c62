"""Network namespaces from the outside: commands in batches, settings under /proc/sys/net, sockets opened inside."""

import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from service.model.errors import OperatorError

NETNS_FOLDER = Path("/run/netns")
CLONE_NEWNET = 0x40000000
COMMAND_TIMEOUT_S = 60.0

T = TypeVar("T")


def require_root() -> None:
    """Raise OperatorError where this process cannot build network namespaces."""
    if sys.platform != "linux":
        raise OperatorError("the lab needs Linux: it is built of network namespaces")
    if os.geteuid() != 0:
        raise OperatorError("the lab needs root: it is built of network namespaces; try it with sudo")


def enter_command(netns: str) -> list[str]:
    """The command prefix that runs a program in the namespace but leaves /sys as the host has it."""
    return ["nsenter", f"--net={NETNS_FOLDER / netns}"]


def run(command: list[str], *, text: str = "", check: bool = True) -> str:
    """Run a command to its end and return what it printed. Raises OperatorError with its own words on failure."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise OperatorError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise OperatorError(f"`{' '.join(command)}` did not end in {COMMAND_TIMEOUT_S:.0f} s") from error
    if check and done.returncode != 0:
        raise OperatorError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def ip_batch(netns: str | None, lines: Iterable[str]) -> None:
    """Run `ip` commands (without the word `ip`) in one process, stopping at the first that fails."""
    text = "\n".join(lines)
    if text:
        inside = ["-n", netns] if netns else []
        run(["ip", *inside, "-batch", "-"], text=text + "\n")


def nft(netns: str, ruleset: str) -> None:
    """Run commands of nft in one transaction. Raises OperatorError where one is refused; nothing has changed then."""
    run([*enter_command(netns), "nft", "-f", "-"], text=ruleset)


def create_namespaces(names: Iterable[str]) -> None:
    """Raises OperatorError where one is there already; those before it in the list stay."""
    ip_batch(None, (f"netns add {name}" for name in names))


def namespaces_of(prefix: str) -> list[str]:
    """Names of the namespaces that exist with this prefix, sorted."""
    if not NETNS_FOLDER.exists():
        return []
    return sorted(path.name for path in NETNS_FOLDER.iterdir() if path.name.startswith(f"{prefix}-"))


def delete_namespaces(names: Iterable[str]) -> None:
    """Their interfaces go with them. One that is not there is no error."""
    for name in names:
        # One by one, not in a batch: what another clean-up has taken away must not stop this one.
        run(["ip", "netns", "delete", name], check=False)


def inside(netns: str, action: Callable[[], T]) -> T:
    """Call `action` in a thread of its own that has entered the namespace; sockets it opens stay there for good.

    Raises OperatorError where there is no such namespace, and whatever `action` raises.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def enter_and_call() -> None:
        try:
            _enter(netns)
            results.append(action())
        except BaseException as error:
            failures.append(error)

    # Entering changes only this thread, and the thread ends here: no other code ever runs in the namespace.
    thread = threading.Thread(target=enter_and_call, name=f"inside {netns}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(netns: str) -> None:
    try:
        descriptor = os.open(NETNS_FOLDER / netns, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OperatorError(f"there is no network namespace {netns}") from error
    try:
        # os.setns came with Python 3.12 only.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter {netns}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def open_socket(netns: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that is in the namespace for good, whatever thread uses it."""
    return inside(netns, lambda: socket.socket(family, kind, protocol))


def write_sysctls(netns: str, values: dict[str, str]) -> None:
    """Set keys under /proc/sys/net (`ipv4/ip_forward`); those that this kernel does not have are left out."""

    def write() -> None:
        for key, value in values.items():
            path = Path("/proc/sys/net") / key
            if path.exists():
                path.write_text(value, encoding="ascii")

    inside(netns, write)
