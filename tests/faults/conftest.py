"""A server to break, a relay that fails as networks do, and a proxy in front of either."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin, parse_connection_string
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.proxy.core.core import Core
from hyperdrive_client.proxy.core.pool import Pool
from hyperdrive_client.proxy.settings import Caching, Limits, Settings
from hyperdrive_client.proxy.spawn import ProcessProxy, ThreadProxy

Connection = psycopg.Connection[tuple[Any, ...]]

# socket(7); Python has no name for it.
_SO_ATTACH_FILTER = 26


def deafen(connection: socket.socket) -> None:
    """Have the system drop all that arrives for a socket, as if the peer's host had vanished.

    A BPF program that accepts 0 bytes of each packet: nothing is acknowledged, not even a FIN.
    What it has sent itself must be acknowledged first, or it would be heard sending it again.
    """
    wait_until(lambda: not connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24])
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    option = struct.pack("HL", 1, ctypes.addressof(program))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)


class Relay:
    """Passes bytes between clients and a port, until told to fail."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listening: list[socket.socket] = []
        self._flows = [threading.Event()]
        """The last is for connections to come."""
        self.release()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = listening.getsockname()[1]
        self.take_over(listening)
        listening.close()

    def take_over(self, listening: socket.socket) -> None:
        """Accept from another listening socket as well."""
        self._listening.append(listening.dup())
        self._start(self._accept, self._listening[-1])

    def hold(self) -> None:
        """Take connections from now on, and pass nothing on until :meth:`release`."""
        self._flows.append(threading.Event())

    def release(self) -> None:
        self._flows[-1].set()

    def forget(self) -> None:
        """Pass on what new connections bring; those that are held back are held for good."""
        self.hold()
        self.release()

    def cut(self) -> None:
        """Let all connections there are vanish, without a FIN and without an acknowledgement."""
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    deafen(each)

    def close(self) -> None:
        for flows in self._flows:
            flows.set()
        with self._lock:
            for each in (*self._listening, *self._sockets):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (*self._listening, *self._sockets):
            each.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._sockets += (near, far)
            flows = self._flows[-1]
            for pair in ((near, far), (far, near)):
                self._start(self._pass_on, *pair, flows)

    def _pass_on(self, source: socket.socket, sink: socket.socket, flows: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                flows.wait()
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class Front:
    """A proxy in front of an origin, how clients reach it, and a look into its pool."""

    def __init__(self, settings: Settings) -> None:
        self.running = ThreadProxy(settings)
        self.port = self.running.settings.port
        self.origin = settings.origin

    def connect(self, **arguments: Any) -> Connection:
        given = {"host": "127.0.0.1", "port": self.port, "user": "app", "password": "secret"}
        given |= {"dbname": self.origin.database, "sslmode": "disable"}
        return psycopg.connect(**{**given, **arguments})

    def at_origin(self) -> Connection:
        return psycopg.connect(**self.origin.libpq_parameters(), autocommit=True)  # type: ignore[arg-type]

    @property
    def core(self) -> Core:
        """The core itself, which lives on another thread: for reading."""
        worker = self.running._app._worker
        assert worker is not None
        return worker.core

    @property
    def pool(self) -> Pool:
        return self.core.pool

    @property
    def process_ids(self) -> set[int]:
        """Those of its backends at the origin; clients are given others."""
        return {each.process_id for each in self.pool.origins}

    def backends(self) -> list[tuple[Any, ...]]:
        """Process id, state and query of each of the proxy's connections at the origin."""
        with self.at_origin() as connection:
            return connection.execute(
                "SELECT pid, state, query FROM pg_stat_activity "
                "WHERE application_name = 'Cloudflare Hyperdrive'"
            ).fetchall()

    def wait_until_active(self, text: str) -> int:
        """Until a query with this text runs at the origin; its backend's process id."""
        while True:
            for pid, state, query in self.backends():
                if state == "active" and text in query:
                    return int(pid)


StartProxy = Callable[..., Front]


def wait_until(what: Callable[[], object], seconds: float = 20) -> float:
    """Wait until ``what()`` is true; the time by ``time.monotonic()``."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.002)
    return time.monotonic()


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., float]:
    return wait_until


@pytest.fixture(name="deafen")
def _deafen() -> Callable[[socket.socket], None]:
    return deafen


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server to break: what it says is committed is in its log when the postmaster is killed."""
    settings = {"synchronous_commit": "on", "max_connections": "20", "wal_level": "replica"}
    with EmbeddedPostgres(settings=settings) as running:
        yield running


@pytest.fixture
def origin(server: EmbeddedPostgres) -> Origin:
    """The running server's database."""
    server.start()
    return parse_connection_string(server.connection_string)


@pytest.fixture
def break_down(server: EmbeddedPostgres) -> Callable[[str], None]:
    """Take the server down: ``fast``, ``immediate`` (18.5 "Shutting Down the Server"), ``kill``."""

    def down(how: str) -> None:
        if how == "kill":
            server.kill()
            return
        assert server.pid is not None
        os.kill(server.pid, {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how])
        wait_until(lambda: server.pid is None)

    return down


@pytest.fixture
def ended() -> Iterator[ExitStack]:
    """What a test starts, and is ended after it, last first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def relay_to(ended: ExitStack) -> Callable[[int], Relay]:
    """Relays to a port."""

    def start(port: int) -> Relay:
        relay = Relay(port)
        ended.callback(relay.close)
        return relay

    return start


def _settings(origin: Origin, port: int | None, limits: dict[str, Any]) -> Settings:
    if port is not None:
        origin = Origin(
            (Address("127.0.0.1", port),),
            origin.user,
            origin.database,
            origin.password,
            sslmode="disable",
        )
    # What follows the WAL has a connection of its own, and these count connections.
    off = Caching(mode="off")
    return Settings(origin, "app", "secret", limits=Limits(**limits), caching=off)


@pytest.fixture
def start_proxy(origin: Origin, ended: ExitStack) -> StartProxy:
    """Proxies: ``start_proxy(port=, <limits>)``; ``port`` if not the server's own."""

    def start(*, port: int | None = None, **limits: Any) -> Front:
        front = Front(_settings(origin, port, limits))
        ended.callback(front.running.close)
        return front

    return start


@pytest.fixture
def start_process(origin: Origin, ended: ExitStack) -> Callable[..., ProcessProxy]:
    """The same in a process of its own, whose memory can be measured."""

    def start(**limits: Any) -> ProcessProxy:
        running = ProcessProxy(_settings(origin, None, limits))
        ended.callback(running.close)
        return running

    return start
