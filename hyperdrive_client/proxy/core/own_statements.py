"""Statements about what only we know: process ids that we gave out, and ``SHOW hyperdrive.…``.

They are sent to the origin as statements that have the same answer, so they work in every
transaction and by every protocol.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ...errors import ClientProtocolError
from ...protocol import messages as m
from .snapshots import SHOWN, Table

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .core import Core

# Above every operating system's process ids, so none of ours names a real backend.
LARGEST_PROCESS_ID = 1 << 22

_SHOW = re.compile(rb"\s*show\s+hyperdrive\s*\.\s*(\w+)\s*;?\s*\Z", re.IGNORECASE)
_PROCESS_ID = re.compile(
    rb"\s*select\s+(?:pg_catalog\s*\.\s*)?pg_backend_pid\s*\(\s*\)"
    rb"(\s*(?:as\s+)?(?!from\b|where\b|limit\b|order\b|union\b)\w+)?\s*;?\s*\Z",
    re.IGNORECASE,
)
_SIGNAL = re.compile(
    rb"\b(?:pg_catalog\s*\.\s*)?(pg_(?:cancel|terminate)_backend)\s*\(\s*"
    rb"(?:'?(\d{1,10})'?|\$(\d{1,5}))(?:\s*::\s*[\w.]+)?\s*\)",
    re.IGNORECASE,
)
_ENDS_ITSELF = re.compile(
    rb"\bpg_terminate_backend\s*\(\s*(?:pg_catalog\s*\.\s*)?pg_backend_pid\s*\(\s*\)\s*\)",
    re.IGNORECASE,
)


def is_show(text: bytes) -> bool:
    """Whether the answer is about the moment at which it is asked."""
    return _SHOW.match(text) is not None


def ends_itself(text: bytes) -> bool:
    """Whether the session asks for its own end, by the origin's process id."""
    return _ENDS_ITSELF.search(text) is not None


def substitute(text: bytes, client: ClientSession) -> bytes:
    """What to send in place of ``text``; ``text`` itself where it asks for nothing of ours."""
    shown = _SHOW.match(text)
    if shown is not None:
        show = SHOWN.get(shown[1].lower())
        return text if show is None else _query(show(client.core, client.pool))
    asked = _PROCESS_ID.match(text)
    if asked is not None:
        # As a subquery it keeps the column's name and its type.
        return b"SELECT (SELECT %d AS pg_backend_pid)%s" % (client.process_id, asked[1] or b"")
    return _SIGNAL.sub(lambda found: _harmless(found, client.core), text)


def _harmless(found: re.Match[bytes], core: Core) -> bytes:
    """The same answer without a signal to a process that is not there; the signal is ours."""
    if found[2] and not core.knows(int(found[2])):
        return found[0]
    name = found[1].lower()
    value = b"%s::pg_catalog.int4" % (found[2] or b"$" + found[3])
    return (
        b"(SELECT CASE WHEN %s OPERATOR(pg_catalog.>) %d THEN true"
        b" ELSE pg_catalog.%s(%s) END AS %s)"
    ) % (value, LARGEST_PROCESS_ID, name, value, name)


def signalled(text: bytes, parameters: Callable[[int], bytes | None]) -> Iterable[tuple[int, bool]]:
    """The process ids of ours that ``text`` signals, and whether the signal is to terminate.

    ``parameters`` gives the value of ``$n`` as it was bound, or ``None``.
    """
    for found in _SIGNAL.finditer(text):
        process_id = int(found[2]) if found[2] else _integer(parameters(int(found[3])))
        if process_id > LARGEST_PROCESS_ID:
            yield process_id, found[1].lower() == b"pg_terminate_backend"


def _integer(value: bytes | None) -> int:
    if value is None:
        return 0
    if value.isdigit() and len(value) > 4:
        return int(value)
    return int.from_bytes(value) if len(value) in (4, 8) else 0


def bound_parameters(message: bytes) -> Callable[[int], bytes | None]:
    """The values in a Bind message, by their number from 1. ``ClientProtocolError``."""
    try:
        values = _bound_values(message)
    except (struct.error, ValueError):
        raise ClientProtocolError("invalid message format: 'B'") from None
    return lambda number: values[number - 1] if 0 < number <= len(values) else None


def _bound_values(message: bytes) -> list[bytes | None]:
    position = message.index(b"\x00", message.index(b"\x00", 5) + 1) + 1
    (formats,) = m.INT16.unpack_from(message, position)
    position += 2 + 2 * formats
    (count,) = m.INT16.unpack_from(message, position)
    position += 2
    values: list[bytes | None] = []
    for _ in range(count):
        (size,) = m.INT32.unpack_from(message, position)
        position += 4
        if size == 0xFFFFFFFF:
            values.append(None)
            continue
        values.append(message[position : position + size])
        position += size
    return values


# SHOW hyperdrive.…


def _literal(value: object) -> bytes:
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return b"E'" + text.encode() + b"'"


def _query(table: Table) -> bytes:
    """A query that answers with these rows."""
    values = b",".join(b"(" + b",".join(map(_literal, row)) + b")" for row in table.rows)
    names = ",".join(table.columns).encode()
    if not values:
        nulls = b",".join(b"NULL::pg_catalog.text" for _ in table.columns)
        return b"SELECT * FROM (VALUES (%s)) AS shown(%s) WHERE false" % (nulls, names)
    return b"SELECT * FROM (VALUES %s) AS shown(%s)" % (values, names)
