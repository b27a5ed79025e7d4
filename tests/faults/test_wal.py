"""Following the WAL of real servers, and all that can happen to it.

Each ends in answers from the origin and a reason that can be seen, and then in the cache again.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from hyperdrive_client import doctor
from hyperdrive_client.bindings.connection_string import Address, parse_connection_string
from hyperdrive_client.errors import OriginStartError
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.proxy.net import cache_keeper, own_connection, wal_reader
from hyperdrive_client.proxy.settings import Caching, Settings
from hyperdrive_client.proxy.spawn import ThreadProxy

Connection = psycopg.Connection[tuple[Any, ...]]
WaitUntil = Callable[..., float]

PUBLISH = (
    "CREATE PUBLICATION hyperdrive_cache FOR TABLE {} "
    "WITH (publish = 'insert, update, delete, truncate')"
)
READ = "SELECT v FROM a WHERE id = 1"


@pytest.fixture(scope="module", params=[18, 15])
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A server to break."""
    try:
        running = EmbeddedPostgres(
            version=request.param,
            settings={"synchronous_commit": "on", "max_connections": "30"},
        )
    except OriginStartError as error:
        pytest.skip(str(error))
    with running:
        yield running


@pytest.fixture
def newest(server: EmbeddedPostgres) -> EmbeddedPostgres:
    """For what does not depend on the server's version."""
    if server.binaries.version < 18:
        pytest.skip("run with the newest PostgreSQL alone")
    return server


class Database:
    """A database with tables ``a``, which is published, and ``b``, which is not."""

    def __init__(self, server: EmbeddedPostgres, published: str | None = "a") -> None:
        self.dsn = server.create_database(f"test_{uuid4().hex}")
        self.admin: Connection
        self.reconnect()
        self.admin.execute("CREATE TABLE a (id int PRIMARY KEY, v int)")
        self.admin.execute("CREATE TABLE b (id int PRIMARY KEY, v int)")
        self.admin.execute("INSERT INTO a VALUES (1, 0); INSERT INTO b VALUES (1, 0)")
        if published:
            self.admin.execute(PUBLISH.format(published))
        self.value = 0

    def reconnect(self, port: int | None = None) -> None:
        """After the server was restarted, or at another one's port."""
        self.close()
        self.admin = at_port(self.dsn, port)

    def close(self) -> None:
        if hasattr(self, "admin"):
            self.admin.close()

    def oid(self, table: str) -> int:
        row = self.admin.execute(f"SELECT '{table}'::regclass::oid::int").fetchone()
        assert row is not None
        return int(row[0])

    def write(self) -> int:
        """Change the row that is read; the new value."""
        self.value += 1
        self.admin.execute("UPDATE a SET v = %s WHERE id = 1", (self.value,))
        return self.value

    def backends(self, condition: str = "true") -> list[tuple[Any, ...]]:
        """The cache's own connections."""
        return self.admin.execute(
            "SELECT pid, query FROM pg_stat_activity WHERE application_name = "
            f"'Cloudflare Hyperdrive cache' AND datname = current_database() AND {condition}"
        ).fetchall()

    @property
    def walsender(self) -> int:
        (row,) = self.backends("query LIKE 'START_REPLICATION%'")
        return int(row[0])


class Front:
    """A proxy that caches, and one client of it."""

    def __init__(self, dsn: str, *, port: int | None = None, **caching: Any) -> None:
        origin = parse_connection_string(dsn)
        if port is not None:
            origin = replace(origin, addresses=(Address("127.0.0.1", port),))
        self.origin = origin
        settings = Settings(origin, "app", "secret", caching=Caching(**{"mode": "wal"} | caching))
        self.running = ThreadProxy(settings)
        worker = self.running._app._worker
        assert worker is not None
        self.core = worker.core
        self.cache = self.core.cache
        self.client = self.connect()

    def connect(self) -> Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.running.settings.port,
            user="app",
            password="secret",
            dbname=self.origin.database,
            sslmode="disable",
            autocommit=True,
            prepare_threshold=None,
        )

    @property
    def refusal(self) -> str:
        return self.cache.refusal(time.monotonic())

    def read(self) -> int:
        row = self.client.execute(READ).fetchone()
        assert row is not None
        return int(row[0])

    @property
    def hits(self) -> int:
        return self.core.counters.cache["hit"]

    def read_again(self) -> tuple[int, bool]:
        """The value, and whether it came from the cache."""
        before = self.hits
        return self.read(), self.hits > before

    def epochs(self, table: int) -> tuple[int, ...]:
        """What they are of a table, and of all."""
        epochs = self.cache.epochs
        return epochs.vector(epochs.slots([table]))

    def catches_up(self, wait_until: WaitUntil, by: float = 0.0) -> None:
        """Wait until all that is committed by now, or ``by`` seconds later, is known."""
        goal = time.monotonic() + by
        wait_until(lambda: self.cache.guard.horizon > goal)

    def close(self) -> None:
        self.client.close()
        self.running.close()


StartFront = Callable[..., Front]


@pytest.fixture
def database(server: EmbeddedPostgres, ended: ExitStack) -> Database:
    server.start()
    made = Database(server)
    ended.callback(made.close)
    return made


@pytest.fixture
def start(ended: ExitStack, wait_until: WaitUntil) -> StartFront:
    """Start proxies; with ``up``, they serve from the cache when they are given."""

    def start(dsn: str, *, up: bool = True, **settings: Any) -> Front:
        front = Front(dsn, **settings)
        ended.callback(front.close)
        if up:
            wait_until(lambda: not front.refusal)
        return front

    return start


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def cached(start: StartFront, database: Database, wait_until: WaitUntil) -> Front:
    """A proxy from whose cache the row has been read."""
    front = start(database.dsn)
    wait_until(lambda: front.read_again() == (0, True))
    return front


def follows(front: Front, database: Database, wait_until: WaitUntil) -> None:
    """The cache serves, and a write by others ends what it has."""
    wait_until(lambda: not front.refusal)
    wait_until(lambda: front.read_again() == (database.value, True))
    value = database.write()
    wait_until(lambda: front.read() == value)
    wait_until(lambda: front.read_again() == (value, True))


@contextmanager
def setting(admin: Connection, name: str, value: str) -> Iterator[None]:
    """A setting of the server's for a while."""
    admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    admin.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        admin.execute(f"ALTER SYSTEM RESET {name}")
        admin.execute("SELECT pg_reload_conf()")


class TestWritesByOthers:
    @pytest.mark.parametrize(
        "write",
        [
            "UPDATE a SET v = 7",
            "DELETE FROM a; INSERT INTO a VALUES (1, 7)",
            "BEGIN; TRUNCATE a; INSERT INTO a VALUES (1, 7); COMMIT",
            "BEGIN; SAVEPOINT s; UPDATE a SET v = 7; RELEASE s; COMMIT",
            "SET synchronous_commit = off; UPDATE a SET v = 7; RESET synchronous_commit",
        ],
        ids=["update", "delete", "truncate", "subtransaction", "asynchronous"],
    )
    def test_end_what_is_kept(
        self, cached: Front, database: Database, wait_until: WaitUntil, write: str
    ) -> None:
        database.admin.execute(write)
        since = time.monotonic()
        assert wait_until(lambda: cached.read() == 7) - since < 1.0
        wait_until(lambda: cached.read_again() == (7, True))

    def test_do_not_before_they_are_committed(
        self, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        before = cached.epochs(database.oid("a"))
        with psycopg.connect(database.dsn) as other:
            other.execute("UPDATE a SET v = 7")
            cached.catches_up(wait_until)
            assert cached.epochs(database.oid("a")) == before
            other.rollback()
        cached.catches_up(wait_until)
        assert cached.epochs(database.oid("a")) == before
        wait_until(lambda: cached.read_again() == (0, True))

    def test_to_other_tables_do_not(
        self, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        before = cached.epochs(database.oid("a"))
        database.admin.execute("UPDATE b SET v = 7")
        cached.catches_up(wait_until)
        assert cached.epochs(database.oid("a")) == before

    def test_to_a_partition_end_what_was_read_of_the_whole(
        self, server: EmbeddedPostgres, start: StartFront, wait_until: WaitUntil, ended: ExitStack
    ) -> None:
        database = Database(server, published=None)
        ended.callback(database.close)
        database.admin.execute("DROP TABLE a")
        database.admin.execute("CREATE TABLE a (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)")
        database.admin.execute("CREATE TABLE a1 PARTITION OF a FOR VALUES FROM (0) TO (10)")
        database.admin.execute("INSERT INTO a VALUES (1, 0)")
        database.admin.execute(PUBLISH.format("a"))
        front = start(database.dsn)
        assert front.cache.guard.published == {database.oid("a1")}
        follows(front, database, wait_until)

    def test_are_known_of_when_a_prepared_transaction_ends(
        self, newest: EmbeddedPostgres, wait_until: WaitUntil, ended: ExitStack, start: StartFront
    ) -> None:
        with psycopg.connect(newest.connection_string, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        newest.restart()
        database = Database(newest)
        ended.callback(database.close)
        front = start(database.dsn)
        wait_until(lambda: front.read_again() == (0, True))
        database.admin.execute("BEGIN; UPDATE a SET v = 7; PREPARE TRANSACTION 'p'")
        assert front.read_again() == (0, True)
        database.admin.execute("COMMIT PREPARED 'p'")
        wait_until(lambda: front.read() == 7)
        assert not front.cache.guard.pending or wait_until(lambda: not front.cache.guard.pending)


class TestVisibility:
    """A commit that waits for a standby is in the WAL, but nobody sees it yet."""

    def commit(self, database: Database, pool: ThreadPoolExecutor) -> Any:
        def commit() -> None:
            with psycopg.connect(database.dsn, autocommit=True) as other:
                other.execute("UPDATE a SET v = 7")

        return pool.submit(commit)

    def waits(self, database: Database) -> list[tuple[Any, ...]]:
        return database.admin.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        ).fetchall()

    def test_what_was_read_meanwhile_is_not_kept(
        self, cached: Front, database: Database, wait_until: WaitUntil, pool: ThreadPoolExecutor
    ) -> None:
        guard, table = cached.cache.guard, database.oid("a")
        with setting(database.admin, "synchronous_standby_names", "nobody"):
            # The sessions' processes have to have heard of it.
            wait_until(lambda: not guard.pending)
            database.admin.execute("SET synchronous_commit = local")
            committed = self.commit(database, pool)
            wait_until(lambda: self.waits(database))
            wait_until(lambda: guard.is_unsettled([table]))
            since = guard.horizon
            while guard.horizon < since + 0.3:
                assert cached.read_again() == (0, False)
            assert guard.is_unsettled([table])
        committed.result(20)
        wait_until(lambda: not guard.is_unsettled([table]))
        assert cached.read() == 7
        wait_until(lambda: cached.read_again() == (7, True))
        database.admin.execute("RESET synchronous_commit")

    def test_nothing_is_kept_before_those_that_waited_at_the_start_are_seen(
        self,
        database: Database,
        wait_until: WaitUntil,
        pool: ThreadPoolExecutor,
        start: StartFront,
    ) -> None:
        database.admin.execute("SET synchronous_commit = local")
        with setting(database.admin, "synchronous_standby_names", "nobody"):
            committed = self.commit(database, pool)
            wait_until(lambda: self.waits(database))
            front = start(database.dsn, up=False)
            wait_until(lambda: database.backends("wait_event_type = 'Lock'"))
            assert front.read_again() == (0, False)
            assert front.cache.guard.broken
        committed.result(20)
        wait_until(lambda: not front.refusal)
        assert front.read() == 7
        database.admin.execute("RESET synchronous_commit")

    def test_nothing_is_kept_before_those_that_were_written_while_the_slot_was_made_are_seen(
        self,
        database: Database,
        wait_until: WaitUntil,
        pool: ThreadPoolExecutor,
        start: StartFront,
    ) -> None:
        """The slot waits for two others; what is committed meanwhile is not in its stream."""

        def slot_waits_for(transaction: Connection) -> bool:
            found = database.admin.execute(
                "SELECT 1 FROM pg_locks, pg_stat_activity s WHERE s.query LIKE 'CREATE_REPL%%' "
                "AND s.pid = ANY(SELECT pid FROM pg_locks WHERE NOT granted) "
                "AND %s = ANY(pg_blocking_pids(s.pid))",
                (transaction.info.backend_pid,),
            )
            return found.fetchone() is not None

        database.admin.execute("SET synchronous_commit = local; INSERT INTO b VALUES (2, 0)")
        with psycopg.connect(database.dsn) as first, psycopg.connect(database.dsn) as second:
            first.execute("UPDATE b SET v = 1 WHERE id = 1")
            front = start(database.dsn, up=False)
            wait_until(lambda: slot_waits_for(first))
            second.execute("UPDATE b SET v = 1 WHERE id = 2")
            first.rollback()
            wait_until(lambda: slot_waits_for(second))
            with setting(database.admin, "synchronous_standby_names", "nobody"):
                committed = self.commit(database, pool)
                wait_until(lambda: self.waits(database))
                second.rollback()
                made = "query LIKE 'CREATE_REPLICATION%' AND state = 'idle'"
                wait_until(lambda: database.backends(made) or front.refusal == "")
                for _ in range(20):
                    assert front.read_again() == (0, False)
                assert front.cache.guard.broken
        committed.result(20)
        wait_until(lambda: not front.refusal)
        assert front.read() == 7
        wait_until(lambda: front.read_again() == (7, True))
        database.admin.execute("RESET synchronous_commit")


class TestHorizon:
    """All that was committed by then is known of."""

    def test_advances_while_nothing_happens(self, cached: Front, wait_until: WaitUntil) -> None:
        cached.catches_up(wait_until, 1.0)

    def test_advances_while_only_others_tables_change(
        self, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        ends = threading.Event()

        def change() -> None:
            with psycopg.connect(database.dsn, autocommit=True) as other:
                while not ends.is_set():
                    other.execute("UPDATE b SET v = v + 1")

        thread = threading.Thread(target=change)
        thread.start()
        cached.catches_up(wait_until, 1.0)
        ends.set()
        thread.join()

    def test_advances_while_what_an_open_transaction_wrote_is_not_flushed(
        self, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        with psycopg.connect(database.dsn) as other:
            other.execute("UPDATE b SET v = 7")
            assert other.execute(
                "SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()"
            ).fetchone() == (True,)
            cached.catches_up(wait_until, 1.0)

    def test_advances_where_a_page_of_the_wal_is_full(
        self, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        emit = "SELECT pg_logical_emit_message(true, '', repeat('x', %s)) - '0/0'"

        def left() -> int:
            row = database.admin.execute(
                "SELECT (8192 - (pg_current_wal_insert_lsn() - '0/0') %% 8192)::int", ()
            ).fetchone()
            assert row is not None
            return int(row[0])

        database.admin.execute(emit, (1000,))
        before = left()
        database.admin.execute(emit, (1000,))
        overhead = before - left() - 1000
        # Another's record may come in between; then again.
        while (room := left()) != 8192 - 24:
            database.admin.execute(emit, (room - overhead if overhead < room < 4000 else 1000,))
        cached.catches_up(wait_until, 1.0)

    def test_stands_while_the_stream_does_not_come(
        self, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        process = database.walsender
        os.kill(process, signal.SIGSTOP)
        try:
            value = database.write()
            deadline = time.monotonic() + cached.cache.settings.staleness_bound
            while time.monotonic() < deadline:
                cached.read()
            assert "closely" in cached.refusal
            assert cached.read_again() == (value, False)
        finally:
            os.kill(process, signal.SIGCONT)
        follows(cached, database, wait_until)
        assert database.walsender == process

    def test_stands_while_a_large_transaction_is_decoded(
        self, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        bound = cached.cache.settings.staleness_bound
        database.admin.execute("INSERT INTO b SELECT i, i FROM generate_series(2, 400000) i")
        value = database.write()
        committed = time.monotonic()
        while time.monotonic() < committed + bound + 2:
            asked = time.monotonic()
            assert cached.read() == value or asked < committed + bound
        follows(cached, database, wait_until)

    def test_a_stream_that_stalls_is_begun_anew(
        self,
        newest: EmbeddedPostgres,
        cached: Front,
        database: Database,
        wait_until: WaitUntil,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(wal_reader, "STALL_SECONDS", 0.5)
        process = database.walsender
        os.kill(process, signal.SIGSTOP)
        try:
            database.write()
            wait_until(lambda: "has not come for" in cached.cache.guard.broken)
            follows(cached, database, wait_until)
            assert database.backends(f"pid = {process}")
        finally:
            os.kill(process, signal.SIGCONT)


class TestEnds:
    @pytest.mark.parametrize("which", ["START_REPLICATION", "pg_current_snapshot"])
    def test_of_either_connection_begin_it_anew(
        self, cached: Front, database: Database, wait_until: WaitUntil, which: str
    ) -> None:
        before = database.backends()
        ended = time.monotonic()
        end = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE %s "
            "AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        # The side connection asks other things, too.
        wait_until(lambda: database.admin.execute(end, (f"%{which}%",)).fetchall())
        wait_until(lambda: cached.cache.guard.horizon > ended and not cached.refusal)
        follows(cached, database, wait_until)
        wait_until(lambda: not {each[0] for each in before} & {e[0] for e in database.backends()})
        count = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        assert database.admin.execute(count).fetchone() == (1,)

    def test_of_the_publication(
        self, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        database.admin.execute("DROP PUBLICATION hyperdrive_cache")
        wait_until(lambda: "no publication" in cached.cache.guard.broken)
        value = database.write()
        assert cached.read_again() == (value, False)
        assert cached.cache.mode == "wal"

    def test_are_told_by_their_reason(
        self,
        newest: EmbeddedPostgres,
        database: Database,
        start: StartFront,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        wait_until: WaitUntil,
    ) -> None:
        """Not by what that does to a query which is under way."""
        slow = wal_reader._STATE.rstrip() + b" FROM pg_sleep(0.5)"
        monkeypatch.setattr(wal_reader, "_STATE", slow)
        start(database.dsn)
        with caplog.at_level(logging.WARNING, "hyperdrive_client"):
            process = database.walsender
            # It has just begun.
            wait_until(
                lambda: not database.backends("query LIKE '%pg_sleep%' AND state = 'active'")
            )
            wait_until(lambda: database.backends("query LIKE '%pg_sleep%' AND state = 'active'"))
            database.admin.execute("SELECT pg_terminate_backend(%s)", (process,))
            wait_until(lambda: "nothing is served" in caplog.text)
        assert "terminating connection" in caplog.text

    @pytest.mark.parametrize("how", ["restart", "kill"])
    def test_of_the_server(
        self,
        server: EmbeddedPostgres,
        cached: Front,
        database: Database,
        wait_until: WaitUntil,
        how: str,
    ) -> None:
        if how == "kill":
            server.kill()
            server.start()
        else:
            server.restart()
        database.reconnect()
        value = database.write()
        # The horizon is from before, the entry too.
        wait_until(lambda: cached.read_again()[0] == value)
        follows(cached, database, wait_until)

    def test_are_told_once(
        self,
        newest: EmbeddedPostgres,
        cached: Front,
        database: Database,
        wait_until: WaitUntil,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(cache_keeper, "LAST_PAUSE", 0.05)
        attempts = []
        ask = own_connection.OwnConnection.results

        async def results(self: Any, text: bytes, timeout: float) -> Any:
            if b"pubviaroot" in text:
                attempts.append(text)
            return await ask(self, text, timeout)

        with caplog.at_level(logging.INFO, "hyperdrive_client"):
            database.admin.execute("DROP PUBLICATION hyperdrive_cache")
            monkeypatch.setattr(own_connection.OwnConnection, "results", results)
            wait_until(lambda: len(attempts) > 5)
            database.admin.execute(PUBLISH.format("a"))
            wait_until(lambda: "in use" in caplog.text)
        texts = [each.message for each in caplog.records if "cache" in each.name]
        assert len(texts) == 2, texts
        assert "no publication hyperdrive_cache" in texts[0]
        assert texts[1] == "the cache is in use: wal"


class TestThePublication:
    def test_is_followed_when_tables_come_and_go(
        self, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        guard = cached.cache.guard
        a, b = database.oid("a"), database.oid("b")
        assert guard.published == {a}
        database.admin.execute("ALTER PUBLICATION hyperdrive_cache ADD TABLE b")
        wait_until(lambda: guard.published == {a, b} and not cached.refusal)
        follows(cached, database, wait_until)
        database.admin.execute("ALTER PUBLICATION hyperdrive_cache DROP TABLE a")
        wait_until(lambda: guard.published == {b} and not cached.refusal)
        value = database.write()
        assert cached.read_again() == (value, False)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ("SET (publish = 'insert, update, delete')", "does not publish all"),
            ("SET (publish_via_partition_root = true)", "publish_via_partition_root"),
        ],
    )
    def test_has_to_publish_everything_of_each_table(
        self, cached: Front, database: Database, wait_until: WaitUntil, change: str, reason: str
    ) -> None:
        database.admin.execute(f"ALTER PUBLICATION hyperdrive_cache {change}")
        wait_until(lambda: reason in cached.cache.guard.broken)
        assert reason in cached.cache.mode_reason
        assert cached.read_again() == (0, False)

    @pytest.mark.parametrize(
        ("change", "back"),
        [
            ("SET (publish = 'insert')", "SET (publish = 'insert, update, delete, truncate')"),
            ("DROP TABLE a", "ADD TABLE a"),
            ("DROP TABLES IN SCHEMA public", "ADD TABLES IN SCHEMA public"),
        ],
    )
    def test_may_not_have_been_another_for_a_moment(
        self,
        server: EmbeddedPostgres,
        start: StartFront,
        database: Database,
        wait_until: WaitUntil,
        change: str,
        back: str,
    ) -> None:
        if "SCHEMA" in change:
            database.admin.execute("DROP PUBLICATION hyperdrive_cache")
            database.admin.execute(
                "CREATE PUBLICATION hyperdrive_cache FOR TABLES IN SCHEMA public"
            )
        front = start(database.dsn)
        wait_until(lambda: front.read_again() == (0, True))
        with database.admin.transaction():
            database.admin.execute(f"ALTER PUBLICATION hyperdrive_cache {change}")
            value = database.write()
            database.admin.execute(f"ALTER PUBLICATION hyperdrive_cache {back}")
        wait_until(lambda: front.read_again() == (value, True))

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ("ALTER TABLE a REPLICA IDENTITY NOTHING", "no replica identity"),
            ("ALTER TABLE a DROP CONSTRAINT a_pkey", "no replica identity"),
            ("ALTER PUBLICATION hyperdrive_cache SET TABLE a WHERE (id > 5)", "some of its rows"),
        ],
    )
    def test_guards_no_table_that_it_has_not_in_full(
        self,
        newest: EmbeddedPostgres,
        cached: Front,
        database: Database,
        wait_until: WaitUntil,
        caplog: pytest.LogCaptureFixture,
        change: str,
        reason: str,
    ) -> None:
        with caplog.at_level(logging.WARNING, "hyperdrive_client"):
            database.admin.execute(change)
            wait_until(lambda: not cached.cache.guard.published and not cached.refusal)
        assert any(reason in each.message for each in caplog.records)
        assert cached.read_again() == (0, False)

    @pytest.mark.parametrize("identity", ["FULL", "USING INDEX other"])
    def test_guards_a_table_with_any_identity(
        self, start: StartFront, database: Database, wait_until: WaitUntil, identity: str
    ) -> None:
        database.admin.execute("ALTER TABLE a ADD COLUMN w int NOT NULL DEFAULT 1")
        database.admin.execute("CREATE UNIQUE INDEX other ON a (w)")
        database.admin.execute(f"ALTER TABLE a REPLICA IDENTITY {identity}")
        front = start(database.dsn)
        assert front.cache.guard.published == {database.oid("a")}
        follows(front, database, wait_until)


class TestWhatItNeeds:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_keeper, "LAST_PAUSE", 0.2)

    def test_the_right_to_replicate(
        self, database: Database, start: StartFront, wait_until: WaitUntil
    ) -> None:
        role = f"reader_{uuid4().hex}"
        database.admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        database.admin.execute(f"GRANT SELECT ON a TO {role}")
        origin = parse_connection_string(database.dsn)
        dsn = replace(origin, user=role, password="x").connection_string
        front = start(dsn, up=False)
        wait_until(lambda: "no replication connection" in front.cache.guard.broken)
        assert front.read_again() == (0, False)
        database.admin.execute(f"ALTER ROLE {role} REPLICATION")
        # It needs no other right than to read.
        follows(front, database, wait_until)
        front.close()
        wait_until(lambda: not database.backends())
        database.admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    def test_a_slot_and_a_walsender(
        self,
        newest: EmbeddedPostgres,
        start: StartFront,
        wait_until: WaitUntil,
        ended: ExitStack,
    ) -> None:
        with psycopg.connect(newest.connection_string, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET max_replication_slots = 1")
        newest.restart()
        database = Database(newest)
        ended.callback(database.close)
        database.admin.execute("SELECT pg_create_physical_replication_slot('taken')")
        front = start(database.dsn, up=False)
        wait_until(lambda: "replication slots are in use" in front.cache.guard.broken)
        assert front.read_again() == (0, False)
        database.admin.execute("SELECT pg_drop_replication_slot('taken')")
        follows(front, database, wait_until)
        database.admin.execute("ALTER SYSTEM RESET max_replication_slots")
        database.admin.execute("ALTER SYSTEM SET max_wal_senders = 0")
        newest.restart()
        wait_until(lambda: "max_wal_senders" in front.cache.guard.broken)
        with psycopg.connect(database.dsn, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM RESET max_wal_senders")
        newest.restart()
        database.reconnect()
        follows(front, database, wait_until)

    def test_wal_level_logical(
        self, server: EmbeddedPostgres, start: StartFront, wait_until: WaitUntil, ended: ExitStack
    ) -> None:
        with psycopg.connect(server.connection_string, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET wal_level = replica")
        server.restart()
        database = Database(server)
        ended.callback(database.close)
        front = start(database.dsn, up=False)
        wait_until(lambda: "wal_level is not logical" in front.cache.guard.broken)
        assert front.read_again() == (0, False)
        database.admin.execute("ALTER SYSTEM RESET wal_level")
        server.restart()
        database.reconnect()
        follows(front, database, wait_until)

    def test_a_place_behind_the_standbys_for_which_commits_wait(
        self, newest: EmbeddedPostgres, cached: Front, database: Database, wait_until: WaitUntil
    ) -> None:
        database.admin.execute("SET synchronous_commit = local")
        with setting(database.admin, "synchronous_standby_names", "*"):
            wait_until(lambda: "standby" in cached.cache.mode_reason)
            wait_until(lambda: not database.backends("backend_type = 'walsender'"))
            assert "synchronous_standby_names" in "".join(
                each.what for each in doctor.examine(cached.origin).missing
            )
        follows(cached, database, wait_until)

    def test_an_end_of_the_transactions_that_are_open(
        self,
        database: Database,
        start: StartFront,
        wait_until: WaitUntil,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(wal_reader, "SLOT_SECONDS", 0.3)
        with psycopg.connect(database.dsn) as other:
            other.execute("UPDATE b SET v = 7")
            front = start(database.dsn, up=False)
            wait_until(lambda: "transactions are open" in front.cache.guard.broken)
            # The attempt is over at the origin, too.
            wait_until(lambda: not database.backends("query LIKE 'CREATE_REPLICATION%'"))
            assert front.read_again() == (0, False)
        follows(front, database, wait_until)

    def test_nothing_else_and_stops_at_once_while_it_waits(
        self, database: Database, wait_until: WaitUntil
    ) -> None:
        with psycopg.connect(database.dsn) as other:
            other.execute("UPDATE b SET v = 7")
            front = Front(database.dsn)
            wait_until(lambda: database.backends("query LIKE 'CREATE_REPLICATION%'"))
            told = time.monotonic()
            front.close()
            assert time.monotonic() - told < 2
            wait_until(lambda: not database.backends(), 2)


class TestAnotherServer:
    @pytest.fixture
    def standby(
        self, newest: EmbeddedPostgres, pool: ThreadPoolExecutor, ended: ExitStack
    ) -> EmbeddedPostgres:
        """A copy of the server that is in recovery, as if it were its standby."""
        newest.start()
        newest._started_folder().shut_down()
        copy = EmbeddedPostgres(binaries=newest.binaries, password=newest.password)
        copy.start()
        ended.callback(copy.stop)
        copy._started_folder().shut_down()
        data = copy.data_directory
        owner = data.stat()
        shutil.rmtree(data)
        shutil.copytree(newest.data_directory, data)
        (data / "standby.signal").touch()
        for path in (data, *data.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        newest.start()
        started = pool.submit(copy.start)
        ended.callback(started.result)
        ended.callback(promote, copy)
        return copy

    def test_that_is_a_replica_is_not_followed_until_it_is_promoted(
        self,
        database: Database,
        standby: EmbeddedPostgres,
        start: StartFront,
        wait_until: WaitUntil,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(cache_keeper, "LAST_PAUSE", 0.2)
        port = standby.port
        wait_until(lambda: connects(database.dsn, port))
        front = start(database.dsn, port=port, up=False)
        wait_until(lambda: "is a replica" in front.cache.guard.broken)
        assert front.read_again() == (0, False)
        promote(standby)
        wait_until(lambda: not front.refusal)
        database.reconnect(port)
        follows(front, database, wait_until)

    def test_behind_the_same_port_is_noticed(
        self,
        database: Database,
        standby: EmbeddedPostgres,
        start: StartFront,
        wait_until: WaitUntil,
        relay_to: Callable[[int], Any],
    ) -> None:
        relay = relay_to(parse_connection_string(database.dsn).addresses[0].port)
        wait_until(lambda: connects(database.dsn, standby.port))
        front = start(database.dsn, port=relay.port)
        wait_until(lambda: front.read_again() == (0, True))
        promote(standby)
        # The old one stays there, and so do the connections to it.
        relay._target = ("127.0.0.1", standby.port)
        wait_until(lambda: not recovers(database.dsn, standby.port))
        with front.connect() as first, front.connect() as second:
            first.execute("BEGIN; SELECT 1")
            first.execute("SELECT pg_backend_pid()")
            second.execute("BEGIN")
            second.execute("SELECT pg_backend_pid()")
            wait_until(lambda: "another server" in front.cache.mode_reason)
            wait_until(lambda: not front.refusal)
        database.reconnect(standby.port)
        assert database.walsender
        assert front.cache.guard.published == {database.oid("a")}


def test_whether_it_is_the_same_server_has_to_be_seen(
    database: Database,
    start: StartFront,
    wait_until: WaitUntil,
    relay_to: Callable[[int], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wal_reader, "PUBLICATION_SECONDS", 0.1)
    relay = relay_to(parse_connection_string(database.dsn).addresses[0].port)
    front = start(database.dsn, port=relay.port)
    wait_until(lambda: front.read_again() == (0, True))
    target, relay._target = relay._target, ("127.0.0.1", closed_port())
    # As after a connection that has led somewhere.
    front.core.counters.origin_connects += 1
    wait_until(lambda: "the same server" in front.cache.mode_reason)
    assert front.refusal
    relay._target = target
    wait_until(lambda: not front.refusal)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def at_port(dsn: str, port: int | None) -> Connection:
    origin = parse_connection_string(dsn)
    if port is not None:
        origin = replace(origin, addresses=(Address("127.0.0.1", port),))
    return psycopg.connect(origin.connection_string, autocommit=True)


def connects(dsn: str, port: int) -> bool:
    try:
        at_port(dsn, port).close()
    except psycopg.OperationalError:
        return False
    return True


def recovers(dsn: str, port: int) -> bool:
    with at_port(dsn, port) as connection:
        row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        assert row is not None
        return bool(row[0])


def promote(server: EmbeddedPostgres) -> None:
    """As ``pg_ctl promote`` does."""
    (server.data_directory / "promote").touch()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGUSR1)
