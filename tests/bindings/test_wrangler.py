from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperdrive_client.bindings import (
    BindingWarning,
    WranglerBinding,
    find_wrangler_file,
    read_wrangler_file,
)
from hyperdrive_client.errors import ConfigurationError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file below the working directory, so that messages show its short path."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "wrangler.jsonc") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_each_name_is_looked_for_all_the_way_up_before_the_next(
    tmp_path: Path, write: Write
) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    for name in ("wrangler.toml", "wrangler.jsonc", "wrangler.json"):
        near = write("", f"a/b/{name}")
        assert find_wrangler_file(cwd=folder) == near
        near.unlink()
        far = write("", name)
        assert find_wrangler_file(cwd=folder) == far
        write("", f"a/b/{name}")
        assert find_wrangler_file(cwd=folder) == near
        near.unlink()


def test_json_above_beats_jsonc_beside(tmp_path: Path, write: Write) -> None:
    above = write("", "wrangler.json")
    write("", "a/wrangler.jsonc")
    write("", "a/wrangler.toml")
    assert find_wrangler_file(cwd=tmp_path / "a") == above


def test_a_folder_of_that_name_is_no_file(tmp_path: Path, write: Write) -> None:
    (tmp_path / "wrangler.json").mkdir()
    path = write("")
    assert find_wrangler_file() == path


def test_a_given_path_wins(tmp_path: Path, write: Write) -> None:
    write("", "wrangler.json")
    path = write("", "conf/my.jsonc")
    assert find_wrangler_file(path) == path
    assert find_wrangler_file(Path("my.jsonc"), tmp_path / "conf") == path


def test_a_given_path_that_is_no_file_is_an_error(tmp_path: Path, write: Write) -> None:
    write("", "wrangler.json")
    with pytest.raises(ConfigurationError, match=r"no wrangler file .*other\.json"):
        find_wrangler_file(tmp_path / "other.json")
    with pytest.raises(ConfigurationError, match="no wrangler file"):
        find_wrangler_file(tmp_path)


EXPECTED = (
    WranglerBinding("ONE", "1", "postgres://me:pw@db/one", "PLACE"),
    WranglerBinding("TWO", "2", None, "PLACE"),
)

JSON_TEXT = """{
  // comment
  "hyperdrive": [
    {
      "binding": "ONE", "id": "1",
      "localConnectionString": "postgres://me:pw@db/one",
    },
    { "binding": "TWO",
      "id": "2" },
  ],
}"""

TOML_TEXT = """name = "app"
[[hyperdrive]]
binding = "ONE"
id = "1"
localConnectionString = "postgres://me:pw@db/one"

[[hyperdrive]]
binding = "TWO"
id = "2"
"""


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("wrangler.json", JSON_TEXT, (6, 8)),
        ("wrangler.jsonc", JSON_TEXT, (6, 8)),
        ("wrangler.jsonc", "\ufeff" + JSON_TEXT, (6, 8)),
        ("wrangler.toml", TOML_TEXT, (5, 7)),
        ("sub/other.toml", TOML_TEXT, (5, 7)),
        ("other.config", JSON_TEXT, (6, 8)),
    ],
)
def test_bindings_are_read_with_their_lines(
    write: Write, name: str, text: str, lines: tuple[int, int]
) -> None:
    bindings = read_wrangler_file(write(text, name))
    assert [binding.place for binding in bindings] == [f"{name}:{line}" for line in lines]
    assert bindings == tuple(
        WranglerBinding(each.name, each.id, each.local_connection_string, f"{name}:{line}")
        for each, line in zip(EXPECTED, lines, strict=True)
    )


def test_the_repr_of_a_binding_hides_its_connection_string() -> None:
    assert "pw" not in repr(EXPECTED)


def test_a_file_outside_the_working_directory_has_its_full_path(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(JSON_TEXT)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert read_wrangler_file(path)[0].place == f"{path}:6"


@pytest.mark.parametrize("text", ["{}", '{"hyperdrive": []}', '{"name": "app", "main": "x"}'])
def test_a_file_may_have_no_bindings(write: Write, text: str) -> None:
    assert read_wrangler_file(write(text)) == ()


ENVIRONMENTS = json.dumps(
    {
        "hyperdrive": [{"binding": "TOP", "id": "0"}],
        "env": {
            "staging": {"hyperdrive": [{"binding": "STAGE", "id": "1"}]},
            "bare": {},
            "empty": {"hyperdrive": []},
        },
    },
    indent=1,
)


@pytest.mark.parametrize(
    ("env", "names"), [(None, ["TOP"]), ("", ["TOP"]), ("staging", ["STAGE"]), ("empty", [])]
)
def test_an_environment_has_its_own_bindings(
    write: Write, env: str | None, names: list[str]
) -> None:
    assert [each.name for each in read_wrangler_file(write(ENVIRONMENTS), env)] == names


def test_a_toml_environment_has_its_own_bindings(write: Write) -> None:
    text = TOML_TEXT + '[env.staging]\n[[env.staging.hyperdrive]]\nbinding = "S"\nid = "3"\n'
    (binding,) = read_wrangler_file(write(text, "wrangler.toml"), "staging")
    assert binding == WranglerBinding("S", "3", None, "wrangler.toml:11")


def test_an_unknown_environment_is_an_error_that_lists_the_others(write: Write) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_wrangler_file(write(ENVIRONMENTS), "prod")
    assert str(caught.value) == (
        'wrangler.jsonc:8: "env" has no environment "prod"; it has staging, bare, empty'
    )


@pytest.mark.parametrize("environments", ["", ', "env": {}'])
def test_without_environments_the_top_level_is_used_with_a_warning(
    write: Write, environments: str
) -> None:
    path = write('{"hyperdrive": [{"binding": "TOP", "id": "0"}]' + environments + "}")
    with pytest.warns(BindingWarning, match=r'wrangler\.jsonc has no environments; "prod"'):
        assert [each.name for each in read_wrangler_file(path, "prod")] == ["TOP"]


def test_bindings_are_not_inherited_and_a_warning_says_so(write: Write) -> None:
    path = write(ENVIRONMENTS)
    with pytest.warns(BindingWarning, match=r'wrangler\.jsonc:17: "env\.bare" has no "hyperdrive"'):
        assert read_wrangler_file(path, "bare") == ()


def test_an_environment_need_not_repeat_what_the_top_level_has_not(write: Write) -> None:
    assert read_wrangler_file(write('{"env": {"staging": {}}}'), "staging") == ()


@pytest.mark.parametrize(
    ("text", "line", "key", "expected"),
    [
        ("[]", 1, "the file", "an object, but is an array"),
        ('{\n"hyperdrive": {}}', 2, "hyperdrive", "an array of objects, but is an object"),
        ('{\n"hyperdrive": null}', 2, "hyperdrive", "an array of objects, but is null"),
        ('{\n"hyperdrive": "X"}', 2, "hyperdrive", "an array of objects, but is a string"),
        ('{"hyperdrive":\n[\n"X"]}', 3, "hyperdrive[0]", "an object, but is a string"),
        ('{"hyperdrive": [\n{"id": "1"}]}', 2, "hyperdrive[0].binding", "a string, but is missing"),
        (
            '{"hyperdrive": [\n{"id": "1",\n"binding": 5}]}',
            3,
            "hyperdrive[0].binding",
            "a string, but is a number",
        ),
        (
            '{"hyperdrive": [\n{"id": "1",\n"binding": ""}]}',
            3,
            "hyperdrive[0].binding",
            "a name, but is empty",
        ),
        (
            '{"hyperdrive": [{"binding": "A", "id": "1"},\n{"binding": "B"}]}',
            2,
            "hyperdrive[1].id",
            "a string, but is missing",
        ),
        (
            '{"hyperdrive": [{"binding": "A",\n"id": true}]}',
            2,
            "hyperdrive[0].id",
            "a string, but is a boolean",
        ),
        (
            '{"hyperdrive": [{"binding": "A", "id": "1",\n"localConnectionString": 1.5}]}',
            2,
            "hyperdrive[0].localConnectionString",
            "a string, but is a number",
        ),
        (
            '{"hyperdrive": [{"binding": "A", "id": "1",\n"localConnectionString": null}]}',
            2,
            "hyperdrive[0].localConnectionString",
            "a string, but is null",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(
    write: Write, text: str, line: int, key: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_wrangler_file(write(text))
    assert str(caught.value) == f"wrangler.jsonc:{line}: {key} must be {expected}"


@pytest.mark.parametrize(
    ("text", "line", "key", "expected"),
    [
        ('{"env":\n"x"}', 1, "env", "an object, but is a string"),
        ('{"env": {\n"e": []}}', 2, "env.e", "an object, but is an array"),
        (
            '{"env": {"e": {\n"hyperdrive": {}}}}',
            2,
            "env.e.hyperdrive",
            "an array of objects, but is an object",
        ),
        (
            '{"env": {"e": {"hyperdrive": [\n{"binding": "A"}]}}}',
            2,
            "env.e.hyperdrive[0].id",
            "a string, but is missing",
        ),
    ],
)
def test_what_is_wrong_in_an_environment_is_said_likewise(
    write: Write, text: str, line: int, key: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_wrangler_file(write(text), "e")
    assert str(caught.value) == f"wrangler.jsonc:{line}: {key} must be {expected}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "hyperdrive = 1",
            "wrangler.toml:1: hyperdrive must be an array of objects, but is a number",
        ),
        (
            "\n[hyperdrive]\nbinding = 'A'",
            "wrangler.toml:2: hyperdrive must be an array of objects, but is an object",
        ),
        (
            "[[hyperdrive]]\nid = '1'\nbinding = 2020-01-01",
            "wrangler.toml:3: hyperdrive[0].binding must be a string, but is a date or time",
        ),
        (
            "[[hyperdrive]]\nbinding = 'A'",
            "wrangler.toml:1: hyperdrive[0].id must be a string, but is missing",
        ),
    ],
)
def test_what_is_wrong_in_toml_is_said_likewise(write: Write, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_wrangler_file(write(text, "wrangler.toml"))
    assert str(caught.value) == message


def test_a_name_that_is_used_twice_is_an_error(write: Write) -> None:
    items = ",\n".join('{"binding": "A", "id": "1"}' for _ in range(2))
    with pytest.raises(ConfigurationError) as caught:
        read_wrangler_file(write('{"hyperdrive": [\n' + items + "]}"))
    assert str(caught.value) == (
        'wrangler.jsonc:3: the binding name "A" in "hyperdrive[1]" is used twice; '
        "the first is at wrangler.jsonc:2"
    )


def test_a_name_may_be_used_again_in_another_environment(write: Write) -> None:
    items = '"hyperdrive": [{"binding": "A", "id": "1"}]'
    path = write("{" + items + ', "env": {"e": {' + items + "}}}")
    assert [each.name for each in read_wrangler_file(path, "e")] == ["A"]


def test_an_unknown_key_is_a_warning(write: Write) -> None:
    item = '{"binding": "A", "id": "1",\n"localConectionString": "postgres://me:pw@db/app"}'
    path = write('{"hyperdrive": [' + item + "]}")
    with pytest.warns(BindingWarning) as caught:
        assert read_wrangler_file(path)[0].local_connection_string is None
    assert str(caught[0].message) == (
        'wrangler.jsonc:2: unknown key "hyperdrive[0].localConectionString"; '
        'did you mean "localConnectionString"?'
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("wrangler.jsonc", '{\n "a": }', "wrangler.jsonc:2:7: not valid JSON"),
        ("wrangler.toml", "a = 1\nb = ", "wrangler.toml: not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_an_error(
    write: Write, name: str, text: str, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_wrangler_file(write(text, name))
    assert str(caught.value).startswith(message)


def test_a_file_that_cannot_be_read_is_an_error(write: Write) -> None:
    path = write("")
    path.write_bytes(b'{"\xff": 1}')
    with pytest.raises(ConfigurationError, match=r"^wrangler\.jsonc cannot be read"):
        read_wrangler_file(path)
    path.unlink()
    with pytest.raises(ConfigurationError, match=r"^wrangler\.jsonc cannot be read"):
        read_wrangler_file(path)
