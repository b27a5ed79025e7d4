"""Secrets are compared in constant time, wherever in the source that is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyperdrive_client

PACKAGE = Path(hyperdrive_client.__file__).parent
# Names of what an attacker would like to guess byte by byte.
SECRET = re.compile(
    r"secret_key|stored_key|client_key|server_key|proof|signature|password|verifier"
)
# The length is no secret, and a missing one is not compared.
HARMLESS = re.compile(r"\blen\(|\bNone\b|''")


def comparisons(source: str) -> Iterator[str]:
    """Every ``==``, ``!=`` and ``in`` with a secret on either side."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare):
            continue
        text = ast.unparse(node)
        operators = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
        if any(isinstance(operator, operators) for operator in node.ops):
            sides = (ast.unparse(side) for side in (node.left, *node.comparators))
            if any(SECRET.search(side) for side in sides) and not HARMLESS.search(text):
                yield text


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("client.secret_key == request.secret_key", 1),
        ("if proof != expected: pass", 1),
        ("password in known", 1),
        ("hmac.compare_digest(proof, stored_key)", 0),
        ("len(stored_key) == len(server_key) == 32", 0),
        ("password is None", 0),
    ],
)
def test_the_search_finds_comparisons(source: str, found: int) -> None:
    assert len(list(comparisons(source))) == found


# The proxy's own keys of what it keeps, and a message type: no peer chooses what they meet.
ALLOWED = {
    "password not in self._scram",
    "kind != m.PASSWORD",
    "request == m.AUTHENTICATION_MD5_PASSWORD",
    "request == m.AUTHENTICATION_CLEARTEXT_PASSWORD",
}


@pytest.mark.parametrize("room", ["protocol", "proxy"])
def test_only_compare_digest_compares_secrets(room: str) -> None:
    sources = [path.read_text() for path in (PACKAGE / room).rglob("*.py")]
    assert any("compare_digest" in source for source in sources)
    found = {text for source in sources for text in comparisons(source)}
    assert found <= ALLOWED
