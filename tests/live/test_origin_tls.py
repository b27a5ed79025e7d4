"""TLS between the proxy and its origin."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin, parse_connection_string
from hyperdrive_client.origin import Binaries, EmbeddedPostgres
from hyperdrive_client.protocol.startup import SSL_REQUEST

from ..protocol.test_channel_binding import make_certificate

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


@pytest.mark.parametrize("channel_binding", ["disable", "prefer", "require"])
def test_channel_binding_with_postgresql(
    start_proxy: StartProxy, origin: Origin, channel_binding: str
) -> None:
    origin = replace(origin, sslmode="require", channel_binding=channel_binding)  # type: ignore[arg-type]
    assert encrypted(start_proxy(origin)) == (True, None)


def test_channel_binding_that_is_required_needs_tls(
    start_proxy: StartProxy, origin: Origin
) -> None:
    origin = replace(origin, sslmode="disable", channel_binding="require")
    with pytest.raises(psycopg.OperationalError, match="no TLS to bind to"):
        start_proxy(origin).connect()


@pytest.mark.parametrize(
    ("key", "binds"),
    [
        (("-newkey", "rsa:2048", "-sha512"), True),
        (("-newkey", "rsa:2048", "-sigopt", "rsa_padding_mode:pss", "-sha384"), True),
        (("-newkey", "ed25519"), False),
    ],
    ids=["RSA with SHA-512", "RSA-PSS with SHA-384", "Ed25519"],
)
def test_the_certificates_hash_is_the_one_that_postgresql_takes(
    start_proxy: StartProxy,
    system_binaries: Binaries,
    tmp_path: Path,
    key: tuple[str, ...],
    binds: bool,
) -> None:
    make_certificate(tmp_path, *key)
    with EmbeddedPostgres(
        binaries=system_binaries,
        ssl_cert_file=tmp_path / "certificate.pem",
        ssl_key_file=tmp_path / "key.pem",
    ) as server:
        origin = parse_connection_string(server.connection_string)
        origin = replace(origin, sslmode="require", channel_binding="require")
        # libpq and we agree on what can be done, and on what can't.
        for connect in (
            start_proxy(origin).connect,
            lambda: psycopg.connect(**origin.libpq_parameters()),  # type: ignore[arg-type]
        ):
            if binds:
                connect().close()
            else:
                with pytest.raises(psycopg.OperationalError, match=r"no channel|find digest"):
                    connect()
        proxy = start_proxy(replace(origin, channel_binding="disable"))
        assert encrypted(proxy) == (True, None)
        proxy.running.close()


def test_an_encrypted_key_is_opened_by_sslpassword(
    start_proxy: StartProxy, origin: Origin, certificates: Certificates, tmp_path: Path
) -> None:
    key = tmp_path / "client.key"
    command = ["openssl", "pkcs8", "-topk8", "-in", certificates.client_key, "-out", key]
    subprocess.run([*command, "-passout", "pass:key secret"], check=True, capture_output=True)
    origin = replace(origin, sslmode="require", sslcert=str(certificates.client), sslkey=str(key))
    assert "key secret" not in repr(replace(origin, sslpassword="key secret"))
    proxy = start_proxy(replace(origin, sslpassword="key secret"))
    assert encrypted(proxy) == (True, "/CN=postgres")
    for password in ("wrong secret", None):
        with pytest.raises(psycopg.OperationalError, match="can't be used") as caught:
            start_proxy(replace(origin, sslpassword=password)).connect()
        assert "secret" not in str(caught.value)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libpq's default files are looked for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".postgresql"
    folder.mkdir()
    return folder


def test_a_certificate_of_libpqs_default_name_is_presented(
    start_proxy: StartProxy, origin: Origin, certificates: Certificates, home: Path
) -> None:
    (home / "postgresql.crt").write_bytes(certificates.client.read_bytes())
    (home / "postgresql.key").write_bytes(certificates.client_key.read_bytes())
    assert encrypted(start_proxy(replace(origin, sslmode="require"))) == (True, "/CN=postgres")


def test_require_checks_the_certificate_where_the_default_roots_are(
    start_proxy: StartProxy, origin: Origin, certificates: Certificates, home: Path
) -> None:
    origin = replace(origin, sslmode="require")
    (home / "root.crt").write_bytes(certificates.ca.read_bytes())
    assert encrypted(start_proxy(origin)) == (True, None)
    (home / "root.crt").write_bytes(certificates.client.read_bytes())
    with pytest.raises(psycopg.OperationalError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        start_proxy(origin).connect()
    # Whose certificate is wrong must not be talked out of checking it.
    assert "sslmode=disable" not in str(caught.value)


def test_a_root_certificate_that_changes_is_read_again(
    start_proxy: StartProxy, origin: Origin, certificates: Certificates, tmp_path: Path
) -> None:
    roots = tmp_path / "roots.pem"
    proxy = start_proxy(replace(origin, sslmode="verify-ca", sslrootcert=str(roots)))
    for content in (certificates.client, certificates.ca):
        roots.write_bytes(content.read_bytes())
        if content == certificates.ca:
            assert encrypted(proxy) == (True, None)
        else:
            with pytest.raises(psycopg.OperationalError, match="tls_failed"):
                proxy.connect()


class TestDirect:
    """``sslnegotiation=direct``, with another proxy as the origin or a scripted one."""

    @pytest.fixture
    def behind(
        self,
        start_proxy: StartProxy,
        certificates: Certificates,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Origin:
        """A proxy with TLS in front of the test's database, as an origin that is none of ours."""
        monkeypatch.setattr("hyperdrive_client.proxy.core.client_session.MARKER", b"")
        proxy = start_proxy(
            user="postgres",
            ssl="require",
            ssl_cert_file=str(certificates.server),
            ssl_key_file=str(certificates.server_key),
            ssl_ca_file=str(certificates.ca),
            clientcert="verify-full",
        )
        return replace(
            proxy.client,
            sslmode="verify-full",
            sslrootcert=str(certificates.ca),
            sslcert=str(certificates.client),
            sslkey=str(certificates.client_key),
            channel_binding="require",
        )

    @pytest.mark.parametrize("negotiation", ["postgres", "direct"])
    def test_a_proxy_behind_a_proxy(
        self, start_proxy: StartProxy, behind: Origin, negotiation: str
    ) -> None:
        proxy = start_proxy(replace(behind, sslnegotiation=negotiation))  # type: ignore[arg-type]
        with proxy.connect(autocommit=True) as connection, proxy.connect() as other:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert other.execute("SELECT 2").fetchone() == (2,)

    @pytest.mark.parametrize("negotiation", ["postgres", "direct"])
    def test_a_cancel_request_goes_through_both(
        self, start_proxy: StartProxy, behind: Origin, negotiation: str
    ) -> None:
        proxy = start_proxy(replace(behind, sslnegotiation=negotiation))  # type: ignore[arg-type]
        with proxy.connect() as first, proxy.connect(autocommit=True) as connection:
            # The second origin connection is one of protocol 3.2, with a long key.
            first.execute("SELECT 1")
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(connection.execute, "SELECT pg_sleep(60)")
                while ("active",) not in first.execute(
                    "SELECT state FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' "
                    "AND pid <> pg_backend_pid()"
                ).fetchall():
                    first.rollback()
                connection.cancel_safe(timeout=10)
                with pytest.raises(psycopg.errors.QueryCanceled):
                    running.result(10)

    @pytest.fixture
    def scripted(self, certificates: Certificates) -> Iterator[tuple[Address, list[bytes]]]:
        """A TLS server without ALPN, and what it has received."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server, certificates.server_key)
        received: list[bytes] = []

        def serve(server: socket.socket) -> None:
            plain, _ = server.accept()
            with contextlib.suppress(OSError), context.wrap_socket(plain, True) as connection:
                while data := connection.recv(4096):
                    received.append(data)

        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=serve, args=(server,))
            thread.start()
            yield Address("127.0.0.1", server.getsockname()[1]), received
            thread.join(10)

    def test_a_server_without_alpn_is_told_nothing(
        self,
        start_proxy: StartProxy,
        origin: Origin,
        scripted: tuple[Address, list[bytes]],
    ) -> None:
        address, received = scripted
        origin = replace(origin, addresses=(address,), sslmode="require", sslnegotiation="direct")
        with pytest.raises(psycopg.OperationalError, match=r"tls_failed \(no ALPN\)"):
            start_proxy(origin).connect()
        assert received == []

    def test_a_postgresql_without_direct_tls_is_said_to_be_too_old(
        self, start_proxy: StartProxy, origin: Origin
    ) -> None:
        origin = replace(origin, sslmode="require", sslnegotiation="direct")
        with pytest.raises(psycopg.OperationalError, match="needs PostgreSQL 17 or newer"):
            start_proxy(origin).connect()


def test_a_server_that_closes_within_the_handshake_is_reported(
    start_proxy: StartProxy, origin: Origin
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_early() -> None:
            peer, _ = server.accept()
            with peer:
                assert peer.recv(8) == SSL_REQUEST
                peer.sendall(b"S")
                peer.recv(1)

        closing = threading.Thread(target=close_early)
        closing.start()
        addresses = (Address("127.0.0.1", server.getsockname()[1]),)
        proxy = start_proxy(replace(origin, addresses=addresses, sslmode="require"))
        with pytest.raises(psycopg.OperationalError, match="attempt failed: econnreset"):
            proxy.connect()
        closing.join(10)
