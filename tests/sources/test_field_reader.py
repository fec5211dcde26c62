"""Reading fields of an object: every fault is told where it is, with what to write instead."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from service.sources.field_reader import FieldReader, join, plain, shown


@pytest.fixture
def reader() -> FieldReader:
    return FieldReader("a.yaml", "EgressNATPolicy", "egress")


def told(reader: FieldReader) -> list[tuple[str, str]]:
    return [(error.field, error.message) for error in reader.errors]


def test_errors_name_file_kind_object_and_field_and_are_fit_for_a_log_line() -> None:
    reader = FieldReader("a.yaml", "Kind\n", "x\x1b[2J")
    reader.refuse("spec.\r", "wrong")
    (error,) = reader.errors
    assert error.origin == "a.yaml"
    assert all(text.isprintable() for text in (error.kind, error.name, error.field))


def test_an_unknown_field_is_refused_and_the_known_ones_are_read(reader: FieldReader) -> None:
    assert reader.mapping({"a": 1, "b": 2, 3: 4}, "spec", known=("a", "c")) == {"a": 1}
    assert told(reader) == [
        ("spec.b", "unknown field; known here: a, c"),
        ("spec.3", "a field name must be text; put it in quotes"),
    ]


def test_a_section_that_is_absent_is_empty_and_no_fault(reader: FieldReader) -> None:
    assert reader.section({}, "spec", "") == {}
    assert reader.errors == []
    assert reader.section({"spec": [1]}, "spec", "") == {}
    assert [path for path, _ in told(reader)] == ["spec"]


def test_a_list_that_is_too_short_is_refused(reader: FieldReader) -> None:
    assert reader.sequence([1], "f", "rules", minimum=1) == [1]
    assert reader.sequence([], "f", "rules", minimum=1) is None
    assert reader.sequence({"a": 1}, "f", "rules") is None
    short, none = (message for _, message in told(reader))
    assert short == "at least 1 is needed: rules"
    assert none.startswith("a list of rules is expected, not ")


@pytest.mark.parametrize("value", [1, 1.5, True])
def test_what_yaml_reads_as_a_number_unquoted_is_told_with_the_remedy(reader: FieldReader, value: object) -> None:
    assert reader.text(value, "f", "a label value") is None
    assert told(reader)[0][1].endswith("put it in quotes")
    assert reader.text(None, "f", "a label value") is None
    assert "quotes" not in told(reader)[1][1]


def test_a_missing_field_is_told_under_its_own_path(reader: FieldReader) -> None:
    assert reader.require({"a": None}, "a", "spec", "something")
    assert not reader.require({}, "b", "spec", "one of x, y")
    assert told(reader) == [("spec.b", "required field is missing: one of x, y")]


@pytest.mark.parametrize(
    ("read", "text", "found"),
    [
        (FieldReader.address, "192.168.1.100", IPv4Address("192.168.1.100")),
        (FieldReader.address, "127.0.0.1", IPv4Address("127.0.0.1")),
        (FieldReader.source_address, "192.168.1.100", IPv4Address("192.168.1.100")),
        (FieldReader.network, "8.8.8.0/24", IPv4Network("8.8.8.0/24")),
        (FieldReader.network, "0.0.0.0/0", IPv4Network("0.0.0.0/0")),
        (FieldReader.network, "8.8.8.8/32", IPv4Network("8.8.8.8/32")),
    ],
)
def test_good_addresses_are_read(
    reader: FieldReader, read: Callable[[FieldReader, Any, str], object], text: str, found: object
) -> None:
    assert read(reader, text, "f") == found
    assert reader.errors == []


@pytest.mark.parametrize(
    ("read", "value", "words"),
    [
        (FieldReader.address, "192.168.1.300", "not an IP address"),
        (FieldReader.address, "fd00::1", "only IPv4"),
        (FieldReader.source_address, "0.0.0.5", "not an address of a host"),
        (FieldReader.source_address, "127.0.0.1", "loopback"),
        (FieldReader.source_address, "224.0.0.1", "multicast"),
        (FieldReader.source_address, "169.254.0.1", "link-local"),
        (FieldReader.source_address, "240.0.0.1", "reserved"),
        (FieldReader.network, "8.8.8.0/255.255.255.0", "not a CIDR"),
        (FieldReader.network, "8.8.8.0/33", "not a CIDR"),
        (FieldReader.network, "fd00::/64", "only IPv4"),
        (FieldReader.network, "8.8.8.0", "write 8.8.8.0/32"),
        (FieldReader.network, "8.8.8.8/24", "write 8.8.8.0/24, or 8.8.8.8/32"),
        (FieldReader.network, 8, "expected as text"),
    ],
)
def test_bad_addresses_are_refused_with_what_to_write(
    reader: FieldReader, read: Callable[[FieldReader, Any, str], object], value: object, words: str
) -> None:
    assert read(reader, value, "f") is None
    ((path, message),) = told(reader)
    assert path == "f"
    assert words in message


def test_a_duplicate_names_the_first_place_and_each_value_is_kept_once(reader: FieldReader) -> None:
    assert reader.unique([("a[0]", 1), ("a[1]", 2), ("a[2]", 1)]) == [1, 2]
    assert told(reader) == [("a[2]", "1 is a duplicate of a[0]; remove one")]


def test_paths_and_values_are_shown_readably() -> None:
    assert join("", "spec") == "spec"
    assert join("spec", "egress") == "spec.egress"
    assert len(shown("x" * 10_000)) < 400
    assert len(plain("x" * 10_000)) < 400
    assert plain("good") == "good"
