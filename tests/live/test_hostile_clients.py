"""Clients that break the protocol are told so and closed; nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.scram import ScramClient, ScramCredentials

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy


class RawClient:
    """A client of raw bytes."""

    def __init__(self, proxy: LiveProxy) -> None:
        self.proxy = proxy
        self.socket = socket.create_connection(("127.0.0.1", proxy.settings.port), 10)
        self.stream = self.socket.makefile("rb")

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stream.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[bytes, bytes]:
        """One message; an empty type at the end of the connection."""
        header = self.stream.read(5)
        if len(header) < 5:
            return b"", b""
        kind, length = struct.unpack(">cI", header)
        return kind, self.stream.read(length - 4)

    def until(self, kind: bytes) -> list[tuple[bytes, bytes]]:
        received = [self.receive()]
        while received[-1][0] not in (kind, b""):
            received.append(self.receive())
        return received

    def log_in(self, **parameters: str) -> None:
        client = self.proxy.client
        names = {"user": client.user, "database": client.database, **parameters}
        self.send(m.startup_message({k.encode(): v.encode() for k, v in names.items()}))
        assert self.receive() == (b"R", b"\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00")
        scram = ScramClient(ScramCredentials(client.password or ""))
        self.send(m.sasl_initial_response(scram.mechanism, scram.first()))
        self.send(m.password(scram.final(self.receive()[1][4:])))
        scram.verify(self.receive()[1][4:])
        assert self.until(b"Z")[-1] == (b"Z", b"I")


def error(body: bytes) -> dict[str, str]:
    return m.error_fields(body)


def assert_serves(proxy: LiveProxy) -> None:
    with proxy.connect(autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


MALFORMED_STARTS = {
    "length 0": struct.pack(">I", 0),
    "length 3": struct.pack(">I", 3),
    "length 2 GB": struct.pack(">I", 0x7FFFFFFF) + b"x" * 100,
    "length 4 GB": struct.pack(">I", 0xFFFFFFFF) + b"x" * 100,
    "protocol 2": struct.pack(">II", 8, 2 << 16),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no terminator": struct.pack(">II", 12, 3 << 16) + b"user",
    "names without values": struct.pack(">II", 14, 3 << 16) + b"user\x00\x00",
    "a short cancel": struct.pack(">II", 8, 80877102),
}


@pytest.mark.parametrize("data", MALFORMED_STARTS.values(), ids=MALFORMED_STARTS.keys())
def test_a_malformed_start_up_is_refused(proxy: LiveProxy, data: bytes) -> None:
    with RawClient(proxy) as client:
        client.send(data)
        kind, body = client.receive()
        assert kind == b"E"
        assert error(body)["C"] in ("08P01", "0A000")
        assert error(body)["S"] == "FATAL"
        assert client.receive() == (b"", b"")
    assert_serves(proxy)


def test_plain_text_behind_sslrequest_never_runs(proxy: LiveProxy) -> None:
    """CVE-2021-23214, where there is no TLS to be had."""
    with RawClient(proxy) as client:
        client.send(struct.pack(">II", 8, 80877103) + m.query(b"CREATE TABLE evil ()"))
        kind, body = client.receive()
        assert (kind, error(body)["C"]) == (b"E", "08P01")
        assert client.receive() == (b"", b"")


def test_encryption_requests_are_declined_and_plain_text_goes_on(proxy: LiveProxy) -> None:
    with RawClient(proxy) as client:
        for code in (80877104, 80877103):
            client.send(struct.pack(">II", 8, code))
            assert client.stream.read(1) == b"N"
        client.log_in()


MALFORMED_MESSAGES = {
    "an unknown type": m.message(ord("z"), b""),
    "length 0": b"Q" + struct.pack(">I", 0),
    "length 4 GB": b"Q" + struct.pack(">I", 0xFFFFFFFF),
    "a long Sync": b"S" + struct.pack(">I", 20_000),
    "Parse without an end": m.message(m.PARSE, b"name"),
    "Parse with too few types": m.message(m.PARSE, b"\x00SELECT 1\x00\x00\x05"),
    "Bind without names": m.message(m.BIND, b"portal"),
    "Describe of neither": m.message(m.DESCRIBE, b"Xname\x00"),
    "Close of neither": m.message(m.CLOSE, b"Xname\x00"),
    "a second StartupMessage": m.startup_message({b"user": b"x"}),
    "a password": m.password(b"x"),
}


@pytest.mark.parametrize("data", MALFORMED_MESSAGES.values(), ids=MALFORMED_MESSAGES.keys())
def test_a_malformed_message_closes_its_client_alone(proxy: LiveProxy, data: bytes) -> None:
    with RawClient(proxy) as client, proxy.connect() as other:
        other.execute("SELECT 1")
        client.log_in()
        client.send(m.query(b"SELECT 1") + data)
        received = client.until(b"")
        assert received[-2][0] == b"E"
        assert error(received[-2][1])["C"] == "08P01"
        assert other.execute("SELECT 2").fetchone() == (2,)
    assert_serves(proxy)


def test_an_unknown_user_cannot_be_told_from_a_wrong_password(proxy: LiveProxy) -> None:
    seen = []
    for user in (proxy.client.user, "nobody here"):
        with RawClient(proxy) as client:
            client.send(m.startup_message({b"user": user.encode(), b"database": b"x"}))
            flow = [client.receive()]
            scram = ScramClient(ScramCredentials("wrong"))
            client.send(m.sasl_initial_response(scram.mechanism, scram.first()))
            flow.append(client.receive())
            client.send(m.password(scram.final(flow[-1][1][4:])))
            flow.append(client.receive())
            text = error(flow[-1][1])
            assert text.pop("M") == f'password authentication failed for user "{user}"'
            seen.append(([kind for kind, _ in flow], len(flow[1][1]), text))
    assert seen[0] == seen[1]


MALFORMED_SASL = {
    "nothing": b"",
    "no length": b"SCRAM-SHA-256\x00",
    "half a length": b"SCRAM-SHA-256\x00\x00\x00",
    "a length of 4 GB": b"SCRAM-SHA-256\x00\xff\xff\xff\xffn,,n=,r=x",
    "cut off": b"SCRAM-SHA-256\x00\x00\x00\x00\x20n,,n=,r=x",
    "no nonce": b"SCRAM-SHA-256\x00\x00\x00\x00\x07n,,n=,r",
    "another mechanism": b"SCRAM-SHA-1\x00\x00\x00\x00\x09n,,n=,r=x",
    "a nonce of 60 kB": b"SCRAM-SHA-256\x00\x00\x00\xea\x69n,,n=,r=" + b"x" * 60_000,
}


@pytest.mark.parametrize("body", MALFORMED_SASL.values(), ids=MALFORMED_SASL.keys())
def test_a_malformed_scram_packet_is_refused(proxy: LiveProxy, body: bytes) -> None:
    with RawClient(proxy) as client:
        client.send(m.startup_message({b"user": b"x", b"database": b"x"}))
        client.receive()
        client.send(m.password(body))
        kind, response = client.receive()
        assert (kind, error(response)["C"]) == (b"E", "08P01")
        assert client.receive() == (b"", b"")
    assert_serves(proxy)


def test_a_wrong_password_is_refused_while_the_pool_is_warm(proxy: LiveProxy) -> None:
    assert_serves(proxy)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        proxy.connect(password="wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        proxy.connect(user="postgres")
    assert_serves(proxy)


@pytest.mark.parametrize("interval", [None, 0.05], ids=["silent", "a byte at a time"])
def test_a_start_up_that_is_slow_is_cut_at_the_login_timeout(
    start_proxy: StartProxy, interval: float | None
) -> None:
    proxy = start_proxy(login_timeout=0.4)
    with RawClient(proxy) as client:
        begin = time.monotonic()
        client.send(b"\x00\x00")
        client.socket.settimeout(interval or 10)
        with contextlib.suppress(ConnectionError):
            for byte in b"\x03\xe8\x00\x03\x00\x00" + bytes(100):
                try:
                    assert client.socket.recv(1) == b""
                    break
                except TimeoutError:
                    client.send(bytes((byte,)))
        assert 0.3 < time.monotonic() - begin < 3


def test_nothing_of_ours_runs_under_a_search_path_of_the_startup_message(
    proxy: LiveProxy,
) -> None:
    """Functions of ours are named with their schema, whatever a client has put before it."""
    with proxy.at_origin() as origin:
        origin.execute(
            """
            CREATE SCHEMA evil;
            CREATE TABLE evil.victims (what text);
            CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql
            AS $$INSERT INTO evil.victims VALUES ('set_config') RETURNING what$$;
            CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql
            AS $$INSERT INTO evil.victims VALUES ('current_setting') RETURNING what$$;
            CREATE VIEW evil.pg_settings AS SELECT evil.current_setting('x') AS name;
            """
        )
        options = "-c search_path=evil,pg_catalog -c work_mem=1MB"
        for _ in range(2):
            with proxy.connect(options=options, autocommit=True) as client:
                assert client.execute("SHOW search_path").fetchone() == ("evil,pg_catalog",)
                client.execute("SET work_mem = '2MB'")
                client.execute("SELECT 1")
        with proxy.connect() as other:
            assert other.execute("SHOW search_path").fetchone() != ("evil,pg_catalog",)
        assert origin.execute("SELECT what FROM evil.victims").fetchall() == []


def test_protocol_3_2_has_a_long_cancel_key(proxy: LiveProxy) -> None:
    for minor, length in ((0, 4), (2, 32)):
        with RawClient(proxy) as client:
            parameters = {b"user": proxy.client.user.encode()}
            parameters[b"database"] = proxy.client.database.encode()
            client.send(m.startup_message(parameters, minor))
            client.receive()
            scram = ScramClient(ScramCredentials(proxy.client.password or ""))
            client.send(m.sasl_initial_response(scram.mechanism, scram.first()))
            client.send(m.password(scram.final(client.receive()[1][4:])))
            keys = [body for kind, body in client.until(b"Z") if kind == b"K"]
            assert [len(key) - 4 for key in keys] == [length]


def test_a_newer_protocol_and_unknown_options_are_negotiated(proxy: LiveProxy) -> None:
    with RawClient(proxy) as client:
        client.send(m.startup_message({b"user": b"x", b"_pq_.new": b"1"}, minor=9))
        names = b"_pq_.new\x00"
        assert client.receive() == (b"v", struct.pack(">II", 3 << 16 | 2, 1) + names)
