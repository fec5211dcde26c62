"""Kubernetes label selectors, evaluated as the API server does (meta/v1 LabelSelector).

All requirements of a selector are ANDed, those of matchLabels and of matchExpressions alike. Labels are compared as
text, whole and with case. In the API an empty selector matches everything and a null one nothing; null never comes
here, because the decoder of objects refuses it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from service.model.objects import EgressRule, LabelSelector, Operator, Requirement


class Constraint(NamedTuple):
    """A necessary condition that an inverted index can answer: the key is present, with one of the values."""

    key: str
    values: tuple[str, ...] | None
    """None where any value will do (Exists)."""


def is_match(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Say whether every label and every expression holds; the empty selector matches everything."""
    for key, value in selector.match_labels:
        if labels.get(key) != value:
            return False
    return all(_holds(requirement, labels) for requirement in selector.match_expressions)


def is_rule_match(rule: EgressRule, pod_labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> bool:
    """Namespace selector AND pod selector."""
    # The namespace side is the shorter label set as a rule, so it is asked first.
    return is_match(rule.namespace_selector, namespace_labels) and is_match(rule.pod_selector, pod_labels)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    # None is an absent key: a label's value may be empty, but it is always there.
    value = labels.get(requirement.key)
    match requirement.operator:
        case Operator.IN:
            return value is not None and value in requirement.values
        case Operator.NOT_IN:
            # As in Kubernetes: an object without the key satisfies NotIn.
            return value is None or value not in requirement.values
        case Operator.EXISTS:
            return value is not None
        case Operator.DOES_NOT_EXIST:
            return value is None


def constraints(selector: LabelSelector) -> tuple[Constraint, ...]:
    """Return what a matching object must have; empty where absence alone decides (NotIn, DoesNotExist, empty)."""
    # Negative requirements cannot be looked up: what they match is everything but a bucket. They are still
    # checked by `is_match` on each candidate; here they merely do not narrow the candidates.
    found = [Constraint(key, (value,)) for key, value in selector.match_labels]
    for requirement in selector.match_expressions:
        if requirement.operator is Operator.IN:
            found.append(Constraint(requirement.key, requirement.values))
        elif requirement.operator is Operator.EXISTS:
            found.append(Constraint(requirement.key, None))
    return tuple(found)


def mentioned_keys(selector: LabelSelector) -> tuple[str, ...]:
    """Return the label keys that can change the selector's verdict, each once, in order of appearance."""
    keys = [key for key, _ in selector.match_labels]
    keys += [requirement.key for requirement in selector.match_expressions]
    return tuple(dict.fromkeys(keys))
