"""TLS between clients and the proxy, as PostgreSQL has it, on either event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import pytest

from hyperdrive_client.errors import ConfigurationError
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.startup import CANCEL_REQUEST_CODE, GSSENC_REQUEST, SSL_REQUEST
from hyperdrive_client.proxy import app

from ..protocol.test_channel_binding import make_certificate

if TYPE_CHECKING:
    from ..conftest import Certificates
    from .conftest import LiveProxy, StartProxy

StartWithTls = Callable[..., "LiveProxy"]


@pytest.fixture(params=["the usual loop", "asyncio's own"])
def event_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "asyncio's own":
        monkeypatch.setattr(app, "_new_event_loop", asyncio.new_event_loop)


@pytest.fixture
def start(start_proxy: StartProxy, certificates: Certificates) -> StartWithTls:
    """Start a proxy with the server's certificate, and TLS for all unless told otherwise."""

    def with_tls(**changes: object) -> LiveProxy:
        files = {"ssl_cert_file": certificates.server, "ssl_key_file": certificates.server_key}
        settings = {"ssl": "require", **files, **changes}
        return start_proxy(
            **{name: str(v) if isinstance(v, Path) else v for name, v in settings.items()}
        )

    return with_tls


@pytest.fixture
def context(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificates.ca))


@contextlib.contextmanager
def raw(proxy: LiveProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.settings.port), 10) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the end; the end may be an abrupt one."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def pg8000_connection(proxy: LiveProxy, context: ssl.SSLContext) -> pg8000.native.Connection:
    return pg8000.native.Connection(
        proxy.client.user,
        password=proxy.client.password,
        host="127.0.0.1",
        port=proxy.settings.port,
        database=proxy.client.database,
        ssl_context=context,
    )


def assert_serves(proxy: LiveProxy) -> None:
    with proxy.connect(sslmode="require") as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.usefixtures("event_loop")
class TestDrivers:
    @pytest.mark.parametrize(
        "parameters",
        [
            {"sslmode": "prefer"},
            {"sslmode": "require"},
            {"sslmode": "require", "channel_binding": "require"},
            {"sslmode": "require", "channel_binding": "disable"},
            {"sslmode": "require", "sslnegotiation": "direct"},
            {
                "sslmode": "require",
                "sslnegotiation": "direct",
                "channel_binding": "require",
                "min_protocol_version": "3.2",
                "max_protocol_version": "3.2",
            },
        ],
        ids=lambda each: " ".join(each.values()),
    )
    def test_psycopg(self, start: StartWithTls, parameters: dict[str, str]) -> None:
        with start().connect(**parameters) as connection:
            assert connection.pgconn.ssl_in_use
            rows = connection.execute("SELECT n FROM generate_series(1, 50000) n").fetchall()
            assert rows == [(n,) for n in range(1, 50001)]

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_psycopg_verifies_our_name(
        self, start: StartWithTls, certificates: Certificates, host: str
    ) -> None:
        roots = str(certificates.ca)
        with start().connect(host=host, sslmode="verify-full", sslrootcert=roots) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_psycopg_without_tls_is_refused_where_tls_is_demanded(
        self, start: StartWithTls
    ) -> None:
        with pytest.raises(psycopg.OperationalError, match="the proxy demands TLS"):
            start().connect(sslmode="disable")

    def test_psycopg_without_tls_comes_in_where_it_may(self, start: StartWithTls) -> None:
        proxy = start(ssl="allow")
        with proxy.connect(sslmode="disable") as connection:
            assert not connection.pgconn.ssl_in_use
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert_serves(proxy)

    def test_psycopg2(self, start: StartWithTls, certificates: Certificates) -> None:
        parameters = start().client.libpq_parameters()
        parameters |= {"sslmode": "verify-full", "sslrootcert": str(certificates.ca)}
        with contextlib.closing(psycopg2.connect(**parameters)) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
            assert connection.info.ssl_in_use

    def test_pg8000(self, start: StartWithTls, context: ssl.SSLContext) -> None:
        with contextlib.closing(pg8000_connection(start(), context)) as connection:
            assert connection.run("SELECT 1") == [[1]]

    @pytest.mark.parametrize("direct", [False, True])
    async def test_asyncpg(
        self, start: StartWithTls, context: ssl.SSLContext, direct: bool
    ) -> None:
        if direct:
            # Without, PostgreSQL refuses direct TLS, too.
            context.set_alpn_protocols(["postgresql"])
        client = start().client
        connection = await asyncpg.connect(
            user=client.user,
            password=client.password,
            host="127.0.0.1",
            port=client.addresses[0].port,
            database=client.database,
            ssl=context,
            direct_tls=direct,
        )
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


@pytest.mark.usefixtures("event_loop")
class TestCancel:
    @pytest.mark.parametrize("version", ["3.0", "3.2"])
    @pytest.mark.parametrize("negotiation", ["postgres", "direct"])
    def test_a_cancel_request_over_tls_is_obeyed(
        self, start: StartWithTls, version: str, negotiation: str
    ) -> None:
        proxy = start()
        connection = proxy.connect(
            sslmode="require",
            sslnegotiation=negotiation,
            max_protocol_version=version,
            autocommit=True,
        )
        with connection, ThreadPoolExecutor(1) as pool:
            running = pool.submit(connection.execute, "SELECT pg_sleep(60)")
            while not any(state == "active" for state, _ in proxy.origin_connections()):
                pass
            connection.cancel_safe(timeout=10)
            with pytest.raises(psycopg.errors.QueryCanceled):
                running.result(10)

    def test_an_old_clients_cancel_request_comes_in_plain_text(
        self, start: StartWithTls, context: ssl.SSLContext
    ) -> None:
        proxy = start()
        connection = pg8000_connection(proxy, context)
        with contextlib.closing(connection), ThreadPoolExecutor(1) as pool:
            running = pool.submit(connection.run, "SELECT pg_sleep(60)")
            while not any(state == "active" for state, _ in proxy.origin_connections()):
                pass
            key = connection._backend_key_data
            with raw(proxy) as canceller:
                canceller.sendall(struct.pack(">II", 8 + len(key), CANCEL_REQUEST_CODE) + key)
                assert everything(canceller) == b""
            with pytest.raises(pg8000.native.DatabaseError, match="57014"):
                running.result(10)


class TestClientCertificates:
    def shown(self, certificates: Certificates, **parameters: str) -> dict[str, str]:
        return {
            "sslmode": "require",
            "sslcert": str(certificates.client),
            "sslkey": str(certificates.client_key),
            **parameters,
        }

    @pytest.mark.parametrize("clientcert", ["no", "verify-ca", "verify-full"])
    @pytest.mark.parametrize("negotiation", ["postgres", "direct"])
    def test_a_valid_one_with_the_users_name_comes_in(
        self, start: StartWithTls, certificates: Certificates, clientcert: str, negotiation: str
    ) -> None:
        proxy = start(user="postgres", ssl_ca_file=certificates.ca, clientcert=clientcert)
        shown = self.shown(certificates, sslnegotiation=negotiation)
        with proxy.connect(**shown) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    @pytest.mark.parametrize("clientcert", ["verify-ca", "verify-full"])
    def test_none_is_refused_where_one_is_demanded(
        self, start: StartWithTls, certificates: Certificates, clientcert: str
    ) -> None:
        proxy = start(user="postgres", ssl_ca_file=certificates.ca, clientcert=clientcert)
        with pytest.raises(psycopg.OperationalError, match="requires a valid client certificate"):
            proxy.connect(sslmode="require")

    def test_none_will_do_where_none_is_demanded(
        self, start: StartWithTls, certificates: Certificates
    ) -> None:
        assert_serves(start(ssl_ca_file=certificates.ca))

    def test_another_name_is_refused_by_verify_full_alone(
        self, start: StartWithTls, certificates: Certificates
    ) -> None:
        shown = self.shown(certificates)
        with start(ssl_ca_file=certificates.ca, clientcert="verify-ca").connect(**shown) as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
        proxy = start(ssl_ca_file=certificates.ca, clientcert="verify-full")
        with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
            proxy.connect(**shown)

    @pytest.mark.parametrize("clientcert", ["no", "verify-ca"])
    def test_one_of_an_unknown_authority_is_refused(
        self,
        start: StartWithTls,
        certificates: Certificates,
        tmp_path: Path,
        clientcert: str,
    ) -> None:
        make_certificate(tmp_path, "-newkey", "ed25519")
        proxy = start(user="postgres", ssl_ca_file=certificates.ca, clientcert=clientcert)
        with pytest.raises(psycopg.OperationalError):
            proxy.connect(
                sslmode="require",
                sslcert=str(tmp_path / "certificate.pem"),
                sslkey=str(tmp_path / "key.pem"),
            )
        assert_serves(start())


@pytest.mark.usefixtures("event_loop")
class TestHostileClients:
    def test_plain_text_behind_sslrequest_never_runs(self, start: StartWithTls) -> None:
        """CVE-2021-23214: SSLRequest and a Query in one segment."""
        proxy = start(ssl="allow", auth="trust")
        startup = m.startup_message({b"user": b"x", b"database": proxy.client.database.encode()})
        with raw(proxy) as client:
            client.sendall(SSL_REQUEST + startup + m.query(b"CREATE TABLE evil ()"))
            received = everything(client)
        assert received[:1] == b"E"
        assert m.error_fields(received[5:])["C"] == "08P01"
        with proxy.at_origin() as origin:
            assert origin.execute("SELECT to_regclass('evil')").fetchone() == (None,)

    def test_plain_text_behind_our_answer_never_runs(self, start: StartWithTls) -> None:
        proxy = start(ssl="allow", auth="trust")
        startup = m.startup_message({b"user": b"x", b"database": proxy.client.database.encode()})
        with raw(proxy) as client:
            client.sendall(SSL_REQUEST)
            assert client.recv(1) == b"S"
            client.sendall(startup + m.query(b"CREATE TABLE evil ()"))
            assert b"Z\x00\x00\x00\x05" not in everything(client)
        with proxy.at_origin() as origin:
            assert origin.execute("SELECT to_regclass('evil')").fetchone() == (None,)

    def test_a_second_sslrequest_within_tls_is_refused(
        self, start: StartWithTls, context: ssl.SSLContext
    ) -> None:
        with raw(start()) as plain:
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(SSL_REQUEST)
                received = everything(client)
        assert m.error_fields(received[5:])["C"] == "0A000"

    @pytest.mark.parametrize("protocols", [[], ["h2", "http/1.1"]])
    def test_direct_tls_of_another_protocol_is_refused(
        self, start: StartWithTls, context: ssl.SSLContext, protocols: list[str]
    ) -> None:
        context.set_alpn_protocols(protocols)
        with (
            raw(start()) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = everything(client)
        assert "without ALPN" in m.error_fields(received[5:])["M"]

    def test_gssapi_is_declined_and_tls_goes_on(
        self, start: StartWithTls, context: ssl.SSLContext
    ) -> None:
        proxy = start()
        with raw(proxy) as plain:
            plain.sendall(GSSENC_REQUEST)
            assert plain.recv(1) == b"N"
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(m.startup_message({b"user": b"x"}))
                assert b"SCRAM-SHA-256-PLUS" in client.recv(1000)

    @pytest.mark.parametrize(
        "data",
        [
            struct.pack(">I", 0),
            struct.pack(">I", 3),
            struct.pack(">I", 0x7FFFFFFF),
            struct.pack(">I", 0xFFFFFFFF),
            b"GET / HTTP/1.1\r\n\r\n",
            SSL_REQUEST[:4] + struct.pack(">I", 2 << 16),
        ],
    )
    def test_a_malformed_start_up_is_refused(self, start: StartWithTls, data: bytes) -> None:
        proxy = start()
        with raw(proxy) as client:
            client.sendall(data)
            assert everything(client)[:1] == b"E"
        assert_serves(proxy)

    @pytest.mark.parametrize(
        "data",
        [b"\x16\x03\x01\x00\x05hello", b"\x16" + bytes(100), b"\x16\x03\x01\xff\xff" + bytes(100)],
    )
    def test_a_malformed_handshake_is_closed(self, start: StartWithTls, data: bytes) -> None:
        proxy = start(login_timeout=1)
        with raw(proxy) as client:
            client.sendall(data)
            everything(client)
        assert_serves(proxy)

    @pytest.mark.parametrize(
        ("sent", "answer"),
        [
            (b"", b""),
            (b"\x00", b""),
            (SSL_REQUEST[:7], b""),
            (SSL_REQUEST, b"S"),
            (GSSENC_REQUEST, b"N"),
            (b"\x16", b""),
            (b"\x16\x03\x01\x02\x00\x01", b""),
        ],
    )
    def test_who_stalls_before_or_within_the_handshake_is_cut_at_the_login_timeout(
        self, start: StartWithTls, sent: bytes, answer: bytes
    ) -> None:
        with raw(start(login_timeout=0.3)) as client:
            begin = time.monotonic()
            client.sendall(sent)
            assert everything(client) == answer
            assert 0.2 < time.monotonic() - begin < 5

    def test_a_byte_at_a_time_does_not_stretch_the_login_timeout(self, start: StartWithTls) -> None:
        with raw(start(login_timeout=0.5)) as client:
            begin = time.monotonic()
            client.settimeout(0.05)
            with contextlib.suppress(ConnectionError):
                for byte in b"\x16\x03\x01\x02\x00" + bytes(100):
                    client.sendall(bytes((byte,)))
                    with contextlib.suppress(TimeoutError):
                        if not client.recv(1):
                            break
            assert 0.3 < time.monotonic() - begin < 4

    def test_the_handshake_counts_for_the_login_timeout(
        self, start: StartWithTls, context: ssl.SSLContext
    ) -> None:
        """Who takes its time before and after the handshake has it once, not twice."""
        context.set_alpn_protocols(["postgresql"])
        with raw(start(login_timeout=2)) as plain:
            begin = time.monotonic()
            plain.settimeout(1.6)
            with pytest.raises(TimeoutError):
                plain.recv(1)
            plain.settimeout(10)
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                assert everything(client) == b""
            assert 1.9 < time.monotonic() - begin < 3.4

    def test_who_is_in_may_be_silent(self, start: StartWithTls) -> None:
        with start(login_timeout=0.3).connect(sslmode="require", autocommit=True) as connection:
            connection.execute("SELECT pg_sleep(0.6)")
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_who_is_greeted_when_the_proxy_is_to_end_is_told_so(
        self, start: StartWithTls, context: ssl.SSLContext
    ) -> None:
        proxy = start(auth="trust")
        # Somebody in a transaction keeps the proxy from ending at once.
        with proxy.connect(sslmode="require") as busy, raw(proxy) as plain:
            busy.execute("SELECT 1")
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            proxy.running._app.drain()  # type: ignore[attr-defined]
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                names = {b"user": b"x", b"database": proxy.client.database.encode()}
                client.sendall(m.startup_message(names))
                received = everything(client)
        assert b"57P03" in received

    def test_the_proxy_ends_with_a_handshake_under_way(self, start: StartWithTls) -> None:
        proxy = start()
        with raw(proxy) as client, raw(proxy) as silent:
            client.sendall(SSL_REQUEST)
            assert client.recv(1) == b"S"
            proxy.running.close()
            assert everything(client) == b""
            assert everything(silent) == b""


@pytest.mark.usefixtures("event_loop")
def test_large_results_and_copies_pass_with_back_pressure(start: StartWithTls) -> None:
    text = "x" * 1000
    with start().connect(sslmode="require") as connection:
        connection.execute("CREATE TABLE big (n int, t text)")
        cursor = connection.cursor()
        with cursor.copy("COPY big FROM STDIN") as copy:
            for number in range(20_000):
                copy.write_row((number, text))
        with cursor.copy("COPY big TO STDOUT") as copy:
            size = sum(len(data) for data in copy)
        assert size == sum(len(f"{number}\t{text}\n") for number in range(20_000))


def test_a_certificate_without_a_hash_goes_without_channel_binding(
    start: StartWithTls, tmp_path: Path
) -> None:
    make_certificate(tmp_path, "-newkey", "ed25519")
    files = {
        "ssl_cert_file": tmp_path / "certificate.pem",
        "ssl_key_file": tmp_path / "key.pem",
    }
    proxy = start(**files)
    assert_serves(proxy)
    with pytest.raises(psycopg.OperationalError, match="channel binding is required"):
        proxy.connect(sslmode="require", channel_binding="require")


def test_certificate_and_key_may_be_in_one_file(
    start: StartWithTls, certificates: Certificates, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_text(certificates.server_key.read_text() + certificates.server.read_text())
    proxy = start(ssl_cert_file=both, ssl_key_file=None)
    with proxy.connect(sslmode="require", channel_binding="require") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("name", ["ssl_cert_file", "ssl_key_file", "ssl_ca_file"])
@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_file_that_cannot_be_used_is_named(
    start: StartWithTls, tmp_path: Path, name: str, content: str | None
) -> None:
    path = tmp_path / "wrong.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=f"{path}.* can't be used"):
        start(**{name: path})


def test_an_encrypted_key_is_refused(
    start: StartWithTls, certificates: Certificates, tmp_path: Path
) -> None:
    encrypted = encrypt(certificates.server_key, tmp_path / "encrypted.key", "key secret")
    with pytest.raises(ConfigurationError, match=rf"{encrypted} can't be used"):
        start(ssl_key_file=encrypted)


def encrypt(key: Path, encrypted: Path, password: str) -> Path:
    command: list[Any] = ["openssl", "pkcs8", "-topk8", "-in", key, "-out", encrypted]
    subprocess.run([*command, "-passout", f"pass:{password}"], check=True, capture_output=True)
    return encrypted
