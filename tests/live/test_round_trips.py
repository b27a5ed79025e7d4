"""How often a transaction makes its client wait for the origin.

A relay between proxy and origin counts. A round trip begins when the origin is sent something after
it has been heard from. Answers are held back in the relay for longer than anything here takes by
itself, so those that had been let through when the client went on are those it had to wait for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from hyperdrive_client.bindings.connection_string import Address, Origin, parse_connection_string
from hyperdrive_client.proxy.settings import Caching

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy

LATENCY = 0.15


class Relay:
    """Between the proxy and its origin, on a loop of its own."""

    def __init__(self, origin: Origin) -> None:
        (self._address,) = origin.addresses
        self.begun = self.waited_for = 0
        self.latency = 0.0
        self._sending = False
        self._writers: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        self.origin = replace(origin, addresses=(Address("127.0.0.1", listening.result(10)),))

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_origin, to_origin = await asyncio.open_connection(
            self._address.host, self._address.port
        )
        self._writers += (writer, to_origin)
        await asyncio.gather(self._ask(reader, to_origin), self._answer(from_origin, writer))

    async def _ask(self, reader: asyncio.StreamReader, origin: asyncio.StreamWriter) -> None:
        while data := await self._read(reader):
            if not self._sending:
                self._sending = True
                self.begun += 1
            origin.write(data)
        origin.close()

    async def _answer(self, origin: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await self._read(origin):
            first, self._sending = self._sending, False
            await asyncio.sleep(self.latency)
            self.waited_for += first
            writer.write(data)
        writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(65536)
        except ConnectionError:
            return b""


class Counted:
    """A proxy behind which a relay counts."""

    def __init__(self, start_proxy: StartProxy, relay: Relay) -> None:
        self._relay = relay
        # The cache's keeper asks on its own.
        self.proxy: LiveProxy = start_proxy(
            origin=relay.origin, origin_connection_limit=1, caching=Caching(mode="off")
        )

    def count(self, transaction: Callable[[], object]) -> tuple[int, int]:
        """Round trips that the client waits for, and all, with those that follow unseen."""
        relay = self._relay
        self._wait_for_rest()
        relay.begun = relay.waited_for = 0
        relay.latency = LATENCY
        transaction()
        waited_for = relay.waited_for
        self._wait_for_rest()
        relay.latency = 0.0
        return waited_for, relay.begun

    def _wait_for_rest(self) -> None:
        """Until the origin connection is free, with nothing under way."""
        core = self.proxy.running._app._worker.core  # type: ignore[union-attr]
        deadline = threading.Event()
        timer = threading.Timer(10, deadline.set)
        timer.start()
        while len(core.pool.idle) != 1 or self._relay.begun > self._relay.waited_for:
            assert not deadline.wait(0.005), core.pool.origins
        timer.cancel()
        timer.join()


@pytest.fixture
def counted(start_proxy: StartProxy, database: str) -> Iterator[Counted]:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY, note text)")
        connection.execute("INSERT INTO notes SELECT n, 'a note' FROM generate_series(1, 10) AS n")
    relay = Relay(parse_connection_string(database))
    yield Counted(start_proxy, relay)
    relay.close()


@pytest.fixture
def connection(counted: Counted) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """In psycopg's default mode: each transaction begins by itself."""
    with counted.proxy.connect() as connection:
        connection.execute("SELECT note FROM notes WHERE id = %s", (1,))
        connection.commit()
        yield connection


Connection = psycopg.Connection[tuple[object, ...]]


def read(connection: Connection) -> None:
    rows = connection.execute("SELECT note FROM notes WHERE id = %s", (1,)).fetchall()
    assert rows == [("a note",)]
    connection.commit()


def write(connection: Connection) -> None:
    connection.execute("UPDATE notes SET note = %s WHERE id = 2", ("another",))
    connection.commit()


def test_a_read_transaction_takes_one(counted: Counted, connection: Connection) -> None:
    assert counted.count(lambda: read(connection)) == (1, 2)


def test_a_read_transaction_that_is_rolled_back_takes_one(
    counted: Counted, connection: Connection
) -> None:
    def look() -> None:
        connection.execute("SELECT note FROM notes WHERE id = 1")
        connection.rollback()

    assert counted.count(look) == (1, 2)


def test_a_prepared_read_transaction_takes_one(counted: Counted, connection: Connection) -> None:
    for _ in range(connection.prepare_threshold or 0):
        read(connection)
    # This one makes the statement.
    assert counted.count(lambda: read(connection)) == (1, 2)
    assert counted.count(lambda: read(connection)) == (1, 2)


def test_a_transaction_of_two_reads_takes_two(counted: Counted, connection: Connection) -> None:
    def look_twice() -> None:
        connection.execute("SELECT note FROM notes WHERE id = 1")
        read(connection)

    assert counted.count(look_twice) == (2, 3)


def test_a_write_transaction_of_one_statement_takes_two(
    counted: Counted, connection: Connection
) -> None:
    assert counted.count(lambda: write(connection)) == (2, 2)
    with counted.proxy.at_origin() as direct:
        assert direct.execute("SELECT note FROM notes WHERE id = 2").fetchone() == ("another",)


def test_an_empty_transaction_takes_none(counted: Counted, connection: Connection) -> None:
    def begin_and_commit() -> None:
        with connection.transaction():
            assert connection.info.transaction_status.name == "INTRANS"

    assert counted.count(begin_and_commit) == (0, 0)
    assert connection.info.transaction_status.name == "IDLE"


def test_a_transaction_rolled_back_untouched_takes_none(
    counted: Counted, connection: Connection
) -> None:
    def begin_and_roll_back() -> None:
        with connection.transaction(force_rollback=True):
            assert connection.info.transaction_status.name == "INTRANS"

    assert counted.count(begin_and_roll_back) == (0, 0)


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_a_read_in_a_session_of_sqlalchemy_takes_one(counted: Counted, end: str) -> None:
    url = counted.proxy.url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)

    def look() -> None:
        with Session(engine) as session:
            row = session.execute(text("SELECT note FROM notes WHERE id = :id"), {"id": 1}).one()
            assert row == ("a note",)
            getattr(session, end)()

    look()
    assert counted.count(look) == (1, 2)
    engine.dispose()


def test_the_relay_counts_what_a_client_waits_for(counted: Counted, connection: Connection) -> None:
    """Two statements without a transaction are two round trips, whatever the proxy does."""
    connection.autocommit = True

    def two_writes() -> None:
        for number in (3, 4):
            connection.execute("UPDATE notes SET note = 'x' WHERE id = %s", (number,))

    assert counted.count(two_writes) == (2, 2)
