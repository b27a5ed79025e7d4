"""TOML whose tables and keys remember their lines.

``tomllib`` tells no positions, so they are read off the text: table headers and ``key =`` at the
start of a line. What stands inside an inline table, or inside an array of them, has the line of the
key around it.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from hyperdrive_client.bindings.document import Document, KeyPath
from hyperdrive_client.errors import ConfigurationError

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DOTTED = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
# Comments and strings over several lines are matched only to be stepped over.
_LANDMARK = re.compile(
    r'''#[^\n]*|"""(?:[^\\]|\\.)*?"""|'''
    r"'''.*?'''|"
    rf"^[ \t]*(?:\[\[[ \t]*(?P<item>{_DOTTED})[ \t]*\]\]|\[[ \t]*(?P<table>{_DOTTED})[ \t]*\]"
    rf"|(?P<key>{_DOTTED})[ \t]*=)",
    re.DOTALL | re.MULTILINE,
)


def parse_toml(text: str, source: str) -> Document:
    """Parse ``text``; ``source`` is its name in errors.

    Raises ``ConfigurationError``, with line and column, where it is not TOML 1.0.
    """
    try:
        return Document(source, tomllib.loads(text), _lines(text))
    except (RecursionError, ValueError) as error:
        raise ConfigurationError(f"{source}: not valid TOML: {error}") from None


def _lines(text: str) -> dict[KeyPath, int]:
    lines: dict[KeyPath, int] = {}
    last_items: dict[KeyPath, int] = {}  # the index of the last item of each array of tables
    table: KeyPath = ()
    line, counted_to = 1, 0
    for match in _LANDMARK.finditer(text):
        if match.lastgroup is None:
            continue
        line += text.count("\n", counted_to, match.end())
        counted_to = match.end()
        keys = _keys(match[match.lastgroup])
        if match.lastgroup == "key":
            lines[table + keys] = line
            continue
        table = _table(keys, last_items, new_item=match.lastgroup == "item")
        lines[table] = line
    return lines


def _table(keys: KeyPath, last_items: dict[KeyPath, int], *, new_item: bool) -> KeyPath:
    """Return the path of a header; its keys lead through the last item of each array."""
    path: KeyPath = ()
    for key in keys[:-1]:
        path += (key,)
        if path in last_items:
            path += (last_items[path],)
    path += keys[-1:]
    if new_item:
        last_items[path] = last_items.get(path, -1) + 1
        path += (last_items[path],)
    return path


def _keys(dotted: str) -> KeyPath:
    keys: list[str] = []
    value: Any = tomllib.loads(f"{dotted} = 0")
    while isinstance(value, dict):
        ((key, value),) = value.items()
        keys.append(key)
    return tuple(keys)
