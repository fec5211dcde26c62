"""What was compiled before, so that a start with an unchanged datapath compiles nothing.

A file's name is the digest of all that compiling depends on; what is in the file is checked by a digest of its own, and
once more by the kernel, which verifies every program.
"""

import fcntl
import hashlib
import importlib.util
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.datapath import compiled, compiler
from service.datapath.compiled import Compiled, CorruptCompiled
from service.model.errors import OperatorError, TransientError

_log = logging.getLogger(__name__)

COMPILE_TIMEOUT_S = 180.0
_TURN_S = 30.0
"""How long the turn of another process is waited for that compiles the same; then it is compiled here as well."""
_KEPT = 8
"""Versions there and back."""
_ROOT = Path(__file__).resolve().parents[2]


def compiled_datapath(folder: Path, source: Path, headers: Path) -> Compiled:
    """Of the folder, or compiled now, which takes about five seconds. Blocks: for a thread.

    Raises OperatorError where it cannot be compiled; TransientError where the compiler was killed or takes too long.
    A folder that cannot be written, or that others may write, is told of and done without.
    """
    if not _is_ours(folder):
        return _compile(source, headers)
    path = folder / _key(source, headers)
    if (found := _read(path)) is not None:
        return found
    with _turn(folder):
        if (found := _read(path)) is not None:
            return found
        made = _compile(source, headers)
        _write(path, made)
    return made


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can put programs there that the kernel would run."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        _log.warning("%s: no place for compiled programs: %s; every start compiles", folder, error.strerror)
        return False
    if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
        return True
    _log.warning("%s: others may write here, so compiled programs are not kept; every start compiles", folder)
    return False


def _key(source: Path, headers: Path) -> str:
    digest = hashlib.sha256()
    compilers = [Path(file).read_text(encoding="utf-8") for file in (compiled.__file__, compiler.__file__)]
    machine = (platform.machine(), sys.version, _bcc_version())
    for part in (compiler.flattened(source), *compilers, *machine, *_header_versions(headers)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _header_versions(headers: Path) -> Iterator[str]:
    """The texts that are ours, and the version of those that are the system's."""
    for path in sorted(headers.rglob("*.h")):
        if not path.is_symlink() or path.name == "version.h":
            yield path.read_text(encoding="utf-8", errors="replace")


def _bcc_version() -> str:
    """Without importing it, which loads LLVM."""
    found = importlib.util.find_spec("bcc")
    if found is None or not found.origin:
        return ""
    with suppress(OSError):
        return Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    return found.origin


def _read(path: Path) -> Compiled | None:
    try:
        return Compiled.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, CorruptCompiled) as error:
        _log.warning("%s: not used, and compiled anew: %s", path, error)
        return None


def _write(path: Path, made: Compiled) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(made.encode())
        partial.rename(path)
        kept = sorted(path.parent.glob("?" * len(path.name)), key=lambda one: one.stat().st_mtime)
        for old in kept[:-_KEPT]:
            old.unlink()
    except OSError as error:
        _log.warning("%s: compiled programs are not kept, the next start compiles again: %s", path, error.strerror)
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One at a time: on a host with several nodes all would compile the same."""
    try:
        lock = (folder / "lock").open("a")
    except OSError:
        yield
        return
    with lock:
        end_s = time.monotonic() + _TURN_S
        while time.monotonic() < end_s:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.05)
        yield


def _compile(source: Path, headers: Path) -> Compiled:
    command = [sys.executable, "-m", "service.datapath.compiler", str(source), str(headers)]
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    start_s = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=COMPILE_TIMEOUT_S, check=False, env=os.environ | {"PYTHONPATH": path}
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"{source} is not compiled after {COMPILE_TIMEOUT_S:.0f} s") from error
    if done.returncode < 0:
        raise TransientError(
            f"the compiler of {source} was killed by signal {-done.returncode}: it takes 250 MB of memory"
        )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise OperatorError(f"BCC could not compile {source}: {said[-2000:]}")
    _log.info("compiled %s in %.1f s", source, time.monotonic() - start_s)
    try:
        return Compiled.decode(done.stdout)
    except CorruptCompiled as error:
        raise TransientError(f"the compiler of {source} was broken off: {error}") from error
