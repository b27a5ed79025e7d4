from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.rows import TupleRow, dict_row

from hyperdrive_client import ConfigurationError, Connection, ConnectionPool, binding

BACKEND = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def test_its_connections_go_through_a_proxy(mode: str, postgres_dsn: str) -> None:
    with ConnectionPool(postgres_dsn, min_size=1) as pool:
        assert isinstance(pool, psycopg_pool.ConnectionPool)
        with pool.connection() as connection:
            assert type(connection) is Connection
            assert connection.execute(BACKEND).fetchone() == ("Cloudflare Hyperdrive",)
        pool.check()
        with pool.connection() as again:
            assert again is connection


def test_what_fails_in_a_block_is_rolled_back(in_thread: None, database: str) -> None:
    with ConnectionPool(database, min_size=1) as pool:
        with pool.connection() as connection:
            connection.execute("CREATE TABLE t (n int)")
        with pytest.raises(psycopg.errors.DivisionByZero), pool.connection() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            connection.execute("SELECT 1 / 0")
        with pool.connection() as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_larger_pool_is_capped_with_a_warning_at_the_callers_line(
    in_thread: None, postgres_dsn: str
) -> None:
    with pytest.warns(UserWarning, match="a pool of 20 connections is capped at 5") as caught:
        pool = ConnectionPool(postgres_dsn, min_size=0, max_size=20)
    assert (pool.min_size, pool.max_size) == (0, 5)
    assert [warning.filename for warning in caught] == [__file__]
    with pool, pytest.warns(UserWarning, match="a pool of 6 connections is capped at 5") as caught:
        pool.resize(1, 6)
    assert (pool.min_size, pool.max_size) == (1, 5)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_larger_pool_can_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ConnectionPool("DB", max_size=9, max_pool_size=9, open=False).max_size == 9
    monkeypatch.setenv("HYPERDRIVE_MAX_POOL_SIZE", "7")
    assert ConnectionPool("DB", max_size=7, open=False).max_size == 7


def test_it_never_has_more_connections_than_its_limit(in_thread: None, postgres_dsn: str) -> None:
    with ConnectionPool(postgres_dsn, min_size=0, max_size=5, timeout=0.2) as pool:
        connections = [pool.getconn(timeout=30) for _ in range(5)]
        with pytest.raises(psycopg_pool.PoolTimeout):
            pool.getconn()
        for connection in connections:
            pool.putconn(connection)


def test_it_takes_what_psycopgs_pool_takes(in_thread: None, postgres_dsn: str) -> None:
    configured: list[Connection[Any]] = []
    with ConnectionPool(
        postgres_dsn,
        kwargs={"autocommit": True, "row_factory": dict_row},
        min_size=1,
        name="mine",
        configure=configured.append,
    ) as pool:
        assert pool.name == "mine"
        with pool.connection() as connection:
            assert configured == [connection]
            assert connection.autocommit
            row: object = connection.execute("SELECT 1 AS n").fetchone()
            assert row == {"n": 1}


@pytest.mark.skipif(psycopg_pool.__version__ < "3.3", reason="new in psycopg_pool 3.3")
def test_callables_are_asked_for_each_connection(in_thread: None, postgres_dsn: str) -> None:
    asked: list[str] = []

    def target() -> str:
        asked.append("conninfo")
        return postgres_dsn

    def keywords() -> dict[str, Any]:
        asked.append("kwargs")
        return {"application_name": "called"}

    with ConnectionPool(target, kwargs=keywords, min_size=2) as pool:
        pool.wait()
        with pool.connection() as connection:
            assert connection.info.parameter_status("application_name") == "called"
    assert sorted(asked) == ["conninfo", "conninfo", "kwargs", "kwargs"]


def test_it_takes_a_binding(
    in_thread: None, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_HYPERDRIVE", postgres_dsn)
    for arguments in ((), ("HYPERDRIVE",), (binding(),)):
        with ConnectionPool(*arguments, min_size=1) as pool, pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_class_that_would_connect_past_the_proxy_is_refused() -> None:
    plain: Any = psycopg.Connection
    with pytest.raises(ConfigurationError, match=r"derive it from hyperdrive_client\.Connection"):
        ConnectionPool("DB", connection_class=plain, open=False)


def test_a_class_derived_from_ours_is_used(in_thread: None, postgres_dsn: str) -> None:
    class Mine(Connection[TupleRow]):
        pass

    with (
        ConnectionPool(postgres_dsn, connection_class=Mine, min_size=1) as pool,
        pool.connection() as connection,
    ):
        assert type(connection) is Mine


def test_its_repr_shows_no_password(postgres_dsn: str) -> None:
    assert "postgresql://" not in repr(ConnectionPool(postgres_dsn, open=False))


@pytest.mark.parametrize("opened", ["True", "False"])
def test_a_forked_child_begins_with_an_empty_pool(
    opened: str, run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    # psycopg_pool's threads do not survive the fork: without its own start the child would wait
    # in vain, or share the parent's connection.
    source = """if True:
        import os, sys, threading
        import psycopg_pool
        from hyperdrive_client import ConnectionPool

        pool = ConnectionPool(sys.argv[1], min_size=1, name="mine", open=sys.argv[2] == "True")

        def local_address():
            with pool.connection(timeout=20) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
                return os.fstat(connection.fileno()).st_ino

        parents = local_address() if sys.argv[2] == "True" else None
        if os.fork() == 0:
            try:
                assert threading.active_count() == 1
                assert pool.name == "mine"
                if parents is None:
                    try:
                        local_address()
                    except psycopg_pool.PoolClosed:
                        pool.open()
                assert local_address() not in (parents, None)
                assert local_address() not in (parents, None)
                pool.close()
                print("child")
                sys.stdout.flush()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.wait()[1] == 0
        if parents is None:
            pool.open()
        assert parents in (local_address(), None)
        pool.close()
        print("parent")
    """
    assert run_python(source, postgres_dsn, opened) == ["child", "parent"]
