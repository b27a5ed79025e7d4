from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdrive_client.bindings.json_with_comments import parse_json_with_comments
from hyperdrive_client.errors import ConfigurationError


def value_of(text: str) -> object:
    return parse_json_with_comments(text, "wrangler.jsonc").value


def error_of(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        value_of(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        ("// a\n{ /* b */ } // c", {}),
        ('{"a": 1, // one\n}', {"a": 1}),
        ('{"a": [1, 2, /* three */ ], }', {"a": [1, 2]}),
        ('{"a": [[], {},],}', {"a": [[], {}]}),
        ('{"a": 1 /* , */ , /* } */ }', {"a": 1}),
        ("[1, // ,\n2]", [1, 2]),
        ("/**/[/***/1/* / * // */]", [1]),
        ("1//", 1),
        ('"a//b"', "a//b"),
        ('["/*", "*/", "//", ",]", ",}"]', ["/*", "*/", "//", ",]", ",}"]),
        ('["\\"//", "\\\\"]', ['"//', "\\"]),
        ('{"https://x/*y*/": ", ]"}', {"https://x/*y*/": ", ]"}),
    ],
)
def test_comments_and_trailing_commas_are_left_out(text: str, value: object) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "1:1", "Expecting value"),
        ('{\n  "a": 1\n  "b": 2\n}', "3:3", "Expecting ',' delimiter"),
        ('{ // comment\n  "a": /* x */ oops }', "2:16", "Expecting value"),
        ('{\n  "a": /* two\n  lines */ oops }', "3:12", "Expecting value"),
        ('{ "a": 1,, }', "1:10", "Expecting property name"),
        ("[,]", "1:2", "Expecting value"),
        ("{,}", "1:2", "Expecting property name"),
        ('{"a":,}', "1:6", "Expecting value"),
        ("[1,,]", "1:4", "Expecting value"),
        ('{\n  "a": "b\n}', "2:10", "control character"),
        ('{\n  "a": "b', "2:8", "Unterminated string"),
        ("{\n  /* never closed }", "2:3", "this comment is not closed"),
        ("{}/*/", "1:3", "this comment is not closed"),
        ("{} / {}", "1:4", "Extra data"),
        ("{}}", "1:3", "Extra data"),
    ],
)
def test_an_error_names_the_place_in_the_original_file(text: str, place: str, message: str) -> None:
    assert error_of(text).startswith(f"wrangler.jsonc:{place}: ")
    assert message in error_of(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5_000])
def test_what_python_cannot_hold_is_an_error_too(text: str) -> None:
    assert error_of(text).startswith("wrangler.jsonc: not valid JSON")


def test_every_key_and_item_has_its_line() -> None:
    document = parse_json_with_comments(
        """// one
{
  "a": [
    { "b": 1 }, /* of
    two lines */ { "b": 2,
      "c": {} },
    "x",
  ], "d":
    [],
  "e\\u0066":
    [[1,
      2]]
}
""",
        "file",
    )
    assert document.lines == {
        (): 2,
        ("a",): 3,
        ("a", 0): 4,
        ("a", 0, "b"): 4,
        ("a", 1): 5,
        ("a", 1, "b"): 5,
        ("a", 1, "c"): 6,
        ("a", 2): 7,
        ("d",): 8,
        ("ef",): 10,
        ("ef", 0): 11,
        ("ef", 0, 0): 11,
        ("ef", 0, 1): 12,
    }


def test_what_has_no_line_has_that_of_what_is_around_it() -> None:
    document = parse_json_with_comments('{\n"a": [\n{}]}', "file")
    assert document.place(("a", 0, "missing")) == "file:3"
    assert document.place(("missing",)) == "file:1"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.text(st.sampled_from('/*,]}"\\\n '), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.sampled_from('ab/*,"'), max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)
FILLERS = st.text(" \n\t", max_size=2) | st.sampled_from(
    ['// , ] " x\n', '/* } \n " // */', "/**/", "//\n", "/* a */ // b */\n"]
)
_STRING_OR_POINT = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]')


@given(VALUES, st.data())
def test_comments_may_stand_anywhere_and_change_nothing(value: object, data: st.DataObject) -> None:
    def surrounded(match: re.Match[str]) -> str:
        return data.draw(FILLERS) + match[0] + data.draw(FILLERS)

    assert value_of(_STRING_OR_POINT.sub(surrounded, json.dumps(value))) == value


@given(VALUES)
def test_a_comma_may_stand_before_every_closing_bracket(value: object) -> None:
    def with_comma(match: re.Match[str]) -> str:
        return match[0].replace("\n]", ",\n]").replace("\n}", ",\n}")

    text = json.dumps(value, indent=1)
    assert value_of(re.sub(r'"(?:[^"\\]|\\.)*"|\n *[\]}]', with_comma, text)) == value


@given(VALUES)
def test_lines_are_those_of_an_indented_file(value: object) -> None:
    document = parse_json_with_comments(json.dumps(value, indent=1), "file")
    rows = json.dumps(value, indent=1).split("\n")
    for path, line in document.lines.items():
        row = rows[line - 1].strip()
        if path and isinstance(path[-1], str):
            assert row.startswith(json.dumps(path[-1]) + ": ")
        inner = document.value
        for key in path:
            inner = inner[key]  # type: ignore[index]
        if not isinstance(inner, dict | list):
            assert row.rstrip(",").endswith(json.dumps(inner))


@given(st.text(st.sampled_from('{}[]:,"/*\\\n 1a'), max_size=12))
def test_any_text_is_a_value_or_an_error_with_a_place(text: str) -> None:
    try:
        value_of(text)
    except ConfigurationError as error:
        message = str(error)
    else:
        return
    assert re.match(r"wrangler\.jsonc:\d+:\d+: ", message)


@given(st.text(st.sampled_from('{}[]:,"\\\n 1a'), max_size=12))
def test_without_comments_what_json_takes_is_taken_alike(text: str) -> None:
    try:
        expected = json.loads(text)
    except json.JSONDecodeError:
        return
    assert value_of(text) == expected
