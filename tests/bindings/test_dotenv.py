from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from hyperdrive_client.bindings import BindingWarning
from hyperdrive_client.bindings.dotenv import read_dotenv_files


def read(
    folder: Path, env: str | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    variables = read_dotenv_files(folder, env, environ or {})
    return {name: variable.text for name, variable in variables.items()}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=x", "x"),
        ("A = x ", "x"),
        ("  export A=x", "x"),
        ("A: x", "x"),
        ("A=", ""),
        ("A=x y", "x y"),
        ("A=x # comment", "x"),
        ("A=x#comment", "x"),
        ("A=x=y", "x=y"),
        ("A='x # y'", "x # y"),
        ('A="x # y" # comment', "x # y"),
        ("A=`x 'y' \"z\"`", "x 'y' \"z\""),
        ("A='x\\ny'", "x\\ny"),
        ('A="x\\ny\\rz"', "x\ny\rz"),
        ("A=x\\ny", "x\\ny"),
        ('A="x\ny"', "x\ny"),
        ("A='it\\'s'", "it\\'s"),
        ("A='it's'", "it's"),
        ('A="x', '"x'),
        ('A="x" y', '"x" y'),
        ("A=' x '", " x "),
        ("A=x\r\n", "x"),
        ("\ufeffA=x", "x"),
        ("A=1\nA=2", "2"),
        ("A=postgres://me:p$ss@db/app", "postgres://me:p$ss@db/app"),
    ],
)
def test_values_follow_the_rules_of_the_dotenv_package(
    tmp_path: Path, line: str, value: str
) -> None:
    (tmp_path / ".env").write_text(line, encoding="utf-8", newline="")
    assert read(tmp_path) == {"A": value}


@pytest.mark.parametrize("line", ["# A=x", "A", "A B=x", "=x", "A:x", "", "é=x"])
def test_what_is_no_assignment_is_left_out(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(f"{line}\nB.c-d=1", encoding="utf-8")
    assert read(tmp_path) == {"B.c-d": "1"}


def test_later_files_override_earlier_ones(tmp_path: Path) -> None:
    names = [".env", ".env.local", ".env.staging", ".env.staging.local"]
    for number, name in enumerate(names):
        (tmp_path / name).write_text(
            "".join(f"V{n}={name}\n" for n in range(number, len(names))), encoding="utf-8"
        )
    (tmp_path / ".env.other").write_text("V0=wrong", encoding="utf-8")
    assert read(tmp_path, "staging") == {f"V{n}": name for n, name in enumerate(names)}
    assert read(tmp_path) == {"V0": ".env"} | {f"V{n}": ".env.local" for n in (1, 2, 3)}


def test_a_variable_knows_its_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\nB=1", encoding="utf-8")
    (tmp_path / ".env.local").write_text("A=2", encoding="utf-8")
    variables = read_dotenv_files(tmp_path, None, {})
    assert variables["A"].path == tmp_path / ".env.local"
    assert variables["B"].path == tmp_path / ".env"


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("${B}", "b"),
        ("x${B}y${B}", "xbyb"),
        ('"${B}"', "b"),
        ("`${B}`", "b"),
        ("'${B}'", "${B}"),
        ("\\${B}", "${B}"),
        ("$B", "$B"),
        ("${C}", "c b"),
        ("${NONE}", ""),
        ("${NONE:-default}", "default"),
        ("${NONE-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${B:-default}", "b"),
        ("${A}", ""),
        ("${PROCESS}", "process"),
        ("${BOTH}", "process"),
        ("${RAW}", "${B}"),
    ],
)
def test_references_expand(tmp_path: Path, value: str, expanded: str) -> None:
    text = f"A={value}\nB=b\nC=c ${{B}}\nEMPTY=\nBOTH=file\n"
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    environ = {"PROCESS": "process", "BOTH": "process", "RAW": "${B}"}
    assert read(tmp_path, environ=environ)["A"] == expanded


def test_references_see_what_later_files_say(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("URL=${HOST}/app\nHOST=one", encoding="utf-8")
    (tmp_path / ".env.local").write_text("HOST=two", encoding="utf-8")
    assert read(tmp_path)["URL"] == "two/app"


def test_references_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=a${B}\nB=b${A}", encoding="utf-8")
    assert read(tmp_path) == {"A": "ab", "B": "ba"}


def test_a_folder_named_env_is_left_out(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert read(tmp_path) == {}


def test_a_file_that_cannot_be_read_is_left_out_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff")
    (tmp_path / ".env.local").write_text("A=1", encoding="utf-8")
    with pytest.warns(BindingWarning, match=r"\.env is left out"):
        assert read(tmp_path) == {"A": "1"}
