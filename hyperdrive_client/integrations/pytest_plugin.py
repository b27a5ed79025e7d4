"""pytest fixtures: a PostgreSQL origin, a proxy in front of it, connections and engines.

Nothing runs or is imported before a test asks for a fixture. Options, each also in the ini file:
``--hyperdrive-origin URL|BINDING`` (``hyperdrive_origin``) and ``--hyperdrive-mode process|thread``
(``hyperdrive_mode``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from hyperdrive_client import AsyncConnection, Connection, Proxy
    from hyperdrive_client.bindings import Origin

_Fixture = TypeVar("_Fixture", bound=Callable[..., Any])

_OPTIONS = {
    "origin": (
        "The PostgreSQL behind the proxy, instead of an embedded one: a connection string, or the "
        "name of a binding. Under xdist each worker makes a database of its own there."
    ),
    "mode": "Where the proxy runs: in a thread of the tests' process (default), or a process.",
}

_NAME_BYTES = 63  # PostgreSQL, "Identifiers and Key Words"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hyperdrive")
    for name, text in _OPTIONS.items():
        group.addoption(f"--hyperdrive-{name}", help=text)
        parser.addini(f"hyperdrive_{name}", help=text)


def _option(config: pytest.Config, name: str) -> Any:
    return config.getoption(f"hyperdrive_{name}") or config.getini(f"hyperdrive_{name}")


@pytest.fixture(scope="session")
def hyperdrive_origin(request: pytest.FixtureRequest) -> Iterator[str]:
    """The connection string of a database; under xdist, of one that is this worker's own.

    That is ``--hyperdrive-origin``, or a PostgreSQL server that runs as long as the tests do.
    """
    target = _option(request.config, "origin")
    worker = getattr(request.config, "workerinput", None)
    if not target:
        from hyperdrive_client.origin import EmbeddedPostgres

        with EmbeddedPostgres() as postgres:
            yield postgres.connection_string
        return
    from hyperdrive_client.bindings import resolve_target

    origin = resolve_target(target).origin
    if worker is None:
        yield origin.connection_string
        return
    suffix = f"_{worker['workerid']}_{worker['testrunuid'][:8]}"
    with _database_beside(origin, suffix) as own:
        yield own.connection_string


@contextmanager
def _database_beside(origin: Origin, suffix: str) -> Iterator[Origin]:
    from dataclasses import replace

    import psycopg
    from psycopg import sql
    from psycopg.conninfo import make_conninfo

    name = origin.database.encode()[: _NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix
    straight = make_conninfo(**origin.libpq_parameters())
    with psycopg.connect(straight, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield replace(origin, database=name)
    finally:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        with psycopg.connect(straight, autocommit=True) as connection:
            connection.execute(drop)


@pytest.fixture(scope="session")
def hyperdrive_proxy(request: pytest.FixtureRequest, hyperdrive_origin: str) -> Iterator[Proxy]:
    """A running proxy in front of ``hyperdrive_origin``."""
    from hyperdrive_client import Proxy

    with Proxy(hyperdrive_origin, mode=_option(request.config, "mode") or "thread") as proxy:
        yield proxy


@pytest.fixture(scope="session")
def hyperdrive_binding() -> str:
    """The binding that leads to ``hyperdrive_proxy`` in tests; override it to give another name."""
    return "HYPERDRIVE"


@pytest.fixture
def hyperdrive_dsn(hyperdrive_proxy: Proxy, hyperdrive_binding: str) -> Iterator[str]:
    """The connection string of ``hyperdrive_proxy``.

    During the test the binding leads there too, so the code under test finds it by its name.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"HYPERDRIVE_URL_{hyperdrive_binding}", hyperdrive_proxy.connection_string)
        yield hyperdrive_proxy.connection_string


@pytest.fixture
def hyperdrive_connection(hyperdrive_dsn: str) -> Iterator[Connection]:
    """A connection through the proxy; what the test has not committed is rolled back."""
    from hyperdrive_client import connect

    connection = connect(hyperdrive_dsn)
    try:
        yield connection
        if not connection.closed:
            connection.rollback()
    finally:
        connection.close()


def _async_fixture(function: _Fixture) -> _Fixture:
    """A fixture for pytest-asyncio, in its strict mode too, or for a plugin like anyio's."""
    fixture: Any
    try:
        from pytest_asyncio import fixture
    except ImportError:
        fixture = pytest.fixture
    return cast(_Fixture, fixture(function))


@_async_fixture
async def hyperdrive_async_connection(hyperdrive_dsn: str) -> AsyncIterator[AsyncConnection]:
    """The same for asyncio; it needs pytest-asyncio or a plugin like it."""
    from hyperdrive_client import AsyncConnection

    connection = await AsyncConnection.connect(hyperdrive_dsn)
    try:
        yield connection
        if not connection.closed:
            await connection.rollback()
    finally:
        await connection.close()


@pytest.fixture
def hyperdrive_engine(hyperdrive_dsn: str, hyperdrive_binding: str) -> Iterator[Engine]:
    """An SQLAlchemy engine for the binding."""
    from sqlalchemy import URL, create_engine

    engine = create_engine(URL.create("hyperdrive", host=hyperdrive_binding))
    yield engine
    engine.dispose()


@_async_fixture
async def hyperdrive_async_engine(
    hyperdrive_dsn: str, hyperdrive_binding: str
) -> AsyncIterator[AsyncEngine]:
    """The same for asyncio; it needs pytest-asyncio or a plugin like it."""
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(URL.create("hyperdrive", host=hyperdrive_binding))
    yield engine
    await engine.dispose()
