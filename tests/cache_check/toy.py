"""A cache that is wrong: it knows answers by their question alone, and forgets none."""

from __future__ import annotations

import asyncio
from typing import Any

from hyperdrive_client.protocol import messages as m

_READY = m.ready_for_query(m.IDLE)


class Toy:
    """Listens, and passes on to an origin what is no simple SELECT."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.answers: dict[bytes, bytes] = {}
        self.hits = 0

    async def start(self) -> int:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Near(self), "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        self._server.close()


class _Near(asyncio.Protocol):
    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.near: Any = None
        self._far: Any = None
        self._waiting = bytearray()
        self.asked = b""
        """The question whose answer comes next."""
        self.answer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.near = transport
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._far, _ = await loop.create_connection(
            lambda: _Far(self), "127.0.0.1", self.toy.target
        )
        self._far.write(self._waiting)

    def data_received(self, data: bytes) -> None:
        if data in self.toy.answers:
            self.toy.hits += 1
            self.near.write(self.toy.answers[data])
            return
        self.asked, self.answer = data if data[5:11] == b"SELECT" else b"", bytearray()
        if self._far is None:
            self._waiting += data
        else:
            self._far.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._far is not None:
            self._far.close()


class _Far(asyncio.Protocol):
    def __init__(self, near: _Near) -> None:
        self._near = near

    def data_received(self, data: bytes) -> None:
        near = self._near
        near.answer += data
        if near.asked and near.answer.endswith(_READY) and near.answer[:1] == b"T":
            near.toy.answers[near.asked] = bytes(near.answer)
        near.near.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._near.near.close()
