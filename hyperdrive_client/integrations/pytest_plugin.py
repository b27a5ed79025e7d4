"""pytest fixtures: a PostgreSQL origin, a proxy in front of it, connections and engines.

Nothing runs or is imported before a test asks for a fixture. Options, each also in the ini file:
``--hyperdrive-origin URL|BINDING`` (``hyperdrive_origin``), ``--hyperdrive-mode process|thread``
(``hyperdrive_mode``) and ``--hyperdrive-cache MODE`` (``hyperdrive_cache``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, LiteralString

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from hyperdrive_client import AsyncConnection, Connection, Proxy
    from hyperdrive_client.bindings import Origin
    from hyperdrive_client.integrations.observation import Observation

_OPTIONS = {
    "origin": (
        "The PostgreSQL behind the proxy, instead of an embedded one: a connection string, or the "
        "name of a binding. Under xdist each worker makes a database of its own there."
    ),
    "mode": "Where the proxy runs: in a thread of the tests' process (default), or a process.",
    "cache": "The mode of the proxy's cache: auto (default), wal, writes, ttl or off.",
}

_NAME_BYTES = 63  # PostgreSQL, "Identifiers and Key Words"
_CONNECTIONS = 100  # of the embedded server, for each worker; PostgreSQL's default


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

    It is at ``--hyperdrive-origin``, or at a PostgreSQL server that runs as long as the tests do,
    one for all workers.
    """
    from hyperdrive_client.errors import OriginStartError

    worker = getattr(request.config, "workerinput", None)
    with ExitStack() as stack:
        try:
            url = _server(request, worker, stack)
        except OriginStartError as error:
            pytest.fail(f"{error} Or name a database: --hyperdrive-origin URL.", pytrace=False)
        if worker is not None:
            url = stack.enter_context(_database_of_worker(url, worker))
        yield url


def _server(request: pytest.FixtureRequest, worker: dict[str, Any] | None, stack: ExitStack) -> str:
    if target := _option(request.config, "origin"):
        from hyperdrive_client.bindings import resolve_target

        return resolve_target(target).origin.connection_string
    from hyperdrive_client.origin import EmbeddedPostgres, shared_postgres

    if worker is None:
        return stack.enter_context(EmbeddedPostgres()).connection_string
    # Beside the folders of the run's workers, as pytest-xdist's "How-tos" have it.
    folders = request.getfixturevalue("tmp_path_factory").getbasetemp().parent
    return stack.enter_context(
        shared_postgres(
            folders / f"hyperdrive-{worker['testrunuid']}",
            max_connections=_CONNECTIONS * worker["workercount"],
        )
    )


@contextmanager
def _database_of_worker(url: str, worker: dict[str, Any]) -> Iterator[str]:
    from dataclasses import replace

    from hyperdrive_client.bindings import parse_connection_string

    origin = parse_connection_string(url)
    name = _name_for_worker(origin.database, worker)
    _execute(origin, "CREATE DATABASE {}", name)
    try:
        yield replace(origin, database=name).connection_string
    finally:
        _drop(origin, name)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """In xdist's controller: drop what a worker that was killed has left at a given origin."""
    target = _option(node.config, "origin")
    if not error or not target:
        return
    import psycopg

    from hyperdrive_client.bindings import resolve_target

    origin = resolve_target(target).origin
    with suppress(psycopg.OperationalError):  # an origin that is away is the tests' failure
        _drop(origin, _name_for_worker(origin.database, node.workerinput))


def _name_for_worker(database: str, worker: dict[str, Any]) -> str:
    suffix = f"_{worker['workerid']}_{worker['testrunuid'][:8]}"
    return database.encode()[: _NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def _drop(origin: Origin, database: str) -> None:
    _execute(origin, "DROP DATABASE IF EXISTS {} WITH (FORCE)", database)


def _execute(origin: Origin, statement: LiteralString, database: str) -> None:
    """Run a statement about ``database`` at the origin itself."""
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import make_conninfo

    straight = make_conninfo(**origin.libpq_parameters())
    with psycopg.connect(straight, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(database)))


@pytest.fixture(scope="session")
def hyperdrive_proxy(request: pytest.FixtureRequest, hyperdrive_origin: str) -> Iterator[Proxy]:
    """A running proxy in front of ``hyperdrive_origin``."""
    from hyperdrive_client import Proxy

    config = request.config
    cache = _option(config, "cache") or None
    with Proxy(hyperdrive_origin, mode=_option(config, "mode") or "thread", cache=cache) as proxy:
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


@pytest.fixture(scope="session")
def hyperdrive_observer(
    hyperdrive_proxy: Proxy,
) -> Callable[[], AbstractContextManager[Observation]]:
    """To assert on what went to the database: ``with hyperdrive_observer() as seen``.

    ``seen`` has ``origin_round_trips``, ``background_round_trips``, ``origin_connections_opened``,
    ``waits``, ``replays``, ``pins``, ``cache``, ``cache_hits`` and ``cache_misses``, of all of the
    proxy's clients together.
    """
    from hyperdrive_client.integrations.observation import observe

    return partial(observe, hyperdrive_proxy)


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


@pytest.fixture
def hyperdrive_engine(hyperdrive_dsn: str, hyperdrive_binding: str) -> Iterator[Engine]:
    """An SQLAlchemy engine for the binding."""
    from sqlalchemy import URL, create_engine

    engine = create_engine(URL.create("hyperdrive", host=hyperdrive_binding))
    yield engine
    engine.dispose()


async def hyperdrive_async_connection(hyperdrive_dsn: str) -> AsyncIterator[AsyncConnection]:
    """``hyperdrive_connection`` for asyncio; it needs pytest-asyncio or anyio's plugin."""
    from hyperdrive_client import AsyncConnection

    connection = await AsyncConnection.connect(hyperdrive_dsn)
    try:
        yield connection
        if not connection.closed:
            await connection.rollback()
    finally:
        await connection.close()


async def hyperdrive_async_engine(
    hyperdrive_dsn: str, hyperdrive_binding: str
) -> AsyncIterator[AsyncEngine]:
    """``hyperdrive_engine`` for asyncio; it needs pytest-asyncio or anyio's plugin."""
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(URL.create("hyperdrive", host=hyperdrive_binding))
    yield engine
    await engine.dispose()


def pytest_configure(config: pytest.Config) -> None:
    """Add the asynchronous fixtures, in the manner of the plugin that will run them."""
    fixture: Any = pytest.fixture
    if config.pluginmanager.hasplugin("asyncio"):
        from pytest_asyncio import fixture
    fixtures = ModuleType("hyperdrive_asynchronous_fixtures")  # pytest looks for them in a module
    for function in (hyperdrive_async_connection, hyperdrive_async_engine):
        setattr(fixtures, function.__name__, fixture(function))
    config.pluginmanager.register(fixtures)
