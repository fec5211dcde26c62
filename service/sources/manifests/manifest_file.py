"""One file of manifests: read as a whole, decoded document by document."""

import hashlib
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.model.errors import ObjectError
from service.model.objects import Object, ObjectKey
from service.sources.document import MalformedDocumentError, parse_json, parse_yaml
from service.sources.object_decoder import decode

SUFFIXES = (".yaml", ".yml", ".json")
BYTES_MAX = 64 << 20
_RACY_NS = 50_000_000
"""Two writes within the file system's clock tick leave the same times; a file as young as this is read again."""

Signature = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one reading of a file gave."""

    digest: bytes
    modified_ns: int
    objects: dict[ObjectKey, Object] = field(default_factory=dict)
    errors: tuple[ObjectError, ...] = ()
    is_sound: bool = True
    """No error and not blank: what is absent from the text is meant to be absent."""


def is_manifest_name(name: str) -> bool:
    """Say whether a file of this name is read: not dotfiles, and not what editors leave behind."""
    return name.endswith(SUFFIXES) and not name.startswith((".", "#", "~"))


def file_signature(path: Path) -> Signature | None:
    """Return what changes when the file does; None where it is no regular file or cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return _signature(found) if stat.S_ISREG(found.st_mode) else None


def _signature(found: os.stat_result) -> Signature:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def is_quiet(signature: Signature) -> bool:
    """Say whether a later write must show in the signature."""
    return not 0 <= time.time_ns() - signature[4] < _RACY_NS


def read_manifest(path: Path, previous_digest: bytes | None = None) -> Manifest | None:
    """Read and decode; None where the bytes are those of `previous_digest`. Never raises on any content."""
    try:
        content, modified_ns = _read_bytes(path)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        return Manifest(b"", 0, errors=(ObjectError(str(path), "", "", "", reason),), is_sound=False)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    if digest == previous_digest:
        return None
    try:
        text = content.decode("utf-8-sig")
        documents = _parse(path, text)
    except UnicodeDecodeError as error:
        return _malformed(
            path, digest, modified_ns, f"not UTF-8 text: byte {error.start} is {content[error.start]:#04x}"
        )
    except MalformedDocumentError as error:
        return _malformed(path, digest, modified_ns, str(error))
    return _decode_all(path, digest, modified_ns, documents, is_blank=not text.strip())


def read_documents(path: Path) -> list[object]:
    """The documents of a file as they are, lists opened; none where it cannot be read as any."""
    try:
        content, _ = _read_bytes(path)
        return list(_flatten(_parse(path, content.decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, MalformedDocumentError):
        return []


def _parse(path: Path, text: str) -> list[Any]:
    return parse_json(text) if path.suffix == ".json" else parse_yaml(text)


def _read_bytes(path: Path) -> tuple[bytes, int]:
    # Not blocking: the name may have become a pipe since it was listed.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("not a regular file")
        content = file.read(BYTES_MAX + 1)
    if len(content) > BYTES_MAX:
        raise OSError(f"larger than {BYTES_MAX >> 20} MiB")
    return content, found.st_mtime_ns


def _malformed(path: Path, digest: bytes, modified_ns: int, message: str) -> Manifest:
    return Manifest(digest, modified_ns, errors=(ObjectError(str(path), "", "", "", message),), is_sound=False)


def _decode_all(path: Path, digest: bytes, modified_ns: int, documents: list[Any], *, is_blank: bool) -> Manifest:
    objects: dict[ObjectKey, Object] = {}
    errors: list[ObjectError] = []
    is_sound = not is_blank
    for document in _flatten(documents):
        decoded = decode(document, origin=str(path))
        errors += decoded.errors
        is_sound = is_sound and (not decoded.errors or decoded.is_foreign)
        if decoded.object is None:
            continue
        key = decoded.object.key
        if key in objects:
            message = "defined twice in this file; the first one counts, remove the other"
            errors.append(ObjectError(str(path), key.kind, str(key), "metadata.name", message))
        objects.setdefault(key, decoded.object)
    return Manifest(digest, modified_ns, objects, tuple(errors), is_sound)


def _flatten(documents: list[Any]) -> list[Any]:
    """Open `kind: List`, as `kubectl get -o yaml` writes it."""
    flat = []
    for document in documents:
        is_list = isinstance(document, dict) and document.get("kind") == "List"
        items = document.get("items") if is_list else None
        flat += items if isinstance(items, list) else [document]
    return flat
