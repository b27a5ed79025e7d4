"""psycopg's asyncio connection, through the proxy."""

from __future__ import annotations

import asyncio
from os import PathLike
from types import NoneType
from typing import Any, Self

import psycopg
from psycopg import AsyncCursor
from psycopg.abc import AdaptContext, ConnParam
from psycopg.rows import AsyncRowFactory, Row

from hyperdrive_client.bindings import Binding
from hyperdrive_client.client.cache_status import CacheStatus
from hyperdrive_client.client.route import Route, route


class AsyncConnection(psycopg.AsyncConnection[Row]):
    """``psycopg.AsyncConnection``; only where it connects to is different."""

    @classmethod
    async def connect(
        cls,
        conninfo: object = None,
        *,
        config: ConnParam | PathLike[str] = None,
        env: ConnParam = None,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Connect as ``Connection.connect`` does; the event loop goes on meanwhile."""
        arguments: dict[str, Any] = {
            "autocommit": autocommit,
            "prepare_threshold": prepare_threshold,
            "context": context,
            "row_factory": row_factory,
            "cursor_factory": cursor_factory,
        }
        way = await _route(conninfo, config, env, kwargs)
        try:
            return await super().connect("", **arguments, **way.parameters)
        except psycopg.OperationalError as error:
            if way.proxy is None or not await asyncio.to_thread(way.has_changed, error):
                raise
        way = await _route(conninfo, config, env, kwargs)
        return await super().connect("", **arguments, **way.parameters)

    @property
    def last_pin(self) -> str | None:
        """As ``Connection.last_pin``."""
        return self.info.parameter_status("hyperdrive.last_pin")

    @property
    def last_wait(self) -> str | None:
        """As ``Connection.last_wait``."""
        return self.info.parameter_status("hyperdrive.last_wait")

    @property
    def last_cache(self) -> CacheStatus | None:
        """As ``Connection.last_cache``."""
        return CacheStatus.of(self.info.parameter_status("hyperdrive.cache"))


async def _route(conninfo: object, *others: Any) -> Route:
    if isinstance(conninfo, (str, Binding, NoneType)):
        # Reading files and starting a proxy block.
        return await asyncio.to_thread(route, conninfo, *others)
    # A hosted binding: where it is given there may be no threads.
    return route(conninfo, *others)
