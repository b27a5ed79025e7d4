"""A PostgreSQL client on a socket, which costs less than what it measures."""

from __future__ import annotations

import socket

from benchmarks.contestants import DATABASE, HOST, Contestant
from hyperdrive_client.protocol import messages as m

READ_BYTES = 256 * 1024
_READY = m.ready_for_query(m.IDLE)


class Wire:
    """Comes in with trust. ``SystemExit`` if the server ends the conversation."""

    def __init__(self, contestant: Contestant) -> None:
        self._socket = socket.create_connection((HOST, contestant.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        user, database = contestant.name.encode(), DATABASE.encode()
        self.send(m.startup_message({b"user": user, b"database": database}))
        self.read_until(_READY)

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def query(self, text: str) -> int:
        """Run a text; how many bytes the answer has."""
        self.send(m.query(text.encode()))
        return self.read_until(_READY)

    def copy_in(self, text: str, blocks: list[bytes]) -> int:
        """Send CopyData messages; how many bytes they have."""
        self.send(m.query(text.encode()))
        # CopyInResponse is short, and alone.
        self._read()
        for block in blocks:
            self.send(block)
        self.send(m.message(m.COPY_DONE, b""))
        self.read_until(_READY)
        return sum(map(len, blocks))

    def read_until(self, end: bytes) -> int:
        """Read up to ``end``, which only the last message of an answer has; how many bytes."""
        size, tail = 0, b""
        while not tail.endswith(end):
            data = self._read()
            size += len(data)
            tail = (tail + data)[-len(end) :] if len(data) < len(end) else data[-len(end) :]
        return size

    def _read(self) -> bytes:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise SystemExit("FAILED: the connection was closed")
        return data
