import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.sources.document import MalformedDocumentError, parse_json, parse_yaml


def test_all_documents_of_a_text_are_read_and_empty_ones_left_out() -> None:
    assert parse_yaml("---\na: 1\n---\n---\n# nothing\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]
    assert parse_json('{"a": 1}\n\t{"b": 2}\n') == [{"a": 1}, {"b": 2}]
    assert parse_yaml("") == parse_json(" \n") == []


def test_times_stay_text() -> None:
    assert parse_yaml("a: 2024-05-01\nb: 2024-05-01T00:00:00.123456789Z") == [
        {"a": "2024-05-01", "b": "2024-05-01T00:00:00.123456789Z"}
    ]


def test_anchors_and_merges_work_as_usual() -> None:
    assert parse_yaml("a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}") == [{"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}]


def test_merges_of_merges_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, 30):
        lines.append(f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}")
    (document,) = parse_yaml("\n".join(lines))
    assert document["a29"] == {"x": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "line 2, column 1"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key a is given twice"),
        # Newer versions of libyaml refuse it first, in words of their own.
        ("[" * 200_000, "nested deeper|maximum nesting depth"),
        ("{a: " * 200_000, "nested deeper|maximum nesting depth"),
        ("- " * 200_000, "nested deeper|maximum nesting depth"),
        ("a:\n\tb: 1", "line 2"),
        ("a: *nowhere", "undefined alias"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("? [a]\n: b", "unhashable key"),
        ("\x00", "not valid YAML"),
        ("- " + "9" * 10_000, "not valid YAML"),
    ],
)
def test_a_malformed_text_is_an_error_that_says_where(text: str, words: str) -> None:
    with pytest.raises(MalformedDocumentError, match=words) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["{", '{"a": 1, "a": 2}', "[" * 200_000, "nope", '{"a": 1}}'])
def test_malformed_json_is_an_error(text: str) -> None:
    with pytest.raises(MalformedDocumentError, match="not valid JSON"):
        parse_json(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="-:{}[]&*!<> \n\ta1\"'|?%#,")))
def test_no_text_leads_to_any_other_failure(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        try:
            assert isinstance(parse(text), list)
        except MalformedDocumentError as error:
            str(error).encode()
