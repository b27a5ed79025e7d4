"""What takes a DB-API module takes this one (PEP 249)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import hyperdrive_client
from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.client.shared_proxy import place_for

FRAMEWORKS = ("dbutils", "opentelemetry.instrumentation.dbapi", "opentelemetry.sdk")


@pytest.fixture
def binding(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A binding that leads to a database of the test's own."""
    monkeypatch.setenv("HYPERDRIVE_URL_DB", database)
    yield "DB"
    # Whoever connected went through the proxy.
    assert place_for(parse_connection_string(database)).running()


def test_a_pool_for_any_dbapi_module(binding: str) -> None:
    from dbutils.pooled_db import PooledDB

    pool = PooledDB(
        hyperdrive_client,
        maxconnections=5,
        blocking=True,
        setsession=["SET a.b = 'c'"],
        conninfo=binding,
        autocommit=True,
    )

    def ask(number: int) -> tuple[object, ...]:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('a.b'), %s::int", (number,))
            row: tuple[object, ...] = cursor.fetchone()
            return row

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(ask, range(50))) == [("c", number) for number in range(50)]
    with pool.connection() as connection, connection.cursor() as cursor:
        with pytest.raises(hyperdrive_client.ProgrammingError):
            cursor.execute("SELECT nothing")
        connection.rollback()
    pool.close()


def test_opentelemetry_traces_its_connections(
    binding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.instrumentation import dbapi
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    monkeypatch.setattr(hyperdrive_client, "connect", hyperdrive_client.connect)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    dbapi.wrap_connect(
        __name__,
        hyperdrive_client,
        "connect",
        "postgresql",
        {"database": "info.dbname"},
        tracer_provider=provider,
        enable_commenter=True,
    )
    with hyperdrive_client.connect(binding) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s::int", (7,))
        assert cursor.fetchone() == (7,)
    (span,) = exporter.get_finished_spans()
    assert span.attributes["db.statement"].startswith("SELECT %s::int")
    dbapi.unwrap_connect(hyperdrive_client, "connect")
