"""Accepting clients where sockets run out, and where a name stands for the host."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin
from hyperdrive_client.proxy.core.core import Core
from hyperdrive_client.proxy.net import greeter as greeter_module
from hyperdrive_client.proxy.net.greeter import Greeter
from hyperdrive_client.proxy.net.listener import listen
from hyperdrive_client.proxy.net.network import Network
from hyperdrive_client.proxy.settings import Settings

if TYPE_CHECKING:
    from ...conftest import Certificates

ORIGIN = Origin((Address("127.0.0.1"),), "someone", "somewhere", "secret", sslmode="disable")
SETTINGS = Settings(ORIGIN, "user", "password")


class _Exhausted(socket.socket):
    """A listening socket that has no file descriptor left for the first who comes."""

    failures = 1

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_clients_are_accepted_again_when_there_are_sockets_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(greeter_module, "ACCEPT_RETRY_SECONDS", 0.05)

    async def run() -> bytes:
        network = Network(Core(SETTINGS), asyncio.get_running_loop())
        listening = _Exhausted()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        greeter = Greeter(network, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), [listening])
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(bytes(4))
        heard = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        greeter.close()
        await network.close()
        return heard

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(run()).startswith(b"E")
    assert [record.message for record in caplog.records] == [
        "no client can be accepted for now: Too many open files"
    ]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_every_address_of_a_host_is_listened_on(certificates: Certificates, host: str) -> None:
    settings = Settings(
        ORIGIN,
        "user",
        "password",
        host=host,
        ssl="allow",
        ssl_cert_file=str(certificates.server),
        ssl_key_file=str(certificates.server_key),
    )
    try:
        known = {str(found[4][0]) for found in socket.getaddrinfo(host, 0)}
        socket.create_server((host, 0), family=socket.getaddrinfo(host, 0)[0][0]).close()
    except OSError:
        pytest.skip(f"this machine has no {host}")

    async def run() -> set[str]:
        network = Network(Core(settings), asyncio.get_running_loop())
        (server,), port = await listen(network, settings)
        assert server.sockets[0].getsockname()[1] == port
        addresses = {str(each.getsockname()[0]) for each in server.sockets}
        server.close()
        await network.close()
        return addresses

    assert asyncio.run(run()) == known
