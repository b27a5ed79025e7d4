"""Real drivers and the cache: the same results and types, the second time without the origin."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import psycopg2
import pytest
from sqlalchemy import URL, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from hyperdrive_client.proxy.settings import Caching

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy

TABLE = """
CREATE TABLE things (
    id integer PRIMARY KEY, name text, price numeric(10, 2), at timestamptz, day date,
    tags text[], data jsonb, raw bytea, key uuid, missing text);
INSERT INTO things
SELECT n, 'thing ' || n, n / 3.0, timestamptz '2026-01-02 03:04:05.678+00' + n * interval '1 day',
    date '2026-01-02' + n, ARRAY['a', n::text], jsonb_build_object('n', n), decode('00ff', 'hex'),
    '12345678-1234-5678-1234-567812345678', NULL
FROM generate_series(1, 20) AS n;
"""
ROWS = "SELECT * FROM things WHERE id <= {} ORDER BY id"
PATIENCE = 30.0


@pytest.fixture
def proxy(start_proxy: StartProxy, database: str) -> LiveProxy:
    """In front of a database that nobody else writes to; the cache is ready."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLE)
    proxy = start_proxy(caching=Caching(mode="writes"), origin_connection_limit=5)
    with proxy.connect(autocommit=True) as connection:
        deadline = time.monotonic() + PATIENCE
        while not hits(proxy):
            connection.execute("SELECT id FROM things WHERE id = 1", prepare=False)
            assert time.monotonic() < deadline, counts(proxy)
    return proxy


def core(proxy: LiveProxy) -> Any:
    return proxy.running._app._worker.core  # type: ignore[attr-defined]


def counts(proxy: LiveProxy) -> dict[str, int]:
    return dict(core(proxy).counters.cache)


def hits(proxy: LiveProxy) -> int:
    return counts(proxy).get("hit", 0)


class Spent:
    """What happened at the origin, and in the cache, meanwhile."""

    def __init__(self, proxy: LiveProxy) -> None:
        self._proxy = proxy

    def __enter__(self) -> Spent:
        self._before = core(self._proxy).counters.round_trips, hits(self._proxy)
        return self

    def __exit__(self, *error: object) -> None:
        now = core(self._proxy).counters.round_trips, hits(self._proxy)
        self.round_trips, self.hits = (
            new - old for new, old in zip(now, self._before, strict=True)
        )


def agrees(proxy: LiveProxy, direct: Any, read: Callable[[], Any], expected_hits: int = 1) -> None:
    """``read`` through the proxy gives ``direct``, filled and then from the cache."""
    assert read() == direct
    with Spent(proxy) as spent:
        again = read()
    assert again == direct
    assert repr(again) == repr(direct)
    assert (spent.round_trips, spent.hits) == (0, expected_hits)


class TestPsycopg:
    @pytest.fixture
    def connections(self, proxy: LiveProxy) -> Iterator[tuple[Any, Any]]:
        with proxy.at_origin() as direct, proxy.connect(autocommit=True) as proxied:
            yield direct, proxied

    @pytest.mark.parametrize("binary", [False, True])
    @pytest.mark.parametrize("prepare", [False, True])
    def test_extended(
        self, proxy: LiveProxy, connections: tuple[Any, Any], binary: bool, prepare: bool
    ) -> None:
        def read(connection: Any) -> Any:
            cursor = connection.cursor(binary=binary)
            cursor.execute(ROWS.format("%s"), (7,), prepare=prepare)
            return cursor.fetchall(), [column.type_code for column in cursor.description]

        direct, proxied = connections
        if prepare:
            # Its first run prepares it, the others bind it: two requests.
            read(proxied)
        agrees(proxy, read(direct), lambda: read(proxied))

    def test_simple(self, proxy: LiveProxy, connections: tuple[Any, Any]) -> None:
        def read(connection: Any) -> Any:
            cursor = psycopg.ClientCursor(connection)
            cursor.execute(ROWS.format("%s"), (7,))
            return cursor.fetchall(), [column.type_code for column in cursor.description or ()]

        direct, proxied = connections
        agrees(proxy, read(direct), lambda: read(proxied))

    def test_types(self, connections: tuple[Any, Any]) -> None:
        _, proxied = connections
        for _ in range(2):
            (row,) = proxied.execute(ROWS.format(1)).fetchall()
            utc = datetime.UTC
            assert row[2] == decimal.Decimal("0.33")
            assert row[3].astimezone(utc).replace(microsecond=0) == datetime.datetime(
                2026, 1, 3, 3, 4, 5, tzinfo=utc
            )
            assert row[5:9] == (
                ["a", "1"],
                {"n": 1},
                b"\x00\xff",
                uuid.UUID("12345678-1234-5678-1234-567812345678"),
            )

    def test_pipeline(self, proxy: LiveProxy, connections: tuple[Any, Any]) -> None:
        def read(connection: Any) -> Any:
            with connection.pipeline():
                cursors = [connection.execute(ROWS.format("%s"), (n,)) for n in (3, 4)]
                return [cursor.fetchall() for cursor in cursors]

        direct, proxied = connections
        expected = read(direct)
        for _ in range(3):
            assert read(proxied) == expected

    def test_a_write_in_a_pipeline_is_seen_behind_it(self, connections: tuple[Any, Any]) -> None:
        _, proxied = connections
        name = "SELECT name FROM things WHERE id = 5"
        for n in range(5):
            assert proxied.execute(name).fetchall() == proxied.execute(name).fetchall()
            with proxied.pipeline() as pipeline:
                proxied.execute("UPDATE things SET name = %s WHERE id = 5", (f"new {n}",))
                pipeline.sync()
                cursor = proxied.execute(name)
            assert cursor.fetchall() == [(f"new {n}",)]

    def test_a_server_side_cursor(self, proxy: LiveProxy, connections: tuple[Any, Any]) -> None:
        direct, proxied = connections
        expected = direct.execute(ROWS.format(20)).fetchall()
        for _ in range(2):
            with proxied.transaction(), proxied.cursor("c") as cursor:
                cursor.itersize = 3
                cursor.execute(ROWS.format(20))
                assert list(cursor) == expected

    def test_transactions(self, proxy: LiveProxy, database: str) -> None:
        with proxy.connect() as connection:

            def read() -> Any:
                rows = connection.execute(ROWS.format(3)).fetchall()
                connection.commit()
                return rows

            with psycopg.connect(database) as direct:
                expected = direct.execute(ROWS.format(3)).fetchall()
            agrees(proxy, expected, read)

    def test_ones_own_write_is_read(self, connections: tuple[Any, Any]) -> None:
        direct, proxied = connections
        for n in range(20):
            proxied.execute("UPDATE things SET name = %s WHERE id = 1", (f"name {n}",))
            for _ in range(2):
                rows = proxied.execute("SELECT name FROM things WHERE id = 1").fetchall()
                assert rows == [(f"name {n}",)]
        assert direct.execute("SELECT name FROM things WHERE id = 1").fetchall() == rows

    def test_who_may_not_read_gets_nothing(self, proxy: LiveProxy, postgres_dsn: str) -> None:
        role = f"reader_{uuid.uuid4().hex}"
        with proxy.at_origin() as direct:
            direct.execute(f"CREATE ROLE {role}")
            try:
                with proxy.connect(autocommit=True) as connection:
                    for _ in range(2):
                        assert len(connection.execute(ROWS.format(3)).fetchall()) == 3
                    connection.execute(f"SET ROLE {role}")
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(ROWS.format(3))
                    connection.execute("RESET ROLE")
            finally:
                direct.execute(f"DROP ROLE {role}")

    def test_ddl(self, proxy: LiveProxy, connections: tuple[Any, Any]) -> None:
        _, proxied = connections
        star = "SELECT * FROM things WHERE id = 2"
        for n in range(3):
            for _ in range(2):
                width = len(proxied.execute(star, prepare=False).fetchone())
                assert width == 10 + n
            proxied.execute(f"ALTER TABLE things ADD extra{n} integer")
        assert len(proxied.execute(star, prepare=False).fetchone()) == 13


def test_values_are_written_as_the_client_was_told(proxy: LiveProxy) -> None:
    read = "SELECT day FROM things WHERE id = 1"
    with (
        proxy.at_origin() as direct,
        proxy.connect(autocommit=True) as first,
        proxy.connect(autocommit=True) as second,
    ):
        written = {"ISO, MDY": b"2026-01-03", "German, DMY": b"03.01.2026"}

        def read_by(client: psycopg.Connection[Any]) -> bytes | None:
            return client.pgconn.exec_(read.encode()).get_value(0, 0)

        assert read_by(first) == read_by(second) == written["ISO, MDY"]
        direct.execute(f'ALTER DATABASE "{direct.info.dbname}" SET DateStyle = German')
        direct.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        deadline = time.monotonic() + PATIENCE
        before = hits(proxy)
        while read_by(first) != written["German, DMY"] or hits(proxy) == before:
            assert time.monotonic() < deadline, counts(proxy)
        value = read_by(second)
        assert value == written[second.info.parameter_status("DateStyle") or ""]


def test_asyncpg(proxy: LiveProxy, database: str) -> None:
    async def read(connection: asyncpg.Connection) -> Any:
        return [tuple(row) for row in await connection.fetch(ROWS.format("$1"), 7)]

    async def main() -> None:
        direct = await asyncpg.connect(database)
        proxied = await asyncpg.connect(proxy.url)
        try:
            expected = await read(direct)
            assert await read(proxied) == expected
            assert await read(proxied) == expected
            with Spent(proxy) as spent:
                again = await read(proxied)
            assert repr(again) == repr(expected)
            assert (spent.round_trips, spent.hits) == (0, 1)
            await proxied.execute("UPDATE things SET name = 'new' WHERE id = 7")
            assert (await read(proxied))[6][1] == "new"
        finally:
            await direct.close()
            await proxied.close()

    asyncio.run(main())


def test_psycopg2(proxy: LiveProxy, database: str) -> None:
    def read(connection: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(ROWS.format("%s"), (7,))
            # psycopg2 gives bytea as a view of memory, which has a repr of its own.
            rows = [(*row[:7], bytes(row[7]), *row[8:]) for row in cursor.fetchall()]
            return rows, [column.type_code for column in cursor.description]

    direct = psycopg2.connect(database)
    proxied = psycopg2.connect(**proxy.client.libpq_parameters())
    try:
        proxied.autocommit = True
        agrees(proxy, read(direct), lambda: read(proxied))
        proxied.autocommit = False
        agrees(proxy, read(direct), lambda: (read(proxied), proxied.commit())[0])
    finally:
        direct.close()
        proxied.close()


class Base(DeclarativeBase):
    """Of the mapping below."""


class Thing(Base):
    """The first columns of the table."""

    __tablename__ = "things"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[decimal.Decimal]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_sqlalchemy_session(proxy: LiveProxy, driver: str) -> None:
    client = proxy.client
    url = URL.create(
        f"postgresql+{driver}",
        client.user,
        client.password,
        client.addresses[0].host,
        client.addresses[0].port,
        client.database,
        {"sslmode": "disable"},
    )
    engine = create_engine(url)

    def read() -> list[tuple[int, str, decimal.Decimal]]:
        with Session(engine) as session:
            things = session.scalars(select(Thing).where(Thing.id < 5).order_by(Thing.id))
            return [(thing.id, thing.name, thing.price) for thing in things]

    try:
        with proxy.at_origin() as direct:
            expected = direct.execute(
                "SELECT id, name, price FROM things WHERE id < 5 ORDER BY id"
            ).fetchall()
        for _ in range(6):
            # psycopg prepares what it has run five times.
            assert read() == expected
        agrees(proxy, expected, read)
        with Session(engine) as session:
            thing = session.get(Thing, 1)
            assert thing is not None
            thing.name = "renamed"
            session.commit()
            assert session.scalar(text("SELECT name FROM things WHERE id = 1")) == "renamed"
        assert read()[0][1] == "renamed"
    finally:
        engine.dispose()
