"""docs/edge-cases.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
NAMED = re.findall(
    r"`([\w/]+\.py)((?:::\w+)*)`", (TESTS.parent / "docs/edge-cases.md").read_text(encoding="utf-8")
)


def test_every_test_it_names_is_there() -> None:
    assert len(NAMED) > 100
    missing = [path + names for path, names in NAMED if not is_there(TESTS / path, names)]
    assert not missing


def is_there(path: Path, names: str) -> bool:
    if not path.exists():
        return False
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for name in names.split("::")[1:]:
        named = [
            node
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == name
        ]
        if not named:
            return False
        body = named[0].body
    return True
