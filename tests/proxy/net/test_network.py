"""Sockets towards origins that are silent, or slow to go away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin, parse_connection_string
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.core.core import Core
from hyperdrive_client.proxy.core.origin_session import OriginSession
from hyperdrive_client.proxy.net import network as network_module
from hyperdrive_client.proxy.net.listener import listen
from hyperdrive_client.proxy.net.network import Network
from hyperdrive_client.proxy.net.transports import PEER_IS_BLOCKED, OriginConnection
from hyperdrive_client.proxy.settings import Limits, Settings
from hyperdrive_client.proxy.spawn import ThreadProxy

Connect = Callable[..., psycopg.Connection[tuple[object, ...]]]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A server that does nothing by itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


@pytest.fixture
def address(listening: socket.socket) -> Address:
    return Address("127.0.0.1", listening.getsockname()[1])


def origin_at(*addresses: Address, sslmode: str = "disable") -> Origin:
    return Origin(addresses, "someone", "somewhere", "secret", sslmode=sslmode)  # type: ignore[arg-type]


@pytest.fixture
def through_proxy() -> Iterator[Connect]:
    """Connect to an origin through a proxy that ends with the test."""
    started: list[ThreadProxy] = []

    def connect(origin: Origin, **limits: float) -> psycopg.Connection[tuple[object, ...]]:
        settings = Settings(origin, "user", "password", limits=Limits(**limits))  # type: ignore[arg-type]
        started.append(ThreadProxy(settings))
        return psycopg.connect(
            host="127.0.0.1",
            port=started[-1].settings.port,
            user="user",
            password="password",
            dbname=origin.database,
            sslmode="disable",
            autocommit=True,
        )

    yield connect
    for proxy in started:
        proxy.close()


def test_a_connection_that_takes_too_long_to_open_is_closed(
    listening: socket.socket, address: Address, through_proxy: Connect
) -> None:
    # The origin takes the connection, and never answers the SSLRequest.
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        through_proxy(origin_at(address, sslmode="require"), connect_timeout=0.3)
    accepted, _ = listening.accept()
    with accepted:
        accepted.settimeout(10)
        assert len(accepted.recv(8)) == 8
        assert accepted.recv(1) == b""


def test_a_silent_address_leaves_time_for_the_next(
    address: Address, database: str, through_proxy: Connect
) -> None:
    origin = parse_connection_string(database)
    addresses = (address, *origin.addresses)
    with through_proxy(
        replace(origin, addresses=addresses, sslmode="prefer"), connect_timeout=2.0
    ) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def serve_without_answers(connection: socket.socket) -> None:
    """Be an origin that lets everybody in and then says nothing."""
    connection.settimeout(10)
    connection.recv(4096)
    connection.sendall(
        m.authentication(m.AUTHENTICATION_OK)
        + m.backend_key_data(7, b"key!")
        + m.ready_for_query(m.IDLE)
    )


def test_a_cancelling_connection_that_the_origin_keeps_open_is_closed(
    listening: socket.socket,
    address: Address,
    through_proxy: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network_module, "CANCEL_TIMEOUT_SECONDS", 0.3)
    with ThreadPoolExecutor(2) as pool:
        client = pool.submit(through_proxy, origin_at(address))
        accepted, _ = listening.accept()
        serve_without_answers(accepted)
        connection = client.result(10)
        connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        assert accepted.recv(4096).startswith(b"Q")
        cancelled = pool.submit(connection.cancel_safe, timeout=10)
        cancelling, _ = listening.accept()
        with cancelling:
            cancelling.settimeout(10)
            assert cancelling.recv(16)[8:] == b"\x00\x00\x00\x07key!"
            assert cancelling.recv(1) == b""
        cancelled.result(10)
        accepted.close()
        connection.close()


def test_small_writes_are_not_delayed_without_uvloop(address: Address) -> None:
    settings = Settings(origin_at(address), "user", "password")

    async def delays() -> list[int]:
        network = Network(Core(settings), asyncio.get_running_loop())
        (server,), port = await listen(network, settings)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        origin = OriginSession(network.core.pool, network.now())
        await network._connect(origin)
        while len(network.connections) < 2:  # noqa: ASYNC110 - the client's is a moment away
            await asyncio.sleep(0)
        found = [
            each.transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY
            )
            for each in network.connections
        ]
        server.close()
        writer.close()
        for each in network.connections:
            each.transport.abort()
        await network.close()
        return found

    assert all(asyncio.run(delays()))


class _Transport(asyncio.Transport):
    reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False


def test_an_origin_connection_without_a_blocked_client_is_read_again(address: Address) -> None:
    loop = asyncio.new_event_loop()
    network = Network(Core(Settings(origin_at(address), "user", "password")), loop)
    origin = OriginSession(network.core.pool, network.now())
    network.core.pool.origins.add(origin)
    origin.handle = connection = OriginConnection(network, origin, address, encrypted=False)
    connection.transport = transport = _Transport()
    connection.hold(PEER_IS_BLOCKED)
    assert not transport.reading
    network._ticking.cancel()
    network._tick()
    network._ticking.cancel()
    loop.close()
    assert transport.reading
