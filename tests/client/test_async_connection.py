from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg.rows import dict_row

from hyperdrive_client import AsyncConnection, BindingError, ConfigurationError, Proxy

BACKEND = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"


async def test_an_origin_is_reached_through_a_proxy(mode: str, postgres_dsn: str) -> None:
    async with await AsyncConnection.connect(postgres_dsn) as connection:
        assert isinstance(connection, psycopg.AsyncConnection)
        cursor = await connection.execute(BACKEND)
        assert await cursor.fetchone() == ("Cloudflare Hyperdrive",)


async def test_transactions_commit_and_roll_back(in_thread: None, database: str) -> None:
    async with await AsyncConnection.connect(database) as connection:
        await connection.execute("CREATE TABLE t (n int)")
        await connection.execute("INSERT INTO t VALUES (1)")
        await connection.commit()
        await connection.execute("INSERT INTO t VALUES (2)")
        await connection.rollback()
        cursor = await connection.execute("SELECT n FROM t")
        assert await cursor.fetchall() == [(1,)]


async def test_psycopgs_arguments_pass_through(postgres_dsn: str) -> None:
    async with await AsyncConnection.connect(
        postgres_dsn, autocommit=True, row_factory=dict_row, options="-c search_path=pg_catalog"
    ) as connection:
        assert connection.autocommit
        cursor = await connection.execute("SHOW search_path")
        assert await cursor.fetchone() == {"search_path": "pg_catalog"}


async def test_a_binding_is_found_by_its_name(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_DB", postgres_dsn)
    async with await AsyncConnection.connect("DB") as connection:
        await connection.execute("SELECT 1")


async def test_errors_are_those_of_the_synchronous_one(postgres_dsn: str) -> None:
    with pytest.raises(BindingError):
        await AsyncConnection.connect("NOWHERE")
    with pytest.raises(ConfigurationError, match="port can't be given"):
        await AsyncConnection.connect(postgres_dsn, port=1)


async def test_the_event_loop_goes_on_while_a_proxy_starts(database: str) -> None:
    connecting = asyncio.create_task(AsyncConnection.connect(database))
    turns = 0
    while not connecting.done():
        await asyncio.sleep(0.001)
        turns += 1
    await (await connecting).close()
    assert turns > 10


async def test_connections_at_once_share_a_proxy(in_thread: None, database: str) -> None:
    connections = await asyncio.gather(*(AsyncConnection.connect(database) for _ in range(8)))
    assert len({connection.info.port for connection in connections}) == 1
    for connection in connections:
        await connection.close()


async def test_why_it_was_pinned_and_what_it_waited_for(database: str) -> None:
    with Proxy(database, mode="thread") as proxy:
        async with await AsyncConnection.connect(
            proxy.connection_string, autocommit=True
        ) as connection:
            assert connection.last_pin is None
            assert connection.last_wait is not None
            assert connection.last_wait.startswith("opening an origin connection, ")
            await connection.execute("LISTEN a")
            await connection.execute("SELECT 1")
            assert connection.last_pin == "LISTEN"


async def test_a_proxy_that_is_not_known_as_one_is_connected_to_straight(
    in_thread: None, foreign_url: str
) -> None:
    for _ in range(2):
        async with await AsyncConnection.connect(foreign_url) as connection:
            assert f":{connection.info.port}/" in foreign_url
