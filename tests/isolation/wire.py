"""A client of raw bytes: no driver between the script and the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.startup import CANCEL_REQUEST_CODE

from .conversation import Answer


class Address(NamedTuple):
    """Where to connect; no password is needed there."""

    host: str
    port: int
    user: str
    database: str


class Closed(Exception):
    """The other side has closed the connection; ``heard`` is what came before."""

    def __init__(self, heard: list[Answer]) -> None:
        super().__init__(f"closed after {heard}")


class RawClient:
    """One connection. What comes unasked is in ``reported`` and ``notifications``."""

    process_id: int
    secret_key: bytes

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._data = bytearray()
        self.reported: dict[str, str] = {}
        self.notifications: list[tuple[int, str, str]] = []
        """Process id, channel and payload."""

    @classmethod
    async def connect(cls, address: Address, settings: Mapping[bytes, bytes]) -> RawClient:
        client = await cls._open(address)
        who = {b"user": address.user.encode(), b"database": address.database.encode()}
        client.send(m.startup_message({**who, **settings}))
        answers = await client.answers(1)
        if answers != [("R",), ("K",), ("Z", "I")]:
            raise Closed(answers)
        return client

    @classmethod
    async def _open(cls, address: Address) -> RawClient:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(reader, writer)

    async def cancel(self, address: Address) -> None:
        """Ask to cancel what this connection runs; returns when that was passed on."""
        canceller = await self._open(address)
        body = m.INT32.pack(CANCEL_REQUEST_CODE) + m.INT32.pack(self.process_id) + self.secret_key
        canceller.send(m.INT32.pack(len(body) + 4) + body)
        await canceller._reader.read()
        canceller.abort()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def abort(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close after what was written, without waiting for answers."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def answers(self, ready: int, count: int = 0) -> list[Answer]:
        """What comes up to the ``ready``-th ReadyForQuery; or ``count`` messages, or an error."""
        heard: list[Answer] = []
        while True:
            for answer in self._messages():
                heard.append(answer)
                ready -= answer[0] == "Z"
                if (answer[0] == "Z" and ready == 0) or (
                    count and (len(heard) >= count or answer[0] == "E")
                ):
                    return heard
            data = await self._reader.read(65536)
            if not data:
                raise Closed(heard)
            self._data += data

    async def hear_something(self) -> None:
        """Wait until more has come, be it half a message."""
        self._data += await self._reader.read(65536)

    def _messages(self) -> Iterator[Answer]:
        while len(self._data) >= 5:
            kind, length = m.HEADER.unpack_from(self._data)
            if len(self._data) <= length:
                return
            body = bytes(self._data[5 : length + 1])
            del self._data[: length + 1]
            answer = self._answer(kind, body)
            if answer is not None:
                yield answer

    def _answer(self, kind: int, body: bytes) -> Answer | None:
        if kind == m.PARAMETER_STATUS:
            name, value, _ = body.decode().split("\x00")
            self.reported[name] = value
            return None
        if kind == m.NOTIFICATION_RESPONSE:
            channel, payload, _ = body[4:].decode().split("\x00")
            self.notifications.append((m.INT32.unpack_from(body)[0], channel, payload))
            return None
        if kind == m.NOTICE_RESPONSE:
            return None
        if kind == m.BACKEND_KEY_DATA:
            self.process_id, self.secret_key = m.INT32.unpack_from(body)[0], body[4:]
        return (chr(kind), *_fields(kind, body))


def _fields(kind: int, body: bytes) -> tuple[str, ...]:
    if kind == m.DATA_ROW:
        return tuple(_values(body))
    if kind == m.ROW_DESCRIPTION:
        return tuple(_columns(body))
    if kind == m.ERROR_RESPONSE:
        fields = m.error_fields(body)
        return fields.get("C", ""), fields.get("M", "")
    if kind == m.FUNCTION_CALL_RESPONSE:
        return (body[4:].decode(),)
    if kind == m.COMMAND_COMPLETE:
        return (m.command_tag(body).decode(),)
    if kind in (m.READY_FOR_QUERY, m.COPY_DATA):
        return (body.decode(),)
    return ()


def _values(body: bytes) -> Iterator[str]:
    at = 2
    for _ in range(m.INT16.unpack_from(body)[0]):
        length = m.INT32.unpack_from(body, at)[0]
        if length == 0xFFFFFFFF:
            length = 0
        yield body[at + 4 : at + 4 + length].decode()
        at += 4 + length


def _columns(body: bytes) -> Iterator[str]:
    at = 2
    for _ in range(m.INT16.unpack_from(body)[0]):
        end = body.index(0, at)
        yield body[at:end].decode()
        at = end + 19
