"""How the proxy comes in at the origin."""

from __future__ import annotations

import pytest

from hyperdrive_client.bindings.connection_string import Address
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.passwords import md5_password
from hyperdrive_client.protocol.scram import ScramServer, ScramVerifier


@pytest.fixture
def server(proxy):
    """An origin connection that is being opened for a client that waits."""
    return waited_for(proxy)


def waited_for(proxy):
    client = proxy.connect()
    client.asks_in()
    client.receives("R 0")
    server = proxy.servers[-1]
    server.client = client
    return server


def asks(server, request: int, data: bytes = b"") -> None:
    server.sends_bytes(m.authentication(request, data))


def test_who_we_are(server):
    server.connects()
    assert server.startup == {
        b"user": b"owner",
        b"database": b"app",
        b"application_name": b"Cloudflare Hyperdrive",
    }


def test_the_origins_options_and_the_time_limit_for_statements(start):
    proxy = start(origin={"options": "-c jit=off"}, statement_timeout=60)
    server = waited_for(proxy)
    server.connects()
    assert server.startup[b"options"] == b"-c jit=off"
    assert server.startup[b"statement_timeout"] == b"60000"


class TestPasswords:
    def test_none_is_asked_for(self, server):
        server.starts()
        server.client.is_welcomed()

    def test_scram(self, server):
        server.connects()
        scram = ScramServer(ScramVerifier.from_password("secret"))
        asks(server, 10, b"SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00")
        data = server.hears_bytes()
        mechanism, _, rest = data[5:].partition(b"\x00")
        assert mechanism == b"SCRAM-SHA-256"
        asks(server, 11, scram.first(rest[4:]))
        asks(server, 12, scram.final(server.hears_bytes()[5:]))
        server.sends("R 0", "S server_version=18", "K 1", "Z I")
        server.client.is_welcomed(server_version="18")

    def test_an_origin_that_skips_its_proof_is_not_believed(self, server):
        server.connects()
        scram = ScramServer(ScramVerifier.from_password("other"))
        asks(server, 10, b"SCRAM-SHA-256\x00\x00")
        asks(server, 11, scram.first(server.hears_bytes()[23:]))
        server.sends("R 0")
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    def test_an_origin_with_a_wrong_proof_is_not_believed(self, server):
        server.connects()
        scram = ScramServer(ScramVerifier.from_password("secret"))
        asks(server, 10, b"SCRAM-SHA-256\x00\x00")
        asks(server, 11, scram.first(server.hears_bytes()[23:]))
        asks(server, 12, b"v=" + b"A" * 43 + b"=")
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    def test_authentication_ok_right_after_the_offer_is_not_believed(self, server):
        server.connects()
        asks(server, 10, b"SCRAM-SHA-256\x00\x00")
        server.sends("R 0")
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    def test_a_nonce_of_a_megabyte_fails_that_connection_only(self, server):
        server.proxy.feeding = "whole"
        server.connects()
        asks(server, 10, b"SCRAM-SHA-256\x00\x00")
        nonce = server.hears_bytes().rpartition(b"r=")[2]
        asks(server, 11, b"r=" + nonce + b"x" * 1_000_000 + b",s=AAAA,i=4096")
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    @pytest.mark.parametrize("request_", [11, 12])
    def test_scram_that_was_not_begun(self, server, request_):
        server.connects()
        asks(server, request_, b"r=x,s=AAAA,i=4096")
        server.client.receives("E FATAL 28000")
        assert server.aborted

    def test_a_mechanism_that_we_do_not_know(self, server):
        server.connects()
        asks(server, 10, b"OAUTHBEARER\x00\x00")
        server.client.receives("E FATAL 28000")
        assert server.aborted

    def test_md5(self, server):
        server.connects()
        asks(server, 5, b"salt")
        expected = md5_password("owner", "secret", b"salt")
        assert server.hears_bytes() == m.password(expected + b"\x00")

    def test_md5_without_its_salt(self, server):
        server.connects()
        asks(server, 5, b"sal")
        server.client.receives("E FATAL 28000")

    @pytest.mark.parametrize(
        ("host", "encrypted"), [("127.0.0.1", False), ("db.example", True), ("/run", False)]
    )
    def test_cleartext_where_nobody_can_listen(self, server, host, encrypted):
        server.connects(Address(host), encrypted=encrypted)
        asks(server, 3)
        assert server.hears_bytes() == m.password(b"secret\x00")

    def test_cleartext_is_not_sent_in_the_clear(self, server):
        server.connects(Address("db.example"))
        asks(server, 3)
        assert server.hears_bytes() == b""
        server.client.receives(
            "E FATAL 28000 The origin asks for a cleartext password without TLS, "
            "which is not supported."
        )

    def test_an_unknown_method(self, server):
        server.connects()
        asks(server, 7)
        server.client.receives("E FATAL 28000")

    def test_no_password_is_configured(self, start, tmp_path):
        proxy = start(origin={"password": None, "passfile": str(tmp_path / "none")})
        server = waited_for(proxy)
        server.connects()
        asks(server, 10, b"SCRAM-SHA-256\x00\x00")
        server.client.receives("E FATAL 28P01")
        assert server.aborted


class TestFailures:
    def test_the_origins_error_passes_unchanged(self, server):
        server.connects()
        server.sends('E FATAL 28P01 password authentication failed for user "owner"')
        server.client.receives('E FATAL 28P01 password authentication failed for user "owner"')
        assert server.aborted

    def test_detail_and_hint_pass_as_well(self, server):
        server.connects()
        error = m.error_response("28000", "no", severity="FATAL", detail="why", hint="do")
        server.sends_bytes(error)
        assert m.error_fields(server.client.hears_bytes()[5:]) == m.error_fields(error[5:])

    def test_an_error_without_fields(self, server):
        server.connects()
        server.sends_bytes(b"E\x00\x00\x00\x05\x00")
        server.client.receives("E FATAL 58000 Internal error.")

    def test_an_error_without_an_end(self, server):
        server.connects()
        server.sends_bytes(m.message(m.ERROR_RESPONSE, b"C57P03\x00Mnot y\xff"))
        server.client.receives("E FATAL 57P03 not y\N{REPLACEMENT CHARACTER}")

    def test_notices_are_not_for_anyone(self, server):
        server.connects()
        server.sends("N 00000 hello", "R 0", "N 00000 again", "K 1", "Z I")
        server.client.is_welcomed()

    @pytest.mark.parametrize("line", ["Z I", "S a=b", "K 7", "T a", "C SELECT", "I"])
    def test_nothing_counts_before_authentication(self, server, line):
        server.connects()
        server.sends(line)
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    @pytest.mark.parametrize("line", ["T a", "C SELECT 1", "1", "G", "I"])
    def test_nothing_else_belongs_to_start_up(self, server, line):
        server.connects()
        server.sends("R 0", line)
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    @pytest.mark.parametrize(
        "data",
        [
            b"R\x00\x00\x00\x04",
            b"R\x00\x00\x00\x07\x00\x00\x00",
            b"R\x00\x00\x00\x03",
            b"R\xff\xff\xff\xff",
            b"R\x00\x00\x00\x08\x00\x00\x00\x00K\x00\x00\x00\x04",
            b"R\x00\x00\x00\x08\x00\x00\x00\x00K\x00\x00\x00\x07abc",
            b"S\x00\x00\x00\x08HTTP",
        ],
    )
    def test_malformed_messages(self, server, data):
        server.connects()
        server.sends_bytes(data)
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    def test_an_error_after_authentication(self, server):
        server.connects()
        server.sends("R 0", "E FATAL 53300 sorry, too many clients already")
        server.client.receives("E FATAL 53300 sorry, too many clients already")

    def test_the_origins_password_is_in_no_error(self, server):
        server.connects()
        server.sends("E FATAL 28P01 no")
        assert "secret" not in repr(server.client.hears())
        assert "secret" not in repr(server.session)


class TestSeveralAddresses:
    """Who is reached and is not what is wanted makes way for the next address."""

    @pytest.fixture
    def proxy(self, start):
        addresses = (Address("one"), Address("two"))
        return start(origin={"addresses": addresses, "target_session_attrs": "read-write"})

    def test_a_standby_is_passed_over(self, proxy):
        server = waited_for(proxy)
        assert proxy.core.pool.first_address == 0
        server.starts(in_hot_standby="on")
        assert server.aborted
        assert proxy.core.pool.first_address == 1
        proxy.servers[1].starts(in_hot_standby="off")
        server.client.is_welcomed()
        assert proxy.core.pool.first_address == 1

    def test_after_the_last_address_the_client_is_told(self, proxy):
        client = waited_for(proxy).client
        proxy.servers[0].starts(in_hot_standby="on")
        proxy.servers[1].starts(default_transaction_read_only="on")
        client.receives("E FATAL 58000 Server connection attempt failed: no server is read-write")
        assert proxy.core.pool.first_address == 0

    def test_where_nobody_listens_is_the_networks_business(self, proxy):
        client = waited_for(proxy).client
        proxy.servers[0].cannot_be_reached()
        client.receives("E FATAL 58000")
        assert proxy.core.pool.first_address == 0


@pytest.mark.parametrize(
    ("wanted", "primary", "read_only_primary", "standby"),
    [
        ("any", True, True, True),
        ("read-write", True, False, False),
        ("read-only", False, True, True),
        ("primary", True, True, False),
        ("standby", False, False, True),
    ],
)
def test_which_servers_will_do(start, wanted, primary, read_only_primary, standby):
    for fits, reported in (
        (primary, {"in_hot_standby": "off", "default_transaction_read_only": "off"}),
        (primary, {}),
        (read_only_primary, {"default_transaction_read_only": "on"}),
        (standby, {"in_hot_standby": "on"}),
    ):
        server = waited_for(start(origin={"target_session_attrs": wanted}))
        server.starts(**reported)
        assert (server.state == "idle") == fits
        assert server.client.closed != fits


def test_a_password_file_that_changes_is_read_again(start, tmp_path):
    file = tmp_path / "pgpass"
    proxy = start(origin={"password": None, "passfile": str(file)})
    for password in ("first", "second"):
        file.write_text(f"*:*:*:*:{password}")
        file.chmod(0o600)
        server = waited_for(proxy)
        server.connects()
        scram = ScramServer(ScramVerifier.from_password(password))
        asks(server, 10, b"SCRAM-SHA-256\x00\x00")
        asks(server, 11, scram.first(server.hears_bytes()[23:]))
        asks(server, 12, scram.final(server.hears_bytes()[5:]))
        server.sends("E FATAL 53300 come again")
        assert server.client.hears() == ["E FATAL 53300 come again"]
        proxy.later(1)
