"""SQLAlchemy's PostgreSQL dialect over psycopg, through the proxy.

``hyperdrive://HYPERDRIVE`` and ``postgresql+hyperdrive://HYPERDRIVE`` name a binding, for
``create_engine`` and ``create_async_engine``, with ``?config=…&env=…`` where needed; a URL with a
user, port or database is an origin. To what looks a dialect up by its name it is PostgreSQL's.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import psycopg
import sqlalchemy
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types import TypeInfo
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ConnectArgsType, DBAPIConnection
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool, QueuePool

from hyperdrive_client.client import (
    AsyncConnection,
    Connection,
    drop_connections_after_fork,
    notice_fork,
    pool_size_limit,
    warn_of_capped_pool,
)

# These stay arguments of ``connect``; everything else in the URL is part of the origin.
_BESIDE_AN_ORIGIN = ("config", "env", "context", "client_encoding")

_SESSION = "SELECT pg_catalog.current_schema(), pg_catalog.current_setting('transaction_isolation')"
_HSTORE = """, pg_catalog.to_regtype('hstore')::pg_catalog.oid, (
    SELECT typarray FROM pg_catalog.pg_type
    WHERE oid OPERATOR(pg_catalog.=) pg_catalog.to_regtype('hstore')::pg_catalog.oid
)"""


class _FirstLook(NamedTuple):
    """What an engine asks at its first connection. The oids are 0 unless there is an hstore."""

    schema: str | None
    isolation: str
    hstore: int = 0
    hstore_array: int = 0


class _Psycopg:
    """The module psycopg, but for where its connections lead.

    A binding is resolved at each connect, so the engine's URL never holds the origin's password.
    """

    connect = staticmethod(Connection.connect)
    Connection = Connection
    AsyncConnection = AsyncConnection

    def __getattr__(self, name: str) -> Any:
        return getattr(psycopg, name)


class HyperdrivePool(QueuePool):
    """A ``QueuePool`` of at most five connections, overflow included; empty after a fork.

    The limit is the dialect's ``max_pool_size``, else ``HYPERDRIVE_MAX_POOL_SIZE``, else five.
    Without sizes the pool is as large as that, with no overflow.
    """

    def __init__(
        self, creator: Any, pool_size: int | None = None, max_overflow: int = 0, **others: Any
    ) -> None:
        limit = pool_size_limit(getattr(others.get("dialect"), "max_pool_size", None))
        if pool_size is None:
            pool_size = limit
        unlimited = pool_size == 0 or max_overflow < 0
        if unlimited or pool_size + max_overflow > limit:
            asked = "any number of" if unlimited else str(pool_size + max_overflow)
            warn_of_capped_pool(asked, limit, stacklevel=5)  # the caller of create_engine
            pool_size = min(pool_size or limit, limit)
            max_overflow = limit - pool_size
        super().__init__(creator, pool_size=pool_size, max_overflow=max_overflow, **others)
        drop_connections_after_fork(self)

    def _do_get(self) -> Any:
        notice_fork()
        return super()._do_get()

    def drop_connections(self) -> None:
        """Begin with an empty pool; for the child of a fork."""
        fresh = self.recreate()
        # Kept, for psycopg warns of open connections that are deleted.
        self._parents_connections = self._pool
        self._pool = fresh._pool
        self._overflow = fresh._overflow
        self._overflow_lock = fresh._overflow_lock


class AsyncHyperdrivePool(HyperdrivePool, AsyncAdaptedQueuePool):
    """The same for asyncio."""


class HyperdriveDialect(PGDialect_psycopg):
    """The dialect of ``create_engine``, which passes these arguments on.

    ``max_pool_size``: the limit of the engine's pool. ``use_native_hstore``: off by default, for
    its type has to be looked up.
    """

    supports_statement_cache = True

    def __init__(
        self, max_pool_size: int | None = None, use_native_hstore: bool = False, **others: Any
    ) -> None:
        base: Any = super()
        base.__init__(use_native_hstore=use_native_hstore, **others)
        self.max_pool_size = max_pool_size
        # Only while the dialect is being initialized.
        self._first_look: _FirstLook | None = None

    @classmethod
    def import_dbapi(cls) -> Any:
        return _Psycopg()

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> type[HyperdriveDialectAsync]:
        return HyperdriveDialectAsync

    @classmethod
    def load_provisioning(cls) -> None:
        # SQLAlchemy would look for it beside this module.
        import_module("sqlalchemy.dialects.postgresql.provision")

    def get_dialect_pool_class(self, url: URL) -> type[Pool]:
        return AsyncHyperdrivePool if self.is_async else HyperdrivePool

    def create_connect_args(self, url: URL) -> ConnectArgsType:
        base: Any = super()
        _, parameters = base.create_connect_args(url)
        if _is_binding(url):
            parameters.pop("host", None)
            return [url.host or ""], parameters
        beside = {name: parameters.pop(name) for name in _BESIDE_AN_ORIGIN if name in parameters}
        return [make_conninfo(**parameters)], beside

    # What an engine asks at its first connection comes with the start-up, or by one query.

    def initialize(self, connection: sqlalchemy.Connection) -> None:
        self._first_look = self._look(_adapted(connection))
        base: Any = super()
        try:
            base.initialize(connection)
        finally:
            self._first_look = None

    def _look(self, adapted: Any) -> _FirstLook:
        query = _SESSION + _HSTORE if self.use_native_hstore else _SESSION
        schema, isolation, *hstore = _fetch_one(adapted, query)
        # The engine's own level counts as the default; it begins with the next transaction.
        if level := self.get_driver_connection(adapted).isolation_level:
            isolation = level.name.replace("_", " ")
        return _FirstLook(schema, isolation.upper(), *(oid or 0 for oid in hstore))

    def _get_server_version_info(self, connection: sqlalchemy.Connection) -> tuple[int, int]:
        number = _adapted(connection).info.server_version
        return number // 10000, number % 10000

    def _set_backslash_escapes(self, connection: sqlalchemy.Connection) -> None:
        conforming = _adapted(connection).info.parameter_status("standard_conforming_strings")
        self._backslash_escapes = conforming == "off"

    def _get_default_schema_name(self, connection: sqlalchemy.Connection) -> Any:
        base: Any = super()
        if self._first_look is None:
            return base._get_default_schema_name(connection)
        return self._first_look.schema

    def get_default_isolation_level(self, dbapi_conn: DBAPIConnection) -> Any:
        base: Any = super()
        if self._first_look is None:
            return base.get_default_isolation_level(dbapi_conn)
        return self._first_look.isolation

    def _type_info_fetch(self, connection: sqlalchemy.Connection, name: str) -> Any:
        base: Any = super()
        if name != "hstore" or self._first_look is None:
            return base._type_info_fetch(connection, name)
        look = self._first_look
        return TypeInfo(name, look.hstore, look.hstore_array) if look.hstore else None


class HyperdriveDialectAsync(HyperdriveDialect, PGDialectAsync_psycopg):
    """The dialect of ``create_async_engine``."""

    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        base: Any = PGDialectAsync_psycopg
        synchronous_face = base.import_dbapi()
        synchronous_face.psycopg = _Psycopg()
        return synchronous_face


def _is_binding(url: URL) -> bool:
    is_origin = url.username or url.password or url.port or url.database or "host" in url.query
    return not is_origin


def _adapted(connection: sqlalchemy.Connection) -> Any:
    """psycopg's connection, or SQLAlchemy's synchronous face of the asynchronous one."""
    return connection.connection.dbapi_connection


def _fetch_one(adapted: Any, query: str) -> tuple[Any, ...]:
    """The row of a query, without a BEGIN in front of it."""
    # A listener may have begun a transaction already, in which that can't be changed.
    switch = not adapted.autocommit and adapted.info.transaction_status == TransactionStatus.IDLE
    if switch:
        adapted.autocommit = True
    cursor = adapted.cursor()
    try:
        cursor.execute(query)
        row: tuple[Any, ...] = cursor.fetchone()
    finally:
        cursor.close()
        if switch and not adapted.closed:
            adapted.autocommit = False
    return row
