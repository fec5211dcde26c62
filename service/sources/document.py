"""YAML and JSON text to plain documents. Whatever the text, the worst outcome is a MalformedDocumentError.

YAML comes from libyaml, but only as events: its own composer recurses in C, and a file of a hundred thousand brackets
would end the process. Nodes are composed here, with a limit of depth.
"""

import json
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

DEPTH_MAX = 64
"""Far deeper than any object we read, far shallower than the interpreter's stack."""


class MalformedDocumentError(Exception):
    """The text is no YAML or JSON. The message says where, in one line."""


class _Loader(Composer, yaml.CSafeLoader):
    def __init__(self, text: str) -> None:
        yaml.CSafeLoader.__init__(self, text)
        Composer.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            problem = f"nested deeper than {DEPTH_MAX} levels"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=getattr(self.peek_event(), "start_mark", None))
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        # YAML forbids a key given twice; PyYAML would quietly take the last one, which is not the one people look at.
        seen: dict[str, None] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"the key {_shortened(key.value)} is given twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen[key.value] = None
        return node

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        # Merges of merges multiply their entries; without this a few hundred bytes fill the memory. The last counts.
        unique: dict[Hashable, Any] = {}
        for key, value in node.value:
            unique[(key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)] = (key, value)
        node.value = list(unique.values())


# Times stay text, as in Kubernetes: a label `2024-01-01` is a string, and creation times keep their nanoseconds.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in Resolver.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> list[Any]:
    """Return all documents of the text; empty ones are left out."""
    loader = _Loader(text)
    documents = []
    try:
        while loader.check_data():  # type: ignore[no-untyped-call]
            documents.append(loader.get_data())
    except yaml.MarkedYAMLError as error:
        raise MalformedDocumentError(_describe(error)) from error
    except Exception as error:  # PyYAML's constructors let ValueError, KeyError, IndexError and others through.
        raise MalformedDocumentError(f"not valid YAML: {_shortened(str(error))}") from error
    finally:
        loader.dispose()
    return [document for document in documents if document is not None]


def parse_json(text: str) -> list[Any]:
    """Return all documents of the text: one, or several one after the other."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique_pairs)
    documents, position = [], 0
    try:
        while text[position:].lstrip():
            position += len(text[position:]) - len(text[position:].lstrip())
            document, position = decoder.raw_decode(text, position)
            documents.append(document)
    except RecursionError as error:
        raise MalformedDocumentError("not valid JSON: nested too deep") from error
    except ValueError as error:
        raise MalformedDocumentError(f"not valid JSON: {_shortened(str(error))}") from error
    return [document for document in documents if document is not None]


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_shortened(twice)} is given twice")
    return result


def _describe(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = ", ".join(_shortened(part) for part in (error.context, error.problem) if part)
    return f"not valid YAML{where}: {problem}"


def _shortened(text: str) -> str:
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= 120 else f"{line[:117]}..."
