"""A proxy in front of a database of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin, parse_connection_string
from hyperdrive_client.proxy.settings import Limits, Settings
from hyperdrive_client.proxy.spawn import ProcessProxy, ThreadProxy

USER = "proxy user"
PASSWORD = "p@ss/w:rd %41'\\"


class LiveProxy:
    """A running proxy, how clients reach it, and a direct look at its origin."""

    def __init__(self, settings: Settings) -> None:
        self.running = ThreadProxy(settings) if settings.workers == 1 else ProcessProxy(settings)
        self.settings = self.running.settings
        self.client = Origin(
            (Address("127.0.0.1", self.settings.port),),
            self.settings.user,
            self.settings.origin.database,
            self.settings.password,
            sslmode="disable",
        )

    @property
    def url(self) -> str:
        return self.client.connection_string

    def connect(self, **arguments: object) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(**{**self.client.libpq_parameters(), **arguments})  # type: ignore[arg-type]

    def at_origin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            **self.settings.origin.libpq_parameters(),
            autocommit=True,  # type: ignore[arg-type]
        )

    def origin_connections(self) -> list[tuple[object, ...]]:
        """State and query of each of the proxy's connections, as the origin sees them."""
        with self.at_origin() as connection:
            return connection.execute(
                "SELECT state, query FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'Cloudflare Hyperdrive' AND pid <> pg_backend_pid()"
            ).fetchall()


StartProxy = Callable[..., LiveProxy]


@pytest.fixture
def start_proxy(database: str) -> Iterator[StartProxy]:
    """Start proxies in front of the test's database; they end with the test."""
    started: list[LiveProxy] = []

    def start(origin: Origin | None = None, **changes: object) -> LiveProxy:
        limits = Limits(
            **{name: changes.pop(name) for name in list(changes) if hasattr(Limits, name)}
        )  # type: ignore[arg-type]
        settings = Settings(
            origin=origin or parse_connection_string(database),
            user=USER,
            password=PASSWORD,
            limits=limits,
        )
        started.append(LiveProxy(replace(settings, **changes)))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for proxy in started:
        proxy.running.close()


@pytest.fixture
def proxy(start_proxy: StartProxy) -> LiveProxy:
    """A proxy with at most five origin connections."""
    return start_proxy(origin_connection_limit=5)
