"""The console, by unmodified clients."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import psycopg2
import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy

CONSOLE = "hyperdrive.console"


def test_psycopg_with_its_transactions(proxy: LiveProxy) -> None:
    with proxy.connect() as client, proxy.connect(dbname=CONSOLE) as console:
        client.execute("SELECT 1")
        stats = dict(console.execute("SHOW STATS").fetchall())
        console.rollback()
        assert (stats["origin_round_trips"], stats["clients"]) == ("1", "1")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="simple queries only"):
            console.execute("SHOW STATS", binary=True)
        console.rollback()
        with pytest.raises(psycopg.errors.SyntaxError, match="SHOW PINS"):
            console.execute("SELECT 1")


def test_psycopg2(proxy: LiveProxy) -> None:
    connection = psycopg2.connect(**{**proxy.client.libpq_parameters(), "dbname": CONSOLE})
    with connection, connection.cursor() as cursor:
        cursor.execute("show pool")
        assert ("origin_connection_limit", "5") in cursor.fetchall()
    connection.close()


async def test_asyncpg(proxy: LiveProxy) -> None:
    client = proxy.client
    connection = await asyncpg.connect(
        host="127.0.0.1",
        port=client.addresses[0].port,
        user=client.user,
        password=client.password,
        database=CONSOLE,
        ssl=False,
    )
    assert await connection.execute("SHOW STATS") == "SHOW"
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await connection.fetch("SHOW STATS")
    assert await connection.execute("SHOW PINS;") == "SHOW"
    await connection.close()


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_psql(proxy: LiveProxy) -> None:
    parameters = proxy.client.libpq_parameters()
    conninfo = psycopg.conninfo.make_conninfo(**{**parameters, "dbname": CONSOLE, "password": None})
    done = subprocess.run(
        ["psql", "-XAt", "-v", "ON_ERROR_STOP=1", "-c", "show stats", conninfo],
        env={**os.environ, "PGPASSWORD": parameters["password"]},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "clients|0" in done.stdout.splitlines()


def test_while_the_origin_was_never_reached(start_proxy: StartProxy, unused_tcp_port: int) -> None:
    address = Address("127.0.0.1", unused_tcp_port)
    proxy = start_proxy(Origin((address,), "nobody", "nothing", sslmode="disable"))
    with proxy.connect(dbname=CONSOLE, autocommit=True) as console:
        assert ("origin_connections_opened", "0") in console.execute("SHOW STATS").fetchall()


def test_the_marker_tells_every_client(proxy: LiveProxy) -> None:
    for database in (None, CONSOLE):
        arguments = {} if database is None else {"dbname": database}
        with proxy.connect(**arguments) as connection:
            assert connection.info.parameter_status("hyperdrive.proxy")


def test_reports_for_any_driver_that_asks(proxy: LiveProxy) -> None:
    asked = proxy.connect(autocommit=True, options="-c hyperdrive.report=on")
    with asked as connection, proxy.connect(autocommit=True) as other:
        for each in (connection, other):
            each.execute("LISTEN a")
            each.execute("SELECT 1")
        assert connection.info.parameter_status("hyperdrive.last_pin") == "LISTEN"
        assert other.info.parameter_status("hyperdrive.last_pin") is None


async def test_reports_for_asyncpg(proxy: LiveProxy) -> None:
    client = proxy.client
    connection = await asyncpg.connect(
        host="127.0.0.1",
        port=client.addresses[0].port,
        user=client.user,
        password=client.password,
        database=client.database,
        ssl=False,
        server_settings={"hyperdrive.report": "on"},
    )
    await connection.execute("LISTEN a")
    assert await connection.fetchval("SELECT 1") == 1
    assert getattr(connection.get_settings(), "hyperdrive.last_pin") == "LISTEN"
    await connection.close()


def test_a_proxy_in_front_of_a_proxy_is_refused(start_proxy: StartProxy, proxy: LiveProxy) -> None:
    second = start_proxy(proxy.client)
    with pytest.raises(psycopg.OperationalError, match="The origin is a Hyperdrive proxy itself"):
        second.connect()
