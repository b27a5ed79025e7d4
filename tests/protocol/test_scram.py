from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from hyperdrive_client.errors import (
    ClientProtocolError,
    ConfigurationError,
    OriginProtocolError,
    ProtocolError,
)
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.protocol.scram import (
    SCRAM_SHA_256,
    SCRAM_SHA_256_PLUS,
    InvalidProof,
    ScramClient,
    ScramCredentials,
    ScramServer,
    ScramVerifier,
)

AWKWARD = [
    "pencil",
    "two words ",
    "quote ' \" back \\ slash %s {}",
    "n=,r=a;c=biws,p=",
    "\x01\t\n\x7f",
    "p\u00e4ssw\u00f6rd",
    "p\u00e4ss\x01",
    "a\u0308o\u0308",
    "\u043f\u0430\u0440\u043e\u043b\u044c",
    "\u5bc6\u7801",
    "\u00aa\u2168\ufb01\uff21",
    "\u1100\u1161\u11a8",
    "\U0001f511 key",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a\u200bb",
    "\u200b",
    "\u00ad",
    "soft\u00adhyphen\ufeff",
    "a\u00a0b\u3000c",
    "\u05d0\u05d1\u05d2",
    "\u05d0\u00b2\u05d1",
    "\u05d0\u00b2",
    "\u05d0b\u00b2\u05d2",
    "\u2135\u00b2",
    "\u00b2\u0221",
    "\u00b2\ue000",
    "\u00b2\u2028",
    "\u00b2\U000e0041",
    "\U0002f868",
    "\u00e9" * 500,
]

# RFC 7677, section 3.
VECTOR = ScramVerifier.from_password("pencil", salt=b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
VECTOR_KEYS = VECTOR.to_text().rpartition("$")[2].split(":")
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
NONCE = (CLIENT_NONCE + SERVER_NONCE).encode()
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=%b,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096" % NONCE
PROOF = b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
CLIENT_FINAL = b"c=biws,r=%b,p=%b" % (NONCE, PROOF)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

CERTIFICATE_HASH = hashlib.sha256(b"certificate").digest()
PENCIL = ScramCredentials("pencil")


def vector_server() -> ScramServer:
    return ScramServer(VECTOR, nonce=SERVER_NONCE)


def vector_client() -> ScramClient:
    return ScramClient(PENCIL, nonce=CLIENT_NONCE)


def answered_server() -> ScramServer:
    server = vector_server()
    server.first(CLIENT_FIRST)
    return server


def answered_client() -> ScramClient:
    client = vector_client()
    client.final(SERVER_FIRST)
    return client


def join(client: ScramClient, server: ScramServer) -> None:
    server_first = server.first(client.first(), client.mechanism)
    client.verify(server.final(client.final(server_first)))


# The two machines


def test_the_server_speaks_the_rfc_s_example() -> None:
    server = vector_server()
    assert server.first(CLIENT_FIRST) == SERVER_FIRST
    assert server.final(CLIENT_FINAL) == SERVER_FINAL


@settings(deadline=None)
@given(password=st.text())
def test_client_and_server_agree_on_any_password(password: str) -> None:
    join(
        ScramClient(ScramCredentials(password)),
        ScramServer(ScramVerifier.from_password(password, iterations=1)),
    )


@settings(deadline=None)
@given(password=st.text(), other=st.text())
def test_another_password_is_refused(password: str, other: str) -> None:
    verifier = ScramVerifier.from_password(password, iterations=1)
    same = ScramVerifier.from_password(other, salt=verifier.salt, iterations=1) == verifier
    try:
        join(ScramClient(ScramCredentials(other)), ScramServer(verifier))
    except InvalidProof:
        assert not same
    else:
        assert same


def test_nonces_are_new_each_time() -> None:
    client, server = ScramClient(PENCIL), ScramServer(VECTOR)
    assert client.first() != ScramClient(PENCIL).first()
    assert server.first(CLIENT_FIRST) != ScramServer(VECTOR).first(CLIENT_FIRST)


def test_a_recorded_proof_does_not_open_another_exchange() -> None:
    server = ScramServer(VECTOR)
    server.first(CLIENT_FIRST)
    with pytest.raises(ClientProtocolError, match="nonce"):
        server.final(CLIENT_FINAL)


@pytest.mark.parametrize("channel_binding", [None, CERTIFICATE_HASH])
def test_both_agree_with_and_without_channel_binding(channel_binding: bytes | None) -> None:
    server = ScramServer(VECTOR, channel_binding=channel_binding)
    client = ScramClient(PENCIL, server.mechanisms, channel_binding=channel_binding)
    assert client.mechanism == server.mechanisms[0]
    join(client, server)


def test_a_client_without_channel_binding_may_meet_a_server_with_it() -> None:
    server = ScramServer(VECTOR, channel_binding=CERTIFICATE_HASH)
    client = ScramClient(PENCIL, server.mechanisms)
    assert client.mechanism == SCRAM_SHA_256
    join(client, server)


def test_a_client_with_channel_binding_may_meet_a_server_without_it() -> None:
    server = ScramServer(VECTOR)
    client = ScramClient(PENCIL, server.mechanisms, channel_binding=CERTIFICATE_HASH)
    assert client.first().startswith(b"y,,")
    join(client, server)


def test_another_certificate_in_between_is_noticed() -> None:
    server = ScramServer(VECTOR, channel_binding=CERTIFICATE_HASH)
    client = ScramClient(PENCIL, server.mechanisms, channel_binding=bytes(32))
    with pytest.raises(ClientProtocolError, match="channel binding check failed") as caught:
        join(client, server)
    assert caught.value.sqlstate == "28000"


def test_a_mechanism_removed_in_between_is_noticed() -> None:
    server = ScramServer(VECTOR, channel_binding=CERTIFICATE_HASH)
    client = ScramClient(PENCIL, [SCRAM_SHA_256], channel_binding=CERTIFICATE_HASH)
    with pytest.raises(ClientProtocolError, match="negotiation error") as caught:
        join(client, server)
    assert caught.value.sqlstate == "28000"


@pytest.mark.parametrize("offered", [(), (b"OAUTHBEARER",), (SCRAM_SHA_256_PLUS,)])
def test_an_offer_without_a_usable_mechanism_is_refused(offered: tuple[bytes, ...]) -> None:
    with pytest.raises(OriginProtocolError, match="none of the server's"):
        ScramClient(PENCIL, offered)


# What a client may do wrong


def refused_by(step: Callable[[], object]) -> tuple[type[BaseException], str]:
    with pytest.raises(ClientProtocolError) as caught:
        step()
    return caught.type, caught.value.sqlstate


def test_a_wrong_proof_is_told_apart_from_a_malformed_message() -> None:
    wrong = b64encode(bytes(32))
    refusal = refused_by(lambda: answered_server().final(CLIENT_FINAL.replace(PROOF, wrong)))
    assert refusal == (InvalidProof, "28P01")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"x,,n=,r=abc",
        b"N,,n=,r=abc",
        b"n,,r=abc",
        b"n,,r=abc,n=",
        b"n,,n=",
        b"n,,n=,r=",
        b"n,,n=,r=a b",
        b"n,,n=,r=a\x7f",
        "n,,n=,r=\u00e9".encode(),
        b"n,,n=,r=abc\0",
        b"n,,n=a\0b,r=abc",
        b"n,,n=,r=abc,",
        b"n,,n=,r=abc,bcd",
        b"n,,n=,r=" + b"a" * 1020,
        b"p=,,n=,r=abc",
        b"p=tls-server-end-point,,n=,r=abc",
    ],
)
def test_a_malformed_client_first_message_is_refused(message: bytes) -> None:
    assert refused_by(lambda: vector_server().first(message)) == (ClientProtocolError, "08P01")


@pytest.mark.parametrize("message", [b"n,a=admin,n=,r=abc", b"n,,m=x,n=,r=abc"])
def test_what_a_client_may_ask_for_but_we_do_not_have_is_refused(message: bytes) -> None:
    assert refused_by(lambda: vector_server().first(message)) == (ClientProtocolError, "0A000")


@pytest.mark.parametrize(
    "header", [b"n,,", b"y,,", b"p=tls-unique,,", b"p=tls-server-end-pointer,,"]
)
def test_scram_plus_without_its_channel_binding_is_refused(header: bytes) -> None:
    server = ScramServer(VECTOR, channel_binding=CERTIFICATE_HASH)
    refusal = refused_by(lambda: server.first(header + b"n=,r=abc", SCRAM_SHA_256_PLUS))
    assert refusal == (ClientProtocolError, "08P01")


@pytest.mark.parametrize("mechanism", [SCRAM_SHA_256_PLUS, b"SCRAM-SHA-1", b""])
def test_a_mechanism_that_was_not_offered_is_refused(mechanism: bytes) -> None:
    with pytest.raises(ClientProtocolError, match="invalid SASL authentication mechanism"):
        vector_server().first(CLIENT_FIRST, mechanism)


@pytest.mark.parametrize("user", [b"", b"user", b"=2C", b"\xff"])
def test_the_user_name_and_optional_extensions_are_ignored(user: bytes) -> None:
    first = b"n,,n=" + user + b",r=rOprNGfwEbeRWgbNEkqO,x=,Y=z=1"
    assert vector_server().first(first) == SERVER_FIRST


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c=biws", b"c=biwt"),
        (b"c=biws", b"c=eSws"),
        (b"c=biws", b"c="),
        (b"c=biws", b"c=biws" + b64encode(CERTIFICATE_HASH)),
    ],
)
def test_a_channel_binding_that_differs_from_the_header_is_refused(old: bytes, new: bytes) -> None:
    refusal = refused_by(lambda: answered_server().final(CLIENT_FINAL.replace(old, new)))
    assert refusal == (ClientProtocolError, "28000")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"c=biws",
        b"c=biws,r=" + NONCE,
        b"r=%b,c=biws,p=%b" % (NONCE, PROOF),
        b"c=biws,p=%b,r=%b" % (PROOF, NONCE),
        b"c=biws,r=%bA,p=%b" % (NONCE, PROOF),
        b"c=biws,r=%b,p=%b" % (NONCE[:-1], PROOF),
        b"c=biws,r=%b,p=%b" % (CLIENT_NONCE.encode(), PROOF),
        b"c=biws,r=%b,p=" % NONCE,
        b"c=biws,r=%b,p=%b" % (NONCE, PROOF[:-1]),
        b"c=biws,r=%b,p=%b=" % (NONCE, PROOF),
        b"c=biws,r=%b,p= %b" % (NONCE, PROOF),
        b"c=biws,r=%b,p=%b" % (NONCE, b64encode(bytes(31))),
        b"c=biws,r=%b,p=%b" % (NONCE, b64encode(bytes(33))),
        b"c=biws,r=%b,xyz,p=%b" % (NONCE, PROOF),
        CLIENT_FINAL + b",",
        CLIENT_FINAL + b",x=y",
        CLIENT_FINAL + b",p=" + PROOF,
        CLIENT_FINAL + b"\0",
        b"c=biws,r=%b,x=%b,p=%b" % (NONCE, b"y" * 1000, PROOF),
    ],
)
def test_a_malformed_client_final_message_is_refused(message: bytes) -> None:
    assert refused_by(lambda: answered_server().final(message)) == (ClientProtocolError, "08P01")


def test_an_extension_counts_for_the_proof() -> None:
    extended = b"c=biws,r=%b,x=y,p=%b" % (NONCE, PROOF)
    assert refused_by(lambda: answered_server().final(extended)) == (InvalidProof, "28P01")


def test_a_client_message_out_of_turn_is_refused() -> None:
    with pytest.raises(ClientProtocolError, match="out of turn"):
        vector_server().final(CLIENT_FINAL)
    server = answered_server()
    with pytest.raises(ClientProtocolError, match="out of turn"):
        server.first(CLIENT_FIRST)
    server.final(CLIENT_FINAL)
    with pytest.raises(ClientProtocolError, match="out of turn"):
        server.final(CLIENT_FINAL)


# What an origin may do wrong


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"e=other-error",
        b"r=" + NONCE,
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,r=%b,i=4096" % NONCE,
        b"m=x," + SERVER_FIRST,
        b"r=%b,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096" % SERVER_NONCE.encode(),
        b"r=%b,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096" % CLIENT_NONCE.encode(),
        b"r=,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=%b \t,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096" % NONCE,
        b"r=%b,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096" % (NONCE + b"x" * 1_000_000),
        b"r=%b,s=W22ZaJ0SNY7soEsUEjb6gQ,i=4096" % NONCE,
        b"r=%b,s=W22Z aJ0S,i=4096" % NONCE,
        b"r=%b,s=W22Z,i=" % NONCE,
        b"r=%b,s=W22Z,i=0" % NONCE,
        b"r=%b,s=W22Z,i=-1" % NONCE,
        b"r=%b,s=W22Z,i=+4096" % NONCE,
        b"r=%b,s=W22Z,i=4096.0" % NONCE,
        b"r=%b,s=W22Z,i=4_096" % NONCE,
        f"r={NONCE.decode()},s=W22Z,i=\u0664".encode(),
        b"r=%b,s=W22Z,i=1000001" % NONCE,
        b"r=%b,s=W22Z,i=%b" % (NONCE, b"9" * 900),
        SERVER_FIRST + b",",
        SERVER_FIRST + b",garbage",
        SERVER_FIRST + b"\0",
    ],
    ids=lambda message: ascii(message[:80]),
)
def test_a_malformed_or_hostile_server_first_message_is_refused(message: bytes) -> None:
    client = vector_client()
    with pytest.raises(OriginProtocolError):
        client.final(message)
    with pytest.raises(OriginProtocolError, match="out of turn"):
        client.verify(b"v=")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"v=",
        b"v=" + b64encode(bytes(32)),
        SERVER_FINAL[:-1],
        SERVER_FINAL + b"=",
        b"x=y," + SERVER_FINAL,
        SERVER_FINAL + b",",
        SERVER_FINAL + b"\0",
        SERVER_FINAL + b",x=" + b"y" * 1000,
    ],
)
def test_a_wrong_server_final_message_is_refused(message: bytes) -> None:
    with pytest.raises(OriginProtocolError):
        answered_client().verify(message)


def test_an_error_from_the_server_is_told_without_control_characters() -> None:
    with pytest.raises(OriginProtocolError, match="invalid-proof"):
        answered_client().verify(b"e=invalid-proof")
    with pytest.raises(OriginProtocolError) as caught:
        answered_client().verify(b"e=\x1b[2J\n\xff" + b"x" * 900)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_a_server_that_only_knows_the_user_name_is_noticed() -> None:
    client = ScramClient(PENCIL)
    server = ScramServer(ScramVerifier.mock(b"seed", "user"))
    client.final(server.first(client.first()))
    with pytest.raises(OriginProtocolError, match="incorrect server signature"):
        client.verify(SERVER_FINAL)


def test_extensions_from_the_server_are_ignored_but_signed() -> None:
    client, server = vector_client(), vector_server()
    server.first(client.first())
    with pytest.raises(InvalidProof):
        server.final(client.final(SERVER_FIRST + b",x=y"))


def test_a_server_message_out_of_turn_is_refused() -> None:
    with pytest.raises(OriginProtocolError, match="out of turn"):
        vector_client().verify(b"v=")
    with pytest.raises(OriginProtocolError, match="out of turn"):
        answered_client().final(SERVER_FIRST)


# Any bytes at all


def mangled(message: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, or the message with a part of it replaced."""
    cuts = st.tuples(st.integers(0, len(message)), st.integers(0, len(message)))
    fill = st.binary(max_size=8) | st.sampled_from([b",", b"=", b",m=", b",p=", b"\0"])
    replaced = st.tuples(cuts, fill).map(
        lambda draw: message[: min(draw[0])] + draw[1] + message[max(draw[0]) :]
    )
    return st.binary() | replaced


STEPS = [
    (lambda: vector_server().first, CLIENT_FIRST, ClientProtocolError),
    (lambda: answered_server().final, CLIENT_FINAL, ClientProtocolError),
    (lambda: vector_client().final, SERVER_FIRST, OriginProtocolError),
    (lambda: answered_client().verify, SERVER_FINAL, OriginProtocolError),
]
STEP_NAMES = ["client-first", "client-final", "server-first", "server-final"]


@pytest.mark.parametrize(("step", "message", "blame"), STEPS, ids=STEP_NAMES)
def test_a_message_cut_anywhere_raises_nothing_but_a_protocol_error(
    step: Callable[[], Callable[[bytes], object]], message: bytes, blame: type[ProtocolError]
) -> None:
    for length in range(len(message)):
        try:
            step()(message[:length])
        except blame:
            continue
        assert message in (CLIENT_FIRST, SERVER_FIRST)  # a nonce or a number that ends earlier


@pytest.mark.parametrize(("step", "message", "blame"), STEPS, ids=STEP_NAMES)
@settings(deadline=None)
@given(data=st.data())
def test_any_bytes_raise_nothing_but_a_protocol_error(
    step: Callable[[], Callable[[bytes], object]],
    message: bytes,
    blame: type[ProtocolError],
    data: st.DataObject,
) -> None:
    # One iteration, so that no example is slow.
    sent = data.draw(mangled(message.replace(b"i=4096", b"i=1")))
    with suppress(blame):
        step()(sent)


# Verifiers, credentials


def test_a_verifier_survives_its_text() -> None:
    text = VECTOR.to_text()
    assert text.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    assert ScramVerifier.from_text(text) == VECTOR


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCRAM-SHA-256$", "scram-sha-256$"),
        ("SCRAM-SHA-256$", ""),
        ("$4096:", "$0:"),
        ("$4096:", "$\u0664:"),
        ("W22Z", "W2 Z"),
        ("=$", "$"),
        (":", ""),
        ("=$", "=$AAAA"),
        (VECTOR_KEYS[0], b64encode(bytes(31)).decode()),
        (VECTOR_KEYS[1], b64encode(bytes(33)).decode()),
    ],
)
def test_a_text_that_is_no_verifier_is_refused_without_being_shown(old: str, new: str) -> None:
    text = VECTOR.to_text().replace(old, new)
    assert text != VECTOR.to_text()
    with pytest.raises(ConfigurationError, match="not a SCRAM verifier") as caught:
        ScramVerifier.from_text(text)
    assert not any(key in str(caught.value) for key in VECTOR_KEYS)
    assert caught.value.__context__ is None


def test_a_verifier_s_salt_is_new_each_time() -> None:
    one, other = (ScramVerifier.from_password("pencil", iterations=1) for _ in range(2))
    assert len(one.salt) == 16
    assert one.salt != other.salt


def test_an_unknown_user_looks_like_a_known_one() -> None:
    known, unknown = (
        ScramServer(verifier, nonce=SERVER_NONCE).first(CLIENT_FIRST)
        for verifier in (VECTOR, ScramVerifier.mock(b"seed", "nobody"))
    )
    assert len(unknown) == len(known)
    assert unknown.partition(b",s=")[0] == known.partition(b",s=")[0]
    assert unknown.endswith(b",i=4096")


def test_an_unknown_user_has_the_same_salt_each_time_and_one_of_his_own() -> None:
    salt = ScramVerifier.mock(b"seed", "nobody").salt
    assert ScramVerifier.mock(b"seed", "nobody").salt == salt
    assert ScramVerifier.mock(b"seed", "nobody\udcff").salt != salt
    assert ScramVerifier.mock(b"other seed", "nobody").salt != salt


@pytest.mark.parametrize("password", ["", "pencil", "nobody", "seed"])
def test_an_unknown_user_is_refused_like_a_wrong_password(password: str) -> None:
    client = ScramClient(ScramCredentials(password))
    with pytest.raises(InvalidProof) as unknown:
        join(client, ScramServer(ScramVerifier.mock(b"seed", "nobody")))
    with pytest.raises(InvalidProof) as wrong:
        join(ScramClient(ScramCredentials("wrong")), ScramServer(VECTOR))
    assert str(unknown.value) == str(wrong.value)


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The salts that keys were derived for."""
    salts: list[bytes] = []
    derive = hashlib.pbkdf2_hmac

    def counting(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        salts.append(salt)
        return derive(name, password, salt, iterations)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counting)
    return salts


def test_keys_are_derived_once_for_each_salt(derived: list[bytes]) -> None:
    credentials = ScramCredentials("pencil")
    for _ in range(3):
        join(ScramClient(credentials), ScramServer(VECTOR))
    assert derived == [VECTOR.salt]


def test_a_server_with_ever_new_salts_does_not_fill_the_memory(derived: list[bytes]) -> None:
    credentials = ScramCredentials("pencil")
    for salt in (b"first", *map(bytes, range(20)), b"first"):
        credentials.keys(salt, 1)
    assert derived.count(b"first") == 2


def test_no_repr_shows_a_secret() -> None:
    keys = (VECTOR.stored_key, VECTOR.server_key)
    secrets = ["pencil", *VECTOR_KEYS, *map(repr, keys)]
    for thing in (VECTOR, PENCIL, answered_client(), answered_server()):
        assert not any(secret in f"{thing} {thing!r}" for secret in secrets)


# Our client and a real server


def read_message(stream: socket.socket) -> tuple[bytes, bytes]:
    kind, length = struct.unpack("!cI", receive(stream, 5))
    return kind, receive(stream, length - 4)


def receive(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = stream.recv(size - len(data))
        assert chunk, "the other side closed the connection"
        data += chunk
    return data


def read_authentication(stream: socket.socket) -> tuple[int, bytes]:
    kind, body = read_message(stream)
    if kind == b"E":
        raise PermissionError(body.decode())
    assert kind == b"R"
    return struct.unpack("!I", body[:4])[0], body[4:]


def framed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def log_in(
    stream: socket.socket,
    user: str,
    credentials: ScramCredentials,
    *,
    channel_binding: bytes | None = None,
    offered: tuple[bytes, ...] | None = None,
) -> ScramClient:
    """The least client there is; ``PermissionError`` is the server's ErrorResponse."""
    startup = struct.pack("!I", 3 << 16) + f"user\0{user}\0database\0postgres\0\0".encode()
    stream.sendall(struct.pack("!I", len(startup) + 4) + startup)
    request, names = read_authentication(stream)
    assert request == 10
    offer = offered or tuple(names.rstrip(b"\0").split(b"\0"))
    client = ScramClient(credentials, offer, channel_binding=channel_binding)
    first = client.first()
    initial = client.mechanism + b"\0" + struct.pack("!I", len(first)) + first
    stream.sendall(framed(b"p", initial))
    request, server_first = read_authentication(stream)
    assert request == 11
    stream.sendall(framed(b"p", client.final(server_first)))
    request, server_final = read_authentication(stream)
    assert request == 12
    client.verify(server_final)
    assert read_authentication(stream) == (0, b"")
    return client


@pytest.fixture
def role(postgres: EmbeddedPostgres) -> Iterator[Callable[[str], str]]:
    """Sets the password of a role of the test's own, and returns its name."""
    name = f"scram_{uuid4().hex}"
    identifier = sql.Identifier(name)
    with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(identifier))

        def set_password(password: str) -> str:
            alter = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(alter.format(identifier, sql.Literal(password)))
            return name

        yield set_password
        connection.execute(sql.SQL("DROP ROLE {}").format(identifier))


@pytest.mark.parametrize("password", AWKWARD, ids=ascii)
def test_our_client_logs_in_to_postgresql(
    postgres: EmbeddedPostgres, role: Callable[[str], str], password: str
) -> None:
    user = role(password)
    with socket.create_connection((postgres.host, postgres.port), 10) as stream:
        log_in(stream, user, ScramCredentials(password))


def test_postgresql_refuses_our_client_with_a_wrong_password(
    postgres: EmbeddedPostgres, role: Callable[[str], str]
) -> None:
    user = role("pencil")
    with (
        socket.create_connection((postgres.host, postgres.port), 10) as stream,
        pytest.raises(PermissionError, match="28P01"),
    ):
        log_in(stream, user, ScramCredentials("Pencil"))


def test_our_verifier_is_one_to_postgresql(
    postgres: EmbeddedPostgres, role: Callable[[str], str]
) -> None:
    # The server takes a password that is a verifier as such.
    user = role(ScramVerifier.from_password("a\u200b\U0001f511").to_text())
    with psycopg.connect(
        postgres.connection_string, user=user, password="a\u200b\U0001f511"
    ) as connection:
        assert connection.info.user == user


@pytest.fixture
def tls_stream(tls_postgres: EmbeddedPostgres) -> Iterator[ssl.SSLSocket]:
    with socket.create_connection((tls_postgres.host, tls_postgres.port), 10) as plain:
        plain.sendall(struct.pack("!II", 8, 80877103))
        assert receive(plain, 1) == b"S"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(plain) as stream:
            yield stream


def certificate_hash(stream: ssl.SSLSocket) -> bytes:
    certificate = stream.getpeercert(binary_form=True)
    assert certificate is not None
    return hashlib.sha256(certificate).digest()


def test_our_client_binds_itself_to_postgresql_s_certificate(
    tls_postgres: EmbeddedPostgres, tls_stream: ssl.SSLSocket
) -> None:
    client = log_in(
        tls_stream,
        "postgres",
        ScramCredentials(tls_postgres.password),
        channel_binding=certificate_hash(tls_stream),
    )
    assert client.mechanism == SCRAM_SHA_256_PLUS


def test_postgresql_notices_another_certificate(
    tls_postgres: EmbeddedPostgres, tls_stream: ssl.SSLSocket
) -> None:
    credentials = ScramCredentials(tls_postgres.password)
    with pytest.raises(PermissionError, match="channel binding check failed"):
        log_in(tls_stream, "postgres", credentials, channel_binding=CERTIFICATE_HASH)


def test_postgresql_notices_a_mechanism_removed_in_between(
    tls_postgres: EmbeddedPostgres, tls_stream: ssl.SSLSocket
) -> None:
    with pytest.raises(PermissionError, match="channel binding negotiation error"):
        log_in(
            tls_stream,
            "postgres",
            ScramCredentials(tls_postgres.password),
            channel_binding=certificate_hash(tls_stream),
            offered=(SCRAM_SHA_256,),
        )


# libpq and our server


@pytest.fixture
def listen() -> Iterator[Callable[..., str]]:
    """Starts a server for one connection, and returns its connection string."""
    with ExitStack() as cleanup:

        def start(server: ScramServer, context: ssl.SSLContext | None = None) -> str:
            listener = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(10)
            thread = threading.Thread(target=serve_once, args=(listener, server, context))
            thread.start()
            cleanup.callback(thread.join)
            mode = "disable" if context is None else "require"
            port = listener.getsockname()[1]
            return f"host=127.0.0.1 port={port} user=user sslmode={mode} gssencmode=disable"

        yield start


def serve_once(
    listener: socket.socket, server: ScramServer, context: ssl.SSLContext | None
) -> None:
    """The least server there is: greets who knows the password, hangs up on everyone else."""
    with listener.accept()[0] as stream:
        stream.settimeout(10)
        if context is None:
            authenticate(stream, server)
            return
        receive(stream, 8)
        stream.sendall(b"S")
        with context.wrap_socket(stream, server_side=True) as encrypted:
            authenticate(encrypted, server)


def authenticate(stream: socket.socket, server: ScramServer) -> None:
    receive(stream, struct.unpack("!I", receive(stream, 4))[0] - 4)
    names = b"".join(name + b"\0" for name in server.mechanisms)
    stream.sendall(framed(b"R", struct.pack("!I", 10) + names + b"\0"))
    mechanism, _, rest = read_message(stream)[1].partition(b"\0")
    server_first = server.first(rest[4:], mechanism)
    stream.sendall(framed(b"R", struct.pack("!I", 11) + server_first))
    try:
        server_final = server.final(read_message(stream)[1])
    except ClientProtocolError as error:
        fields = f"SFATAL\0C{error.sqlstate}\0M{error}\0\0"
        stream.sendall(framed(b"E", fields.encode()))
        return
    stream.sendall(
        framed(b"R", struct.pack("!I", 12) + server_final)
        + framed(b"R", struct.pack("!I", 0))
        + framed(b"Z", b"I")
    )
    assert read_message(stream)[0] == b"X"


@pytest.mark.parametrize("password", AWKWARD, ids=ascii)
def test_libpq_logs_in_to_our_server(listen: Callable[..., str], password: str) -> None:
    dsn = listen(ScramServer(ScramVerifier.from_password(password)))
    psycopg.connect(dsn, password=password).close()


def test_our_server_refuses_libpq_with_a_wrong_password(listen: Callable[..., str]) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(listen(ScramServer(VECTOR)), password="Pencil")


@pytest.fixture(scope="module")
def server_context(certificates: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    return context


@pytest.mark.parametrize("wish", ["require", "prefer", "disable"])
def test_libpq_binds_itself_to_our_certificate(
    listen: Callable[..., str], certificates: Any, server_context: ssl.SSLContext, wish: str
) -> None:
    certificate = ssl.PEM_cert_to_DER_cert(certificates.server.read_text())
    bound = ScramServer(VECTOR, channel_binding=hashlib.sha256(certificate).digest())
    dsn = listen(bound, server_context)
    psycopg.connect(dsn, password="pencil", channel_binding=wish).close()


def test_libpq_notices_another_certificate(
    listen: Callable[..., str], server_context: ssl.SSLContext
) -> None:
    bound = ScramServer(VECTOR, channel_binding=CERTIFICATE_HASH)
    with pytest.raises(psycopg.OperationalError, match="channel binding check failed"):
        psycopg.connect(listen(bound, server_context), password="pencil")


def test_libpq_accepts_tls_without_channel_binding(
    listen: Callable[..., str], server_context: ssl.SSLContext
) -> None:
    psycopg.connect(listen(ScramServer(VECTOR), server_context), password="pencil").close()
