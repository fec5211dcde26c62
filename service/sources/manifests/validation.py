"""A folder of manifests judged before anybody applies it: by our decoders, and by the schemas of the API server."""

from collections.abc import Iterator
from pathlib import Path

from service.model.errors import ObjectError
from service.model.objects import Object
from service.sources.manifests.manifest_file import is_manifest_name, read_documents
from service.sources.manifests.source import load_folder
from service.sources.schema import Schemas


def validate_folder(folder: Path, schemas: Schemas) -> tuple[tuple[Object, ...], tuple[ObjectError, ...]]:
    """The objects that both take, and every error of the others. Raises OperatorError where there is no such folder."""
    objects, errors = load_folder(folder)
    refused = [error for error in _refused(folder, schemas) if not any(_is_told(error, told) for told in errors)]
    names = {(error.kind, error.name) for error in refused}
    taken = tuple(one for one in objects if (one.key.kind.value, str(one.key)) not in names)
    return taken, tuple(sorted((*errors, *refused), key=lambda error: error.origin))


def _refused(folder: Path, schemas: Schemas) -> Iterator[ObjectError]:
    for path in sorted(one for one in folder.iterdir() if is_manifest_name(one.name)):
        for document in read_documents(path):
            for fault in schemas.faults(document):
                yield ObjectError(str(path), _text(document, "kind"), _name(document), fault.path, fault.message)


def _is_told(error: ObjectError, told: ObjectError) -> bool:
    """Whether the decoder has told of this field, of one in it or of one around it."""
    if (error.origin, error.kind, error.name) != (told.origin, told.kind, told.name):
        return False
    return error.field.startswith(told.field) or told.field.startswith(error.field)


def _name(document: object) -> str:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name, namespace = _text(metadata, "name"), _text(metadata, "namespace")
    return f"{namespace}/{name}" if namespace else name


def _text(mapping: object, key: str) -> str:
    found = mapping.get(key) if isinstance(mapping, dict) else None
    return found if isinstance(found, str) else ""
