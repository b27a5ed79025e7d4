"""The messages of a replication connection, and what pgoutput says in them of each commit.

PostgreSQL, "Streaming Replication Protocol" and "Logical Replication Message Formats", protocol
version 1: no transaction is sent before it has committed. Which tables a transaction has changed is
all that is read of it; the rows are not looked at.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from ..errors import OriginProtocolError
from . import messages as m

_XLOG_DATA = ord("w")
_KEEPALIVE = ord("k")
_STATUS_UPDATE = ord("r")

# Types of pgoutput's messages.
_BEGIN = ord("B")
_COMMIT = ord("C")
_TRUNCATE = ord("T")
_CHANGES = frozenset(b"IUD")
# Relation, Type, Origin and Message name what changes refer to, or nothing of a table.
_WITHOUT_CHANGE = frozenset(b"RYOM")

# Start and end of the WAL, time; then pgoutput's message.
_DATA_AT = 1 + 8 + 8 + 8
_TABLE_AT = _DATA_AT + 1
_TABLE_END = _TABLE_AT + 4

_KEEPALIVE_BODY = Struct(">xQQ?")
_BEGIN_BODY = Struct(">xQQI")
_COMMIT_BODY = Struct(">xxQQQ")
_STATUS_BODY = Struct(">BQQQQ?")


class Committed(NamedTuple):
    """A transaction with an id of 32 bits, the OIDs of the tables it has changed, and the LSN
    behind its commit."""

    transaction: int
    tables: frozenset[int]
    end: int


class Keepalive(NamedTuple):
    """Everything up to the LSN ``end`` was sent."""

    end: int
    wants_reply: bool


class TransactionStream:
    """From what the origin sends to commits, one CopyData body at a time."""

    def __init__(self) -> None:
        self._transaction: int | None = None
        self._commit_at = 0
        self._changed: set[bytes] = set()

    def receive(self, body: bytes) -> Committed | Keepalive | None:
        """``None`` inside of a transaction; ``OriginProtocolError`` for what can't be.

        Of a change, the first 30 bytes are enough.
        """
        try:
            if body[0] == _XLOG_DATA:
                kind = body[_DATA_AT]
                if kind in _CHANGES and self._transaction is not None:
                    self._change(body[_TABLE_AT:_TABLE_END])
                    return None
                return self._message(kind, body[_DATA_AT:])
            if body[0] == _KEEPALIVE:
                end, _, wants_reply = _KEEPALIVE_BODY.unpack(body)
                return Keepalive(end, wants_reply)
        except (IndexError, StructError) as error:
            raise OriginProtocolError("a replication message that is too short or long") from error
        raise OriginProtocolError(f"replication message type {body[:1]!r}")

    def _change(self, table: bytes) -> None:
        if len(table) < 4:
            raise OriginProtocolError("a change without a table")
        self._changed.add(table)

    def _message(self, kind: int, data: bytes) -> Committed | None:
        if kind in _WITHOUT_CHANGE:
            return None
        if kind == _BEGIN and self._transaction is None:
            self._commit_at, _, self._transaction = _BEGIN_BODY.unpack(data)
            return None
        if kind == _TRUNCATE and self._transaction is not None:
            (count,) = m.INT32.unpack_from(data, 1)
            if len(data) != 6 + 4 * count:
                raise OriginProtocolError(f"a TRUNCATE of {count} tables that does not name them")
            self._changed.update(data[at : at + 4] for at in range(6, len(data), 4))
            return None
        if kind == _COMMIT and self._transaction is not None:
            at, end, _ = _COMMIT_BODY.unpack(data)
            if at != self._commit_at or end < at:
                raise OriginProtocolError("a commit that is not the one its BEGIN announced")
            tables = frozenset(int.from_bytes(table) for table in self._changed)
            committed = Committed(self._transaction, tables, end)
            self._transaction = None
            self._changed.clear()
            return committed
        where = "outside" if self._transaction is None else "inside"
        raise OriginProtocolError(f"pgoutput message type {chr(kind)!r} {where} of a transaction")


def standby_status_update(lsn: int, *, wants_reply: bool = False) -> bytes:
    """CopyData: all up to ``lsn`` is known of, and need not be kept for us.

    The time, which nothing depends on, is PostgreSQL's epoch.
    """
    return m.message(m.COPY_DATA, _STATUS_BODY.pack(_STATUS_UPDATE, lsn, lsn, lsn, 0, wants_reply))


def lsn_of(text: bytes) -> int:
    """From the form that pg_lsn has as text, such as ``16/B374D848``. ``OriginProtocolError``."""
    high, slash, low = text.partition(b"/")
    if slash and 1 <= len(high) <= 8 and 1 <= len(low) <= 8 and (high + low).isalnum():
        try:
            return int(high, 16) << 32 | int(low, 16)
        except ValueError:
            pass
    raise OriginProtocolError(f"{text!r} is not an LSN")


class Snapshot(NamedTuple):
    """Which transactions' changes are seen; ids of 64 bits."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def of(cls, text: bytes) -> Snapshot:
        """From the form that pg_snapshot has as text, ``xmin:xmax:xip,xip``."""
        try:
            xmin, xmax, running = text.split(b":")
            return cls(int(xmin), int(xmax), frozenset(map(int, filter(None, running.split(b",")))))
        except ValueError as error:
            raise OriginProtocolError(f"{text[:80]!r} is not a snapshot") from error

    def sees(self, transaction: int) -> bool:
        """Whether a transaction, its id's low 32 bits given, has ended for whoever looks from then
        on. Ids that are in use are less than 2^31 apart."""
        full = self.xmax + (transaction - self.xmax + (1 << 31)) % (1 << 32) - (1 << 31)
        return full < self.xmin or (full < self.xmax and full not in self.running)
