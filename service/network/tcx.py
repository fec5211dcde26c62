"""Our programs on tcx (Linux 6.6): hooks of a device that several owners share, without a qdisc.

Each program is on a bpf link, pinned under its device's index and direction. So it outlives the agent, and whoever
comes next, of this version or another, finds it and puts its own program in its place (BPF_LINK_UPDATE): no packet
passes without one, and none meets two. A link whose device is gone carries nothing any more; `sweep` takes its pin.

Ours are put in front of those of others (rule W13). Needs CAP_BPF and CAP_NET_ADMIN: nothing is looked up by id, which
would take CAP_SYS_ADMIN. Every call may wait for the kernel's lock on network devices, so it belongs in a thread, and
acts in that thread's network namespace.
Source: kernel/bpf/tcx.c, kernel/bpf/mprog.c, include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import struct
import time
from contextlib import suppress
from pathlib import Path

from service.network.bpf_call import bpf_call, make_attributes, object_info, open_object, pin
from service.network.hook import Direction

_PROG_QUERY, _LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 16, 28, 29, 34
_ATTACH_TYPE = {"ingress": 46, "egress": 47}
_BEFORE = 1 << 3
"""BPF_F_BEFORE, and before nobody in particular: first."""
_LINK_TYPE_TCX = 11
_PROGRAMS_MAX = 64
"""BPF_MPROG_MAX: a hook has room for no more."""
_LOOPBACK = 1
_DETACH_WAIT_S, _DETACH_TRIES = 0.005, 20


def has_tcx() -> bool:
    """Whether this kernel has tcx. Raises OSError where the process may not ask (CAP_NET_ADMIN)."""
    try:
        read_links(_LOOPBACK, "ingress")
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def read_links(ifindex: int, direction: Direction) -> tuple[int, ...]:
    """Ids of the links on a hook in the order in which their programs run; 0 for a program that is on no link."""
    programs, links = (ctypes.c_uint32 * _PROGRAMS_MAX)(), (ctypes.c_uint32 * _PROGRAMS_MAX)()
    attributes = make_attributes(
        ("=I", 0, ifindex),
        ("=I", 4, _ATTACH_TYPE[direction]),
        ("=Q", 16, ctypes.addressof(programs)),
        ("=I", 24, _PROGRAMS_MAX),
        ("=Q", 40, ctypes.addressof(links)),
    )
    try:
        bpf_call(_PROG_QUERY, attributes)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return ()
        raise
    (count,) = struct.unpack_from("=I", attributes, 24)
    return tuple(links[:count])


class TcxLinks:
    """The links of one node, by their pins in `folder`, which is on a bpffs. Every method may raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def attach(self, ifindex: int, direction: Direction, program_fd: int) -> None:
        """Put the program in the place of ours that is there, in one step; in front of all others where there is none.

        FileExistsError where another process has just done the same: the next call replaces.
        """
        path = self._pin(ifindex, direction)
        if not _replace(path, program_fd):
            self._create(path, ifindex, direction, program_fd)

    def detach(self, ifindex: int, direction: Direction) -> bool:
        """Remove ours and nothing else; False where there was none."""
        return _remove(self._pin(ifindex, direction))

    def others_before(self, ifindex: int, direction: Direction) -> int | None:
        """How many programs of others run before ours; None where ours is not on the hook."""
        try:
            identity, carried_by = _link_info(self._pin(ifindex, direction))
        except FileNotFoundError:
            return None
        if carried_by != ifindex:
            return None
        links = read_links(ifindex, direction)
        return links.index(identity) if identity in links else None

    def sweep(self) -> None:
        """Remove the pins of links whose devices are gone."""
        for path in self._pins():
            # Another task may have removed it since.
            with suppress(FileNotFoundError):
                if not _link_info(path)[1]:
                    path.unlink()

    def clear(self) -> None:
        """Detach whatever is left, and remove the folder."""
        for path in self._pins():
            _remove(path)
        with suppress(FileNotFoundError):
            self._folder.rmdir()

    def _pin(self, ifindex: int, direction: Direction) -> Path:
        return self._folder / f"{ifindex}-{direction}"

    def _pins(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except FileNotFoundError:
            return []

    def _create(self, path: Path, ifindex: int, direction: Direction, program_fd: int) -> None:
        link = _make_link(ifindex, direction, program_fd)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pin(link, str(path))
        finally:
            # Without the pin, this detaches it again: nothing is left that nobody would find.
            os.close(link)


def _make_link(ifindex: int, direction: Direction, program_fd: int) -> int:
    fields = ("=I", 0, program_fd), ("=I", 4, ifindex), ("=I", 8, _ATTACH_TYPE[direction]), ("=I", 12, _BEFORE)
    for _ in range(_DETACH_TRIES):
        # A hook takes a program once. Somebody has removed our pin, and the kernel is about to take the link away.
        with suppress(FileExistsError):
            return bpf_call(_LINK_CREATE, make_attributes(*fields))
        time.sleep(_DETACH_WAIT_S)
    return bpf_call(_LINK_CREATE, make_attributes(*fields))


def _replace(path: Path, program_fd: int) -> bool:
    """False where there is no link that still carries something."""
    try:
        link = open_object(str(path))
    except FileNotFoundError:
        return False
    try:
        bpf_call(_LINK_UPDATE, make_attributes(("=I", 0, link), ("=I", 4, program_fd)))
    except OSError as error:
        # Its device is gone and had the same index, or somebody has detached it.
        if error.errno != errno.ENOLINK:
            raise
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(link)
    return True


def _remove(path: Path) -> bool:
    try:
        link = open_object(str(path))
    except FileNotFoundError:
        return False
    try:
        # Unpinning alone lets the kernel detach some time later.
        bpf_call(_LINK_DETACH, make_attributes(("=I", 0, link)))
    finally:
        os.close(link)
    path.unlink(missing_ok=True)
    return True


def _link_info(path: Path) -> tuple[int, int]:
    """(id of the link, index of its device: 0 where that is gone, or the pin is of something else)."""
    link = open_object(str(path))
    try:
        info = object_info(link)
    finally:
        os.close(link)
    kind, identity = struct.unpack_from("=2I", info, 0)
    (ifindex,) = struct.unpack_from("=I", info, 16)
    return int(identity), int(ifindex) if kind == _LINK_TYPE_TCX else 0
