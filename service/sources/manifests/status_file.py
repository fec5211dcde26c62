"""Status beside the manifests: one file per object in DIR/status, replaced as a whole, written by the leader only."""

import os
from pathlib import Path
from typing import Any

import yaml

from service.model.errors import InvariantError, TransientError
from service.model.objects import API_VERSION, Kind, ObjectKey
from service.sources.document import MalformedDocumentError, parse_yaml
from service.sources.timestamp import normal_timestamp

STATUS_FOLDER = "status"
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

    def write(self, key: ObjectKey, status: dict[str, Any], *, created: str) -> bool:
        """Replace the status if it differs; say whether it did. Raises TransientError where it cannot be written."""
        path, text = self.path(key), _render(key, status, created)
        try:
            if path.exists() and path.read_text(encoding="utf-8") == text:
                return False
            self._folder.mkdir(exist_ok=True)
            _replace(path, text)
        except (OSError, UnicodeDecodeError) as error:
            raise TransientError(f"{path}: the status cannot be written: {error}") from error
        return True

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
