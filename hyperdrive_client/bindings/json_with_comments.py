"""JSON with comments and trailing commas, as wrangler files use it.

Comments and trailing commas are overwritten with blanks and the rest is left to ``json``, so every
position in an error or a ``Document`` is that of the original text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from hyperdrive_client.bindings.document import Document, KeyPath
from hyperdrive_client.errors import ConfigurationError

_LEXEME = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*(?:.*?\*/)?|[{}\[\]:,]|[^\s{}\[\]:,"/]+|["/]', re.DOTALL
)


def parse_json_with_comments(text: str, source: str) -> Document:
    """Parse ``text``; ``source`` is its name in errors.

    Raises ``ConfigurationError`` with ``source:line:column``, both counted from 1.
    """
    characters = list(text)
    lexemes: list[tuple[int, str]] = []
    for match in _LEXEME.finditer(text):
        start, lexeme = match.start(), match[0]
        if lexeme == "/*":
            raise ConfigurationError(f"{_place(text, start, source)}: this comment is not closed")
        if lexeme.startswith(("//", "/*")):
            characters[start : match.end()] = re.sub(r"[^\n]", " ", lexeme)
            continue
        if lexeme in ("}", "]") and _ends_with_trailing_comma(lexemes):
            characters[lexemes.pop()[0]] = " "
        lexemes.append((start, lexeme))
    return Document(source, _load("".join(characters), source), _lines(text, lexemes))


def _ends_with_trailing_comma(lexemes: list[tuple[int, str]]) -> bool:
    return len(lexemes) > 1 and lexemes[-1][1] == "," and lexemes[-2][1] not in ("{", "[", ":", ",")


def _load(text: str, source: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{_place(text, error.pos, source)}: not valid JSON: {error.msg}"
        ) from None
    except (RecursionError, ValueError) as error:  # too deep, or a number of thousands of digits
        raise ConfigurationError(f"{source}: not valid JSON: {error}") from None


def _place(text: str, position: int, source: str) -> str:
    line = text.count("\n", 0, position) + 1
    return f"{source}:{line}:{position - text.rfind(chr(10), 0, position)}"


def _lines(text: str, lexemes: Iterable[tuple[int, str]]) -> dict[KeyPath, int]:
    """Return the line of every key and array item of a text that is known to be valid."""
    lines: dict[KeyPath, int] = {}
    path: list[str | int] = []
    key_comes_next = False
    line, counted_to = 1, 0
    for start, lexeme in lexemes:
        line += text.count("\n", counted_to, start)
        counted_to = start
        if lexeme in ("}", "]"):
            path.pop()
            key_comes_next = False
        elif lexeme == ",":
            item = path[-1]
            key_comes_next = isinstance(item, str)
            path[-1] = item if isinstance(item, str) else item + 1
        elif key_comes_next:
            path[-1] = json.loads(lexeme)
            lines[tuple(path)] = line
            key_comes_next = False
        elif lexeme != ":":
            lines.setdefault(tuple(path), line)
            if lexeme in ("{", "["):
                key_comes_next = lexeme == "{"
                path.append("" if key_comes_next else 0)
    return lines
