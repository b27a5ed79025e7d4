"""A proxy of one's own, as a context manager."""

from __future__ import annotations

import asyncio
import os
import re
from functools import cached_property
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from hyperdrive_client.bindings import Origin, Resolution
from hyperdrive_client.client.connection_fields import ConnectionFields
from hyperdrive_client.client.console import purge
from hyperdrive_client.client.local_proxy import LocalProxy, Mode
from hyperdrive_client.client.proxies import is_a_proxy
from hyperdrive_client.client.route import resolution_of
from hyperdrive_client.client.stats import ProxyStats, stats_of
from hyperdrive_client.errors import ConfigurationError, ProxyStartError

if TYPE_CHECKING:
    from hyperdrive_client.proxy.settings import CacheMode


class _Proxy(ConnectionFields):
    """What both kinds have in common."""

    def __init__(
        self,
        target: object = None,
        *,
        mode: Mode = "process",
        auth: Literal["scram", "trust"] = "scram",
        host: str = "127.0.0.1",
        port: int = 0,
        unix_socket: str | PathLike[str] | None = None,
        origin_connection_limit: int | None = None,
        cache: CacheMode | None = None,
        max_age: float | None = None,
        stale_while_revalidate: float | None = None,
        config: str | PathLike[str] | None = None,
        env: str | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ConfigurationError(f"mode is {mode!r}: expected 'process' or 'thread'")
        self._where = (target, config, env)
        self._mode = mode
        self._settings: dict[str, Any] = {
            "auth": auth,
            "host": host if unix_socket is None else None,
            "port": port,
            "unix_socket": None if unix_socket is None else _socket_path(unix_socket),
            "origin_connection_limit": origin_connection_limit,
            "caching": {
                "mode": cache,
                "max_age": max_age,
                "stale_while_revalidate": stale_while_revalidate,
            },
        }
        self._local: LocalProxy | None = None

    @cached_property
    def _resolution(self) -> Resolution:
        return resolution_of(*self._where)

    @property
    def origin(self) -> Origin:
        """The PostgreSQL server behind; its repr hides the password."""
        return self._resolution.origin

    def __repr__(self) -> str:
        if self._local is None:
            return f"{type(self).__name__}(not started)"
        return f"{type(self).__name__}({self.host}:{self.port})"

    def _door(self) -> Origin:
        if self._local is None:
            raise ProxyStartError("the proxy is not started: call start() first, or use with")
        return self._local.door

    def _start(self) -> None:
        if self._local is not None:
            return
        if self._resolution.hosted or is_a_proxy(self.origin):
            raise ConfigurationError("the origin is a Hyperdrive itself: connect to it directly")
        settings, configuration = self._settings, self._resolution.configuration
        if configuration is not None:
            # What is given here comes first.
            if settings["origin_connection_limit"] is None:
                settings["origin_connection_limit"] = configuration.origin_connection_limit
            if not any(value is not None for value in settings["caching"].values()):
                settings["caching"] = configuration.caching
        self._local = LocalProxy(self._mode, self.origin, **settings)

    def _close(self) -> None:
        local, self._local = self._local, None
        if local is not None:
            local.close()


class Proxy(_Proxy):
    """A proxy that is ready within ``with``, or after ``start``.

    ``target`` is an origin's connection string or the name of a binding, as for ``connect``, with
    ``config`` and ``env``. ``mode``: a process of its own, or a thread of this one. ``auth``: how
    clients log in. It listens on ``host`` and ``port`` (0: any free one), or on ``unix_socket``,
    a path that ends in ``.s.PGSQL.`` and a port number, for that is what libpq looks for.
    ``origin_connection_limit``: how many connections to the origin it opens at most. ``cache``: the
    mode of its cache, ``auto`` (the default), ``wal``, ``writes``, ``ttl`` or ``off``; ``max_age``
    and ``stale_while_revalidate`` in seconds, which without a mode mean ``ttl``.

    It has ended when it is closed, or at the end of this process.
    """

    def start(self) -> None:
        """Start it and wait until it is ready; nothing if it is started already.

        Raises ``BindingError``, ``ConfigurationError`` and ``ProxyStartError``.
        """
        self._start()

    def close(self) -> None:
        """Stop it and wait until it has gone; a second time does nothing."""
        self._close()

    def stats(self) -> ProxyStats:
        """Return what it has done so far; the origin is not asked.

        Raises ``ProxyStartError`` if it is not started, and ``OperationalError`` if it has died.
        """
        return stats_of(self._door())

    def purge(self, *tables: str) -> int:
        """Forget the cache's answers, or those that depend on ``tables``; how many those were.

        ``tables``: ``schema.name``, exactly as in the catalogue. Raises ``ConfigurationError`` if
        one is not there, otherwise as ``stats``.
        """
        return purge(self._door(), tables)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncProxy(_Proxy):
    """``Proxy`` for asyncio: it is ready within ``async with``, or after ``await start()``."""

    async def start(self) -> None:
        """Start it and wait until it is ready; nothing if it is started already.

        Raises ``BindingError``, ``ConfigurationError`` and ``ProxyStartError``.
        """
        starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread can't be interrupted, and nobody else would stop what it starts.
            await asyncio.wait([starting])
            await self.close()
            raise

    async def close(self) -> None:
        """Stop it and wait until it has gone; a second time does nothing."""
        await asyncio.to_thread(self._close)

    async def stats(self) -> ProxyStats:
        """As ``Proxy.stats``."""
        return await asyncio.to_thread(stats_of, self._door())

    async def purge(self, *tables: str) -> int:
        """As ``Proxy.purge``."""
        return await asyncio.to_thread(purge, self._door(), tables)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _socket_path(path: str | PathLike[str]) -> str:
    text = os.path.abspath(path)
    if not re.fullmatch(r"\.s\.PGSQL\.[0-9]{1,5}", os.path.basename(text)):
        raise ConfigurationError(
            f"libpq can't find a socket {text}: its name must be .s.PGSQL. and a port number"
        )
    return text
