"""Status beside the manifests: one file per object in DIR/status, replaced as a whole.

The leader writes them, and a controller that finds that nobody answers for them any more (rule V1); `.validity` says
who does. A lock on the folder makes each change of that file, and each replacement that depends on it, one step.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from service.model.errors import InvariantError, TransientError
from service.model.objects import API_VERSION, Kind, ObjectKey
from service.model.validity import Validity, WrittenStatus
from service.sources.document import MalformedDocumentError, parse_yaml
from service.sources.timestamp import normal_timestamp

STATUS_FOLDER = "status"
VALIDITY_FILE = ".validity"
_HEADER = "# What is true now. Written by the egress gateway; edits are overwritten.\n"
_BYTES_MAX = 4 << 20


class StatusFolder:
    """Blocking file work; call it from a thread."""

    def __init__(self, manifests: Path) -> None:
        self._folder = manifests / STATUS_FOLDER

    def path(self, key: ObjectKey) -> Path:
        """Return `<kind>.<namespace>.<name>.yaml` in lower case; without the namespace where there is none."""
        name = ".".join(part for part in (key.kind, key.namespace, key.name, "yaml") if part).lower()
        if "/" in name:
            raise InvariantError(f"object name with a slash: {name}")
        return self._folder / name

    def write(self, key: ObjectKey, status: dict[str, Any], *, created: str, term: int = 0) -> bool:
        """Replace the status if it differs; say whether it did. Raises TransientError where it cannot be written.

        One of a lower term than the validity's is not: its leader stood still, and another one has come since (V2).
        """
        path, text = self.path(key), _render(key, status, created)
        try:
            if path.exists() and path.read_text(encoding="utf-8") == text:
                return False
            self._folder.mkdir(exist_ok=True)
            with self._lock():
                seen = self.validity()
                if seen is not None and seen.term > term:
                    raise TransientError(f"{path}: a newer leader, of term {seen.term}, has written the status")
                _replace(path, text)
        except (OSError, UnicodeDecodeError) as error:
            raise TransientError(f"{path}: the status cannot be written: {error}") from error
        return True

    def written(self) -> tuple[WrittenStatus, ...]:
        """Every status that can be read, sorted by file. Raises TransientError where the folder cannot be."""
        try:
            paths = sorted(self._folder.glob("*.yaml"))
        except OSError as error:
            raise TransientError(f"{self._folder}: cannot be read: {error}") from error
        return tuple(found for path in paths if (found := _read(path)) is not None)

    def recorded(self) -> tuple[ObjectKey, ...]:
        """What has a status file, by the names of the files; nothing where the folder cannot be read."""
        try:
            names = sorted(os.listdir(self._folder))
        except OSError:
            return ()
        return tuple(key for name in names if (key := _key(name)) is not None)

    def replace(self, written: WrittenStatus) -> None:
        """Replace a status that is still the one that `written.version` names. Raises TransientError."""
        path = self.path(written.key)
        try:
            with self._lock():
                text = path.read_text(encoding="utf-8") if path.exists() else ""
                if text and _version(text) == written.version:
                    _replace(path, _render(written.key, written.status, self.created(written.key)))
        except (OSError, UnicodeDecodeError) as error:
            raise TransientError(f"{path}: the status cannot be written: {error}") from error

    def validity(self) -> Validity | None:
        """Who answers for the statuses; None where nobody does, or the file cannot be understood.

        Raises TransientError where it cannot be read.
        """
        try:
            return _decode_validity((self._folder / VALIDITY_FILE).read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TransientError(f"{self._folder / VALIDITY_FILE}: cannot be read: {error}") from error

    def renew(self, claim: Validity, seen: Validity | None) -> Validity | None:
        """Replace the validity that was seen; None where somebody else was first. Raises TransientError."""
        path = self._folder / VALIDITY_FILE
        try:
            self._folder.mkdir(exist_ok=True)
            with self._lock():
                if self.validity() != seen:
                    return None
                count = int(seen.version) if seen is not None else 0
                written = replace(claim, version=str(count + 1))
                _replace(path, msgspec.json.encode(written).decode())
                return written
        except OSError as error:
            raise TransientError(f"{path}: cannot be written: {error}") from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # On the folder, so that no file is left behind. Nobody waits: its owner may have been stopped, and an error is
        # tried again.
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)

    def delete(self, key: ObjectKey) -> None:
        """Remove the status of an object that is gone. Raises TransientError where it cannot be removed."""
        try:
            self.path(key).unlink(missing_ok=True)
        except OSError as error:
            raise TransientError(f"{self.path(key)}: the status cannot be removed: {error}") from error

    def created(self, key: ObjectKey) -> str:
        """Return the creation time kept in the status; empty where there is none that can be read."""
        try:
            path = self.path(key)
            if path.stat().st_size > _BYTES_MAX:
                return ""
            (document,) = parse_yaml(path.read_text(encoding="utf-8"))
            return normal_timestamp(document["metadata"]["creationTimestamp"])
        except (OSError, MalformedDocumentError, ValueError, TypeError, KeyError, AttributeError):
            return ""


def _render(key: ObjectKey, status: dict[str, Any], created: str) -> str:
    metadata = {"namespace": key.namespace, "name": key.name, "creationTimestamp": created}
    document = {
        "apiVersion": "v1" if key.kind in (Kind.POD, Kind.NAMESPACE) else API_VERSION,
        "kind": str(key.kind),
        "metadata": {name: value for name, value in metadata.items() if value},
        "status": status,
    }
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _key(file_name: str) -> ObjectKey | None:
    """The reverse of `StatusFolder.path`; a namespace has no dot in it."""
    stem, _, suffix = file_name.rpartition(".")
    kind_text, _, name = stem.partition(".")
    kind = next((kind for kind in Kind if kind.lower() == kind_text), None)
    if kind is None or suffix != "yaml":
        return None
    namespace, _, rest = name.partition(".") if kind is not Kind.POLICY else ("", "", name)
    return ObjectKey(kind, namespace, rest) if rest else None


def _read(path: Path) -> WrittenStatus | None:
    """None for what is no status of ours, or half of one."""
    try:
        if path.stat().st_size > _BYTES_MAX:
            return None
        text = path.read_text(encoding="utf-8")
        (document,) = parse_yaml(text)
        metadata = document["metadata"]
        key = ObjectKey(Kind(document["kind"]), metadata.get("namespace", ""), metadata["name"])
        status = document["status"]
        return WrittenStatus(key, status, _version(text)) if isinstance(status, dict) else None
    except (OSError, MalformedDocumentError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _version(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=16).hexdigest()


def _decode_validity(data: bytes) -> Validity | None:
    try:
        found = msgspec.json.decode(data, type=Validity)
    except msgspec.MsgspecError:
        return None
    return found if found.version.isascii() and found.version.isdigit() and len(found.version) < 19 else None


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # The creation time in it decides between policies, also after a power cut.
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class CreationTimes:
    """Ages of policies that do not state theirs: from the status file, else when their file was first seen.

    Remembered for as long as the policy exists, so that an edit of its file does not make it younger.
    """

    def __init__(self, status: StatusFolder) -> None:
        self._status = status
        self._known: dict[ObjectKey, str] = {}
        self._retired: dict[ObjectKey, str] = {}

    def of(self, key: ObjectKey, first_seen: str) -> str:
        """Return when a policy was created, RFC 3339; `first_seen` is the answer where nothing is known of it yet."""
        stamp = self._status.created(key)
        # A status that outlived its policy must not lend its age to a new policy of the same name.
        if stamp and stamp != self._retired.get(key):
            self._known[key] = stamp
        return self._known.setdefault(key, first_seen)

    def forget(self, key: ObjectKey) -> None:
        """The policy is gone; another of this name is a new one."""
        if key in self._known:
            self._retired[key] = self._known.pop(key)
