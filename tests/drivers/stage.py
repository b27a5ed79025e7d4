"""A PostgreSQL of its own, a proxy before it, and a look at the origin while a driver runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import psycopg

import hyperdrive_client
from hyperdrive_client import Proxy
from hyperdrive_client.origin import EmbeddedPostgres

Mode = Literal["pooling", "cached"]
MODES: tuple[Mode, ...] = ("pooling", "cached")
ORIGIN_CONNECTIONS = 5
READY_SECONDS = 30.0
LOOK_SECONDS = 0.02

TABLES = """
    CREATE TABLE driver_types (
        id bigint PRIMARY KEY,
        small smallint,
        medium integer,
        large bigint,
        exact numeric,
        single real,
        double double precision,
        truth boolean,
        words text,
        bytes bytea,
        document json,
        documents jsonb,
        numbers integer[],
        labels text[],
        moment timestamptz,
        nothing text
    );
    CREATE TABLE driver_cached (id integer PRIMARY KEY, name text);
    INSERT INTO driver_cached VALUES (1, 'one'), (2, 'two');
    CREATE TABLE driver_rows (id integer PRIMARY KEY, name text);
    CREATE PUBLICATION hyperdrive_cache FOR TABLE driver_types, driver_cached, driver_rows;
"""
# The cache's own connection, which reads the WAL, is none of the pool.
LOOK = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'Cloudflare Hyperdrive' AND backend_type = 'client backend'
"""


@contextmanager
def origin() -> Iterator[str]:
    """The connection string of a database with the tables."""
    with EmbeddedPostgres(settings={"wal_level": "logical"}) as postgres:
        with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
            connection.execute(TABLES)
        yield postgres.connection_string


@contextmanager
def proxy(origin: str, mode: Mode) -> Iterator[Proxy]:
    """A new proxy, which nobody has used but to see that its cache works."""
    cache: Literal["off", "wal"] = "wal" if mode == "cached" else "off"
    with Proxy(origin, cache=cache, origin_connection_limit=ORIGIN_CONNECTIONS) as started:
        if mode == "cached":
            _wait_for_the_cache(started)
        yield started


def _wait_for_the_cache(proxy: Proxy) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with hyperdrive_client.connect(proxy.connection_string, autocommit=True) as connection:
        while proxy.stats().cache.get("hit", 0) == 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no hit within {READY_SECONDS:.0f} s: {proxy.stats().cache}")
            connection.execute("SELECT count(*) FROM driver_rows")


class OriginWatch(threading.Thread):
    """Counts the proxy's connections at the origin, again and again, as a context manager."""

    def __init__(self, origin: str) -> None:
        super().__init__(name="origin-watch")
        self.most = 0
        self._origin = origin
        self._over = threading.Event()

    def __enter__(self) -> OriginWatch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        with psycopg.connect(self._origin, autocommit=True) as connection:
            while not self._over.wait(LOOK_SECONDS):
                (count,) = connection.execute(LOOK).fetchone() or (0,)
                self.most = max(self.most, count)
