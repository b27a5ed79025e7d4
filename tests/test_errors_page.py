"""docs/errors.md has every exception class, every text of an error and every SQLSTATE of ours."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyperdrive_client
from hyperdrive_client import errors

PACKAGE = Path(hyperdrive_client.__file__).parent
PAGE = PACKAGE.parent / "docs" / "errors.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="no sources: the package is installed")

# Besides what is raised: these make an error, what a client of the proxy is told, or a part of it.
MAKERS = {"ConnectFailure", "Refused", "error_response", "_fatal", "_failure", "_unbound", "error"}
MAKERS |= {*errors.__all__, "OriginUnreachableError", "BadParameter", "UsageError"}
# Names whose values become such a text.
PARTS = {"refusal", "text"}
# What no user meets: a wrong attribute, what is caught, what cannot happen.
NOT_FOR_USERS = {"__init__.py", "demo.py", "protocol/channel_binding.py", "protocol/messages.py"}
# Why a statement is not cached is no error, and on a page of its own.
NOT_FOR_USERS |= {f"proxy/cache/{name}.py" for name in ("eligibility", "name_resolution")}
NOT_FOR_USERS |= {"sql/parse_tree.py", "sql/reads.py"}
SQLSTATE = re.compile(r"[0-9A-Z]{5}")


def made(path: Path) -> Iterator[ast.AST]:
    """Whatever in a file makes an error."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise):
            yield node
        elif isinstance(node, ast.Call):
            name = (
                node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            )
            if name in MAKERS and "log" not in ast.unparse(node.func):
                yield node
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in PARTS:
            yield node


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in it, with … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        yield "".join(map(str, parts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def all_texts() -> dict[str, Path]:
    """Every text of an error in the package, and where it is. Not a word or two that fill a gap."""
    return {
        " ".join(text.split()): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() not in NOT_FOR_USERS
        for node in made(path)
        for text in texts(node)
        if len(re.findall(r"[A-Za-z']{2,}", text)) > 2
    }


def test_every_text_of_an_error_is_on_the_page() -> None:
    page = " ".join(PAGE.read_text().split())
    missing = {text: path.name for text, path in all_texts().items() if text not in page}
    assert not missing


def test_every_sqlstate_is_on_the_page() -> None:
    states = {
        text
        for path in PACKAGE.rglob("*.py")
        for node in made(path)
        for text in texts(node)
        if SQLSTATE.fullmatch(text) and any(map(str.isdigit, text))
    }
    assert len(states) > 10
    assert {state for state in states if f"`{state}`" not in PAGE.read_text()} == set()


@pytest.mark.parametrize("name", errors.__all__)
def test_every_exception_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text()
