"""The state of a folder of manifests: the last good version of every object, whatever the files look like just now.

Blocking; the source calls it from a thread, one scan at a time. What appears or changes counts at once. What vanishes
counts only after a while without further change, since editors truncate, delete and rename on their way to a new
version: a file half-written then completed takes no object away in between.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from service.model.errors import ObjectError
from service.model.objects import EgressPolicy, Object, ObjectKey
from service.sources.manifests.manifest_file import (
    Manifest,
    Signature,
    file_signature,
    is_manifest_name,
    is_quiet,
    read_manifest,
)
from service.sources.manifests.status_file import CreationTimes
from service.sources.timestamp import timestamp_from_ns

REMOVAL_QUIET_NS = 300_000_000
"""How long a file must be gone before its objects go."""
OMISSION_QUIET_NS = 1_000_000_000
"""How long a file must stay as it is before objects missing from its text go."""


@dataclass(frozen=True, slots=True)
class FolderView:
    """What is in force after a scan."""

    objects: dict[ObjectKey, Object]
    errors: tuple[ObjectError, ...]
    is_pending: bool
    """Look again soon: something vanished a moment ago, or was written within the clock's resolution."""


@dataclass(slots=True)
class _File:
    signature: Signature | None = None
    """None: read it again at the next scan."""
    is_racy: bool = False
    """Read so soon after a write that another one might not show in the signature."""
    digest: bytes | None = None
    objects: dict[ObjectKey, Object] = field(default_factory=dict)
    errors: tuple[ObjectError, ...] = ()
    leaving: dict[ObjectKey, int] = field(default_factory=dict)
    """Objects the text no longer has -> when they go."""
    gone_ns: int | None = None
    """When all of it goes, the file being gone; None while it is there."""


class ManifestFolder:
    """Scan after scan of one folder."""

    def __init__(self, folder: Path, ages: CreationTimes) -> None:
        self._folder = folder
        self._ages = ages
        self._files: dict[str, _File] = {}
        self._in_force: dict[ObjectKey, Object] = {}

    def scan(self, now_ns: int) -> FolderView:
        """Look at the folder. `now_ns` is any monotonic time."""
        trouble: tuple[ObjectError, ...] = ()
        try:
            names = sorted(entry.name for entry in self._folder.iterdir() if is_manifest_name(entry.name))
        except OSError as error:
            # An unreadable folder says nothing about its files.
            message = f"the folder cannot be read: {error.strerror}; the last good state stays in force"
            trouble = (ObjectError(str(self._folder), "", "", "", message),)
            names = list(self._files)
        else:
            self._read_files(names, now_ns)
        self._expire(now_ns)
        return self._merge(trouble)

    def _read_files(self, names: list[str], now_ns: int) -> None:
        present = dict.fromkeys(names)
        for name in names:
            path = self._folder / name
            signature = file_signature(path)
            if signature is None and not path.is_symlink() and path.exists():
                continue  # A folder or a pipe with such a name.
            file = self._files.setdefault(name, _File())
            file.gone_ns = None
            if file.signature is None or file.signature != signature:
                file.is_racy = signature is not None and not is_quiet(signature)
                file.signature = None if file.is_racy else signature
                self._take(path, file, read_manifest(path, file.digest), now_ns)
        for name, file in self._files.items():
            if name not in present and file.gone_ns is None:
                file.gone_ns = now_ns + REMOVAL_QUIET_NS
                file.signature, file.is_racy = None, False

    def _take(self, path: Path, file: _File, manifest: Manifest | None, now_ns: int) -> None:
        if manifest is None:
            return
        file.digest = manifest.digest
        file.errors = manifest.errors
        missing = [key for key in file.objects if key not in manifest.objects]
        file.leaving = {}
        if manifest.is_sound:
            file.leaving = dict.fromkeys(missing, now_ns + OMISSION_QUIET_NS)
        elif missing and not manifest.errors:
            message = "the file is empty; its objects stay in force until it has others or is removed"
            file.errors = (ObjectError(str(path), "", "", "", message),)
        stamped = {key: self._with_age(item, manifest) for key, item in manifest.objects.items()}
        file.objects = {key: file.objects[key] for key in missing} | stamped

    def _with_age(self, item: Object, manifest: Manifest) -> Object:
        if not isinstance(item, EgressPolicy) or item.created:
            return item
        return replace(item, created=self._ages.of(item.key, timestamp_from_ns(manifest.modified_ns)))

    def _expire(self, now_ns: int) -> None:
        for name, file in list(self._files.items()):
            if file.gone_ns is not None and file.gone_ns <= now_ns:
                del self._files[name]
            for key, due_ns in list(file.leaving.items()):
                if due_ns <= now_ns:
                    del file.leaving[key], file.objects[key]

    def _merge(self, trouble: tuple[ObjectError, ...]) -> FolderView:
        objects: dict[ObjectKey, Object] = {}
        origins: dict[ObjectKey, str] = {}
        errors = list(trouble)
        ranked = sorted(self._files.items())
        for name, file in ranked:
            if file.gone_ns is None:
                errors += file.errors
            for key, item in file.objects.items():
                if file.gone_ns is not None or key in file.leaving:
                    continue
                if key in objects:
                    errors.append(_duplicate(key, str(self._folder / name), origins[key]))
                else:
                    objects[key], origins[key] = item, str(self._folder / name)
        # What is about to leave fills gaps only: an object moved to another file is no duplicate of itself.
        for _, file in ranked:
            for key, item in file.objects.items():
                objects.setdefault(key, item)
        for key in self._in_force:
            if key not in objects:
                self._ages.forget(key)
        self._in_force = objects
        return FolderView(objects, tuple(errors), self._is_pending())

    def _is_pending(self) -> bool:
        files = self._files.values()
        return any(file.gone_ns is not None or file.leaving or file.is_racy for file in files)


def _duplicate(key: ObjectKey, loser: str, winner: str) -> ObjectError:
    message = f"also defined in {winner}, which counts because its name comes first; remove one of the two"
    return ObjectError(loser, key.kind, str(key), "metadata.name", message)
