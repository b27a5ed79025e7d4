"""Cloudflare Hyperdrive for any Python program.

A DB-API 2.0 module (PEP 249) over psycopg: ``connect`` and the pools lead to PostgreSQL through a
pooling proxy that starts at first use. ``binding`` and ``Proxy`` give the address of that proxy to
any other driver. What is wrong is said with psycopg's exceptions or with subclasses of them, drawn
in :mod:`hyperdrive_client.errors`.

Importing starts nothing, and loads nothing before a name is used: pytest imports this package in
every run, for its plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hyperdrive_client.version import __version__ as __version__

if TYPE_CHECKING:
    from psycopg import (
        BINARY,
        DATETIME,
        NUMBER,
        ROWID,
        STRING,
        Binary,
        DatabaseError,
        DataError,
        Date,
        DateFromTicks,
        Error,
        IntegrityError,
        InterfaceError,
        InternalError,
        NotSupportedError,
        OperationalError,
        ProgrammingError,
        Time,
        TimeFromTicks,
        Timestamp,
        TimestampFromTicks,
        Warning,
        apilevel,
        paramstyle,
        threadsafety,
    )

    from hyperdrive_client.client import (
        AsyncConnection,
        AsyncConnectionPool,
        AsyncProxy,
        CacheStatus,
        Connection,
        ConnectionPool,
        Proxy,
        ProxyStats,
        binding,
        connect,
    )
    from hyperdrive_client.errors import (
        BindingError,
        ClientProtocolError,
        ConfigurationError,
        HyperdriveError,
        OriginProtocolError,
        OriginStartError,
        ProtocolError,
        ProxyStartError,
    )

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "AsyncConnection",
    "AsyncConnectionPool",
    "AsyncProxy",
    "Binary",
    "BindingError",
    "CacheStatus",
    "ClientProtocolError",
    "ConfigurationError",
    "Connection",
    "ConnectionPool",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "HyperdriveError",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "OriginProtocolError",
    "OriginStartError",
    "ProgrammingError",
    "ProtocolError",
    "Proxy",
    "ProxyStartError",
    "ProxyStats",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "apilevel",
    "binding",
    "connect",
    "paramstyle",
    "threadsafety",
]

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # errors first: it says what to install if psycopg finds no libpq.
        places = ("hyperdrive_client.errors", "hyperdrive_client.client", "psycopg")
        module = next(each for each in map(import_module, places) if name in each.__all__)
        return getattr(module, name)

    def __dir__():
        return sorted({*globals(), *__all__})
