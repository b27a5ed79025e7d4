"""Connections of the proxy's own, to a real origin and to one that says what it should not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin, parse_connection_string
from hyperdrive_client.errors import OriginProtocolError
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.app import _new_event_loop
from hyperdrive_client.proxy.core.origin_startup import Credentials
from hyperdrive_client.proxy.net.own_connection import (
    OwnConnection,
    OwnConnectionError,
    own_connection,
)
from hyperdrive_client.proxy.settings import Settings

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NAME = "application_name = 'Cloudflare Hyperdrive cache'"


def connected(origin: Origin | str, **arguments: Any) -> Any:
    if isinstance(origin, str):
        origin = parse_connection_string(origin)
    settings = Settings(origin, "app", "secret")
    return own_connection(settings, Credentials(origin), **{"timeout": 5, **arguments})


def ours(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as admin:
        text = f"SELECT state FROM pg_stat_activity WHERE {NAME} AND datname = current_database()"
        return admin.execute(text).fetchall()


def wait_until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def all_gone(dsn: str) -> None:
    await asyncio.to_thread(wait_until, lambda: not ours(dsn))


@pytest.fixture(params=[_new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    def run(work: Any) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(work, 30))

    return run


class TestQueries:
    def test_give_rows_of_text(self, run: Any, database: str) -> None:
        async def work() -> None:
            async with connected(database) as connection:
                text = b"SELECT n, NULL, '', repeat('x', n) FROM generate_series(1, 2) n"
                assert await connection.query(text, 5) == [
                    (b"1", None, b"", b"x"),
                    (b"2", None, b"", b"xx"),
                ]
                assert await connection.query(b"SELECT WHERE false", 5) == []

        run(work())
        wait_until(lambda: not ours(database))

    def test_give_the_rows_of_each_statement_that_has_any(self, run: Any, database: str) -> None:
        async def work() -> None:
            async with connected(database) as connection:
                text = b"BEGIN; SELECT 1; SELECT 2 WHERE false; SELECT 3; COMMIT"
                assert await connection.results(text, 5) == [[(b"1",)], [], [(b"3",)]]

        run(work())

    def test_of_several_at_once_are_asked_in_turn(self, run: Any, database: str) -> None:
        async def work() -> None:
            async with connected(database) as connection:
                texts = [b"SELECT %d" % number for number in range(20)]
                rows = await asyncio.gather(*(connection.query(text, 5) for text in texts))
                assert rows == [[(b"%d" % number,)] for number in range(20)]

        run(work())

    def test_that_are_refused_leave_the_connection_usable(self, run: Any, database: str) -> None:
        async def work() -> None:
            async with connected(database) as connection:
                with pytest.raises(OwnConnectionError, match="division by zero") as caught:
                    await connection.query(b"SELECT 1; SELECT 1 / 0", 5)
                assert caught.value.sqlstate == "22012"
                assert await connection.query(b"SELECT 2", 5) == [(b"2",)]

        run(work())

    def test_that_take_too_long_are_cancelled_and_end_the_connection(
        self, run: Any, database: str
    ) -> None:
        async def work() -> None:
            async with connected(database) as connection:
                with pytest.raises(OwnConnectionError, match="has not answered within"):
                    await connection.query(b"SELECT pg_sleep(60)", 0.2)
                with pytest.raises(OwnConnectionError, match="has not answered within"):
                    await connection.query(b"SELECT 1", 5)
                await all_gone(database)

        run(work())

    def test_whose_caller_is_cancelled_leave_nothing_behind(self, run: Any, database: str) -> None:
        async def ask() -> None:
            async with connected(database) as connection:
                await connection.query(b"SELECT pg_sleep(60)", 60)

        async def work() -> None:
            asking = asyncio.ensure_future(ask())
            await asyncio.to_thread(wait_until, lambda: ("active",) in ours(database))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await all_gone(database)

        run(work())


class TestTheConnection:
    def test_that_is_terminated_says_so(self, run: Any, database: str) -> None:
        async def work() -> None:
            async with connected(database) as connection:
                ((process,),) = await connection.query(b"SELECT pg_backend_pid()", 5)
                with psycopg.connect(database) as admin:
                    admin.execute("SELECT pg_terminate_backend(%s)", (int(process),))
                with pytest.raises(OwnConnectionError, match="terminating connection") as caught:
                    await connection.lost()
                assert caught.value.sqlstate == "57P01"
                with pytest.raises(OwnConnectionError, match="terminating connection"):
                    await connection.query(b"SELECT 1", 5)

        run(work())

    def test_has_the_start_up_parameters_that_are_asked_for(self, run: Any, database: str) -> None:
        async def work() -> None:
            async with connected(database, parameters={b"lock_timeout": b"7s"}) as connection:
                text = b"SELECT current_setting('lock_timeout'), current_setting('search_path')"
                assert await connection.query(text, 5) == [(b"7s", b'"$user", public')]

        run(work())

    def test_is_refused_in_the_origins_words(self, run: Any, database: str) -> None:
        async def work() -> None:
            origin = replace(parse_connection_string(database), password="wrong")
            with pytest.raises(OwnConnectionError, match="password authentication failed") as error:
                async with connected(origin):
                    pytest.fail("it was let in")
            assert error.value.sqlstate == "28P01"
            assert error.value.is_lasting

        run(work())

    def test_goes_to_the_first_server_that_is_wanted(self, run: Any, database: str) -> None:
        origin = parse_connection_string(database)
        (address,) = origin.addresses
        origin = replace(origin, addresses=(Address("127.0.0.1", 1), address))

        async def finds() -> None:
            async with connected(replace(origin, target_session_attrs="primary")) as connection:
                assert connection.address == address

        async def finds_none() -> None:
            with pytest.raises(OwnConnectionError, match="no server is standby"):
                async with connected(replace(origin, target_session_attrs="standby")):
                    pytest.fail("it was let in")

        run(finds())
        run(finds_none())
        wait_until(lambda: not ours(database))


@asynccontextmanager
async def speaking(speak: Speak) -> AsyncIterator[Origin]:
    """An origin that lets everyone in, and then says what it is told to."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4))
        if int.from_bytes((await reader.readexactly(size - 4))[:4]) == 196608:
            writer.write(m.authentication(0) + m.backend_key_data(1, b"key!"))
            writer.write(m.ready_for_query(m.IDLE))
            await speak(reader, writer)
        writer.close()

    async with await asyncio.start_server(meet, "127.0.0.1", 0) as server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        yield Origin((address,), "someone", "somewhere", sslmode="disable")


class TestAnOrigin:
    @pytest.mark.parametrize(
        "answer",
        [
            m.message(m.DATA_ROW, b"\x00\x01\x00\x00\x00\x09x"),
            m.message(m.DATA_ROW, b"\x00\x02\x00\x00\x00\x01x"),
            m.message(m.DATA_ROW, b""),
            b"T\x00\x00\x00\x03",
            b"T\xff\xff\xff\xff",
        ],
        ids=["short row", "missing column", "empty row", "short length", "long length"],
    )
    def test_that_breaks_the_protocol_is_told_so(self, run: Any, answer: bytes) -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(5)
            writer.write(m.row_description([b"a"]) + answer)
            await reader.read()

        async def work() -> None:
            async with speaking(speak) as origin, connected(origin) as connection:
                with pytest.raises(OwnConnectionError, match="broke the protocol"):
                    await connection.query(b"SELECT 1", 5)

        run(work())

    def test_that_closes_in_the_middle_is_lost(self, run: Any) -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(5)
            writer.write(m.row_description([b"a"]))

        async def work() -> None:
            async with speaking(speak) as origin, connected(origin) as connection:
                with pytest.raises(OwnConnectionError, match="was lost"):
                    await connection.query(b"SELECT 1", 5)

        run(work())

    def test_that_says_nothing_is_left_in_time(self, run: Any) -> None:
        async def work() -> None:
            async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read()
                writer.close()

            async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
                address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
                origin = Origin((address,), "someone", "somewhere", sslmode="disable")
                began = time.monotonic()
                with pytest.raises(OwnConnectionError, match="in time"):
                    async with connected(origin, timeout=0.2):
                        pytest.fail("it was let in")
                assert time.monotonic() - began < 2

        run(work())

    @pytest.mark.parametrize(
        ("end", "reason"),
        [
            (m.error_response("58P01", "the segment was removed"), "the segment was removed"),
            (m.message(m.COPY_DONE, b""), "ended the stream"),
            (m.message(m.COPY_DATA, b"x"), "broke the protocol"),
        ],
        ids=["error", "end", "nonsense"],
    )
    def test_that_ends_a_stream_ends_the_connection(
        self, run: Any, end: bytes, reason: str
    ) -> None:
        heard = []

        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(5)
            writer.write(m.message(m.COPY_BOTH_RESPONSE, b"\x00\x00\x00"))
            writer.write(m.message(m.COPY_DATA, b"one") + m.message(m.COPY_DATA, b"two") + end)
            heard.append(await reader.read())

        async def work() -> None:
            async with speaking(speak) as origin, connected(origin) as connection:
                stream: OwnConnection = connection
                bodies: list[bytes] = []

                def receive(body: bytes) -> None:
                    if body == b"x":
                        raise OriginProtocolError("nonsense")
                    bodies.append(body)

                await stream.stream(b"START_REPLICATION", receive, 5)
                with pytest.raises(OwnConnectionError, match=reason):
                    await stream.lost()
                assert bodies == [b"one", b"two"]

        run(work())
