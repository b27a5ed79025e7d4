"""An origin that can't be reached, or refuses: a clear error, and the proxy lives."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin, parse_connection_string
from hyperdrive_client.origin import EmbeddedPostgres

if TYPE_CHECKING:
    from .conftest import StartProxy


@pytest.fixture
def origin(database: str) -> Origin:
    return parse_connection_string(database)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_an_unreachable_origin(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(replace(origin, addresses=(Address("127.0.0.1", free_port()),)))
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError) as caught:
            proxy.connect()
        assert "Server connection attempt failed: connection_refused" in str(caught.value)


def test_a_host_that_does_not_exist(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(replace(origin, addresses=(Address("no-such-host.invalid"),)))
    with pytest.raises(psycopg.OperationalError, match="attempt failed: host_not_found"):
        proxy.connect()


def test_an_origin_that_never_answers(start_proxy: StartProxy, origin: Origin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = (Address("127.0.0.1", silent.getsockname()[1]),)
        proxy = start_proxy(replace(origin, addresses=addresses), connect_timeout=0.3)
        with pytest.raises(psycopg.OperationalError, match="attempt failed: timeout"):
            proxy.connect()


def test_a_wrong_password(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(replace(origin, password="wrong"))
    with pytest.raises(psycopg.OperationalError) as caught:
        proxy.connect()
    assert 'password authentication failed for user "postgres"' in str(caught.value)


def test_an_unknown_database(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(replace(origin, database="no_such_database"))
    with pytest.raises(psycopg.OperationalError) as caught:
        proxy.connect()
    assert 'database "no_such_database" does not exist' in str(caught.value)


def test_an_origin_without_tls(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(replace(origin, sslmode="require"))
    with pytest.raises(psycopg.OperationalError) as caught:
        proxy.connect()
    assert "sslmode=disable" in str(caught.value)


def test_the_next_client_works_once_the_origin_does(start_proxy: StartProxy) -> None:
    with EmbeddedPostgres() as server:
        proxy = start_proxy(parse_connection_string(server.connection_string), pool_timeout=0.5)
        with proxy.connect(autocommit=True) as client:
            client.execute("SELECT 1")
            server.kill()
            with pytest.raises(psycopg.OperationalError) as caught:
                client.execute("SELECT 2")
            assert caught.value.sqlstate == "58000"
            assert "connection_refused" in str(caught.value)
            server.start()
            assert client.execute("SELECT 3").fetchone() == (3,)
        proxy.running.close()


def test_an_origin_that_ends_a_connection_tells_its_client_why(start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    with proxy.connect() as client, proxy.at_origin() as admin:
        pid = client.execute(
            "SELECT pid FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchone()
        admin.execute("SELECT pg_terminate_backend(%s)", pid)
        with pytest.raises(psycopg.errors.AdminShutdown):
            client.execute("SELECT 1")
    with proxy.connect() as other:
        assert other.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("auth", ["md5", "password", "trust"])
def test_the_other_ways_to_authenticate_at_the_origin(start_proxy: StartProxy, auth: str) -> None:
    with EmbeddedPostgres(auth=auth) as server:  # type: ignore[arg-type]
        proxy = start_proxy(parse_connection_string(server.connection_string))
        with proxy.connect() as client:
            assert client.execute("SELECT 1").fetchone() == (1,)
        proxy.running.close()


def test_an_origin_behind_a_unix_socket(
    start_proxy: StartProxy, origin: Origin, postgres: EmbeddedPostgres
) -> None:
    address = Address(str(postgres.socket_directory), postgres.port)
    proxy = start_proxy(replace(origin, addresses=(address,)))
    with proxy.connect() as client:
        row = client.execute("SELECT inet_server_addr()").fetchone()
        assert row == (None,)


def test_the_first_address_that_answers_is_taken(start_proxy: StartProxy, origin: Origin) -> None:
    dead = Address("127.0.0.1", free_port())
    proxy = start_proxy(replace(origin, addresses=(dead, *origin.addresses)))
    with proxy.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_target_session_attrs_chooses_among_addresses(
    start_proxy: StartProxy, origin: Origin
) -> None:
    password = origin.password
    with EmbeddedPostgres(
        password=password, settings={"default_transaction_read_only": "on"}
    ) as reader:
        origin = replace(
            origin,
            database="postgres",
            addresses=(Address("127.0.0.1", reader.port), *origin.addresses),
        )
        for wanted, answer in (("read-write", "off"), ("read-only", "on"), ("any", "on")):
            proxy = start_proxy(replace(origin, target_session_attrs=wanted))  # type: ignore[arg-type]
            with proxy.connect() as client:
                assert client.execute("SHOW default_transaction_read_only").fetchone() == (answer,)
            proxy.running.close()
        with pytest.raises(psycopg.OperationalError, match="no server is standby"):
            start_proxy(replace(origin, target_session_attrs="standby")).connect()
