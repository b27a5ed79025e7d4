"""What the cache knows of its origin, in each mode, and what that costs the origin."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from hyperdrive_client.proxy.core.core import Core
from hyperdrive_client.proxy.net import cache_keeper
from hyperdrive_client.proxy.net.own_connection import OwnConnection, Row
from hyperdrive_client.proxy.settings import Caching

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy

Connection = psycopg.Connection[tuple[Any, ...]]
PUBLISH = "CREATE PUBLICATION hyperdrive_cache FOR TABLE a"
READ = "SELECT * FROM a"


def wait_until(what: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


class Kept:
    """A proxy that caches, a client of it, and somebody who goes around it."""

    def __init__(self, proxy: LiveProxy, stack: ExitStack) -> None:
        self.proxy = proxy
        self.admin: Connection = stack.enter_context(proxy.at_origin())
        self.client: Connection = stack.enter_context(
            proxy.connect(autocommit=True, prepare_threshold=None)
        )
        worker = proxy.running._app._worker
        assert worker is not None
        self.core: Core = worker.core
        self.cache = self.core.cache

    def read(self) -> tuple[list[tuple[Any, ...]], bool]:
        """The rows, and whether they came from the cache."""
        before = self.core.counters.cache["hit"]
        rows = self.client.execute(READ).fetchall()
        return rows, self.core.counters.cache["hit"] > before

    @property
    def is_up(self) -> bool:
        return not self.cache.refusal(time.monotonic())

    def connections(self) -> list[str]:
        """The last queries of the cache's own connections."""
        found = self.admin.execute(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'Cloudflare Hyperdrive cache'"
        )
        return [query for (query,) in found]


StartKept = Callable[..., Kept]


@pytest.fixture
def start(start_proxy: StartProxy, database: str) -> Iterator[StartKept]:
    """Start proxies by the cache's mode."""
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("CREATE TABLE a (v int PRIMARY KEY); INSERT INTO a VALUES (1)")
    with ExitStack() as stack:
        yield lambda mode, **caching: Kept(
            start_proxy(caching=Caching(mode=mode, **caching)), stack
        )


class TestAuto:
    def test_without_a_publication_keeps_no_connection(
        self, start: StartKept, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "hyperdrive_client"):
            kept = start("auto")
            kept.read()
            wait_until(lambda: "no publication" in kept.cache.mode_reason)
            wait_until(lambda: not kept.connections())
        assert kept.cache.mode == "off"
        (record,) = [each for each in caplog.records if "cache" in each.name]
        assert record.levelname == "INFO"
        assert "hyperdrive doctor" in record.message

    def test_asks_nothing_before_the_first_client_has_come(
        self, start_proxy: StartProxy, database: str
    ) -> None:
        proxy = start_proxy(caching=Caching(mode="auto"))
        with psycopg.connect(database, autocommit=True) as admin:
            count = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name LIKE 'Cloudflare%'"
            )
            # What polls for a client has had the time to see one.
            until = time.monotonic() + 3 * cache_keeper.CLIENT_SECONDS
            while time.monotonic() < until:
                assert admin.execute(count).fetchone() == (0,)
            admin.execute("CREATE PUBLICATION hyperdrive_cache")
        with ExitStack() as stack:
            kept = Kept(proxy, stack)
            wait_until(lambda: kept.is_up)

    def test_is_wal_where_there_is_a_publication(self, start: StartKept) -> None:
        kept = start("auto")
        kept.admin.execute(PUBLISH)
        wait_until(lambda: kept.is_up)
        assert kept.cache.mode == "wal"
        wait_until(lambda: kept.read() == ([(1,)], True))
        assert len(kept.connections()) == 2

    def test_looks_again(self, start: StartKept, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_keeper, "LOOK_AGAIN_SECONDS", 0.2)
        kept = start("auto")
        kept.read()
        wait_until(lambda: "no publication" in kept.cache.mode_reason)
        kept.admin.execute(PUBLISH)
        wait_until(lambda: kept.cache.mode == "wal" and kept.is_up)
        kept.admin.execute("DROP PUBLICATION hyperdrive_cache")
        wait_until(lambda: kept.cache.mode == "off")
        kept.admin.execute("INSERT INTO a VALUES (2)")
        assert kept.read() == ([(1,), (2,)], False)

    def test_goes_on_where_the_connections_break(self, start: StartKept) -> None:
        kept = start("auto")
        kept.admin.execute(PUBLISH)
        wait_until(lambda: kept.is_up)
        ended = time.monotonic()
        kept.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name "
            "= 'Cloudflare Hyperdrive cache' AND datname = current_database()"
        )
        wait_until(lambda: kept.cache.guard.horizon > ended and kept.is_up)
        assert kept.cache.mode == "wal"


@pytest.mark.parametrize("mode", ["writes", "ttl"])
def test_without_the_wal_one_connection_is_enough(start: StartKept, mode: str) -> None:
    kept = start(mode)
    wait_until(lambda: kept.read()[1])
    assert len(kept.connections()) == 1
    assert kept.cache.mode == mode
    assert kept.admin.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    ).fetchone() == (0,)


@pytest.mark.parametrize("caching", [{"mode": "off"}, {"mode": "wal", "memory": 0}])
def test_a_cache_that_is_off_asks_nothing(start: StartKept, caching: dict[str, Any]) -> None:
    kept = start(**caching)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        kept.read()
        assert not kept.connections()


class TestTheCatalogue:
    def test_is_read_again_after_ddl_of_ones_own(self, start: StartKept) -> None:
        kept = start("writes")
        wait_until(lambda: kept.read() == ([(1,)], True))
        for number in range(5):
            kept.client.execute(f"ALTER TABLE a ADD COLUMN w{number} int DEFAULT 7")
            expected = (1, *(7,) * (number + 1))
            assert kept.read() == ([expected], False)
            wait_until(lambda: kept.read() == ([expected], True))  # noqa: B023

    def test_is_not_used_if_ddl_was_done_while_it_was_read(
        self, start: StartKept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask = OwnConnection.results
        read, goes_on, closed = threading.Event(), threading.Event(), []

        async def results(self: OwnConnection, text: bytes, timeout: float) -> list[list[Row]]:
            if read.is_set():
                closed.append(kept.cache.closed)
            answer = await ask(self, text, timeout)
            if b"REPEATABLE READ" in text and not read.is_set():
                read.set()
                await asyncio.to_thread(goes_on.wait, 20)
            return answer

        kept = start("writes")
        wait_until(lambda: kept.read() == ([(1,)], True))
        monkeypatch.setattr(OwnConnection, "results", results)
        kept.client.execute("ALTER TABLE a ADD COLUMN w int DEFAULT 7")
        assert read.wait(20)
        kept.client.execute("ALTER TABLE a ADD COLUMN x int DEFAULT 8")
        goes_on.set()
        wait_until(lambda: kept.read() == ([(1, 7, 8)], True))
        assert "DDL" in closed[0]

    def test_is_read_again_after_ddl_of_others(self, start: StartKept) -> None:
        kept = start("writes")
        wait_until(lambda: kept.read() == ([(1,)], True))
        kept.admin.execute("ALTER TABLE a ADD COLUMN w int DEFAULT 7")
        altered = time.monotonic()
        wait_until(lambda: kept.read() == ([(1, 7)], False))
        assert time.monotonic() - altered < 2
        wait_until(lambda: kept.read() == ([(1, 7)], True))

    def test_that_can_not_be_read_in_time_ends_the_cache(
        self, start: StartKept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache_keeper, "POLL_SECONDS", 0.5)
        kept = start("writes")
        wait_until(lambda: kept.read()[1])
        kept.admin.execute("BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE")
        wait_until(lambda: "not answered within" in kept.cache.closed)
        kept.admin.execute("ROLLBACK")
        wait_until(lambda: kept.read()[1])

    def test_is_read_with_what_sessions_begin_with(self, start: StartKept, database: str) -> None:
        """What the keeper sets for itself is none of theirs."""
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("CREATE SCHEMA s; CREATE TABLE s.a (v int); INSERT INTO s.a VALUES (5)")
            name = admin.info.dbname
            admin.execute(f'ALTER DATABASE "{name}" SET search_path = s, public')
        kept = start("writes")
        wait_until(lambda: kept.read() == ([(5,)], True))
        kept.client.execute("INSERT INTO a VALUES (6)")
        assert kept.read()[0] == [(5,), (6,)]
        oid = kept.admin.execute("SELECT 's.a'::regclass::oid::int").fetchone()
        assert oid is not None
        assert kept.cache.catalogue is not None
        assert kept.cache.catalogue.oid_of(b"a") == oid[0]

    @pytest.mark.parametrize("earlier", [True, False], ids=["loaded", "not_loaded"])
    def test_is_not_taken_for_that_of_sessions_that_begin_otherwise(
        self,
        start: StartKept,
        database: str,
        monkeypatch: pytest.MonkeyPatch,
        earlier: bool,
    ) -> None:
        """What they begin with is altered when the keeper has its connections already."""
        ask = OwnConnection.results
        reads, goes_on = threading.Event(), threading.Event()

        async def results(self: OwnConnection, text: bytes, timeout: float) -> list[list[Row]]:
            if b"REPEATABLE READ" in text and not reads.is_set():
                reads.set()
                await asyncio.to_thread(goes_on.wait, 20)
            return await ask(self, text, timeout)

        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("CREATE SCHEMA s; CREATE TABLE s.a (v int); INSERT INTO s.a VALUES (5)")
            if earlier:
                kept = start("writes")
                wait_until(lambda: kept.read() == ([(1,)], True))
            monkeypatch.setattr(OwnConnection, "results", results)
            if earlier:
                admin.execute("CREATE TABLE b ()")
            else:
                kept = start("writes")
                kept.read()
            assert reads.wait(20)
            name = admin.info.dbname
            admin.execute(f'ALTER DATABASE "{name}" SET search_path = s, public')
            oid = admin.execute("SELECT 's.a'::regclass::oid::int").fetchone()
            goes_on.set()
        wait_until(lambda: kept.read() == ([(5,)], True))
        assert oid is not None
        assert kept.cache.catalogue is not None
        assert kept.cache.catalogue.oid_of(b"a") == oid[0]

    def test_is_none_for_sessions_that_began_before_the_cache_was_in_use(
        self, start: StartKept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache_keeper, "LAST_PAUSE", 0.2)
        kept = start("wal")
        assert kept.read() == ([(1,)], False)
        kept.admin.execute("CREATE SCHEMA s; CREATE TABLE s.a (v int PRIMARY KEY)")
        name = kept.admin.info.dbname
        kept.admin.execute(f'ALTER DATABASE "{name}" SET search_path = s, public')
        kept.admin.execute("CREATE PUBLICATION hyperdrive_cache FOR TABLE a, s.a")
        wait_until(lambda: kept.is_up)
        wait_until(lambda: kept.read()[1])
        assert kept.read() == ([], True)

    def test_is_not_read_again_and_again_after_a_reload_of_the_configuration(
        self, start: StartKept
    ) -> None:
        kept = start("writes")
        wait_until(lambda: kept.read()[1])
        before = kept.cache.generation
        kept.admin.execute("SELECT pg_reload_conf()")
        wait_until(lambda: kept.cache.generation > before and kept.is_up)
        before, looked = kept.cache.generation, kept.cache.catalogue_at
        wait_until(lambda: kept.cache.catalogue_at > looked + 2.5 * cache_keeper.CATALOGUE_SECONDS)
        assert kept.cache.generation == before


def test_a_backend_that_may_still_commit_is_watched_until_it_is_gone(start: StartKept) -> None:
    kept = start("writes")
    wait_until(lambda: kept.read()[1])
    with kept.proxy.at_origin() as other:
        pid = other.info.backend_pid
        loop = kept.proxy.running._app._loop
        assert loop is not None
        loop.call_soon_threadsafe(kept.cache.outcome_unknown, pid, frozenset((1,)))
        wait_until(lambda: kept.cache.uncertain)
        until = time.monotonic() + 3 * cache_keeper.UNCERTAIN_SECONDS
        while time.monotonic() < until:
            assert set(kept.cache.uncertain) == {pid}
    wait_until(lambda: not kept.cache.uncertain)


def test_an_end_takes_the_connections_along(start: StartKept) -> None:
    kept = start("auto")
    kept.admin.execute(PUBLISH)
    wait_until(lambda: kept.is_up)
    told = time.monotonic()
    kept.proxy.running.close()
    assert time.monotonic() - told < 1
    wait_until(lambda: not kept.connections())
    assert kept.admin.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    ).fetchone() == (0,)
