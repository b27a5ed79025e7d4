"""psycopg_pool's pool, with connections through the proxy."""

from __future__ import annotations

from typing import Any, cast

import psycopg_pool
from psycopg.rows import TupleRow
from typing_extensions import TypeVar

from hyperdrive_client.client.after_fork import drop_connections_after_fork, notice_fork
from hyperdrive_client.client.connection import Connection
from hyperdrive_client.client.pool_size import capped_pool_sizes, pool_size_limit
from hyperdrive_client.errors import ConfigurationError

CT = TypeVar("CT", bound=Connection[Any], default=Connection[TupleRow])


class ConnectionPool(psycopg_pool.ConnectionPool[CT]):
    """``psycopg_pool.ConnectionPool`` of at most five connections.

    ``conninfo`` is what ``connect`` takes; ``config`` and ``env`` go into ``kwargs``. Both may be
    callables, with psycopg_pool 3.3. ``connection_class`` must be a subclass of our ``Connection``.
    A larger pool is capped with a warning, unless ``max_pool_size`` or the variable
    ``HYPERDRIVE_MAX_POOL_SIZE`` allows it. It is open from the start, unless ``open`` is false;
    after a fork the child begins with an empty pool. The rest is psycopg_pool's.

    Raises ``ConfigurationError`` for arguments that cannot be.
    """

    def __init__(
        self,
        conninfo: object = None,
        *,
        connection_class: type[CT] | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
        max_pool_size: int | None = None,
        open: bool = True,
        **others: Any,
    ) -> None:
        if connection_class is None:
            connection_class = cast(type[CT], Connection)
        if not issubclass(connection_class, Connection):
            raise ConfigurationError(
                f"{connection_class.__qualname__} would connect past the proxy: "
                "derive it from hyperdrive_client.Connection"
            )
        self._size_limit = pool_size_limit(max_pool_size)
        sizes = capped_pool_sizes(min_size, max_size, self._size_limit)
        self._arguments = {
            "conninfo": cast(Any, conninfo),
            "connection_class": connection_class,
            **others,
        }
        super().__init__(min_size=sizes[0], max_size=sizes[1], open=open, **self._arguments)
        self._reopen = False
        drop_connections_after_fork(self)

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the size of the pool, within the same limit."""
        super().resize(*capped_pool_sizes(min_size, max_size, self._size_limit))

    def getconn(self, timeout: float | None = None) -> CT:
        """Obtain a connection; see ``connection``, which gives it back as well."""
        notice_fork()
        if self._reopen:
            # Not in the fork itself: a child that needs no connection needs no threads.
            self.open()
            self._reopen = False
        return super().getconn(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool and all its connections."""
        self._reopen = False
        super().close(timeout)

    def drop_connections(self) -> None:
        """Begin with an empty pool; for the child of a fork."""
        is_open = not self.closed
        arguments = {**self._arguments, "name": self.name}
        super().__init__(min_size=self.min_size, max_size=self.max_size, open=False, **arguments)
        self._reopen = self._reopen or is_open
