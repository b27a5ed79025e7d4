"""The proxy and the server behind it: what clients need of them, and whether they are at rest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import psycopg

from hyperdrive_client.bindings.connection_string import parse_connection_string
from hyperdrive_client.proxy.app import App
from hyperdrive_client.proxy.core.core import Core
from hyperdrive_client.proxy.settings import Limits, Settings

from .statements import DEFAULTS, SCHEMA, SETTINGS
from .wire import Address

REST_SECONDS = 30.0
# All of a session that outlives a transaction; a new one's is the yardstick.
LEFT = """
    SELECT pg_backend_pid(),
        (SELECT coalesce(string_agg(name || '=' || setting, ', ' ORDER BY name), '')
            FROM pg_settings WHERE source = 'session'),
        current_user::text,
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
        (SELECT count(*) FROM pg_listening_channels()),
        (SELECT count(*) FROM pg_cursors WHERE is_holdable),
        (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)"""
BUSY = """
    SELECT pid, state, query FROM pg_stat_activity
    WHERE application_name = 'Cloudflare Hyperdrive' AND (state <> 'idle' OR xact_start IS NOT NULL)
    UNION ALL SELECT pid, 'holds a lock', locktype FROM pg_locks
    WHERE pid IN (SELECT pid FROM pg_stat_activity WHERE application_name = 'Cloudflare Hyperdrive')
    UNION ALL SELECT 0, 'is left', relname FROM pg_class WHERE relpersistence = 't'"""
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'Cloudflare Hyperdrive'"

CLEAR = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid();
    TRUNCATE work"""

Connection = psycopg.Connection[Any]


def prepare(connection: Connection) -> None:
    connection.execute(SCHEMA)


def clear(connection: Connection) -> None:
    """End what a run without a proxy has left, since nobody has cancelled it; remove its rows."""
    connection.execute(CLEAR)


def defaults(connection: Connection) -> Mapping[str, str]:
    """What a new session of the server starts with."""
    names = list(SETTINGS)
    return dict(
        zip(names, (value for (value,) in connection.execute(DEFAULTS, [names])), strict=True)
    )


class Stage:
    """A proxy in a thread, so that its pool can be looked at."""

    def __init__(self, origin: str, origin_connections: int) -> None:
        self._origin = parse_connection_string(origin)
        self._limit = origin_connections
        limits = Limits(origin_connection_limit=origin_connections, pool_timeout=300.0)
        settings = Settings(
            origin=self._origin, user="tester", password="unused", auth="trust", limits=limits
        )
        self._app = App(settings)
        self.settings = self._app.start()
        (address,) = self._origin.addresses
        database = self._origin.database
        self.direct = Address(address.host, address.port, self._origin.user, database)
        self.address = Address("127.0.0.1", self.settings.port, "tester", database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._app.stop()
        self._app.join()

    def troubles(self) -> list[str]:
        """What is not as it must be when no client is left; empty if the pool is at rest."""
        deadline = time.monotonic() + REST_SECONDS
        with psycopg.connect(self._origin.connection_string, autocommit=True) as connection:
            while troubles := [*self._in_pool(), *self._at_origin(connection)]:
                if time.monotonic() > deadline:
                    return troubles
                time.sleep(0.05)
            return self._left_behind(connection)

    def _in_pool(self) -> list[str]:
        """Asked on the proxy's own thread."""
        troubles: Future[list[str]] = Future()
        loop, worker = self._app._loop, self._app._worker
        assert loop is not None
        assert worker is not None
        loop.call_soon_threadsafe(lambda: troubles.set_result(_not_at_rest(worker.core)))
        return troubles.result(REST_SECONDS)

    def _at_origin(self, connection: Connection) -> list[str]:
        troubles = [f"at the origin: {row}" for row in connection.execute(BUSY)]
        ((count,),) = connection.execute(COUNT)
        if count > self._limit:
            troubles.append(f"{count} connections at the origin, where {self._limit} are allowed")
        return troubles

    def _left_behind(self, connection: Connection) -> list[str]:
        """As many clients as there can be links: all are served, and find nothing of anybody's."""
        (_, *nothing), *_ = connection.execute(LEFT).fetchall()
        troubles, backends = [], set()
        with ExitStack() as stack:
            for _ in range(self._limit):
                address = self.address._asdict()
                address["dbname"] = address.pop("database")
                client = stack.enter_context(psycopg.connect(**address, sslmode="disable"))
                (backend, *left), *_ = client.execute(LEFT).fetchall()
                backends.add(backend)
                if left != nothing:
                    troubles.append(f"a new client finds {left} where {nothing} is due")
        if len(backends) != self._limit:
            troubles.append(f"only {len(backends)} origin connections can be linked at once")
        return troubles


def _not_at_rest(core: Core) -> list[str]:
    pool = core.pool
    troubles = [f"{each!r}" for each in pool.origins if each.state.value != "idle"]
    troubles += [f"{each!r} is left" for each in core.clients]
    troubles += [f"{each!r} waits" for each in pool.waiting]
    return troubles
