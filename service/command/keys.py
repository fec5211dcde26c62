"""`egressgw keys`: a new key for the members, in three steps under traffic (gossip.md, Keys).

A step changes the operator's keyring file; how it gets to the members is the operator's affair, and every process reads
it again by itself. The next step is safe once all of them have in force what the file says, which `check` finds out: so
a key is accepted by all before anybody seals with it, and sealed with by nobody before it goes.
"""

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from service.model.errors import OperatorError, TransientError

_URL = "http://127.0.0.1:9642"
_file = click.option(
    "--keyring-file", "path", required=True, type=click.Path(path_type=Path), metavar="FILE", help="One key per line."
)
_url = click.option("--url", default=_URL, show_default=True, metavar="URL", help="Agent or controller to ask.")
_unchecked = click.option("--unchecked", is_flag=True, help="Ask nobody: all members have this file in force.")


@click.group()
def keys() -> None:
    """Rotate the members' key: `add`, `use`, `drop`, each spread to all members and followed by `check`."""


@keys.command()
@_file
def show(path: Path) -> None:
    """Show the ids of the keys in the file: the first one seals, all are accepted."""
    for index, key in enumerate(_read(path)):
        click.echo(f"{_id(key)} {'seals' if index == 0 else 'is accepted'}")


@keys.command()
@_file
@_url
def check(path: Path, url: str) -> None:
    """Say whether all members have the file in force, so that the next step is safe.

    Exit status: 0 it is, 1 it is not yet.
    """
    ids = [_id(key) for key in _read(path)]
    document = _ask(url)
    waiting = differences(ids, document)
    for line in (*waiting, *absent(document)):
        click.echo(line)
    if waiting:
        click.echo(f"not yet: {len(waiting)} of the processes have something else in force than {path}")
        sys.exit(1)
    click.echo(f"all members have {path} in force: {_next(ids)}")


@keys.command()
@_file
@_url
@_unchecked
def add(path: Path, url: str, unchecked: bool) -> None:
    """Step 1: put a new key behind the present one. It is accepted, and nobody seals with it."""
    found = _read(path)
    if len(found) > 1:
        raise OperatorError(f"{path}: it has {len(found)} keys; end that rotation first (`use`, then `drop`)")
    _step(path, found, [*found, secrets.token_bytes(32)], url, unchecked=unchecked)


@keys.command()
@_file
@_url
@_unchecked
def use(path: Path, url: str, unchecked: bool) -> None:
    """Step 2: seal with the key that was added. The former one is still accepted."""
    found = _read(path)
    if len(found) < 2:
        raise OperatorError(f"{path}: there is no key but the one that seals; `add` one first")
    _step(path, found, [found[-1], *found[:-1]], url, unchecked=unchecked)


@keys.command()
@_file
@_url
@_unchecked
def drop(path: Path, url: str, unchecked: bool) -> None:
    """Step 3: accept no key any more but the one that seals."""
    found = _read(path)
    if len(found) < 2:
        raise OperatorError(f"{path}: there is no key but the one that seals")
    _step(path, found, found[:1], url, unchecked=unchecked)


def differences(ids: Sequence[str], document: dict[str, Any]) -> list[str]:
    """One line for each process of a member that has other keys in force than these, or does not say which."""
    members = document.get("keys")
    if not isinstance(members, dict):
        raise TransientError("who was asked does not know which keys are in force: is it of an older release?")
    lines = []
    for member, processes in sorted(members.items()):
        for process, found in processes.items():
            if found is None:
                lines.append(f"{member}: its {process} does not say which keys it has")
            elif list(found) != list(ids):
                lines.append(f"{member}: its {process} seals with {found[0]}, accepts {' '.join(found)}")
    return lines


def absent(document: dict[str, Any]) -> list[str]:
    """One line for each node that is not up: it reads its keyring when it comes back, and so must have got it."""
    nodes = document.get("nodes") or {}
    return [
        f"{name} is not up: it must have got the file before it comes back"
        for name, node in sorted(nodes.items())
        if node.get("state") != "Up"
    ]


def _next(ids: Sequence[str]) -> str:
    if len(ids) == 1:
        return f"all seal with {ids[0]}, and accept no other; `add` begins a rotation"
    return f"`use` to seal with {ids[-1]}, `drop` to accept {ids[0]} alone"


def _ask(url: str) -> dict[str, Any]:
    from service.web.client import fetch_status

    return fetch_status(url)


def _step(path: Path, before: Sequence[bytes], after: Sequence[bytes], url: str, *, unchecked: bool) -> None:
    """Write the file. Raises TransientError, with nothing changed, where a member has not what it says now."""
    waiting = [] if unchecked else differences([_id(key) for key in before], _ask(url))
    if waiting:
        raise TransientError(f"not yet, {path} is as it was: {'; '.join(waiting)}")
    _write(path, after)
    click.echo(f"{path}: sealed with {_id(after[0])}, accepted: {' '.join(_id(key) for key in after)}")
    click.echo("Give it to all members; go on when `egressgw keys check` says so.", err=True)


def _read(path: Path) -> list[bytes]:
    from service.settings import Settings

    return list(Settings(node="desk", bind_address="127.0.0.1", keyring_file=str(path)).keys())


def _id(key: bytes) -> str:
    from service.wire.envelope import key_id

    return key_id(key).hex()


def _write(path: Path, ring: Sequence[bytes]) -> None:
    """Whole or not at all: members may read it at any moment. Owner and mode stay as they are."""
    status = path.stat()
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.writelines(f"{key.hex()}\n" for key in ring)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, status.st_mode & 0o7777)
        if os.geteuid() == 0:
            os.chown(draft, status.st_uid, status.st_gid)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OperatorError(f"{path}: cannot be written: {error.strerror}") from error
