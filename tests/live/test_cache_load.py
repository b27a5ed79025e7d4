"""How often the origin is asked when many want the same, and when it was asked before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from hyperdrive_client.proxy.settings import Caching

from .conftest import LiveProxy, StartProxy

SCHEMA = """
    CREATE TABLE wanted (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO wanted VALUES (1, 'one');
    CREATE TABLE other (id int PRIMARY KEY);
    CREATE PUBLICATION hyperdrive_cache FOR TABLE wanted, other"""
WANTED = "SELECT name FROM wanted"
WAITING = "SELECT count(*) FROM pg_locks WHERE relation = 'wanted'::regclass AND NOT granted"
SCANS = "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'wanted'"
CLIENTS = 100
PATIENCE_SECONDS = 20.0


def wait_until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def start_cache(start_proxy: StartProxy, database: str) -> Callable[[Caching], LiveProxy]:
    """Start a proxy and wait until it serves from its cache."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)

    def start(caching: Caching) -> LiveProxy:
        proxy = start_proxy(caching=caching)
        with reporting(proxy) as connection:
            wait_until(lambda: status(connection, "SELECT id FROM other") == "hit")
        return proxy

    return start


def reporting(proxy: LiveProxy) -> psycopg.Connection[tuple[object, ...]]:
    options = "-c hyperdrive.report=on"
    return proxy.connect(autocommit=True, options=options, prepare_threshold=None)


def status(connection: psycopg.Connection[tuple[object, ...]], text: str) -> str:
    """What the cache did with a statement."""
    connection.execute(text.encode())
    said = connection.pgconn.parameter_status(b"hyperdrive.cache") or b""
    return said.partition(b":")[0].decode()


@contextmanager
def locked(proxy: LiveProxy) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Whoever reads the table at the origin waits; yields another connection there."""
    with proxy.at_origin() as holding, proxy.at_origin() as looking:
        holding.execute("BEGIN; LOCK TABLE wanted IN ACCESS EXCLUSIVE MODE")
        yield looking


def number(connection: psycopg.Connection[tuple[object, ...]], text: str) -> object:
    ((value,),) = connection.execute(text.encode())
    return value


def round_trips(proxy: LiveProxy) -> int:
    """How often the origin has been ready with what clients had asked."""
    worker = proxy.running._app._worker
    assert worker is not None
    return worker.core.counters.round_trips


def scans(proxy: LiveProxy) -> int:
    """How often the table was read at the origin, by backends that have ended."""
    with proxy.at_origin() as connection:
        if not proxy.running.is_running:
            wait_until(lambda: not number(connection, OTHERS))
        count = number(connection, SCANS)
    assert isinstance(count, int)
    return count


OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


async def test_a_hundred_who_want_the_same_at_once_ask_the_origin_once(
    start_cache: Callable[[Caching], LiveProxy],
) -> None:
    proxy = start_cache(Caching(mode="ttl"))
    before = scans(proxy)

    async def ask(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> object:
        cursor = await connection.execute(WANTED)
        return await cursor.fetchall()

    connections = [
        await psycopg.AsyncConnection.connect(proxy.url, autocommit=True) for _ in range(CLIENTS)
    ]
    with locked(proxy) as origin:
        asking = [asyncio.create_task(ask(connection)) for connection in connections]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waiting_clients(proxy) < CLIENTS - 1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert number(origin, WAITING) == 1
    assert await asyncio.gather(*asking) == [[("one",)]] * CLIENTS
    for connection in connections:
        await connection.close()
    proxy.running.close()
    assert scans(proxy) == before + 1


def waiting_clients(proxy: LiveProxy) -> int:
    """How many wait for the answer that another has asked for."""
    worker = proxy.running._app._worker
    assert worker is not None
    return sum(client.joins is not None for client in list(worker.core.clients))


def test_an_answer_that_is_too_old_is_fetched_once_while_it_is_still_given(
    start_cache: Callable[[Caching], LiveProxy],
) -> None:
    proxy = start_cache(Caching(mode="ttl", max_age=0.5, stale_while_revalidate=60))
    before = scans(proxy)
    with reporting(proxy) as connection:
        assert status(connection, WANTED) == "miss"
        with locked(proxy) as origin:
            wait_until(lambda: status(connection, WANTED) == "hit" and number(origin, WAITING))
            for _ in range(CLIENTS):
                assert status(connection, WANTED) == "hit"
            assert number(origin, WAITING) == 1
    proxy.running.close()
    assert scans(proxy) == before + 2


class Base(DeclarativeBase):
    pass


class Wanted(Base):
    __tablename__ = "wanted"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def test_a_sessions_second_read_asks_nobody(
    start_cache: Callable[[Caching], LiveProxy],
) -> None:
    proxy = start_cache(Caching(mode="wal"))
    engine = sqlalchemy.create_engine(proxy.url.replace("postgresql:", "postgresql+psycopg:"))
    read = sqlalchemy.select(Wanted).where(Wanted.id == 1)

    def name() -> str:
        with Session(engine) as session:
            return session.scalars(read).one().name

    assert name() == "one"
    before = round_trips(proxy)
    assert name() == "one"
    with Session(engine) as session, session.begin():
        assert session.scalars(read).one().name == "one"
        assert session.get_one(Wanted, 1).name == "one"
    assert round_trips(proxy) == before
    with proxy.at_origin() as origin:
        origin.execute("UPDATE wanted SET name = 'two'")
    wait_until(lambda: name() == "two")
    engine.dispose()


def test_psycopgs_default_mode_asks_nobody_for_what_was_read_before(
    start_cache: Callable[[Caching], LiveProxy],
) -> None:
    proxy = start_cache(Caching(mode="wal"))
    with proxy.connect() as connection:
        for _ in range(2):
            assert connection.execute(WANTED).fetchall() == [("one",)]
            connection.commit()
            before = round_trips(proxy)
        assert connection.execute(WANTED).fetchall() == [("one",)]
        connection.commit()
        assert connection.execute(WANTED).fetchall() == [("one",)]
        connection.rollback()
        assert round_trips(proxy) == before
