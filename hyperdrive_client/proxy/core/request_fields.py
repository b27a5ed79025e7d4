"""What stands in a client's messages."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...errors import ClientProtocolError
from ...protocol import messages as m
from .statements import Statement

_DEALLOCATE = re.compile(
    rb"""\s*deallocate\s+(?:prepare\s+)?(?:"((?:[^"]|"")+)"|(?!all\b)([\w$]+))\s*;?\s*\Z""",
    re.IGNORECASE,
)
_NAMES_DATABASE = re.compile(rb"\b(?:create|alter|drop)\s+database\b", re.IGNORECASE)
_LISTS_STATEMENTS = re.compile(rb"pg_prepared_statement", re.IGNORECASE)
_EXECUTE = re.compile(rb"""\bexecute\s+(?:"((?:[^"]|"")+)"|([\w$]+))""", re.IGNORECASE)
# In a failed transaction these are still obeyed.
_ENDS_TRANSACTION = (b"rollback", b"commit", b"end", b"abort")


def malformed(kind: int) -> ClientProtocolError:
    return ClientProtocolError(f"invalid message format: {chr(kind)!r}")


def parse_fields(buffer: bytes, position: int, stop: int) -> tuple[bytes, bytes, bytes]:
    """Of a Parse: the name, the text, and the parameter types as they stand there."""
    name_end = buffer.find(b"\x00", position + 5, stop)
    text_end = buffer.find(b"\x00", name_end + 1, stop) if name_end >= 0 else -1
    types = buffer[text_end + 1 : stop]
    if text_end < 0 or len(types) < 2 or len(types) != 2 + 4 * m.INT16.unpack_from(types)[0]:
        raise ClientProtocolError("invalid message format: Parse")
    return buffer[position + 5 : name_end], buffer[name_end + 1 : text_end], types


def object_name(buffer: bytes, position: int, stop: int) -> tuple[bool, bytes]:
    """Of a Describe or Close: whether it means a portal, and the name."""
    name_end = buffer.find(b"\x00", position + 6, stop)
    what = buffer[position + 5 : position + 6]
    if name_end < 0 or what not in (b"P", b"S"):
        raise ClientProtocolError(f"invalid message format: {chr(buffer[position])!r}")
    return what == b"P", buffer[position + 6 : name_end]


def bound_name(buffer: bytes, position: int, stop: int) -> bytes:
    """Of a Bind: the statement's name."""
    parts = buffer[position + 5 : stop].split(b"\x00", 2)
    if len(parts) < 3:
        raise malformed(m.BIND)
    return parts[1]


def text_of(
    buffer: bytes, kind: int, position: int, stop: int, statements: Mapping[bytes, Statement]
) -> bytes:
    """The SQL that a message is about, as far as it says so by itself."""
    if kind == m.QUERY:
        return buffer[position + 5 : stop - 1]
    if kind == m.PARSE:
        return parse_fields(buffer, position, stop)[1]
    if kind == m.BIND:
        statement = statements.get(bound_name(buffer, position, stop))
        return statement.text if statement is not None else b""
    return b""


def deallocated_name(text: bytes) -> bytes:
    """The name in ``DEALLOCATE [PREPARE] name``; nothing for any other text."""
    found = _DEALLOCATE.match(text)
    return _name(found) if found is not None else b""


def ends_transaction(text: bytes) -> bool:
    return text.lstrip().lower().startswith(_ENDS_TRANSACTION)


def lists_statements(text: bytes) -> bool:
    """Whether it looks at the view of what the session has prepared."""
    return _LISTS_STATEMENTS.search(text) is not None


def names_database(text: bytes) -> bool:
    """Whether it makes, changes or drops a database, other than the session's own perhaps."""
    return _NAMES_DATABASE.search(text) is not None


def executed_name(text: bytes) -> bytes:
    """The name in ``EXECUTE name …``, be it explained; nothing for any other text."""
    found = _EXECUTE.search(text)
    return _name(found) if found is not None else b""


def _name(found: re.Match[bytes]) -> bytes:
    quoted, plain = found.groups()
    return quoted.replace(b'""', b'"') if quoted is not None else plain.lower()
