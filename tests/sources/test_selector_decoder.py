"""Labels and selectors by the rules of Kubernetes."""

from typing import Any

import pytest

from service.model.objects import EgressRule, LabelSelector, Operator, Requirement
from service.sources.field_reader import FieldReader
from service.sources.selector_decoder import decode_labels, decode_rule, decode_selector


@pytest.fixture
def reader() -> FieldReader:
    return FieldReader("a.yaml", "EgressNATPolicy", "egress")


def test_labels_are_sorted_so_that_equal_ones_are_equal(reader: FieldReader) -> None:
    assert decode_labels({"b": "2", "a": "", "x.io/c": "3"}, "f", reader) == (("a", ""), ("b", "2"), ("x.io/c", "3"))
    assert reader.errors == []


@pytest.mark.parametrize(
    "key", ["", "/a", "A/b", "a/b/c", "-a", "a-", "a" * 64, "x" * 251 + ".io/a", "ä", "a b", "x..y/a"]
)
def test_what_is_no_label_key_is_refused(reader: FieldReader, key: str) -> None:
    assert decode_labels({key: "v"}, "f", reader) == ()
    assert "is not a label key" in reader.errors[0].message


@pytest.mark.parametrize("value", ["-a", "a-", "a" * 64, "ä", "a b", "a/b"])
def test_what_is_no_label_value_is_refused(reader: FieldReader, value: str) -> None:
    assert decode_labels({"k": value}, "f", reader) == ()
    assert "is not a label value" in reader.errors[0].message


def test_an_empty_selector_matches_everything_and_null_could_mean_either(reader: FieldReader) -> None:
    assert decode_selector({}, "f", reader) == LabelSelector()
    assert reader.errors == []
    decode_selector(None, "f", reader)
    assert "write {} to match everything" in reader.errors[0].message


def test_expressions_are_read_with_their_values_each_once_and_sorted(reader: FieldReader) -> None:
    document = {
        "matchLabels": {"a": "1"},
        "matchExpressions": [
            {"key": "role", "operator": "In", "values": ["b", "a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    }
    assert decode_selector(document, "f", reader) == LabelSelector(
        (("a", "1"),), (Requirement("role", Operator.IN, ("a", "b")), Requirement("old", Operator.DOES_NOT_EXIST, ()))
    )
    assert reader.errors == []


@pytest.mark.parametrize(
    ("expression", "path", "words"),
    [
        ({"operator": "Exists"}, "f.matchExpressions[0].key", "required"),
        ({"key": "a"}, "f.matchExpressions[0].operator", "required"),
        ({"key": "a", "operator": "in"}, "f.matchExpressions[0].operator", "unknown operator"),
        ({"key": "a", "operator": "In"}, "f.matchExpressions[0].values", "at least one"),
        ({"key": "a", "operator": "NotIn", "values": []}, "f.matchExpressions[0].values", "at least one"),
        ({"key": "a", "operator": "Exists", "values": ["b"]}, "f.matchExpressions[0].values", "takes no values"),
        ({"key": "a b", "operator": "Exists"}, "f.matchExpressions[0].key", "not a label key"),
        ({"key": "a", "operator": "In", "values": ["b c"]}, "f.matchExpressions[0].values[0]", "not a label value"),
        ("a", "f.matchExpressions[0]", "an expression is expected"),
    ],
)
def test_a_bad_expression_is_told_where_it_is(reader: FieldReader, expression: Any, path: str, words: str) -> None:
    decode_selector({"matchExpressions": [expression]}, "f", reader)
    (error,) = reader.errors
    assert error.field == path
    assert words in error.message


def test_a_side_that_is_absent_matches_everything_and_a_rule_without_any_is_an_oversight(reader: FieldReader) -> None:
    found = decode_rule({"podSelector": {"matchLabels": {"a": "1"}}}, "f", reader)
    assert found == EgressRule(LabelSelector(), LabelSelector((("a", "1"),)))
    assert reader.errors == []
    decode_rule({}, "f", reader)
    assert "write podSelector: {} to match all pods" in reader.errors[0].message
