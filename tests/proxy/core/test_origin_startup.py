"""How the proxy comes in at the origin."""

from __future__ import annotations

import hashlib

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
        asks(server, 10, b"SCRAM-SHA-256\x00\x00")
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


# The frame of a certificate that is signed by SHA-256 with RSA, and by Ed25519.
CERTIFICATE = bytes.fromhex("3014 3000 300d 06092a864886f70d01010b0500 030100")
UNHASHED = bytes.fromhex("300c 3000 3005 06032b6570 030100")
PLUS, PLAIN = b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"


class TestChannelBinding:
    """SCRAM-SHA-256-PLUS, chosen as libpq does."""

    @pytest.fixture
    def server_for(self, start):
        """An origin connection for a client that waits, with this ``channel_binding``."""
        return lambda wish: waited_for(start(origin={"channel_binding": wish}))

    def is_in(self, server, offered, *, mechanism, flag):
        """Offers these mechanisms; the proxy comes in with that one."""
        scram = ScramServer(
            ScramVerifier.from_password("secret"),
            channel_binding=hashlib.sha256(CERTIFICATE).digest() if PLUS in offered else None,
        )
        asks(server, 10, b"\x00".join((*offered, b"", b"")))
        chosen, _, rest = server.hears_bytes()[5:].partition(b"\x00")
        assert chosen == mechanism
        assert rest[4:].partition(b",")[0] == flag
        asks(server, 11, scram.first(rest[4:], chosen))
        asks(server, 12, scram.final(server.hears_bytes()[5:]))
        server.sends("R 0", "S server_version=18", "K 1", "Z I")
        server.client.is_welcomed(server_version="18")

    @pytest.mark.parametrize("wish", ["prefer", "require"])
    def test_it_is_used_where_it_is_offered(self, server_for, wish):
        server = server_for(wish)
        server.connects(encrypted=True, certificate=CERTIFICATE)
        self.is_in(server, (PLUS, PLAIN), mechanism=PLUS, flag=b"p=tls-server-end-point")

    @pytest.mark.parametrize("wish", ["prefer", "require"])
    def test_it_may_be_all_that_is_offered(self, server_for, wish):
        server = server_for(wish)
        server.connects(encrypted=True, certificate=CERTIFICATE)
        self.is_in(server, (PLUS,), mechanism=PLUS, flag=b"p=tls-server-end-point")

    def test_disable_goes_without(self, server_for):
        server = server_for("disable")
        server.connects(encrypted=True, certificate=CERTIFICATE)
        self.is_in(server, (PLUS, PLAIN), mechanism=PLAIN, flag=b"n")

    def test_disable_needs_another_offer(self, server_for):
        server = server_for("disable")
        server.connects(encrypted=True, certificate=CERTIFICATE)
        asks(server, 10, PLUS + b"\x00\x00")
        server.client.receives("E FATAL 28000 The origin asks for a SASL mechanism other than")
        assert server.aborted

    @pytest.mark.parametrize("certificate", [CERTIFICATE, UNHASHED])
    def test_prefer_says_that_it_would_have_bound_itself(self, server_for, certificate):
        server = server_for("prefer")
        server.connects(encrypted=True, certificate=certificate)
        self.is_in(server, (PLAIN,), mechanism=PLAIN, flag=b"y")

    def test_without_tls_there_is_nothing_to_bind_to(self, server_for):
        server = server_for("prefer")
        server.connects()
        self.is_in(server, (PLAIN,), mechanism=PLAIN, flag=b"n")

    def test_an_offer_without_tls_is_not_believed(self, server_for):
        server = server_for("prefer")
        server.connects()
        asks(server, 10, PLUS + b"\x00" + PLAIN + b"\x00\x00")
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    @pytest.mark.parametrize(
        ("encrypted", "request_", "data", "what"),
        [
            (True, 10, PLAIN + b"\x00\x00", "The origin offers no channel binding."),
            (False, 10, PLAIN + b"\x00\x00", "The origin has no TLS to bind to."),
            (True, 5, b"salt", "The origin authenticates without channel binding."),
            (True, 3, b"", "The origin authenticates without channel binding."),
            (True, 0, b"", "The origin authenticates without channel binding."),
        ],
    )
    def test_require_accepts_nothing_less(self, server_for, encrypted, request_, data, what):
        server = server_for("require")
        server.connects(encrypted=encrypted, certificate=CERTIFICATE if encrypted else None)
        asks(server, request_, data)
        assert server.hears_bytes() == b""
        server.client.receives(f"E FATAL 28000 {what}")
        assert server.aborted

    @pytest.mark.parametrize(("request_", "data"), [(5, b"salt"), (3, b"")])
    def test_require_accepts_nothing_less_once_it_has_begun(self, server_for, request_, data):
        server = server_for("require")
        server.connects(encrypted=True, certificate=CERTIFICATE)
        asks(server, 10, PLUS + b"\x00\x00")
        assert server.hears_bytes()
        asks(server, request_, data)
        assert server.hears_bytes() == b""
        server.client.receives("E FATAL 28000 The origin authenticates without channel binding.")

    @pytest.mark.parametrize("wish", ["prefer", "require"])
    def test_a_certificate_without_a_hash_is_refused_as_by_libpq(self, server_for, wish):
        # With a relayed "n" somebody in between could log in with our proof.
        server = server_for(wish)
        server.connects(encrypted=True, certificate=UNHASHED)
        asks(server, 10, PLUS + b"\x00" + PLAIN + b"\x00\x00")
        server.client.receives(
            "E FATAL 28000 The origin has a certificate whose signature algorithm allows no "
            "channel binding."
        )
        assert server.aborted


class TestProtocolVersion:
    """3.2 is asked for where it is known to be spoken."""

    def another(self, proxy):
        """An origin connection more, for a new client; all others are in use."""
        client = proxy.client()
        client.sends("Q begin read write")
        server = proxy.servers[-1]
        server.client = client
        server.connects()
        return server

    def second(self, proxy, **reported):
        """The one after one to a server with that version."""
        first = waited_for(proxy)
        first.starts(**reported)
        first.client.is_welcomed()
        first.client.sends("Q begin read write")
        return self.another(proxy)

    @pytest.mark.parametrize("version", ["18.0", "18devel", "19.1 (Debian 19.1-1)"])
    def test_a_server_that_speaks_3_2_is_asked_for_it_from_the_second_time_on(self, proxy, version):
        assert self.second(proxy, server_version=version).minor == 2
        assert proxy.servers[0].minor == 0

    @pytest.mark.parametrize("version", ["17.6", "9.6.24", "", "v18"])
    def test_another_is_not(self, proxy, version):
        assert self.second(proxy, server_version=version).minor == 0

    @pytest.mark.parametrize("negotiated", [False, True])
    def test_who_has_answered_is_asked_again(self, proxy, negotiated):
        server = self.second(proxy)
        assert self.another(proxy).minor == 0
        if negotiated:
            server.sends_bytes(m.negotiate_protocol_version(0, ()))
        server.sends("R 0", "K 1", "Z I")
        server.receives("Q begin read write")
        assert self.another(proxy).minor == 2

    @pytest.mark.parametrize(
        "refusal",
        [
            ("E FATAL 0A000 unsupported frontend protocol 3.2: server supports 2.0 to 3.0",),
            ("E FATAL 08P01 bad packet header",),
            (),
        ],
    )
    def test_who_does_not_know_it_is_asked_for_3_0_for_good(self, proxy, refusal):
        server = self.second(proxy)
        server.sends(*refusal)
        server.closes()
        server.client.receives()
        proxy.later(1)
        proxy.servers[2].starts()
        assert proxy.servers[2].minor == 0
        proxy.servers[2].receives("Q begin read write")
        assert self.another(proxy).minor == 0

    @pytest.mark.parametrize("sqlstate", ["0A000", "08P01"])
    def test_a_refused_version_is_not_the_clients_business(self, proxy, sqlstate):
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select 1")
        proxy.servers[1].connects()
        assert proxy.servers[1].minor == 2
        proxy.servers[1].sends(f"E FATAL {sqlstate} unsupported frontend protocol 3.2")
        client.receives()
        proxy.later(1)
        proxy.servers[2].starts()
        proxy.servers[2].receives("Q select 1")
        assert proxy.servers[2].minor == 0

    @pytest.mark.parametrize("length", [4, 5, 32, 256])
    def test_the_cancel_key_is_kept_whatever_its_length(self, server, length):
        server.connects()
        key = bytes(range(length))
        server.sends_bytes(m.authentication(0) + m.backend_key_data(7, key))
        server.sends("Z I")
        assert server.session.secret_key == key

    @pytest.mark.parametrize("length", [0, 3, 257])
    def test_a_cancel_key_of_another_length_is_refused(self, server, length):
        server.connects()
        server.sends_bytes(m.authentication(0) + m.backend_key_data(7, bytes(length)))
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            m.INT32.pack(3 << 16),
            m.INT32.pack(3 << 16) + m.INT32.pack(1) + b"_pq_.x\x00",
            m.INT32.pack(3 << 16 | 1) + m.INT32.pack(0),
            m.INT32.pack(3 << 16 | 2) + m.INT32.pack(0),
            m.INT32.pack(2 << 16) + m.INT32.pack(0),
            m.INT32.pack(0) + m.INT32.pack(0),
        ],
    )
    def test_a_negotiation_to_what_was_not_asked_for_is_refused(self, proxy, body):
        server = self.second(proxy)
        server.sends_bytes(m.message(m.NEGOTIATE_PROTOCOL_VERSION, body))
        assert server.aborted

    def test_a_negotiation_of_3_0_is_refused(self, server):
        server.connects()
        server.sends_bytes(m.negotiate_protocol_version(0, ()))
        server.client.receives("E FATAL 08P01")
        assert server.aborted

    def test_a_second_negotiation_is_refused(self, proxy):
        server = self.second(proxy)
        server.sends_bytes(m.negotiate_protocol_version(0, ()))
        assert not server.aborted
        server.sends_bytes(m.negotiate_protocol_version(0, ()))
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

    def test_an_error_without_an_sqlstate_or_any_other_field(self, server):
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


class TestPreferStandby:
    @pytest.fixture
    def proxy(self, start):
        addresses = (Address("one"), Address("two"))
        return start(origin={"addresses": addresses, "target_session_attrs": "prefer-standby"})

    def test_a_primary_makes_way_for_a_standby(self, proxy):
        client = waited_for(proxy).client
        proxy.servers[0].starts(address=Address("one"), in_hot_standby="off")
        assert proxy.servers[0].aborted
        assert proxy.core.pool.first_address == 1
        proxy.servers[1].starts(address=Address("two"), in_hot_standby="on")
        client.is_welcomed()

    def test_the_last_of_the_primaries_will_do(self, proxy):
        client = waited_for(proxy).client
        proxy.servers[0].starts(address=Address("one"), in_hot_standby="off")
        proxy.servers[1].starts(address=Address("two"), in_hot_standby="off")
        client.is_welcomed()

    def test_the_primary_will_do_where_the_other_address_is_silent(self, proxy):
        client = waited_for(proxy).client
        proxy.servers[0].starts(address=Address("one"), in_hot_standby="off")
        # The network goes on to the next address that answers: the same again.
        proxy.servers[1].starts(address=Address("one"), in_hot_standby="off")
        client.is_welcomed()

    def test_each_new_connection_looks_for_a_standby_again(self, proxy):
        client = waited_for(proxy).client
        for number in (0, 1):
            proxy.servers[number].starts(address=Address("one"), in_hot_standby="off")
        client.is_welcomed()
        client.sends("Q select 1")
        other = proxy.client()
        other.sends("Q select 1")
        proxy.servers[2].starts(address=Address("one"), in_hot_standby="off")
        assert proxy.servers[2].aborted

    def test_a_single_address_is_what_there_is(self, start):
        server = waited_for(start(origin={"target_session_attrs": "prefer-standby"}))
        server.starts(in_hot_standby="off")
        server.client.is_welcomed()


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
