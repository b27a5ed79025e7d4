"""psycopg_pool's asyncio pool, with connections through the proxy."""

from __future__ import annotations

from typing import Any, cast

import psycopg_pool
from psycopg.rows import TupleRow
from typing_extensions import TypeVar

from hyperdrive_client.client.after_fork import drop_connections_after_fork, notice_fork
from hyperdrive_client.client.async_connection import AsyncConnection
from hyperdrive_client.client.pool_size import capped_pool_sizes, pool_size_limit
from hyperdrive_client.errors import ConfigurationError

ACT = TypeVar("ACT", bound=AsyncConnection[Any], default=AsyncConnection[TupleRow])


class AsyncConnectionPool(psycopg_pool.AsyncConnectionPool[ACT]):
    """``psycopg_pool.AsyncConnectionPool`` of at most five connections.

    It opens when told: by ``async with`` or ``await pool.open()``, in the child of a fork once
    more. Otherwise as ``ConnectionPool``.
    """

    def __init__(
        self,
        conninfo: object = None,
        *,
        connection_class: type[ACT] | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
        max_pool_size: int | None = None,
        open: bool = False,
        **others: Any,
    ) -> None:
        if connection_class is None:
            connection_class = cast(type[ACT], AsyncConnection)
        if not issubclass(connection_class, AsyncConnection):
            raise ConfigurationError(
                f"{connection_class.__qualname__} would connect past the proxy: "
                "derive it from hyperdrive_client.AsyncConnection"
            )
        self._size_limit = pool_size_limit(max_pool_size)
        sizes = capped_pool_sizes(min_size, max_size, self._size_limit)
        self._arguments = {
            "conninfo": cast(Any, conninfo),
            "connection_class": connection_class,
            **others,
        }
        super().__init__(min_size=sizes[0], max_size=sizes[1], open=open, **self._arguments)
        drop_connections_after_fork(self)

    async def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the size of the pool, within the same limit."""
        await super().resize(*capped_pool_sizes(min_size, max_size, self._size_limit))

    async def getconn(self, timeout: float | None = None) -> ACT:
        """Obtain a connection; see ``connection``, which gives it back as well."""
        notice_fork()
        return await super().getconn(timeout)

    def drop_connections(self) -> None:
        """Begin with an empty pool that is not open; for the child of a fork."""
        # Kept, for asyncio complains of tasks that are deleted before they end.
        self._parents = vars(self).copy()
        arguments = {**self._arguments, "name": self.name}
        super().__init__(min_size=self.min_size, max_size=self.max_size, open=False, **arguments)
