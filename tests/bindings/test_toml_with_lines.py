from __future__ import annotations

import pytest

from hyperdrive_client.bindings.toml_with_lines import parse_toml
from hyperdrive_client.errors import ConfigurationError


def test_tables_and_keys_have_their_lines() -> None:
    document = parse_toml(
        '''name = "app"
text = """
[[hyperdrive]]
binding = "NOT A KEY"
"""
literal = \'\'\'
binding = 1
\'\'\'

[[hyperdrive]] # """
binding = "A"
  id = "a#\\""

[[ hyperdrive ]]
binding = "B"
[hyperdrive.more]
x . "y z" = 1

[env."my.stage"]
vars = { A = 1 }
[[env."my.stage".hyperdrive]]
binding = "C"
[[env."my.stage".hyperdrive]]
"binding" = "D"
''',
        "wrangler.toml",
    )
    stage = ("env", "my.stage")
    assert document.lines == {
        ("name",): 1,
        ("text",): 2,
        ("literal",): 6,
        ("hyperdrive", 0): 10,
        ("hyperdrive", 0, "binding"): 11,
        ("hyperdrive", 0, "id"): 12,
        ("hyperdrive", 1): 14,
        ("hyperdrive", 1, "binding"): 15,
        ("hyperdrive", 1, "more"): 16,
        ("hyperdrive", 1, "more", "x", "y z"): 17,
        stage: 19,
        (*stage, "vars"): 20,
        (*stage, "hyperdrive", 0): 21,
        (*stage, "hyperdrive", 0, "binding"): 22,
        (*stage, "hyperdrive", 1): 23,
        (*stage, "hyperdrive", 1, "binding"): 24,
    }


def test_an_inline_table_has_the_line_of_its_key() -> None:
    text = 'a = 1\nhyperdrive = [\n  { binding = "A" },\n  { binding = "B" },\n]\n'
    document = parse_toml(text, "wrangler.toml")
    assert document.place(("hyperdrive", 1, "binding")) == "wrangler.toml:2"
    assert document.value == {"a": 1, "hyperdrive": [{"binding": "A"}, {"binding": "B"}]}


@pytest.mark.parametrize(
    ("text", "place"),
    [("a = 1\nb = \n", "at line 2, column 5"), ("[a]\n[a]", "at line 2, column 3")],
)
def test_an_error_names_file_line_and_column(text: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^wrangler\.toml: not valid TOML") as caught:
        parse_toml(text, "wrangler.toml")
    assert place in str(caught.value)


def test_what_python_cannot_hold_is_an_error_too() -> None:
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        parse_toml("a = " + "[" * 100_000, "wrangler.toml")
