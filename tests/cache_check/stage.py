"""A PostgreSQL of its own and the proxies before it, each behind a relay that can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from unittest import mock

import psycopg

from hyperdrive_client.bindings.connection_string import parse_connection_string
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.proxy import spawn
from hyperdrive_client.proxy.settings import CacheMode, Caching, Limits, Settings

from . import registers
from .faults import Relay
from .wire import Address

SERVER_SETTINGS = {
    "max_connections": "200",
    "max_prepared_transactions": "50",
    "synchronous_commit": "on",
    # Nothing here waits for a lock that long but behind a fault.
    "lock_timeout": "20s",
    "autovacuum": "off",
}
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); "
    "sys.path.insert(0, {tests!r});"
    "from cache_check.guards import remove; remove({guard!r});"
    "from hyperdrive_client.proxy.spawn import main; main()"
)


@contextmanager
def server() -> Iterator[EmbeddedPostgres]:
    """A running PostgreSQL for any number of stages, one after the other."""
    with EmbeddedPostgres(auth="trust", settings=SERVER_SETTINGS) as postgres:
        with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
            connection.execute(registers.ROLES)  # type: ignore[call-overload]
        yield postgres


class Stage:
    """Use as an asynchronous context manager.

    ``workers``: of each proxy. ``without``: the guard that is removed from the proxies' processes,
    "" for none.
    """

    def __init__(
        self,
        postgres: EmbeddedPostgres,
        mode: CacheMode,
        proxies: int = 1,
        *,
        workers: int = 1,
        without: str = "",
        schema: str = "",
        publication: str = registers.PUBLICATION,
        caching: Caching | None = None,
    ) -> None:
        self.postgres = postgres
        self.mode = mode
        self.staleness_bound = Caching().staleness_bound
        self.relays: list[Relay] = []
        self.addresses: list[Address] = []
        self._schema = schema or registers.schema()
        self._publication = publication
        self._caching = caching or Caching(mode=mode, max_age=3600)
        self._count = proxies
        self._workers = workers
        self._without = without
        self._running = AsyncExitStack()
        self.direct = Address("127.0.0.1", postgres.port, postgres.user, "")

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._running.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._running.aclose()

    async def _start(self) -> None:
        postgres = self.postgres
        name = f"check_{_number()}"
        origin = await asyncio.to_thread(postgres.create_database, name)
        self.direct = self.direct._replace(database=name)
        with psycopg.connect(origin, autocommit=True) as connection:
            connection.execute(self._schema)  # type: ignore[call-overload]
            if self.mode == "wal":
                connection.execute(self._publication)  # type: ignore[call-overload]
        for _ in range(self._count):
            relay = await Relay.start(postgres.port)
            self._running.push_async_callback(relay.close)
            self.relays.append(relay)
            url = f"postgresql://{postgres.user}@127.0.0.1:{relay.port}/{name}?sslmode=disable"
            settings = Settings(
                origin=parse_connection_string(url),
                user="checker",
                password="unused",
                auth="trust",
                limits=Limits(origin_connection_limit=30, pool_timeout=60.0),
                caching=self._caching,
                workers=self._workers,
            )
            proxy = await asyncio.to_thread(self._start_proxy, settings)
            self._running.push_async_callback(asyncio.to_thread, proxy.close)
            self.addresses.append(Address("127.0.0.1", proxy.settings.port, "checker", name))

    def _start_proxy(self, settings: Settings) -> spawn.ProcessProxy:
        if not self._without:
            return spawn.ProcessProxy(settings)
        tests = str(Path(__file__).resolve().parents[1])
        child = _CHILD.format(tests=tests, guard=self._without)
        with mock.patch.object(spawn, "_CHILD", child):
            return spawn.ProcessProxy(settings)


_made = 0


def _number() -> int:
    global _made
    _made += 1
    return _made
