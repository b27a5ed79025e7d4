"""How a client comes in, and who does not."""

from __future__ import annotations

import pytest

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.scram import SCRAM_SHA_256_PLUS
from hyperdrive_client.proxy.core.client_startup import ClientTls
from hyperdrive_client.version import __version__

SSL_REQUEST = m.INT32.pack(8) + m.INT32.pack(1234 << 16 | 5679)
GSSENC_REQUEST = m.INT32.pack(8) + m.INT32.pack(1234 << 16 | 5680)


def test_a_client_comes_in_with_the_password(start):
    proxy = start(auth="scram")
    client = proxy.connect()
    client.asks_in()
    client.proves()
    proxy.servers[0].starts()
    client.is_welcomed(server_version="18.0")
    assert client.state == "idle"


def test_trust_asks_for_no_password(proxy):
    client = proxy.connect()
    client.asks_in()
    client.receives("R 0")
    assert client.state == "joining"


class TestEncryptionRequests:
    @pytest.mark.parametrize("request_", [SSL_REQUEST, GSSENC_REQUEST])
    def test_one_is_declined_and_the_client_goes_on(self, proxy, request_):
        client = proxy.connect()
        client.sends_bytes(request_)
        assert client.hears_bytes() == b"N"
        client.asks_in()
        client.receives("R 0")

    def test_one_of_each_is_declined(self, proxy):
        client = proxy.connect()
        client.sends_bytes(GSSENC_REQUEST)
        client.sends_bytes(SSL_REQUEST)
        assert client.hears_bytes() == b"NN"
        client.asks_in()
        client.receives("R 0")

    def test_a_third_is_refused(self, proxy):
        client = proxy.connect()
        client.sends_bytes(GSSENC_REQUEST)
        client.sends_bytes(SSL_REQUEST)
        client.sends_bytes(SSL_REQUEST)
        assert client.hears_bytes().startswith(b"NNE")
        assert client.closed

    @pytest.mark.parametrize("feeding", ["whole"])
    @pytest.mark.parametrize("rest", [b"Q\x00\x00\x00\x0dselect 1\x00", b"\x00"])
    def test_what_is_sent_ahead_of_our_answer_is_never_run(self, proxy, rest):
        client = proxy.connect()
        client.sends_bytes(SSL_REQUEST + rest)
        client.receives("E FATAL 08P01")
        assert client.closed
        assert not proxy.servers


CERTIFICATE = {"ssl_cert_file": "server.pem", "ssl_ca_file": "ca.pem"}
ALLOWED = {"ssl": "allow", **CERTIFICATE}
REQUIRED = {"ssl": "require", **CERTIFICATE}
HASH = bytes(range(32))


class TestTls:
    """What the connection's TLS decides; the handshake itself is the network layer's."""

    def test_a_client_without_tls_comes_in_where_it_may(self, start):
        client = start(tls=ALLOWED).connect()
        client.asks_in()
        client.receives("R 0")

    @pytest.mark.parametrize("auth", ["trust", "scram"])
    def test_a_client_without_tls_is_refused_where_tls_is_demanded(self, start, auth):
        proxy = start(tls=REQUIRED, auth=auth)
        client = proxy.connect()
        client.asks_in()
        client.receives("E FATAL 28000 connection is not encrypted, and the proxy demands TLS")
        assert client.closed
        assert not proxy.servers

    def test_a_client_with_tls_comes_in_where_tls_is_demanded(self, start):
        client = start(tls=REQUIRED).connect(ClientTls())
        client.asks_in()
        client.receives("R 0")

    def test_a_cancel_request_needs_no_tls(self, start):
        proxy = start(tls=REQUIRED)
        client = proxy.connect(ClientTls())
        client.asks_in()
        proxy.servers[0].starts()
        client.is_welcomed()
        client.sends("Q select 1")
        canceller = client.cancel_request()
        assert canceller.state == "cancelling"
        assert proxy.servers[0].cancels == 1

    @pytest.mark.parametrize("request_", [SSL_REQUEST, GSSENC_REQUEST])
    def test_a_second_request_for_encryption_within_tls_is_refused(self, start, request_):
        client = start(tls=ALLOWED).connect(ClientTls())
        client.sends_bytes(request_)
        (error,) = client.hears()
        minor = m.INT32.unpack_from(request_, 4)[0] & 0xFFFF
        assert error == (
            f"E FATAL 0A000 unsupported frontend protocol 1234.{minor}: server supports 3.0 to 3.2"
        )
        assert client.closed

    def test_direct_tls_without_alpn_is_refused(self, start):
        proxy = start(tls=ALLOWED)
        client = proxy.connect(ClientTls(direct=True))
        client.asks_in()
        client.receives(
            "E FATAL 08P01 received direct SSL connection request without ALPN protocol "
            "negotiation extension"
        )
        assert client.closed
        assert not proxy.servers

    def test_direct_tls_with_alpn_comes_in(self, start):
        client = start(tls=ALLOWED).connect(ClientTls(direct=True, alpn=True))
        client.asks_in()
        client.receives("R 0")

    @pytest.mark.parametrize("clientcert", ["verify-ca", "verify-full"])
    @pytest.mark.parametrize("auth", ["trust", "scram"])
    def test_who_has_no_certificate_is_refused_where_one_is_demanded(self, start, auth, clientcert):
        client = start(auth=auth, tls={**REQUIRED, "clientcert": clientcert}).connect(ClientTls())
        client.asks_in()
        client.receives("E FATAL 28000 connection requires a valid client certificate")
        assert client.closed

    @pytest.mark.parametrize("name", ["visitor", "other", ""])
    def test_verify_ca_takes_a_certificate_of_any_name(self, start, name):
        proxy = start(tls={**REQUIRED, "clientcert": "verify-ca"})
        client = proxy.connect(ClientTls(common_name=name))
        client.asks_in()
        client.receives("R 0")

    @pytest.mark.parametrize(
        ("name", "fits"),
        [
            ("visitor", True),
            ("Visitor", False),
            ("visitor\0", False),
            ("visito", False),
            ("", False),
        ],
    )
    def test_verify_full_takes_only_the_users_own(self, start, name, fits):
        proxy = start(tls={**REQUIRED, "clientcert": "verify-full"})
        client = proxy.connect(ClientTls(common_name=name))
        client.asks_in()
        if fits:
            client.receives("R 0")
        else:
            client.receives('E FATAL 28000 certificate authentication failed for user "visitor"')
            assert client.closed

    def test_another_name_is_told_only_to_who_has_the_password(self, start):
        proxy = start(auth="scram", tls={**REQUIRED, "clientcert": "verify-full"})
        for password, error in (("wrong", "E FATAL 28P01"), ("entry", "E FATAL 28000")):
            client = proxy.connect(ClientTls(common_name="other"))
            client.asks_in()
            client.proves(password)
            client.receives(error)
            assert client.closed


class TestChannelBinding:
    @pytest.fixture
    def proxy(self, start):
        proxy = start(auth="scram", tls=ALLOWED)
        proxy.core.doorkeeper.channel_binding = HASH
        return proxy

    def offer(self, client):
        client.asks_in()
        return client.hears_bytes()[9:].rstrip(b"\x00").split(b"\x00")

    def test_it_is_offered_with_tls_only(self, proxy):
        plus = [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]
        assert self.offer(proxy.connect(ClientTls())) == plus
        assert self.offer(proxy.connect()) == plus[1:]

    def test_it_is_not_offered_where_the_certificate_has_no_hash(self, proxy):
        proxy.core.doorkeeper.channel_binding = None
        assert self.offer(proxy.connect(ClientTls())) == [b"SCRAM-SHA-256"]

    @pytest.mark.parametrize("password", ["entry", "wrong"])
    def test_a_client_bound_to_our_certificate_comes_in_with_the_password(self, proxy, password):
        client = proxy.connect(ClientTls())
        client.asks_in()
        client.proves(password, HASH)
        if password == "entry":
            proxy.servers[0].starts()
            client.is_welcomed()
        else:
            client.receives("E FATAL 28P01")
            assert client.closed

    def test_a_client_bound_to_another_certificate_is_refused(self, proxy):
        client = proxy.connect(ClientTls())
        client.asks_in()
        client.proves("entry", bytes(32))
        client.receives("E FATAL 28000 SCRAM channel binding check failed")
        assert client.closed

    def test_a_client_that_was_not_shown_the_offer_is_refused(self, proxy):
        client = proxy.connect(ClientTls())
        client.asks_in()
        client.hears()
        client.sends_bytes(m.sasl_initial_response(b"SCRAM-SHA-256", b"y,,n=,r=nonce"))
        client.receives("E FATAL 28000")

    def test_a_client_without_tls_cannot_choose_it(self, proxy):
        client = proxy.connect()
        client.asks_in()
        client.hears()
        first = b"p=tls-server-end-point,,n=,r=nonce"
        client.sends_bytes(m.sasl_initial_response(SCRAM_SHA_256_PLUS, first))
        client.receives("E FATAL 08P01")
        assert client.closed


class TestStartupMessage:
    @pytest.mark.parametrize("minor", [0, 2])
    def test_protocols_that_we_speak(self, proxy, minor):
        client = proxy.connect()
        client.asks_in(minor=minor)
        client.receives("R 0")

    @pytest.mark.parametrize(("minor", "answer"), [(9, "v 2"), (3, "v 2")])
    def test_a_newer_protocol_is_negotiated_down(self, proxy, minor, answer):
        client = proxy.connect()
        client.asks_in(minor=minor)
        client.receives(answer, "R 0")

    def test_unknown_protocol_options_are_named(self, proxy):
        client = proxy.connect()
        client.asks_in(**{"_pq_.cheese": "brie", "_pq_.wine": "red"})
        client.receives("v 0 _pq_.cheese,_pq_.wine", "R 0")

    def test_negotiation_comes_before_authentication(self, start):
        proxy = start(auth="scram")
        client = proxy.connect()
        client.asks_in(minor=9)
        client.receives("v 2", "R 10")

    @pytest.mark.parametrize(("minor", "length"), [(0, 4), (2, 32), (9, 32)])
    def test_the_cancel_key_is_as_long_as_the_protocol_allows(self, proxy, minor, length):
        proxy.pair()
        client = proxy.connect()
        client.asks_in(minor=minor)
        if minor == 9:
            assert client.hears()[0] == "v 2"
            assert len(client.session.secret_key) == length
        else:
            client.is_welcomed()
            assert len(client.secret_key) == length

    def test_another_major_version_is_refused(self, proxy):
        client = proxy.connect()
        client.sends_bytes(m.INT32.pack(9) + m.INT32.pack(2 << 16) + b"\x00")
        client.receives("E FATAL 0A000")
        assert client.closed

    @pytest.mark.parametrize("length", [0, 3, 7, 10_005, 0x7FFFFFFF, 0xFFFFFFFF])
    def test_an_impossible_length_is_refused(self, proxy, length):
        client = proxy.connect()
        client.sends_bytes(m.INT32.pack(length))
        client.receives("E FATAL 08P01")
        assert client.closed

    def test_no_user(self, proxy):
        client = proxy.connect()
        client.sends_bytes(m.startup_message({b"database": b"app"}))
        client.receives("E FATAL 28000 no PostgreSQL user name specified in startup packet")
        assert client.closed

    @pytest.mark.parametrize("value", ["true", "database", "1", "yes"])
    def test_replication_is_refused(self, proxy, value):
        client = proxy.connect()
        client.asks_in(replication=value)
        client.receives("E FATAL 0A000")
        assert client.closed

    @pytest.mark.parametrize("value", ["off", "FALSE", "0"])
    def test_no_replication_is_no_reason(self, proxy, value):
        client = proxy.connect()
        client.asks_in(replication=value)
        client.receives("R 0")

    def test_without_a_database_it_is_the_users_name(self, start):
        proxy = start(origin={"database": "visitor"})
        client = proxy.connect()
        client.sends_bytes(m.startup_message({b"user": b"visitor"}))
        client.receives("R 0")

    def test_bad_options_are_refused_after_authentication(self, proxy):
        client = proxy.connect()
        client.asks_in(options="-z")
        client.receives("R 0", "E FATAL 42601")
        assert client.closed
        assert proxy.core.at_rest

    def test_a_bad_setting_name_is_refused(self, proxy):
        client = proxy.connect()
        client.asks_in(**{"no name": "1"})
        client.receives("R 0", "E FATAL 42602")
        assert client.closed


class TestScram:
    @pytest.fixture
    def proxy(self, start):
        return start(auth="scram")

    def test_a_wrong_password(self, proxy):
        client = proxy.connect()
        client.asks_in()
        client.proves("wrong")
        client.receives('E FATAL 28P01 password authentication failed for user "visitor"')
        assert client.closed

    def test_an_unknown_user_cannot_be_told_from_a_wrong_password(self, proxy):
        client = proxy.connect()
        client.asks_in(user="stranger")
        client.proves()
        client.receives('E FATAL 28P01 password authentication failed for user "stranger"')
        assert client.closed

    def test_an_unknown_user_has_the_same_salt_each_time(self, proxy):
        heard = []
        for user in ("stranger", "stranger", "other"):
            client = proxy.connect()
            client.asks_in(user=user)
            client.hears()
            client.sends_bytes(m.sasl_initial_response(b"SCRAM-SHA-256", b"n,,n=,r=nonce"))
            fields = dict(field.split(b"=", 1) for field in client.hears_bytes()[9:].split(b","))
            heard.append((fields[b"s"], fields[b"i"]))
        assert heard[0] == heard[1] != heard[2]

    def test_a_wrong_password_is_refused_while_the_pool_is_warm(self, proxy):
        first = proxy.connect()
        first.asks_in()
        first.proves()
        proxy.servers[0].starts()
        second = proxy.connect()
        second.asks_in()
        second.proves("wrong")
        second.receives("E FATAL 28P01")
        assert second.closed

    def test_a_wrong_database_is_told_only_to_who_has_the_password(self, proxy):
        stranger = proxy.connect()
        stranger.asks_in(database="none")
        stranger.proves("wrong")
        stranger.receives("E FATAL 28P01")
        client = proxy.connect()
        client.asks_in(database="none")
        client.proves()
        client.receives('E FATAL 3D000 database "none" does not exist')
        assert client.closed

    def test_a_search_path_in_the_startup_message_is_not_used_before_authentication(self, proxy):
        asked = proxy.connect()
        asked.asks_in()
        asked.proves()
        server = proxy.servers[0]
        server.starts()
        client = proxy.connect()
        client.asks_in(search_path="evil")
        server.receives()
        client.proves("wrong")
        client.receives("E FATAL 28P01")
        server.receives()
        assert len(proxy.servers) == 1

    def test_the_first_response_may_come_with_the_startup_message(self, proxy):
        client = proxy.connect()
        first = m.sasl_initial_response(b"SCRAM-SHA-256", b"n,,n=,r=nonce")
        packet = m.startup_message({b"user": b"visitor", b"database": b"app"})
        client.sends_bytes(packet + first)
        client.receives("R 10", "R 11")

    def test_another_message_is_refused(self, proxy):
        client = proxy.connect()
        client.asks_in()
        client.hears()
        client.sends("Q select 1")
        client.receives("E FATAL 08P01")
        assert client.closed
        assert not proxy.servers

    @pytest.mark.parametrize(
        "body",
        [
            b"SCRAM-SHA-1\x00" + m.INT32.pack(3) + b"n,,",
            b"SCRAM-SHA-256",
            b"SCRAM-SHA-256\x00\x00",
            b"SCRAM-SHA-256\x00" + m.INT32.pack(5) + b"n,,",
            b"SCRAM-SHA-256\x00" + m.INT32.pack(0xFFFFFFFF),
            b"SCRAM-SHA-256\x00" + m.INT32.pack(3) + b"n,,",
            b"",
        ],
    )
    def test_a_malformed_first_response(self, proxy, body):
        client = proxy.connect()
        client.asks_in()
        client.hears()
        client.sends_bytes(m.password(body))
        client.receives("E FATAL 08P01")
        assert client.closed

    def test_a_malformed_proof(self, proxy):
        client = proxy.connect()
        client.asks_in()
        client.hears()
        client.sends_bytes(m.sasl_initial_response(b"SCRAM-SHA-256", b"n,,n=,r=nonce"))
        client.hears()
        client.sends_bytes(m.password(b"c=biws"))
        client.receives("E FATAL 08P01")

    @pytest.mark.parametrize("length", [0, 3, 0x10000, 0xFFFFFFFF])
    def test_an_impossible_length(self, proxy, length):
        client = proxy.connect()
        client.asks_in()
        client.hears()
        client.sends_bytes(b"p" + m.INT32.pack(length))
        client.receives("E FATAL 08P01")
        assert client.closed

    def test_who_takes_too_long_is_told_nothing(self, proxy):
        client = proxy.connect()
        client.asks_in()
        client.hears()
        proxy.later(14.9)
        assert not client.closed
        proxy.later(0.1)
        assert client.closed
        client.receives()

    def test_who_is_in_has_all_the_time(self, start):
        proxy = start(auth="trust")
        client, _ = proxy.pair()
        proxy.later(1000)
        assert not client.closed

    def test_no_time_out_if_there_is_none(self, start):
        proxy = start(auth="scram", login_timeout=0)
        client = proxy.connect()
        proxy.later(1000)
        assert not client.closed


class TestCancelRequest:
    @pytest.mark.parametrize("length", [0, 257])
    def test_a_key_of_an_impossible_length(self, proxy, length):
        client = proxy.connect()
        body = m.INT32.pack(1234 << 16 | 5678) + m.INT32.pack(1) + bytes(length)
        client.sends_bytes(m.INT32.pack(len(body) + 4) + body)
        client.receives("E FATAL 08P01")
        assert client.closed

    def test_the_requester_may_leave_before_it_is_done(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        requester = client.cancel_request()
        assert requester.state == "cancelling"
        requester.vanishes()
        server.cancel_is_done()
        assert requester.state == "closed"

    def test_what_follows_a_cancel_request_is_ignored(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        requester = client.cancel_request()
        requester.sends("Q drop")
        server.cancel_is_done()
        assert requester.closed
        requester.receives()
        server.receives("Q select")


class TestProfiles:
    """The first with some settings asks the origin what it makes of them."""

    def test_the_first_client_waits_for_an_origin(self, proxy):
        client = proxy.connect()
        client.asks_in()
        client.receives("R 0")
        assert client.state == "joining"
        proxy.servers[0].starts(TimeZone="UTC")
        assert client.hears()[:-2] == [
            "S client_encoding=UTF8",
            "S server_version=18.0",
            "S TimeZone=UTC",
            "S application_name=",
            f"S hyperdrive.proxy={__version__}",
        ]

    def test_the_next_does_not(self, proxy):
        proxy.pair()
        client = proxy.connect()
        client.asks_in(application_name="next")
        client.is_welcomed(server_version="18.0", application_name="next")
        assert len(proxy.servers) == 1

    def test_settings_are_put_in_force_to_learn_what_they_give(self, proxy):
        _, server = proxy.pair()
        client = proxy.connect()
        client.asks_in(TimeZone="utc", search_path="a, b")
        client.receives("R 0")
        replay = [
            "P : SELECT pg_catalog.set_config($1,$2,false)",
            "B <- search_path,a, b",
            "E",
            "B <- timezone,utc",
            "E",
            "C S",
            "S",
        ]
        server.receives(*replay)
        answers = ("2", "D x", "C SELECT 1")
        server.sends("1", *answers, *answers, "3", "S TimeZone=UTC", "Z I")
        assert client.hears()[:-2] == [
            "S client_encoding=UTF8",
            "S server_version=18.0",
            "S TimeZone=UTC",
            "S application_name=",
            f"S hyperdrive.proxy={__version__}",
        ]
        assert server.state == "idle"
        again = proxy.connect()
        again.asks_in(search_path="a, b", timezone="utc")
        again.is_welcomed(TimeZone="UTC")
        server.receives()
        # In force already: nothing is to be replayed.
        again.sends("Q select 1")
        server.receives("Q select 1")

    def test_settings_that_change_nothing_are_not_replayed(self, proxy):
        _, server = proxy.pair()
        client = proxy.connect()
        client.asks_in(client_encoding="utf-8")
        server.hears()
        server.sends("1", "2", "D x", "C SELECT 1", "3", "Z I")
        client.is_welcomed(client_encoding="UTF8")
        other = proxy.client()
        other.sends("Q select 1")
        server.receives("Q select 1")

    def test_a_bad_value_is_fatal_with_the_origins_words(self, proxy):
        _, server = proxy.pair()
        client = proxy.connect()
        client.asks_in(TimeZone="Mars")
        server.hears()
        server.sends("1", "2", 'E 22023 invalid value for parameter "TimeZone": "Mars"', "Z I")
        client.receives("R 0", 'E FATAL 22023 invalid value for parameter "TimeZone": "Mars"')
        assert client.closed
        # Nobody knows what is in force there now.
        server.receives("X")
        assert server.closing
        server.closes()
        other = proxy.client()
        other.sends("Q select 1")
        proxy.servers[1].starts()
        proxy.servers[1].receives("Q select 1")

    def test_a_client_may_vanish_while_it_waits_for_an_origin(self, proxy):
        client = proxy.connect()
        client.asks_in()
        client.vanishes()
        proxy.servers[0].starts()
        assert proxy.servers[0].state == "idle"

    def test_a_client_may_vanish_while_its_settings_are_tried(self, proxy):
        _, server = proxy.pair()
        client = proxy.connect()
        client.asks_in(TimeZone="UTC")
        server.hears()
        client.vanishes()
        assert server.cancels == 1
        server.sends("1", "2", "D x", "C SELECT 1", "3", "S TimeZone=UTC", "Z I")
        server.receives()
        server.cancel_is_done()
        server.is_cleaned()
        assert server.state == "idle"

    @pytest.mark.parametrize("last_words", [["E FATAL 57P01 shutdown"], []])
    def test_an_origin_lost_meanwhile_is_told(self, proxy, last_words):
        _, server = proxy.pair()
        client = proxy.connect()
        client.asks_in(TimeZone="UTC")
        client.receives("R 0")
        server.hears()
        server.sends(*last_words)
        server.closes()
        heard = client.hears()
        assert [line.split()[:2] for line in heard] == [["E", "FATAL"]]
        assert client.closed

    def test_what_is_sent_before_the_welcome_is_done_after_it(self, proxy):
        client = proxy.connect()
        client.asks_in()
        client.sends("Q select 1", "Q select 2")
        server = proxy.servers[0]
        server.starts()
        assert client.hears()[-1] == "Z I"
        server.receives("Q select 1", "Q select 2")

    def test_there_is_an_end_to_what_is_remembered(self, proxy, monkeypatch):
        monkeypatch.setattr("hyperdrive_client.proxy.core.pool.MAX_PROFILES", 1)
        _, server = proxy.pair()
        for zone in ("A", "B", "A"):
            client = proxy.connect()
            client.asks_in(TimeZone=zone)
            heard = server.hears()
            assert heard, "known from before"
            if heard[0] == "Q DISCARD ALL":
                server.sends("C DISCARD ALL", "S TimeZone=GMT", "Z I")
            server.sends("1", "2", "D x", "C SELECT 1", "3", f"S TimeZone={zone}", "Z I")
            client.is_welcomed(TimeZone=zone)
            client.sends("X")


def test_the_refused_are_shown_no_password(start):
    proxy = start(auth="scram")
    client = proxy.connect()
    client.asks_in()
    client.proves("not this one")
    assert "entry" not in repr(client.hears())
    assert "entry" not in repr(client.session)
