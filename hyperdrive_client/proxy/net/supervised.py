"""A worker's connections to its supervisor: one brings clients, one has words go both ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any, cast

from ..core.siblings import hear
from .greeter import Greeter
from .network import Network

# Taken in one turn of the event loop at most, so that those who are here are served meanwhile.
_CLIENTS_AT_ONCE = 32


class Door:
    """Takes the clients that the supervisor has accepted, in place of a listening socket.

    ``on_end`` is called when no more will come.
    """

    def __init__(self, greeter: Greeter, door: socket.socket, on_end: Callable[[], None]) -> None:
        self._greeter = greeter
        self._door = door
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        door.setblocking(False)
        self._loop.add_reader(door, self._take)

    def close(self) -> None:
        """Take no more."""
        if self._door.fileno() != -1:
            self._loop.remove_reader(self._door)
            self._door.close()

    def _take(self) -> None:
        for _ in range(_CLIENTS_AT_ONCE):
            try:
                word, clients, _, _ = socket.recv_fds(self._door, 1, 1)
            except BlockingIOError:
                return
            if not word:
                self.close()
                self._on_end()
                return
            for client in clients:
                self._greeter.welcome(socket.socket(fileno=client))


class Supervised(asyncio.Protocol):
    """What the supervisor and the core of a worker say to each other: JSON, a line each.

    ``obey`` gets what concerns the worker as a whole: ``drain``, ``stop``, and ``""`` when the
    supervisor is gone.
    """

    def __init__(self, network: Network, obey: Callable[[str], None]) -> None:
        self._network = network
        self._obey = obey
        self._rest = b""
        network.tell_supervisor = self.say

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def say(self, message: list[Any]) -> None:
        """Before anything else that is sent after it."""
        if not self._transport.is_closing():  # else the supervisor is gone, and we are to end
            self._transport.write(json.dumps(message).encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            match json.loads(line):
                case [("drain" | "stop") as word]:
                    self._obey(word)
                case message:
                    hear(self._network.core, message, self._network.now())
                    self._network.perform()

    def connection_lost(self, exc: Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is being closed
            self._obey("")
