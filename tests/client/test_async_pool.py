from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import pytest

from hyperdrive_client import AsyncConnection, AsyncConnectionPool, ConfigurationError

BACKEND = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"


async def test_its_connections_go_through_a_proxy(mode: str, postgres_dsn: str) -> None:
    async with AsyncConnectionPool(postgres_dsn, min_size=1) as pool:
        assert isinstance(pool, psycopg_pool.AsyncConnectionPool)
        async with pool.connection() as connection:
            assert type(connection) is AsyncConnection
            cursor = await connection.execute(BACKEND)
            assert await cursor.fetchone() == ("Cloudflare Hyperdrive",)


async def test_it_opens_when_told(in_thread: None, postgres_dsn: str) -> None:
    pool = AsyncConnectionPool(postgres_dsn, min_size=1)
    with pytest.raises(psycopg_pool.PoolClosed):
        await pool.getconn()
    await pool.open(wait=True)
    assert pool.get_stats()["pool_available"] == 1
    await pool.close()


def test_it_can_be_made_without_an_event_loop() -> None:
    assert AsyncConnectionPool("DB").closed


async def test_a_larger_pool_is_capped_with_a_warning_at_the_callers_line() -> None:
    with pytest.warns(UserWarning, match="a pool of 20 connections is capped at 5") as caught:
        pool = AsyncConnectionPool("DB", max_size=20)
    assert (pool.min_size, pool.max_size) == (4, 5)
    assert [warning.filename for warning in caught] == [__file__]
    assert AsyncConnectionPool("DB", max_size=9, max_pool_size=9).max_size == 9


async def test_it_is_resized_within_its_limit(in_thread: None, postgres_dsn: str) -> None:
    async with AsyncConnectionPool(postgres_dsn, min_size=1) as pool:
        with pytest.warns(UserWarning, match="capped at 5") as caught:
            await pool.resize(1, 6)
        assert (pool.min_size, pool.max_size) == (1, 5)
        assert [warning.filename for warning in caught] == [__file__]


def test_a_class_that_would_connect_past_the_proxy_is_refused() -> None:
    plain: Any = psycopg.AsyncConnection
    with pytest.raises(ConfigurationError, match="AsyncConnection would connect past the proxy"):
        AsyncConnectionPool("DB", connection_class=plain)


def test_a_forked_child_opens_it_anew(
    run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    source = """if True:
        import asyncio, os, sys
        from hyperdrive_client import AsyncConnectionPool

        pool = AsyncConnectionPool(sys.argv[1], min_size=1, name="mine")

        async def select(n):
            async with pool.connection(timeout=20) as connection:
                print(*await (await connection.execute("SELECT %s::int", [n])).fetchone())

        async def in_child():
            assert pool.closed and pool.name == "mine"
            async with pool:
                await select(2)

        with asyncio.Runner() as runner:
            runner.run(pool.open())
            runner.run(select(1))
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                asyncio.run(in_child())
                sys.stdout.flush()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            runner.run(select(3))
            runner.run(pool.close())
    """
    assert run_python(source, postgres_dsn) == ["1", "2", "3"]
