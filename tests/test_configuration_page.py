"""docs/reference-configuration.md has every variable, field, option and parameter, and defaults."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import click
import pytest

import hyperdrive_client
from hyperdrive_client.bindings import connection_string
from hyperdrive_client.cli import main
from hyperdrive_client.proxy.settings import Caching, Limits, Settings

PACKAGE = Path(hyperdrive_client.__file__).parent
PAGE = PACKAGE.parent / "docs" / "reference-configuration.md"
VARIABLE = re.compile(r"(?:HYPERDRIVE|CLOUDFLARE|WRANGLER)_[A-Z_]+|XDG_[A-Z_]+|PGPASSFILE")

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="no sources: the package is installed")


def rows(section: str) -> dict[str, list[str]]:
    """The cells of the tables under a heading, by the name in the first."""
    text = re.split(rf"^#+ {section}$", PAGE.read_text(), flags=re.MULTILINE)[1]
    text = re.split(r"^#", text, flags=re.MULTILINE)[0]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()]
    return {row[0].strip("`"): row for row in cells if row and row[0].startswith("`")}


def strings() -> Iterator[str]:
    """Every text in the package's code; not what its documentation says."""
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        said = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and id(node) not in said:
                yield node.value


def test_every_environment_variable() -> None:
    documented = rows("Environment variables")
    used = {name.rstrip("_") for text in strings() for name in VARIABLE.findall(text)}
    # Alone it is the prefix of the two of wrangler.
    used -= {"HYPERDRIVE_LOCAL_CONNECTION_STRING"}
    assert used == {name.removesuffix("_<BINDING>") for name in documented if name.isupper()}


def test_every_limit_and_its_default() -> None:
    documented = {name: row[2] for name, row in rows("Limits and time-outs").items()}
    assert documented == {
        field.name: f"{getattr(Limits(), field.name):.0f}" for field in fields(Limits)
    }


def test_every_setting_and_its_default() -> None:
    documented = rows("How it listens")
    others = ("limits", "caching")
    settings = {field.name: field.default for field in fields(Settings) if field.name not in others}
    assert documented.keys() == settings.keys()
    for name, default in settings.items():
        if isinstance(default, bool):
            assert documented[name][3] == ("on" if default else "off")
        elif default not in (None, MISSING):
            assert documented[name][3] == f"`{default}`"


def test_every_setting_of_the_cache_and_its_default() -> None:
    documented = {name: row[3].strip("`") for name, row in rows("The cache").items()}
    assert documented.pop("functions") == ""
    assert documented == {
        field.name: f"{value:.0f}" if isinstance(value, (int, float)) else value
        for field in fields(Caching)
        if (value := getattr(Caching(), field.name)) != ()
    }


@pytest.mark.parametrize("command", main.commands.values(), ids=lambda command: command.name)
def test_every_option_of_a_command(command: click.Command) -> None:
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE.read_text()))
    options = {name for each in command.params for name in each.opts if name.startswith("--")}
    assert options <= documented


def test_no_option_that_is_not_there() -> None:
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE.read_text()))
    options = {
        name
        for each in main.commands.values()
        for option in each.params
        for name in (*option.opts, *option.secondary_opts)
    }
    assert documented - options == {"--help", "--version"}


def test_every_parameter_of_a_connection_string() -> None:
    names = [name for cell in rows("Connection strings") for name in re.findall(r"\w+", cell)]
    assert set(names) == connection_string._PARAMETERS
