"""The cache as a program sees it: what its connections and its proxy say, and purges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from hyperdrive_client import (
    AsyncConnection,
    AsyncProxy,
    CacheStatus,
    ConfigurationError,
    Connection,
    Proxy,
    ProxyStartError,
    connect,
    doctor,
)
from hyperdrive_client.bindings import parse_connection_string

READ = "SELECT n FROM t ORDER BY n"


@pytest.fixture
def filled(database: str) -> str:
    """A database with tables t and u of one row each."""
    with psycopg.connect(database) as connection:
        for table in "tu":
            connection.execute(f"CREATE TABLE {table} (n int PRIMARY KEY)".encode())
            connection.execute(f"INSERT INTO {table} VALUES (1)".encode())
    return database


@pytest.fixture
def proxy(filled: str) -> Iterator[Proxy]:
    with Proxy(filled, mode="thread", cache="writes") as proxy:
        yield proxy


def until_kept(connection: Connection[Any], query: str = READ) -> None:
    """The origin's catalogue is read, and the answer to the query is in the cache."""
    while status(connection, query) != "hit":
        pass


def status(connection: Connection[Any], query: str = READ) -> str:
    connection.execute(query.encode())
    assert connection.last_cache is not None
    return connection.last_cache.status


def test_a_connection_knows_how_its_last_statement_fared(proxy: Proxy) -> None:
    with connect(proxy.connection_string, autocommit=True) as connection:
        until_kept(connection)
        last = connection.last_cache
        assert last is not None
        assert last.status == "hit"
        assert last.reason.endswith(" s old")
        assert status(connection, "SELECT n + 1 FROM t") == "miss"
        assert connection.last_cache == CacheStatus("miss", "")
        assert status(connection, "SELECT now()") == "volatile"
        assert connection.last_cache is not None
        assert "now" in connection.last_cache.reason
        assert status(connection, "/* hyperdrive: cache=off */ " + READ) == "disabled"
        connection.execute("INSERT INTO t VALUES (2)")
        assert status(connection) == "miss"


async def test_so_does_an_asynchronous_one(filled: str) -> None:
    async with AsyncProxy(filled, mode="thread", cache="writes") as proxy:
        connection = await AsyncConnection.connect(proxy.connection_string, autocommit=True)
        async with connection:
            while connection.last_cache is None or connection.last_cache.status != "hit":
                await connection.execute(READ)
            assert await proxy.purge() == 1
            await connection.execute(READ)
            assert connection.last_cache == CacheStatus("miss", "")


def test_without_a_proxy_nothing_is_known(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "off")
    with connect(filled) as connection:
        connection.execute(READ)
        assert connection.last_cache is None


def test_where_it_is_off_the_reason_is_told(filled: str) -> None:
    with (
        Proxy(filled, mode="thread", cache="off") as proxy,
        connect(proxy.connection_string) as connection,
    ):
        connection.execute(READ)
        assert connection.last_cache == CacheStatus("disabled", "switched off")


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (None, None),
        ("miss", CacheStatus("miss", "")),
        ("volatile: f(a: int) is STABLE", CacheStatus("volatile", "f(a: int) is STABLE")),
    ],
)
def test_what_is_reported_is_a_status_and_perhaps_a_reason(
    reported: str | None, expected: CacheStatus | None
) -> None:
    assert CacheStatus.of(reported) == expected


def test_a_status_is_a_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CacheStatus("hit", "").status = "miss"  # type: ignore[misc]


def test_the_statistics_have_statuses_and_what_is_kept(proxy: Proxy) -> None:
    assert (proxy.stats().cache_entries, proxy.stats().cache_bytes) == (0, 0)
    with connect(proxy.connection_string, autocommit=True) as connection:
        until_kept(connection)
        before = proxy.stats()
        for _ in range(3):
            connection.execute(READ)
        connection.execute("SELECT now()")
        after = proxy.stats()
    assert after.cache["hit"] - before.cache["hit"] == 3
    assert after.cache["volatile"] - before.cache.get("volatile", 0) == 1
    assert after.cache_entries == 1
    assert after.cache_bytes > 0
    assert after.origin_round_trips - before.origin_round_trips == 1


def test_a_purge_forgets_all_answers_or_those_of_a_table(proxy: Proxy) -> None:
    with connect(proxy.connection_string, autocommit=True) as connection:
        both = (READ, "SELECT n FROM u ORDER BY n")
        for query in both:
            until_kept(connection, query)
        assert proxy.purge("public.u") == 1
        assert [status(connection, query) for query in both] == ["hit", "miss"]
        assert proxy.purge("public.t", "public.u") == 2
        assert [status(connection, query) for query in both] == ["miss", "miss"]
        assert proxy.purge() == 2
        assert proxy.stats().cache_entries == 0


def test_a_purge_of_what_is_not_there_is_an_error(proxy: Proxy) -> None:
    with connect(proxy.connection_string, autocommit=True) as connection:
        until_kept(connection)
        with pytest.raises(ConfigurationError, match=r"no table 'public\.nosuch'"):
            proxy.purge("public.t", "public.nosuch")
        assert status(connection) == "hit"


def test_a_purge_of_a_proxy_that_is_not_started(filled: str) -> None:
    with pytest.raises(ProxyStartError):
        Proxy(filled).purge()


def test_an_age_alone_means_ttl(filled: str) -> None:
    with (
        Proxy(filled, mode="thread", max_age=60, stale_while_revalidate=0) as proxy,
        connect(proxy.connection_string, autocommit=True) as connection,
        psycopg.connect(filled, autocommit=True) as straight,
    ):
        until_kept(connection)
        straight.execute("INSERT INTO t VALUES (2)")
        assert connection.execute(READ).fetchall() == [(1,)]
        shown = dict(connection.execute("SHOW hyperdrive.cache").fetchall())
        assert (shown["mode"], shown["max_age"]) == ("ttl", "60.000")
        assert shown["stale_while_revalidate"] == "0.000"


def test_after_a_setup_wal_is_what_a_proxy_does(filled: str) -> None:
    doctor.set_up(parse_connection_string(filled))
    with (
        Proxy(filled, mode="thread") as proxy,
        connect(proxy.connection_string, autocommit=True) as connection,
        psycopg.connect(filled, autocommit=True) as straight,
    ):
        until_kept(connection)
        straight.execute("INSERT INTO t VALUES (2)")
        while connection.execute(READ).fetchall() != [(1,), (2,)]:
            pass
        assert dict(connection.execute("SHOW hyperdrive.cache").fetchall())["mode"] == "wal"
        # The doctor sees what it said.
        report = doctor.examine(parse_connection_string(filled))
        assert report.slots[0] >= 1
        assert report.walsenders[0] >= 1


def test_a_partition_that_is_not_in_the_wal_is_not_cached(filled: str) -> None:
    with psycopg.connect(filled, autocommit=True) as straight:
        straight.execute("CREATE TABLE p (n int PRIMARY KEY) PARTITION BY LIST (n)")
        straight.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)")
        straight.execute("CREATE UNLOGGED TABLE p2 PARTITION OF p FOR VALUES IN (2)")
    doctor.set_up(parse_connection_string(filled))
    with (
        Proxy(filled, mode="thread") as proxy,
        connect(proxy.connection_string, autocommit=True) as connection,
    ):
        until_kept(connection, "SELECT n FROM p1")
        for table in ("p", "p2"):
            assert status(connection, f"SELECT n FROM {table}") == "uncacheable"
            assert connection.last_cache is not None
            assert "public.p2" in connection.last_cache.reason


@pytest.mark.parametrize("arguments", [{"cache": "yes"}, {"max_age": 4000}, {"max_age": -1}])
def test_settings_that_can_t_be(filled: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Proxy(filled, mode="thread", **arguments).start()


def test_the_environment_is_for_proxies_that_start_by_themselves(
    filled: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_CACHE", "writes")
    monkeypatch.setenv("HYPERDRIVE_CACHE_MEMORY", "3MB")
    with connect(filled, autocommit=True) as connection:
        until_kept(connection)
        shown = dict(connection.execute("SHOW hyperdrive.cache").fetchall())
    assert (shown["mode"], shown["memory"], shown["max_age"]) == ("writes", "3145728", "60.000")


def test_a_shared_proxy_is_for_those_with_the_same_cache(
    filled: str, monkeypatch: pytest.MonkeyPatch, run_python: Callable[..., list[str]]
) -> None:
    program = (
        "import hyperdrive_client as h, sys\n"
        "with h.connect(sys.argv[1], autocommit=True) as connection:\n"
        "    rows = dict(connection.execute('SHOW hyperdrive.cache').fetchall())\n"
        "    print(connection.info.host, rows['max_age'])\n"
    )
    monkeypatch.setenv("HYPERDRIVE_PROXY", "shared")
    place, age = run_python(program, filled)
    assert run_python(program, filled) == [place, age]
    monkeypatch.setenv("HYPERDRIVE_MAX_AGE", "7")
    other, age = run_python(program, filled)
    assert (other != place, age) == (True, "7.000")
