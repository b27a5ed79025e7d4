from __future__ import annotations

import json
import os
import stat
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdrive_client.bindings import BindingWarning, read_wrangler_file
from hyperdrive_client.bindings.json_with_comments import parse_json_with_comments
from hyperdrive_client.bindings.wrangler_snippet import add_binding, binding_name, snippet
from hyperdrive_client.errors import ConfigurationError

ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("name", "binding"),
    [
        ("my-first-hyperdrive", "my_first_hyperdrive"),
        ("my  db", "my_db"),
        ("a--b__c", "a_b_c"),
        ("2nd", "_2nd"),
        ("größe", "gre"),
        ("日本", "HYPERDRIVE"),
        ("---", "HYPERDRIVE"),
        ("", "HYPERDRIVE"),
    ],
)
def test_a_binding_is_named_after_the_configuration_as_wrangler_does(
    name: str, binding: str
) -> None:
    assert binding_name(name) == binding


@given(st.text())
def test_a_name_that_was_made_is_one_that_is_taken(text: str) -> None:
    name = binding_name(text)
    assert binding_name(name) == name
    assert name.isidentifier()
    assert name.isascii()


@pytest.mark.parametrize("toml", [False, True])
def test_the_snippet_alone_is_a_file_with_the_binding(toml: bool, tmp_path: Path) -> None:
    file = tmp_path / ("wrangler.toml" if toml else "wrangler.jsonc")
    file.write_text(snippet("DB", ID, toml=toml))
    (found,) = read_wrangler_file(file)
    assert (found.name, found.id) == ("DB", ID)


# Files of any kind: JSON by parts, with what may stand between them.
blanks = st.text(" \t\n", max_size=3)
comments = st.one_of(
    st.text(st.characters(exclude_characters="\n\r", codec="utf-8"), max_size=8).map(
        lambda text: f"//{text}\n"
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8).map(
        lambda text: f"/*{text.replace('*/', '')}*/" if not text.endswith("*") else "/**/"
    ),
)
between = st.lists(blanks | comments, max_size=3).map("".join)
keys = st.sampled_from(["name", "env", "hyperdrive", 'a"}', "//", "/*", "[,", "ä"]) | st.text(
    st.characters(codec="utf-8"), max_size=3
)


@st.composite
def written(draw: st.DrawFn, value: object) -> str:
    """A value as somebody may have written it."""
    if isinstance(value, dict):
        parts = [
            draw(between)
            + json.dumps(key, ensure_ascii=draw(st.booleans()))
            + draw(between)
            + ":"
            + draw(written(each))
            for key, each in value.items()
        ]
        begin, end = "{}"
    elif isinstance(value, list):
        parts = [draw(written(each)) for each in value]
        begin, end = "[]"
    else:
        return draw(between) + json.dumps(value) + draw(between)
    comma = draw(st.sampled_from(["", ","])) if parts else ""
    inside = ",".join(parts) + comma + draw(between)
    return draw(between) + begin + inside + end + draw(between)


items = st.integers(0, 2).map(
    lambda count: [{"binding": f"B{index}", "id": str(index)} for index in range(count)]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def sections(draw: st.DrawFn) -> dict[str, object]:
    found = draw(st.dictionaries(keys, values, max_size=3))
    found.pop("hyperdrive", None)
    found.pop("env", None)
    if draw(st.booleans()):
        found["hyperdrive"] = draw(items)
    return dict(draw(st.permutations(list(found.items()))))


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str | None]:
    """The text of a wrangler file, and an environment for it."""
    content = draw(sections())
    environments = draw(st.dictionaries(keys, sections(), max_size=2))
    if environments or draw(st.booleans()):
        content["env"] = environments
    content = dict(draw(st.permutations(list(content.items()))))
    env = draw(st.sampled_from([None, *environments])) if environments else None
    if not environments and draw(st.booleans()):
        env = "staging"
    text = draw(written(content))
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return draw(st.sampled_from(["", "\ufeff"])) + text, env


def _same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def is_with_insertions(before: str, after: str) -> bool:
    """Whether nothing but one comma and one piece of text was put in."""
    start = len(list(takewhile(_same, zip(before, after, strict=False))))
    # From where they differ, or, where what was put in begins like what follows it, before that.
    for first in range(start, -1, -1):
        rest = before[first:]
        if after.endswith(rest):
            return True
        if after[first] != ",":
            continue
        end = len(list(takewhile(_same, zip(rest[::-1], after[::-1], strict=False))))
        middle = len(rest) - end
        if middle >= 0 and after[first + 1 :].startswith(rest[:middle]):
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(files())
@pytest.mark.filterwarnings("ignore::hyperdrive_client.bindings.BindingWarning")
def test_what_is_added_is_there_and_all_else_is_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, str | None]
) -> None:
    text, env = file
    path = tmp_path_factory.mktemp("snippet") / "wrangler.jsonc"
    path.write_bytes(text.encode())
    before = read_wrangler_file(path, env)
    whole = parse_json_with_comments(text.removeprefix("\ufeff"), "").value
    add_binding(path, env, "ADDED", ID)
    after = path.read_bytes().decode()
    found = read_wrangler_file(path, env)
    assert [each.name for each in found] == [*(each.name for each in before), "ADDED"]
    assert found[-1].id == ID
    assert is_with_insertions(text, after)
    # And no other part means anything else.
    changed = parse_json_with_comments(after.removeprefix("\ufeff"), "").value
    assert isinstance(changed, dict)
    assert isinstance(whole, dict)
    for content in (changed, whole):
        section = content["env"][env] if env and env in content.get("env", {}) else content
        section["hyperdrive"] = section.get("hyperdrive", [])[: len(before)]
    assert changed == whole


def added(text: str, path: Path, env: str | None = None) -> str:
    path.write_text(text)
    add_binding(path, env, "DB", "1")
    return path.read_text()


def test_it_looks_as_if_it_had_been_written_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "wrangler.jsonc"
    before = '{\n    "name": "app", // the name\n    "main": "src" // the last one\n}\n'
    assert added(before, file) == (
        '{\n    "name": "app", // the name\n    "main": "src", // the last one\n'
        '    "hyperdrive": [\n        {\n            "binding": "DB",\n            "id": "1"\n'
        "        }\n    ]\n}\n"
    )
    assert added('{\n  "hyperdrive": [\n    {"binding": "A", "id": "1"}\n  ]\n}\n', file) == (
        '{\n  "hyperdrive": [\n    {"binding": "A", "id": "1"},\n'
        '    {\n      "binding": "DB",\n      "id": "1"\n    }\n  ]\n}\n'
    )
    assert added("{}", file) == (
        '{\n  "hyperdrive": [\n    {\n      "binding": "DB",\n      "id": "1"\n    }\n  ]\n}'
    )


def test_line_ends_and_the_mode_stay(tmp_path: Path) -> None:
    file = tmp_path / "wrangler.json"
    file.write_bytes(b'{\r\n\t"name": "app"\r\n}\r\n')
    file.chmod(0o640)
    add_binding(file, None, "DB", "1")
    assert file.read_bytes().count(b"\n") == file.read_bytes().count(b"\r\n") == 9
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "shared.json", tmp_path / "wrangler.json"
    file.write_text("{}")
    link.symlink_to(file)
    add_binding(link, None, "DB", "1")
    assert link.is_symlink()
    assert read_wrangler_file(file)[0].name == "DB"


def test_an_environment_that_is_not_there_in_a_file_without_any(tmp_path: Path) -> None:
    file = tmp_path / "wrangler.json"
    file.write_text('{"name": "env", "env": {}}')
    with pytest.warns(BindingWarning, match="has no environments"):
        add_binding(file, "staging", "DB", "1")
    assert [each.name for each in read_wrangler_file(file)] == ["DB"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"hyperdrive": [{"binding": "DB", "id": "1"}]}', 'already a binding "DB"'),
        ('{"hyperdrive": null}', "must be an array"),
        ('{"hyperdrive": [1]}', "must be an object"),
        ('{"hyperdrive": [}', "not valid JSON"),
        ("[]", "must be an object"),
        ("", "not valid JSON"),
        ('{"env": {"other": {}}}', 'no environment "staging"'),
        # Of two keys of one name the last one counts, and there nothing can be put.
        ('{"env": {"staging": {}}, "env": {"staging": {}, "staging": 1}}', "must be an object"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_stays_as_it_is(
    text: str | bytes, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "wrangler.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match=told):
        add_binding(file, "staging" if b"env" in before else None, "DB", "1")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "wrangler.json"
    file.write_text("{}")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match=r"was not changed: No space left"):
        add_binding(file, None, "DB", "1")
    assert file.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [file]
