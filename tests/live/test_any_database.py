"""Clients that name their database, through a proxy that lets them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from hyperdrive_client.origin import EmbeddedPostgres

if TYPE_CHECKING:
    from .conftest import StartProxy


@pytest.fixture
def other(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A second database; its name."""
    name = f"other_{uuid4().hex}"
    postgres.create_database(name)
    yield name
    with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_another_database_than_the_configured_one_is_refused(
    start_proxy: StartProxy, other: str
) -> None:
    with pytest.raises(psycopg.OperationalError, match=f'database "{other}" does not exist'):
        start_proxy().connect(dbname=other)


def test_each_database_has_connections_of_its_own(start_proxy: StartProxy, other: str) -> None:
    proxy = start_proxy(any_database=True, origin_connection_limit=1)
    with proxy.connect() as first, proxy.connect(dbname=other) as second:
        # Both at once, with one connection for each.
        for _ in range(2):
            assert first.execute("SELECT current_database()").fetchone() != (other,)
            assert second.execute("SELECT current_database()").fetchone() == (other,)


def test_one_that_is_not_there_is_refused_by_the_origin(start_proxy: StartProxy) -> None:
    proxy = start_proxy(any_database=True)
    with pytest.raises(psycopg.OperationalError, match='database "none" does not exist'):
        proxy.connect(dbname="none")
    with proxy.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_notification_stays_in_its_database(start_proxy: StartProxy, other: str) -> None:
    proxy = start_proxy(any_database=True)
    with (
        proxy.connect(autocommit=True) as here,
        proxy.connect(autocommit=True, dbname=other) as there,
    ):
        here.execute("LISTEN news")
        there.execute("LISTEN news")
        there.execute("NOTIFY news, 'there'")
        here.execute("NOTIFY news, 'here'")
        assert [n.payload for n in here.notifies(timeout=5, stop_after=1)] == ["here"]
        assert [n.payload for n in there.notifies(timeout=5, stop_after=1)] == ["there"]
