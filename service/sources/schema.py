"""An object judged by the schema of its CustomResourceDefinition, as the API server judges it when it is created.

The definitions themselves are read: their limits, patterns and rules are written nowhere else. What has no schema is
not judged; of `status` the API server takes nothing from who creates an object.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from service.model.errors import OperatorError
from service.sources.cel import CelError, Rule, parse
from service.sources.field_reader import join, shown

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "number": (int, float),
}
_NOT_TAKEN = ("status",)

_FOLDERS = Path(__file__).parent / "crds", Path(__file__).parents[2] / "deploy" / "crds"
"""Of an installation, and of a checkout."""

Node = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that the API server would refuse."""

    path: str
    message: str


def definitions() -> Path:
    """The folder of this version's resource definitions. Raises OperatorError where this installation has none."""
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    raise OperatorError("this installation lacks the resource definitions: name their folder (deploy/crds)")


class Schemas:
    """Those of all definitions in a folder, by (apiVersion, kind)."""

    def __init__(self, folder: Path) -> None:
        """Raises OperatorError where the folder has no definitions, or one is not understood."""
        self._schemas: dict[tuple[str, str], Node] = {}
        self._rules: dict[tuple[str, str], Rule] = {}
        try:
            for path in sorted(folder.glob("*.yaml")):
                self._read(path)
        except (OSError, yaml.YAMLError, KeyError, TypeError, CelError) as error:
            raise OperatorError(f"{folder}: a resource definition is not understood: {error}") from error
        if not self._schemas:
            raise OperatorError(f"{folder}: no resource definitions are there")

    def _read(self, path: Path) -> None:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
        spec = definition["spec"]
        for version in spec["versions"]:
            schema: Node = version["schema"]["openAPIV3Schema"]
            self._schemas[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
            for rule in _rules_within(schema):
                self._understand(rule)

    def _understand(self, rule: Node) -> None:
        text, message, explanation = str(rule["rule"]), str(rule.get("message")), rule.get("messageExpression")
        if "oldSelf" not in text:
            explain = parse(str(explanation)) if explanation else None
            self._rules[text, message] = Rule(parse(text), message, explain)

    def faults(self, document: object) -> tuple[Fault, ...]:
        """Everything that the API server would refuse; nothing for a kind that is not defined here."""
        if not isinstance(document, dict):
            return ()
        schema = self._schemas.get((str(document.get("apiVersion")), str(document.get("kind"))))
        if schema is None:
            return ()
        return tuple(self._judge({key: document[key] for key in document if key not in _NOT_TAKEN}, schema, ""))

    def _judge(self, value: object, schema: Node, path: str) -> Iterator[Fault]:
        if isinstance(value, dict):
            # A field that is null is as good as absent to who applies it.
            value = {key: item for key, item in value.items() if item is not None}
        faults = [*_type_faults(value, schema, path)]
        if not faults:
            faults += _limit_faults(value, schema, path)
            faults += self._inner_faults(value, schema, path)
        yield from faults
        if faults:
            return  # rules are asked of what has the right form only
        for rule in _mappings(schema.get("x-kubernetes-validations")):
            known = self._rules.get((str(rule["rule"]), str(rule.get("message"))))
            complaint = known.complaint(value) if known is not None else ""
            if complaint:
                yield Fault(path, complaint)

    def _inner_faults(self, value: object, schema: Node, path: str) -> Iterator[Fault]:
        if isinstance(value, list):
            items = _mapping(schema.get("items"))
            for index, item in enumerate(value):
                yield from self._judge(item, items, f"{path}[{index}]")
        elif isinstance(value, dict):
            known, rest = _mapping(schema.get("properties")), schema.get("additionalProperties")
            for key, item in value.items():
                inner = known.get(str(key), rest)
                if isinstance(inner, dict):
                    yield from self._judge(item, inner, join(path, str(key)))
                elif known:
                    yield Fault(join(path, str(key)), f"unknown field; known here: {', '.join(known)}")


def _type_faults(value: object, schema: Node, path: str) -> Iterator[Fault]:
    name = schema.get("type")
    expected = _TYPES.get(str(name))
    # In Python a truth value is a number, too.
    is_number = isinstance(value, bool) and name in ("integer", "number")
    if expected is not None and (is_number or not isinstance(value, expected)):
        yield Fault(path, f"{name} is expected, not {shown(value)}")


def _limit_faults(value: object, schema: Node, path: str) -> Iterator[Fault]:
    if isinstance(value, str | list | dict):
        unit = {str: "Length", list: "Items", dict: "Properties"}[type(value)]
        size, most, least = len(value), schema.get(f"max{unit}"), schema.get(f"min{unit}")
        if isinstance(most, int) and size > most:
            yield Fault(path, f"{_counted(size, unit)} are too many: at most {most}")
        if isinstance(least, int) and size < least:
            yield Fault(path, f"{_counted(size, unit)} are too few: at least {least}")
    if isinstance(value, dict):
        for name in _texts(schema.get("required")):
            if name not in value:
                yield Fault(join(path, name), "required field is missing")
    choices, pattern = schema.get("enum"), schema.get("pattern")
    if isinstance(choices, list) and value not in choices:
        yield Fault(path, f"{shown(value)} is none of {', '.join(map(str, choices))}")
    if isinstance(pattern, str) and isinstance(value, str) and not re.search(pattern, value):
        yield Fault(path, f"{shown(value)} does not match {pattern}")


def _counted(size: int, unit: str) -> str:
    return f"{size} {'letters' if unit == 'Length' else 'entries'}"


def _rules_within(schema: object) -> Iterator[Node]:
    if isinstance(schema, dict):
        yield from _mappings(schema.get("x-kubernetes-validations"))
        for inner in schema.values():
            yield from _rules_within(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _rules_within(inner)


def _mapping(value: object) -> Node:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Node]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
