"""Round trips of common steps, with the drivers alone and with this package.

A relay counts those of the client; behind the proxy another counts those of the origin, and holds
its answers back, so that what the client waited for is told from what goes on behind its back. The
table is Markdown. Stock drivers connect with ``sslmode=disable``; SSLRequest and TLS would come on
top. The proxy runs already and has a connection to the origin, as for all but its first client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import psycopg
import psycopg_pool
import sqlalchemy
from psycopg.types import TypeInfo
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hyperdrive_client
from benchmarks import process
from benchmarks.relay import Relay
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.registry import Place, Record, places

HOST = "127.0.0.1"
# Seconds by which the origin's answers are late: longer than anything here takes by itself.
LATENCY = 0.08
DRIVERS = ("psycopg", "psycopg-pool", "sqlalchemy", "asyncpg")
SCHEMA = """
    CREATE TABLE notes (id int PRIMARY KEY, note text);
    INSERT INTO notes SELECT n, 'a note' FROM generate_series(1, 10) AS n;
    CREATE TYPE mood AS ENUM ('happy', 'sad')
"""
SELECT, UPDATE = "SELECT note FROM notes WHERE id = 1", "UPDATE notes SET note = 'x' WHERE id = 2"
PREPARED = "SELECT note FROM notes WHERE id = %s"


@dataclass(frozen=True, slots=True)
class Side:
    """How an application connects: with the drivers alone, or with this package."""

    psycopg_connect: Callable[..., Any]
    pool: Callable[..., Any]
    engine: str
    """SQLAlchemy's URL, for an engine of either kind."""
    url: str
    """For any driver."""

    @property
    def asyncpg_engine(self) -> str:
        url = make_url(self.url).set(drivername="postgresql+asyncpg", query={"ssl": "disable"})
        return url.render_as_string(hide_password=False)


@dataclass(frozen=True, slots=True)
class Trips:
    """Of one row. ``origin`` counts all at the origin's socket, ``waited`` those waited for."""

    what: str
    stock: int
    client: int
    waited: int
    origin: int


# Each row is what comes between the two yields.
Row = Callable[[Side], Iterator[None]]


def psycopg_connect(side: Side) -> Iterator[None]:
    yield
    connection = side.psycopg_connect()
    yield
    connection.close()


def psycopg_transaction(side: Side, statements: Sequence[str]) -> Iterator[None]:
    with side.psycopg_connect() as connection:
        for measured in (False, True):
            if measured:
                yield
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        yield


def psycopg_autocommit(side: Side) -> Iterator[None]:
    with side.psycopg_connect(autocommit=True) as connection:
        connection.execute(SELECT)
        yield
        connection.execute(SELECT)
        yield


def psycopg_prepared(side: Side, run: int) -> Iterator[None]:
    """The ``run``-th execution of a statement; psycopg prepares with the sixth."""
    with side.psycopg_connect(autocommit=True) as connection:
        for _ in range(run - 1):
            connection.execute(PREPARED, [1])
        yield
        connection.execute(PREPARED, [1])
        yield


def psycopg_rollback_with_prepared(side: Side) -> Iterator[None]:
    with side.psycopg_connect() as connection:
        connection.execute(PREPARED, [1], prepare=True)
        connection.commit()
        yield
        connection.execute(SELECT)
        connection.rollback()
        yield


def psycopg_type_info(side: Side) -> Iterator[None]:
    with side.psycopg_connect() as connection:
        yield
        TypeInfo.fetch(connection, "mood")
        yield


def psycopg_named_cursor(side: Side) -> Iterator[None]:
    with side.psycopg_connect() as connection:
        yield
        with connection.cursor("reader") as cursor:
            cursor.execute(SELECT)
            cursor.fetchall()
        connection.commit()
        yield


def pool_select(side: Side, **arguments: Any) -> Iterator[None]:
    with side.pool(min_size=1, max_size=1, open=True, **arguments) as pool:
        pool.wait()
        for measured in (False, True):
            if measured:
                yield
            with pool.connection() as connection:
                connection.execute(SELECT)
        yield


def checked_pool_select(side: Side) -> Iterator[None]:
    yield from pool_select(side, check=psycopg_pool.ConnectionPool.check_connection)


def engine_first_connect(side: Side, **arguments: Any) -> Iterator[None]:
    engine = sqlalchemy.create_engine(side.engine, **arguments)
    yield
    engine.connect().close()
    yield
    engine.dispose()


def engine_select(side: Side, **arguments: Any) -> Iterator[None]:
    engine = sqlalchemy.create_engine(side.engine, **arguments)
    for measured in (False, True):
        if measured:
            yield
        with engine.begin() as connection:
            connection.exec_driver_sql(SELECT)
    yield
    engine.dispose()


def async_engine_first_connect(side: Side, *, asyncpg: bool = False) -> Iterator[None]:
    engine = create_async_engine(side.asyncpg_engine if asyncpg else side.engine)

    async def connect() -> None:
        async with engine.connect():
            pass

    with asyncio.Runner() as runner:
        yield
        runner.run(connect())
        yield
        runner.run(engine.dispose())


def async_engine_select(side: Side, *, asyncpg: bool = False) -> Iterator[None]:
    engine = create_async_engine(side.asyncpg_engine if asyncpg else side.engine)

    async def select(statement: str) -> None:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(statement)

    with asyncio.Runner() as runner:
        runner.run(select("SELECT 1"))
        yield
        runner.run(select(SELECT))
        yield
        runner.run(engine.dispose())


def asyncpg_connect(side: Side) -> Iterator[None]:
    with asyncio.Runner() as runner:
        # What the proxy does not know of a client of this kind it asks the origin once.
        runner.run(runner.run(asyncpg.connect(side.url)).close())
        yield
        connection = runner.run(asyncpg.connect(side.url))
        yield
        runner.run(connection.close())


def asyncpg_fetch(side: Side, measured: str, before: Sequence[str] = ()) -> Iterator[None]:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(side.url))
        for query in before:
            runner.run(connection.fetch(query))
        yield
        runner.run(connection.fetch(measured))
        yield
        runner.run(connection.close())


def asyncpg_pool(side: Side) -> Iterator[None]:
    async def select(pool: Any) -> None:
        async with pool.acquire() as connection:
            await connection.fetch(SELECT)

    async def open_pool() -> Any:
        return await asyncpg.create_pool(side.url, min_size=1, max_size=1)

    with asyncio.Runner() as runner:
        pool = runner.run(open_pool())
        runner.run(select(pool))
        yield
        runner.run(select(pool))
        yield
        runner.run(pool.close())


ROWS: dict[str, Row] = {
    "psycopg: connect": psycopg_connect,
    "psycopg: `SELECT`, commit": partial(psycopg_transaction, statements=[SELECT]),
    "psycopg: `SELECT`, `UPDATE`, commit": partial(
        psycopg_transaction, statements=[SELECT, UPDATE]
    ),
    "psycopg: `SELECT` in autocommit": psycopg_autocommit,
    "psycopg: 6th run of a statement": partial(psycopg_prepared, run=6),
    "psycopg: 7th run": partial(psycopg_prepared, run=7),
    "psycopg: `SELECT`, rollback, while anything is prepared": psycopg_rollback_with_prepared,
    "psycopg: `TypeInfo.fetch`": psycopg_type_info,
    "psycopg: named cursor, all rows, commit": psycopg_named_cursor,
    "psycopg_pool: `connection()`, `SELECT`": pool_select,
    "psycopg_pool: with `check=check_connection`": checked_pool_select,
    "SQLAlchemy: first connect of an engine": engine_first_connect,
    'SQLAlchemy: with `isolation_level="AUTOCOMMIT"`': partial(
        engine_first_connect, isolation_level="AUTOCOMMIT"
    ),
    "SQLAlchemy: with `use_native_hstore=True`": partial(
        engine_first_connect, use_native_hstore=True
    ),
    "SQLAlchemy: first connect with asyncio": async_engine_first_connect,
    "SQLAlchemy: later checkout, `SELECT`, commit": engine_select,
    "SQLAlchemy: with `pool_pre_ping=True`": partial(engine_select, pool_pre_ping=True),
    'SQLAlchemy: with `isolation_level="AUTOCOMMIT"`, later': partial(
        engine_select, isolation_level="AUTOCOMMIT"
    ),
    "SQLAlchemy: later checkout with asyncio": async_engine_select,
    "asyncpg: connect": asyncpg_connect,
    "asyncpg: new statement": partial(asyncpg_fetch, measured=SELECT),
    "asyncpg: known statement": partial(asyncpg_fetch, measured=SELECT, before=[SELECT]),
    "asyncpg: first use of an enum": partial(asyncpg_fetch, measured="SELECT 'sad'::mood"),
    "asyncpg: pool, acquire, `SELECT`, release": asyncpg_pool,
    "SQLAlchemy + asyncpg: first connect": partial(async_engine_first_connect, asyncpg=True),
    "SQLAlchemy + asyncpg: new `SELECT`, commit": partial(async_engine_select, asyncpg=True),
}


@contextmanager
def origin() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that asks for SCRAM."""
    with EmbeddedPostgres() as server:
        with psycopg.connect(server.connection_string) as connection:
            connection.execute(SCHEMA)
        yield server


@contextmanager
def relay(*arguments: Any, **others: Any) -> Iterator[Relay]:
    made = Relay(*arguments, **others)
    try:
        yield made
    finally:
        made.close()


def count(row: Row, side: Side, client: Sequence[Relay], origin: Relay) -> tuple[int, int, int]:
    """Round trips at the client's sockets; at the origin's, those waited for and all."""
    everyone = (*client, origin)
    steps = row(side)
    next(steps)
    origin.wait_until_quiet()
    for each in everyone:
        each.begun = each.answered = 0
    next(steps)
    waited = origin.answered
    origin.wait_until_quiet()
    counted = sum(each.answered for each in client), waited, origin.begun
    next(steps, None)
    return counted


def measure_stock(server: EmbeddedPostgres) -> dict[str, int]:
    """The drivers, and a relay between them and the server."""
    with relay(partial(asyncio.open_connection, HOST, server.port)) as counter:
        url = url_at(server.connection_string, counter.port)
        side = Side(
            partial(psycopg.connect, url),
            partial(psycopg_pool.ConnectionPool, url),
            url.replace("postgresql://", "postgresql+psycopg://"),
            url,
        )
        return {what: count(row, side, [counter], counter)[0] for what, row in ROWS.items()}


def measure_ours(server: EmbeddedPostgres) -> dict[str, tuple[int, int, int]]:
    """This package with its shared proxy, and relays on both sides of that."""
    with ExitStack() as stack:
        enter = stack.enter_context
        behind = enter(relay(partial(asyncio.open_connection, HOST, server.port), LATENCY))
        environment = {
            "XDG_RUNTIME_DIR": enter(tempfile.TemporaryDirectory(prefix="h")),
            "HYPERDRIVE_PROXY": "shared",
            "HYPERDRIVE_URL_HYPERDRIVE": url_at(server.connection_string, behind.port),
        }
        enter(patch.dict(os.environ, environment))
        with hyperdrive_client.connect() as connection:
            connection.execute(SELECT)
        (place,) = places()
        proxy = place.running()
        assert proxy is not None
        stack.callback(stop, place, proxy)
        # The relay takes the place of the proxy's socket, so the library notices nothing.
        moved = Path(proxy.unix_socket).rename(place.folder / "moved")
        unix = enter(relay(partial(asyncio.open_unix_connection, moved), path=proxy.unix_socket))
        tcp = enter(relay(partial(asyncio.open_connection, HOST, proxy.port)))
        side = Side(
            hyperdrive_client.connect,
            hyperdrive_client.ConnectionPool,
            "hyperdrive://HYPERDRIVE",
            url_at(hyperdrive_client.binding().connection_string, tcp.port),
        )
        return {what: count(row, side, [unix, tcp], behind) for what, row in ROWS.items()}


def url_at(url: str, port: int) -> str:
    """A connection string that leads to a relay."""
    query = {"sslmode": "disable"}
    return make_url(url).set(host=HOST, port=port, query=query).render_as_string(False)


def stop(place: Place, proxy: Record) -> None:
    os.kill(proxy.pid, signal.SIGTERM)
    os.kill(proxy.pid, signal.SIGINT)  # at once; two of a kind may arrive as one
    while place.running():
        time.sleep(0.02)


def measure() -> list[Trips]:
    with origin() as server:
        stock, ours = measure_stock(server), measure_ours(server)
    return [Trips(what, stock[what], *ours[what]) for what in ROWS]


def markdown(trips: Sequence[Trips]) -> str:
    """The table; what follows behind the client's back stands in parentheses."""
    lines = ["| | drivers alone | hyperdrive: client | hyperdrive: origin |", "|---|---|---|---|"]
    for each in trips:
        behind = each.origin - each.waited
        origin = f"{each.waited} (+{behind})" if behind else f"{each.waited}"
        lines.append(f"| {each.what} | {each.stock} | {each.client} | {origin} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    process.end_in_order_when_told()
    trips = measure()
    versions = {name: version(name) for name in DRIVERS}
    if options.json:
        print(json.dumps({"versions": versions, "rows": [asdict(each) for each in trips]}))
        return
    print(markdown(trips))
    print("\n" + ", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main()
