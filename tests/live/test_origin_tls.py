"""TLS between the proxy and its origin."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin, parse_connection_string
from hyperdrive_client.origin import Binaries, EmbeddedPostgres

if TYPE_CHECKING:
    from ..conftest import Certificates
    from .conftest import LiveProxy, StartProxy

ENCRYPTED = "SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.fixture
def origin(tls_postgres: EmbeddedPostgres) -> Origin:
    return parse_connection_string(tls_postgres.connection_string)


def encrypted(proxy: LiveProxy) -> tuple[object, ...] | None:
    with proxy.connect() as connection:
        return connection.execute(ENCRYPTED).fetchone()


@pytest.mark.parametrize("sslmode", ["prefer", "require"])
def test_tls_is_used_without_a_check_of_the_certificate(
    start_proxy: StartProxy, origin: Origin, sslmode: str
) -> None:
    proxy = start_proxy(replace(origin, sslmode=sslmode))  # type: ignore[arg-type]
    assert encrypted(proxy) == (True, None)


def test_disable_goes_without(start_proxy: StartProxy, origin: Origin) -> None:
    assert encrypted(start_proxy(replace(origin, sslmode="disable"))) == (False, None)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_verify_full_accepts_the_right_name(
    start_proxy: StartProxy, origin: Origin, certificates: Certificates, host: str
) -> None:
    origin = replace(
        origin,
        addresses=(Address(host, origin.addresses[0].port),),
        sslmode="verify-full",
        sslrootcert=str(certificates.ca),
    )
    assert encrypted(start_proxy(origin)) == (True, None)


def test_verify_full_refuses_a_wrong_name_and_verify_ca_does_not_care(
    start_proxy: StartProxy, system_binaries: Binaries, certificates: Certificates
) -> None:
    with EmbeddedPostgres(
        binaries=system_binaries,
        ssl_cert_file=certificates.server,
        ssl_key_file=certificates.server_key,
        settings={"listen_addresses": "127.0.0.1,127.0.0.2"},
        hba=["host all all 127.0.0.0/8 scram-sha-256"],
    ) as server:
        origin = parse_connection_string(server.connection_string)
        addresses = (Address("127.0.0.2", server.port),)
        origin = replace(origin, addresses=addresses, sslrootcert=str(certificates.ca))
        with pytest.raises(psycopg.OperationalError, match="tls_failed"):
            start_proxy(replace(origin, sslmode="verify-full")).connect()
        proxy = start_proxy(replace(origin, sslmode="verify-ca"))
        with proxy.connect() as connection:
            assert connection.execute(ENCRYPTED).fetchone() == (True, None)
        proxy.running.close()


def test_verify_ca_refuses_an_unknown_authority(
    start_proxy: StartProxy, origin: Origin, certificates: Certificates
) -> None:
    origin = replace(origin, sslmode="verify-ca", sslrootcert=str(certificates.client))
    with pytest.raises(psycopg.OperationalError, match="tls_failed"):
        start_proxy(origin).connect()


def test_a_missing_root_certificate_is_named(start_proxy: StartProxy, origin: Origin) -> None:
    origin = replace(origin, sslmode="verify-full", sslrootcert="/no/such/root.pem")
    with pytest.raises(psycopg.OperationalError, match=r"/no/such/root\.pem"):
        start_proxy(origin).connect()


def test_a_client_certificate_is_presented(
    start_proxy: StartProxy, origin: Origin, certificates: Certificates
) -> None:
    origin = replace(
        origin,
        sslmode="require",
        sslcert=str(certificates.client),
        sslkey=str(certificates.client_key),
    )
    assert encrypted(start_proxy(origin)) == (True, "/CN=postgres")


def test_cancel_works_over_tls(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(replace(origin, sslmode="require"))
    with proxy.connect(autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
        running = pool.submit(connection.execute, "SELECT pg_sleep(60)")
        while not any(state == "active" for state, _ in proxy.origin_connections()):
            pass
        connection.cancel_safe(timeout=10)
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(10)


def test_plain_text_behind_the_answer_to_sslrequest_is_not_believed(
    start_proxy: StartProxy, origin: Origin
) -> None:
    """A man in the middle answers S and sends words of his own with it (CVE-2021-23222)."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def attack() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(8)
                peer.sendall(b"S" + b"R\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I")
                while peer.recv(4096):
                    pass

        attacker = threading.Thread(target=attack)
        attacker.start()
        addresses = (Address("127.0.0.1", server.getsockname()[1]),)
        proxy = start_proxy(replace(origin, addresses=addresses, sslmode="require"))
        with pytest.raises(psycopg.OperationalError, match="attempt failed"):
            proxy.connect()
        attacker.join(10)
