"""A client of raw bytes: cheap, and exact about when it asked and when it was answered."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

from hyperdrive_client.protocol import messages as m

# Far longer than anything here takes, the origin's restart included.
HANGS_AFTER = 60.0
REPORT = "hyperdrive.cache"
"""The ParameterStatus in which the proxy says what the cache did with a statement."""
INT64 = Struct(">q")
INT8_OID, TEXT_OID = 20, 25

Row = tuple[str | int | None, ...]
Column = tuple[str, int, int]
"""Name, type's OID and format."""


class Address(NamedTuple):
    """Where to connect; no password is needed there."""

    host: str
    port: int
    user: str
    database: str


class Lost(ConnectionError):
    """The connection has ended, or does not answer."""


class Unasked(Exception):
    """More answers than questions."""


class Answer:
    """What came up to one ReadyForQuery.

    ``at``: when it came, in seconds; ``cache``, ``reason``: the proxy's words, if it gave any.
    """

    __slots__ = (
        "at",
        "cache",
        "columns",
        "error",
        "reason",
        "rows",
        "sqlstate",
        "status",
        "tag",
    )

    def __init__(self) -> None:
        self.columns: list[Column] = []
        self.rows: list[Row] = []
        self.tag = self.sqlstate = self.error = self.cache = self.reason = ""
        self.status = 0
        self.at = 0.0


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._answer = Answer()
        self._answers: list[Answer] = []
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._transport: Any = None
        self.reported: dict[str, str] = {}
        self.is_lost = False

    @classmethod
    async def connect(cls, address: Address, options: Mapping[str, str] | None = None) -> Client:
        """Raises :class:`Lost` if it can't be had."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HANGS_AFTER):
                _, client = await loop.create_connection(cls, address.host, address.port)
        except (OSError, TimeoutError) as error:
            raise Lost(repr(error)) from error
        parameters = {"user": address.user, "database": address.database, **(options or {})}
        startup = {name.encode(): value.encode() for name, value in parameters.items()}
        try:
            (answer,) = await client.ask(m.startup_message(startup))
            if answer.sqlstate:
                raise Lost(f"{answer.sqlstate} {answer.error}")
        except BaseException:
            client.close()
            raise
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._wake()

    async def ask(
        self, data: bytes, count: int = 1, columns: Sequence[Column] = ()
    ) -> list[Answer]:
        """Send, and wait for ``count`` ReadyForQuery. Raises :class:`Lost`, :class:`Unasked`.

        ``columns`` are those of the first answer, if it will not say.
        """
        if self.is_lost or self._transport is None:
            raise Lost("closed")
        if len(self._answers) > self._wanted:
            raise Unasked(f"{len(self._answers)} answers to {self._wanted} questions")
        self._answers, self._wanted = [], count
        self._answer.columns = list(columns)
        self._waiter = asyncio.get_running_loop().create_future()
        overdue = asyncio.get_running_loop().call_later(HANGS_AFTER, self.close)
        self._transport.write(data)
        try:
            await self._waiter
        finally:
            overdue.cancel()
        if len(self._answers) < count:
            raise Lost(f"{self._answer.sqlstate} {self._answer.error}".strip() or "closed")
        return self._answers[:count]

    async def query(self, text: str) -> Answer:
        return (await self.ask(m.query(text.encode())))[0]

    @property
    def last_tag(self) -> str:
        """Of the CommandComplete that came last of an answer that is still coming."""
        return self._answer.tag

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.is_lost = True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        buffer = self._data
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= 5:
            kind, length = m.HEADER.unpack_from(buffer, at)
            if end - at <= length:
                break
            self._message(kind, bytes(buffer[at + 5 : at + 1 + length]))
            at += length + 1
        del buffer[:at]

    def _message(self, kind: int, body: bytes) -> None:
        answer = self._answer
        if kind == m.DATA_ROW:
            answer.rows.append(_row(body, answer.columns))
        elif kind == m.READY_FOR_QUERY:
            answer.status, answer.at = body[0], time.monotonic()
            self._answers.append(answer)
            self._answer = Answer()
            if len(self._answers) == self._wanted:
                self._wake()
        elif kind == m.ROW_DESCRIPTION:
            answer.columns = _columns(body)
        elif kind == m.COMMAND_COMPLETE:
            answer.tag = m.command_tag(body).decode()
        elif kind == m.PARAMETER_STATUS:
            name, value, _ = body.decode().split("\x00")
            self.reported[name] = value
            if name == REPORT:
                answer.cache, _, answer.reason = value.partition(": ")
        elif kind == m.ERROR_RESPONSE:
            fields = m.error_fields(body)
            answer.sqlstate, answer.error = fields.get("C", "?"), fields.get("M", "")


def _row(body: bytes, columns: Sequence[Column]) -> Row:
    at = 2
    values: list[str | int | None] = []
    for number in range(m.INT16.unpack_from(body)[0]):
        length = m.INT32.unpack_from(body, at)[0]
        at += 4
        if length == 0xFFFFFFFF:
            values.append(None)
            continue
        data = body[at : at + length]
        at += length
        _, oid, is_binary = columns[number] if columns else ("", TEXT_OID, 0)
        if oid == INT8_OID:
            values.append(INT64.unpack(data)[0] if is_binary else int(data))
        else:
            values.append(data.decode())
    return tuple(values)


_FIELD = Struct(">IHIHIH")


def _columns(body: bytes) -> list[Column]:
    columns, at = [], 2
    for _ in range(m.INT16.unpack_from(body)[0]):
        end = body.index(0, at)
        _, _, oid, _, _, is_binary = _FIELD.unpack_from(body, end + 1)
        columns.append((body[at:end].decode(), oid, is_binary))
        at = end + 19
    return columns


def extended(text: str, parameters: Sequence[int], *, binary: bool, name: str = "") -> bytes:
    """Parse, Bind, Describe, Execute and Sync; parameters are of type int8."""
    return b"".join((parse(text, parameters, name), bound(parameters, binary=binary, name=name)))


def parse(text: str, parameters: Sequence[int], name: str = "") -> bytes:
    types = m.INT16.pack(len(parameters)) + m.INT32.pack(INT8_OID) * len(parameters)
    return m.parse(name.encode(), text.encode(), types)


def described(text: str, parameters: Sequence[int], name: str = "") -> bytes:
    """Parse, Describe and Sync."""
    about = m.message(m.DESCRIBE, b"S" + name.encode() + b"\x00")
    return parse(text, parameters, name) + about + m.SYNC_MESSAGE


def bound(
    parameters: Iterable[int], *, binary: bool, name: str = "", describe: bool = True
) -> bytes:
    """Bind, Describe unless told not to, Execute and Sync of a statement that is parsed."""
    if binary:
        values = [INT64.pack(value) for value in parameters]
        code = b"\x00\x01\x00\x01"
    else:
        values = [b"%d" % value for value in parameters]
        code = b"\x00\x00"
    body = [b"\x00", name.encode(), b"\x00", code, m.INT16.pack(len(values))]
    for value in values:
        body += (m.INT32.pack(len(value)), value)
    body.append(code)
    about = m.message(m.DESCRIBE, b"P\x00") if describe else b""
    return b"".join((m.message(m.BIND, b"".join(body)), about, m.execute(), m.SYNC_MESSAGE))
