from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hyperdrive_client import AsyncProxy, Proxy, ProxyStartError, ProxyStats, connect
from hyperdrive_client.client.stats import stats_of
from hyperdrive_client.proxy.spawn import RunningProxy


def spent(before: ProxyStats, after: ProxyStats) -> int:
    return after.origin_round_trips - before.origin_round_trips


def test_what_a_transaction_costs(database: str) -> None:
    with psycopg.connect(database) as straight:
        straight.execute("CREATE TABLE t (n int)")
    with Proxy(database, mode="thread") as proxy, connect(proxy.connection_string) as connection:
        before = proxy.stats()
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        written = proxy.stats()
        connection.execute("SELECT n FROM t")
        connection.commit()
        read = proxy.stats()
        connection.rollback()
    assert spent(before, written) == 2
    assert spent(written, read) == 1


def test_the_pages_example(
    page: Callable[[str], Any],
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_python: Callable[..., list[str]],
) -> None:
    (program,) = page("docs/how-it-works.md").write_files(tmp_path)
    monkeypatch.setenv("HYPERDRIVE_URL_HYPERDRIVE", database)
    assert run_python(program.read_text()) == ["round", "trips:", "1"]


def test_what_it_has_now_and_had_so_far(database: str) -> None:
    with Proxy(database, mode="thread") as proxy:
        assert proxy.stats().clients_connected == 0
        with connect(proxy.connection_string, autocommit=True) as connection:
            connection.execute("LISTEN a")
            connection.execute("SELECT 1")
            stats = proxy.stats()
            assert (stats.clients, stats.origin_connections) == (1, 1)
            assert stats.pins == {"LISTEN": 1}
        while proxy.stats().clients:
            pass
        stats = proxy.stats()
        assert (stats.clients_connected, stats.origin_connections_opened) == (1, 1)
        assert stats.pinned_seconds > 0
        assert stats.waits == 1
        assert stats.wait_seconds > 0


def test_a_connection_is_at_work_while_it_owes_an_answer(database: str) -> None:
    with (
        Proxy(database, mode="thread") as proxy,
        connect(proxy.connection_string) as connection,
        ThreadPoolExecutor() as threads,
    ):
        connection.execute("CREATE TABLE t (n int)")
        assert proxy.stats().origin_connections_at_work == 0
        asleep = threads.submit(connection.execute, "SELECT pg_sleep(60)")
        while not proxy.stats().origin_connections_at_work:
            pass
        while not asleep.done():  # a cancel that comes before the statement is without effect
            connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            asleep.result()
        assert proxy.stats().origin_connections_at_work == 0


async def test_by_asyncio(database: str) -> None:
    async with AsyncProxy(database, mode="thread") as proxy:
        assert (await proxy.stats()).clients == 0


def test_of_a_proxy_that_is_not_started(database: str) -> None:
    with pytest.raises(ProxyStartError):
        Proxy(database).stats()


def test_of_a_proxy_whose_origin_is_away() -> None:
    with Proxy("postgresql://nobody@127.0.0.1:1/nothing?sslmode=disable", mode="thread") as proxy:
        assert proxy.stats().origin_connections_opened == 0


@pytest.mark.parametrize(
    ("name", "value"), [("PGTARGETSESSIONATTRS", "standby"), ("PGCHANNELBINDING", "require")]
)
def test_what_the_environment_asks_of_a_database_is_not_asked_of_the_console(
    database: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with Proxy(database, mode="thread") as proxy, monkeypatch.context() as patch:
        patch.setenv(name, value)
        assert proxy.stats().clients == 0


def test_of_one_that_is_gone(database: str) -> None:
    with Proxy(database, mode="thread") as proxy:
        door = proxy._door()
    with pytest.raises(psycopg.OperationalError):
        stats_of(door)


def test_they_are_values_without_secrets(foreign_proxy: RunningProxy) -> None:
    with Proxy(foreign_proxy.settings.origin.connection_string, mode="thread") as proxy:
        stats = proxy.stats()
        assert proxy.password not in repr(stats)
        assert stats == proxy.stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.clients = 7  # type: ignore[misc]
