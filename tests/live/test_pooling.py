"""Many clients over few origin connections, in transaction mode."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy

# By itself, pg_backend_pid() is the process id that the proxy gave out.
# By its name the view shows what the client itself has prepared.
HELD = """
DO $$ DECLARE held int; BEGIN
  EXECUTE 'SELECT count(*) FROM pg_prepared_' || 'statements' INTO held;
  PERFORM set_config('test.held', held::text, false);
END $$"""
BACKEND = "SELECT pid FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def test_the_limit_of_origin_connections_holds_under_many_clients(proxy: LiveProxy) -> None:
    with proxy.at_origin() as connection:
        connection.execute("CREATE TABLE counter (n int)")
        connection.execute("INSERT INTO counter VALUES (0)")
    most = 0
    done = threading.Event()

    def watch() -> int:
        seen = 0
        while not done.is_set():
            seen = max(seen, len(proxy.origin_connections()))
        return seen

    def work(number: int) -> None:
        with proxy.connect() as connection:
            for _ in range(5):
                connection.execute("UPDATE counter SET n = n + 1")
                connection.execute("SELECT pg_sleep(0.001)")
                connection.commit()

    with ThreadPoolExecutor(41) as pool:
        watcher = pool.submit(watch)
        list(pool.map(work, range(40)))
        done.set()
        most = watcher.result()
    with proxy.at_origin() as connection:
        assert connection.execute("SELECT n FROM counter").fetchone() == (200,)
    assert 1 <= most <= 5


def test_a_transaction_keeps_its_origin_connection(proxy: LiveProxy) -> None:
    with proxy.connect() as first, proxy.connect() as second:
        pids = [first.execute(BACKEND).fetchone() for _ in range(3)]
        other = second.execute(BACKEND).fetchone()
    assert len(set(pids)) == 1
    assert other not in pids


def ask(proxy: LiveProxy) -> tuple[object, ...] | None:
    with proxy.connect() as connection:
        return connection.execute("SELECT 2").fetchone()


def test_a_client_waits_until_a_transaction_ends(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    with proxy.connect() as first, ThreadPoolExecutor(1) as pool:
        first.execute("SELECT 1")
        waiting = pool.submit(ask, proxy)
        assert not waiting.done()
        first.commit()
        assert waiting.result(10) == (2,)


def test_who_waits_too_long_gets_the_error_of_hyperdrive_and_stays_connected(
    start_proxy: StartProxy,
) -> None:
    proxy = start_proxy(origin_connection_limit=1, pool_timeout=0.3)
    with proxy.connect() as first, proxy.connect(autocommit=True) as second:
        first.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError) as caught:
            second.execute("SELECT 2")
        assert caught.value.sqlstate == "58000"
        assert "Failed to acquire a connection from the pool." in str(caught.value)
        with pytest.raises(psycopg.OperationalError, match="Failed to acquire"):
            second.execute("SELECT %s", (2,))
        first.commit()
        assert second.execute("SELECT 2").fetchone() == (2,)


def test_a_session_setting_does_not_reach_the_next_client(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    with proxy.connect(autocommit=True) as first:
        first.execute("SET search_path TO pg_temp; CREATE TEMP TABLE secret (x int)")
        first.execute("SELECT set_config('work_mem', '77MB', false)")
        first.execute("SELECT pg_advisory_lock(42)")
    with proxy.connect(autocommit=True) as second:
        assert second.execute("SHOW search_path").fetchone() == ('"$user", public',)
        assert second.execute("SHOW work_mem").fetchone() != ("77MB",)
        assert second.execute("SELECT to_regclass('pg_temp.secret')").fetchone() == (None,)
        locks = second.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert locks.fetchone() == (0,)


def test_set_is_honoured_within_its_transaction(proxy: LiveProxy) -> None:
    with proxy.connect() as connection:
        connection.execute("SET work_mem TO '77MB'")
        assert connection.execute("SHOW work_mem").fetchone() == ("77MB",)


def test_an_abandoned_transaction_is_rolled_back(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    with proxy.at_origin() as connection:
        connection.execute("CREATE TABLE item (id int)")
    client = proxy.connect()
    client.execute("INSERT INTO item VALUES (1)")
    client.close()
    with proxy.connect() as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (0,)


def test_sqlalchemy_with_a_stock_url(proxy: LiveProxy) -> None:
    engine = sqlalchemy.create_engine(proxy.url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        for _ in range(10):
            with engine.begin() as connection:
                assert connection.scalar(sqlalchemy.text("SELECT 41 + :n"), {"n": 1}) == 42
    finally:
        engine.dispose()


def test_protocol_level_prepared_statements_survive_a_cleaning(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    with (
        proxy.connect(autocommit=True, prepare_threshold=0) as first,
        proxy.connect(autocommit=True) as second,
    ):
        assert first.execute("SELECT %s::int", (1,)).fetchone() == (1,)
        second.execute("SET work_mem TO '77MB'")
        assert first.execute("SELECT %s::int", (2,)).fetchone() == (2,)


def test_the_statements_kept_at_an_origin_connection_are_bounded(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1, prepared_statements=3)
    with proxy.connect(prepare_threshold=0, prepared_max=None) as connection:
        for turn in range(3):
            for number in range(8):
                text = f"SELECT %s::int + {number}"
                assert connection.execute(text, (turn,)).fetchone() == (turn + number,)
        connection.execute(HELD)
        held = connection.execute("SELECT current_setting('test.held')").fetchone()
        assert held == ("3",)


def test_idle_origin_connections_are_closed(start_proxy: StartProxy) -> None:
    proxy = start_proxy(idle_timeout=0.2)
    with proxy.connect() as connection:
        connection.execute("SELECT 1")
        connection.commit()
        while proxy.origin_connections():
            pass
        assert connection.execute("SELECT 2").fetchone() == (2,)


def test_a_statement_that_takes_too_long_is_ended(start_proxy: StartProxy) -> None:
    proxy = start_proxy(statement_timeout=0.2)
    with (
        proxy.connect(autocommit=True) as connection,
        pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"),
    ):
        connection.execute("SELECT pg_sleep(60)")


def test_notices_reach_the_client(
    proxy: LiveProxy,
) -> None:
    with proxy.connect() as connection:
        notices: list[str | None] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        connection.execute("DO $$ BEGIN RAISE NOTICE 'look'; END $$")
        assert notices == ["look"]


@pytest.mark.parametrize(
    "text", ["LOAD 'plpgsql'", "SELECT setseed(0.5)", "SELECT pg_backup_start('x', true)"]
)
def test_what_discard_does_not_remove_ends_with_its_origin_connection(
    start_proxy: StartProxy, text: str
) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    with proxy.connect(autocommit=True) as first:
        first.execute(text)
        before = first.execute(BACKEND).fetchone()
        assert first.execute(BACKEND).fetchone() == before
    with proxy.connect(autocommit=True) as second:
        assert second.execute(BACKEND).fetchone() != before
