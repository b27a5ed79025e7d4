"""Asking an origin connection what its last transaction left in the session.

Settings, so that they can be replayed elsewhere; and what can't be, which pins the session. The
server knows both, whatever a function, a DO block or a rolled back savepoint did to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from ...errors import OriginProtocolError
from ...protocol import messages as m
from ...sql.facts import (
    CHANNELS,
    CURSORS,
    LOCKS,
    SETTINGS,
    STATEMENTS,
    TEMPORARY,
    UNSEEN,
)
from .session_variables import Settings
from .statements import Change

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .origin_session import OriginSession

SEQUENCES = 128
"""A reason to pin that is asked for, not read back."""
UNREADABLE = 256
"""The state could not be read back."""

REASONS = {
    TEMPORARY: "temporary object",
    LOCKS: "advisory lock",
    CHANNELS: "LISTEN",
    CURSORS: "WITH HOLD cursor",
    STATEMENTS: "PREPARE",
    UNSEEN: "LOAD, setseed or dblink",
    SEQUENCES: "sequence",
    UNREADABLE: "unreadable state",
}

_FLAGS = {b"%d" % trace: trace for trace in (TEMPORARY, LOCKS, CHANNELS, CURSORS, STATEMENTS)}

# Every name is qualified, operators too: the client's search_path and role are in force here.
_EQUALS = "OPERATOR(pg_catalog.=)"
# SET TRANSACTION leaves them behind as if they were the session's; they can't be reset.
_OF_A_TRANSACTION = "{transaction_isolation,transaction_read_only,transaction_deferrable}"
_QUERIES = {
    SETTINGS: f"""
SELECT pg_catalog.lower(name), setting FROM pg_catalog.pg_settings
WHERE source {_EQUALS} 'session' AND context OPERATOR(pg_catalog.<>) 'internal'
AND name OPERATOR(pg_catalog.<>) ALL ('{_OF_A_TRANSACTION}'::pg_catalog.text[])
UNION ALL
SELECT name, pg_catalog.current_setting(name, true)
FROM pg_catalog.unnest($1::pg_catalog.text[]) AS name
UNION ALL
SELECT 'role', pg_catalog.current_setting('role')
UNION ALL
SELECT 'session_authorization', pg_catalog.current_setting('session_authorization')""",
    TEMPORARY: f"""
SELECT '{TEMPORARY}', '' WHERE EXISTS (
SELECT FROM pg_catalog.pg_depend
WHERE refclassid {_EQUALS} 2615::pg_catalog.oid
AND refobjid {_EQUALS} pg_catalog.pg_my_temp_schema())""",
    LOCKS: f"""
SELECT '{LOCKS}', '' WHERE EXISTS (
SELECT FROM pg_catalog.pg_locks
WHERE locktype {_EQUALS} 'advisory' AND pid {_EQUALS} pg_catalog.pg_backend_pid())""",
    CHANNELS: f"""
SELECT '{CHANNELS}', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())""",
    CURSORS: f"""
SELECT '{CURSORS}', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)""",
    STATEMENTS: f"""
SELECT '{STATEMENTS}', '' WHERE EXISTS (
SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)""",
}


# For this transaction, the client's time-out is not in force.
PATIENCE = b"SELECT pg_catalog.set_config('statement_timeout', '0', true)"


@lru_cache(maxsize=64)
def query(traces: int) -> bytes:
    """The text that reads back ``traces``; ``$1`` is an array of custom settings' names."""
    parts = [text for trace, text in _QUERIES.items() if traces & trace]
    if not traces & SETTINGS:
        # It takes its parameter all the same.
        parts.append("\nSELECT '', '' WHERE $1::pg_catalog.text[] IS NULL")
    return "\nUNION ALL".join(parts).strip().encode()


def array(names: Iterable[bytes]) -> bytes:
    """A text array with these elements, which have no quote in them."""
    return b"{" + b",".join(b'"' + name + b'"' for name in sorted(names)) + b"}"


def reasons(traces: int) -> list[str]:
    return [reason for trace, reason in REASONS.items() if traces & trace]


class ReadBack(Change):
    """The read-back itself: its rows, and what follows from them."""

    __slots__ = ("_client", "_names", "_now", "_origin", "_traces", "rows")

    def __init__(
        self,
        origin: OriginSession,
        client: ClientSession,
        traces: int,
        names: Iterable[bytes],
        now: float,
    ) -> None:
        self._origin = origin
        self._client = client
        self._traces = traces
        self._names = frozenset(names)
        self._now = now
        self.rows = bytearray()

    def confirm(self) -> None:
        found = 0
        settings: dict[bytes, bytes] = {}
        for key, value in rows_of(self.rows):
            if key in _FLAGS:
                found |= _FLAGS[key]
            elif not self._is_default(key, value):
                settings[key] = value
        in_force: Settings | None = None
        if self._traces & SETTINGS:
            in_force = tuple(sorted(settings.items()))
        if self._client.origin is self._origin:
            self._client.read_back(self._traces, found, in_force, self._now)

    def _is_default(self, name: bytes, value: bytes) -> bool:
        if name in (b"role", b"session_authorization"):
            return value == (b"none" if name == b"role" else self._origin.pool.user)
        # A custom setting is empty where it was never set, or no longer is.
        return name in self._names and not value

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        if self._client.origin is origin:
            self._client.unreadable(self._traces, self._now)


def rows_of(data: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """The DataRows in ``data``, of two columns each; NULL is empty.

    ``OriginProtocolError`` if it is anything else.
    """
    position = 0
    while position < len(data):
        kind, length = m.HEADER.unpack_from(data, position)
        stop = position + 1 + length
        if kind == m.DATA_ROW:
            columns = _columns(bytes(data[position + 5 : stop]))
            if len(columns) != 2:
                raise OriginProtocolError("a row that answers nothing that we asked")
            yield columns[0], columns[1]
        position = stop


def _columns(body: bytes) -> list[bytes]:
    columns = []
    at = 2
    while at + 4 <= len(body):
        (size,) = m.INT32.unpack_from(body, at)
        at += 4
        if size == 0xFFFFFFFF:
            size = 0
        columns.append(body[at : at + size])
        at += size
    return columns if at == len(body) else []
