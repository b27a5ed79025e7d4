"""psycopg's connection, through the proxy."""

from __future__ import annotations

from os import PathLike
from typing import Any, Self

import psycopg
from psycopg import Cursor
from psycopg.abc import AdaptContext, ConnParam
from psycopg.rows import Row, RowFactory

from hyperdrive_client.client.cache_status import CacheStatus
from hyperdrive_client.client.route import route


class Connection(psycopg.Connection[Row]):
    """``psycopg.Connection``; only where it connects to is different."""

    @classmethod
    def connect(
        cls,
        conninfo: object = None,
        *,
        config: ConnParam | PathLike[str] = None,
        env: ConnParam = None,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: RowFactory[Row] | None = None,
        cursor_factory: type[Cursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Connect to a binding or an origin, through the proxy, which starts at first use.

        ``conninfo``: a string with ``://`` or ``=`` is an origin, any other the name of a binding;
        an object with ``connectionString``, or with ``host``, ``port``, ``user``, ``password`` and
        ``database``, is a hosted binding, which needs no proxy. Nothing means ``HYPERDRIVE``.
        ``config`` and ``env`` are the path of the wrangler file and the name of its environment.
        The rest is psycopg's, but for what belongs to the origin, such as ``host``.

        Raises ``BindingError``, ``ConfigurationError``, ``ProxyStartError``, and what
        ``psycopg.connect`` raises.
        """
        arguments: dict[str, Any] = {
            "autocommit": autocommit,
            "prepare_threshold": prepare_threshold,
            "context": context,
            "row_factory": row_factory,
            "cursor_factory": cursor_factory,
        }
        way = route(conninfo, config, env, kwargs)
        try:
            return super().connect("", **arguments, **way.parameters)
        except psycopg.OperationalError as error:
            if not way.has_changed(error):
                raise
        way = route(conninfo, config, env, kwargs)
        return super().connect("", **arguments, **way.parameters)

    @property
    def last_pin(self) -> str | None:
        """Why the session was last pinned to an origin connection: the reasons, as in ``SHOW
        hyperdrive.sessions``, such as ``temporary object, LISTEN``.

        ``None`` if it never was, or if there is no proxy. The proxy finds it out behind the
        transaction, and the connection hears of it with the next answer.
        """
        return self.info.parameter_status("hyperdrive.last_pin")

    @property
    def last_wait(self) -> str | None:
        """What the session last waited for before a statement could go to the origin, and for how
        long: ``all 5 origin connections in use, 0.035 s``.

        ``None`` if it never had to, or if there is no proxy.
        """
        return self.info.parameter_status("hyperdrive.last_wait")

    @property
    def last_cache(self) -> CacheStatus | None:
        """Whether the last statement was answered from the cache, and if not, why.

        ``None`` if there was none yet, or if there is no proxy.
        """
        return CacheStatus.of(self.info.parameter_status("hyperdrive.cache"))


connect = Connection.connect
