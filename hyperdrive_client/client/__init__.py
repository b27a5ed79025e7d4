"""From a connection string to psycopg connections and pools, through a proxy that starts itself."""

import logging

from hyperdrive_client.client.after_fork import drop_connections_after_fork, notice_fork
from hyperdrive_client.client.async_connection import AsyncConnection
from hyperdrive_client.client.async_pool import AsyncConnectionPool
from hyperdrive_client.client.cache_status import CacheStatus
from hyperdrive_client.client.connection import Connection, connect
from hyperdrive_client.client.pool import ConnectionPool
from hyperdrive_client.client.pool_size import (
    MAX_POOL_SIZE,
    pool_size_limit,
    warn_of_capped_pool,
)
from hyperdrive_client.client.proxied_binding import binding
from hyperdrive_client.client.proxy import AsyncProxy, Proxy
from hyperdrive_client.client.stats import ProxyStats

# A library's loggers say nothing until the application has set logging up.
logging.getLogger("hyperdrive_client").addHandler(logging.NullHandler())

__all__ = [
    "MAX_POOL_SIZE",
    "AsyncConnection",
    "AsyncConnectionPool",
    "AsyncProxy",
    "CacheStatus",
    "Connection",
    "ConnectionPool",
    "Proxy",
    "ProxyStats",
    "binding",
    "connect",
    "drop_connections_after_fork",
    "notice_fork",
    "pool_size_limit",
    "warn_of_capped_pool",
]
