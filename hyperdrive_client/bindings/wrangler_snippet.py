"""A binding for a wrangler file: as text to paste, and put into a JSON file as it is."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hyperdrive_client.bindings.document import Document
from hyperdrive_client.bindings.json_with_comments import parse_json_with_comments
from hyperdrive_client.bindings.wrangler import bindings_in, shown_path
from hyperdrive_client.errors import ConfigurationError

DEFAULT_NAME = "HYPERDRIVE"


def binding_name(text: str) -> str:
    """Return the name of a binding that is made of the name of a configuration, as wrangler does.

    Spaces and dashes become ``_``, other characters are dropped, runs of ``_`` are collapsed, a
    leading digit gets ``_`` in front; ``HYPERDRIVE`` if nothing is left.
    """
    name = re.sub(r"[^A-Za-z0-9_]", "", re.sub(r"[\s-]", "_", text))
    name = re.sub(r"_+", "_", name)
    if name[:1].isdigit():
        name = f"_{name}"
    return name if name.strip("_") else DEFAULT_NAME


def snippet(binding: str, id: str, *, toml: bool) -> str:
    """Return what to paste into ``wrangler.toml``, or else ``wrangler.jsonc``."""
    if toml:
        return f"[[hyperdrive]]\nbinding = {json.dumps(binding)}\nid = {json.dumps(id)}"
    item = {"hyperdrive": [{"binding": binding, "id": id}]}
    return json.dumps(item, indent=2)


def check_can_be_added(path: Path, env: str | None, binding: str) -> None:
    """Raise ``ConfigurationError`` if a file is not as it should be, or has the binding already."""
    _read(path, env, binding)


def add_binding(path: Path, env: str | None, binding: str, id: str) -> None:
    """Add a binding to a JSON file, and leave everything else in it as it is.

    Raises ``ConfigurationError``, with nothing written, if the file is not as it should be, has
    that binding already, or can't be written.
    """
    text, before = _read(path, env, binding)
    changed = _with_item(text, env, {"binding": binding, "id": id})
    after = bindings_in(_parsed(changed, path), env)
    if [(each.name, each.id) for each in after] != [*before, (binding, id)]:
        raise ConfigurationError(
            f"{shown_path(path)} is written in a way that can't be added to; "
            "paste the lines yourself"
        )
    _replace(Path(os.path.realpath(path)), changed)


def _read(path: Path, env: str | None, binding: str) -> tuple[str, list[tuple[str, str]]]:
    """The file's text, and the names and ids of the bindings in it."""
    try:
        with path.open(encoding="utf-8", newline="") as file:  # line ends stay as they are
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{shown_path(path)} cannot be read: {error}") from None
    found = bindings_in(_parsed(text, path), env)
    for each in found:
        if each.name == binding:
            raise ConfigurationError(
                f'{each.place}: there is already a binding "{binding}"; '
                "give another name by --binding, or change its id there"
            )
    return text, [(each.name, each.id) for each in found]


def _parsed(text: str, path: Path) -> Document:
    return parse_json_with_comments(text.removeprefix("\ufeff"), shown_path(path))


class _Place(NamedTuple):
    """Where an object or array begins and ends, its last value, and a comma behind that."""

    begin: int
    end: int
    last: int
    comma: int | None


_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<mark>[{}\[\]:,])"""
    r"""|(?P<word>[^\s{}\[\]:,"/]+)""",
    re.DOTALL,
)


def _tokens(text: str) -> Iterator[re.Match[str]]:
    for found in _TOKEN.finditer(text):
        if found.lastgroup != "skip":
            yield found


def _places(text: str) -> dict[tuple[str | int, ...], _Place]:
    """Every object and array, by the way to it."""
    found: dict[tuple[str | int, ...], _Place] = {}
    way: list[str | int] = []
    # Of each that is open: where it begins, its last value and comma, its key or index just now.
    begins: list[int] = []
    last: list[int] = []
    comma: list[int | None] = []
    key: list[str | int] = []
    is_key = False
    for token in _tokens(text):
        mark = token.group() if token.lastgroup == "mark" else ""
        if mark in ("{", "["):
            if begins:
                way.append(key[-1])
            begins.append(token.start())
            last.append(token.end())
            comma.append(None)
            key.append("" if mark == "{" else 0)
            is_key = mark == "{"
        elif mark in ("}", "]"):
            found[tuple(way)] = _Place(begins.pop(), token.start(), last.pop(), comma.pop())
            key.pop()
            if way:
                way.pop()
            if last:
                last[-1], comma[-1] = token.end(), None
        elif mark == ",":
            comma[-1] = token.end()
            if isinstance(key[-1], int):
                key[-1] += 1
            is_key = isinstance(key[-1], str)
        elif mark == ":":
            is_key = False
        elif is_key and token.lastgroup == "string":
            key[-1] = json.loads(token.group())
        elif last:
            last[-1], comma[-1] = token.end(), None
    return found


def _with_item(text: str, env: str | None, item: dict[str, str]) -> str:
    """``text`` with ``item`` at the end of the array ``hyperdrive`` that ``env`` uses."""
    places = _places(text)
    # A file without environments has one for all.
    keys = ("env", env) if env and ("env", env) in places else ()
    array = places.get((*keys, "hyperdrive"))
    unit = _indentation(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    depth = len(keys) + (1 if array is None else 2)
    value = json.dumps([item] if array is None else item, indent=unit)
    if array is None:
        value = f'"hyperdrive": {value}'
    line = newline + unit * depth
    return _inserted(
        text, array or places[keys], line + value.replace("\n", line), line.removesuffix(unit)
    )


def _inserted(text: str, place: _Place, value: str, before_end: str) -> str:
    # Behind all comments, which belong to what stands before them.
    tail = len(text[: place.end].rstrip(" \t\r\n"))
    is_empty = place.last == place.begin + 1
    comma = "" if is_empty or place.comma is not None else ","
    if "\n" in text[tail : place.end]:
        before_end = ""
    else:
        tail = place.end
    return text[: place.last] + comma + text[place.last : tail] + value + before_end + text[tail:]


def _indentation(text: str) -> str:
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return found[1] if found else "  "


def _replace(path: Path, text: str) -> None:
    try:
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise ConfigurationError(
            f"{shown_path(path)} was not changed: {error.strerror or error}"
        ) from None
