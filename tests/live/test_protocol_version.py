"""Origins behind something that is older than the negotiation of protocol versions."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hyperdrive_client.bindings.connection_string import Address, parse_connection_string
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.settings import Caching

if TYPE_CHECKING:
    from .conftest import StartProxy

# PgBouncer 1.18's answer to a StartupMessage of protocol 3.2.
BAD_HEADER = m.error_response("08P01", "bad packet header: '0000001b00030002'", severity="FATAL")


class Middlebox:
    """Relays to a server, but for those who ask for another protocol than 3.0."""

    def __init__(self, listening: socket.socket, server: Address, refusal: bytes) -> None:
        self.address = Address("127.0.0.1", listening.getsockname()[1])
        self.asked: list[int] = []
        """The minor versions in the order in which they were asked for."""
        self._listening = listening
        self._server = server
        self._refusal = refusal

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._relay, args=(client,)).start()

    def _relay(self, client: socket.socket) -> None:
        first = client.recv(4096)
        self.asked.append(struct.unpack_from(">H", first, 6)[0] if len(first) >= 8 else -1)
        if self.asked[-1]:
            client.sendall(self._refusal)
            client.close()
            return
        with socket.create_connection((self._server.host, self._server.port)) as server, client:
            server.sendall(first)
            back = threading.Thread(target=_pump, args=(server, client))
            back.start()
            _pump(client, server)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture(params=[BAD_HEADER, b""], ids=["an error", "silence"])
def middlebox(request: pytest.FixtureRequest, database: str) -> Iterator[Middlebox]:
    server = parse_connection_string(database).addresses[0]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        box = Middlebox(listening, server, request.param)
        thread = threading.Thread(target=box.serve)
        thread.start()
        yield box
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_no_client_notices_a_middlebox_that_knows_3_0_only(
    start_proxy: StartProxy, database: str, middlebox: Middlebox
) -> None:
    origin = parse_connection_string(database)
    origin = replace(origin, addresses=(middlebox.address,), sslmode="disable")
    proxy = start_proxy(origin, caching=Caching(mode="off"))
    with ExitStack() as clients:
        for number in range(4):
            client = clients.enter_context(proxy.connect())
            assert client.execute("SELECT %s::int", (number,)).fetchone() == (number,)
    # The second of them met the refusal, and was served with 3.0 all the same.
    assert middlebox.asked == [0, 2, 0, 0, 0]
    proxy.running.close()
