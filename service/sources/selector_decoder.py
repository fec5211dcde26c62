"""Labels and label selectors, by the rules of Kubernetes (labels and selectors, syntax and character set)."""

import re
from typing import Any

from service.model.objects import EgressRule, Labels, LabelSelector, Operator, Requirement
from service.sources.field_reader import FieldReader, join, shown

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_PREFIX_LENGTH_MAX = 253
_OPERATORS = ", ".join(Operator)


def decode_labels(value: Any, path: str, reader: FieldReader) -> Labels:
    """Read `labels` or `matchLabels`."""
    labels = reader.mapping(value, path, what="a mapping of labels") or {}
    found = []
    for key, item in labels.items():
        place = join(path, key)
        text = reader.text(item, place, "a label value")
        if _is_key(key, place, reader) and text is not None and _is_value(text, place, reader):
            found.append((key, text))
    return tuple(sorted(found))


def decode_rule(value: Any, path: str, reader: FieldReader) -> EgressRule:
    """Read one entry of `spec.egress`. What comes back counts only if the reader noted no error."""
    rule = reader.mapping(value, path, known=("namespaceSelector", "podSelector"), what="a rule") or {}
    # An absent side matches everything; a rule without any would select the whole cluster by an oversight.
    if isinstance(value, dict) and not value:
        reader.refuse(
            path, "a rule needs namespaceSelector, podSelector or both; write podSelector: {} to match all pods"
        )
    sides = [
        decode_selector(rule[key], join(path, key), reader) if key in rule else LabelSelector()
        for key in ("namespaceSelector", "podSelector")
    ]
    return EgressRule(*sides)


def decode_selector(value: Any, path: str, reader: FieldReader) -> LabelSelector:
    """Read a label selector; `{}` matches everything, and null is refused as it could mean either."""
    selector = reader.mapping(
        value, path, known=("matchLabels", "matchExpressions"), what="a selector (write {} to match everything)"
    )
    if selector is None:
        return LabelSelector()
    labels: Labels = ()
    if "matchLabels" in selector:
        labels = decode_labels(selector["matchLabels"], join(path, "matchLabels"), reader)
    expressions: list[Requirement] = []
    if "matchExpressions" in selector:
        place = join(path, "matchExpressions")
        for index, item in enumerate(reader.sequence(selector["matchExpressions"], place, "expressions") or ()):
            requirement = _decode_requirement(item, f"{place}[{index}]", reader)
            if requirement is not None:
                expressions.append(requirement)
    return LabelSelector(labels, tuple(expressions))


def _decode_requirement(value: Any, path: str, reader: FieldReader) -> Requirement | None:
    entry = reader.mapping(value, path, known=("key", "operator", "values"), what="an expression")
    if entry is None:
        return None
    key, operator = None, None
    if reader.require(entry, "key", path, "a label key"):
        key = reader.text(entry["key"], join(path, "key"), "a label key")
        if key is not None and not _is_key(key, join(path, "key"), reader):
            key = None
    if reader.require(entry, "operator", path, f"one of {_OPERATORS}"):
        operator = _decode_operator(entry["operator"], join(path, "operator"), reader)
    if operator is None:
        return None
    values = _decode_values(entry, operator, join(path, "values"), reader)
    return Requirement(key, operator, values) if key is not None else None


def _decode_operator(value: Any, path: str, reader: FieldReader) -> Operator | None:
    text = reader.text(value, path, f"one of {_OPERATORS}")
    if text is None:
        return None
    try:
        return Operator(text)
    except ValueError:
        reader.refuse(path, f"unknown operator {shown(text)}; write one of {_OPERATORS}")
        return None


def _decode_values(entry: dict[str, Any], operator: Operator, path: str, reader: FieldReader) -> tuple[str, ...]:
    values = reader.sequence(entry.get("values", []), path, "label values") or []
    found = []
    for index, item in enumerate(values):
        place = f"{path}[{index}]"
        text = reader.text(item, place, "a label value")
        if text is not None and _is_value(text, place, reader):
            found.append(text)
    if operator in (Operator.IN, Operator.NOT_IN):
        if not values and isinstance(entry.get("values", []), list):
            reader.refuse(path, f"{operator} needs at least one value")
    elif values:
        reader.refuse(path, f"{operator} takes no values; remove them")
    return tuple(sorted(dict.fromkeys(found)))


def _is_key(key: str, path: str, reader: FieldReader) -> bool:
    prefix, slash, name = key.rpartition("/")
    is_prefix = bool(_PREFIX.fullmatch(prefix)) and len(prefix) <= _PREFIX_LENGTH_MAX if slash else True
    if is_prefix and _NAME.fullmatch(name):
        return True
    reader.refuse(path, f"{shown(key)} is not a label key: [prefix/]name, the name of 1 to 63 letters, digits, - _ .")
    return False


def _is_value(value: str, path: str, reader: FieldReader) -> bool:
    if not value or _NAME.fullmatch(value):
        return True
    reader.refuse(
        path, f"{shown(value)} is not a label value: at most 63 letters, digits, - _ . between two of the former"
    )
    return False
