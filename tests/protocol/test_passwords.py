"""The oracle is libpq: PQencryptPasswordConn prepares and hashes without a server."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import pq

from hyperdrive_client.errors import ConfigurationError
from hyperdrive_client.protocol.passwords import encode_password, md5_password, saslprep
from hyperdrive_client.protocol.scram import ScramVerifier

PREPARED = [
    ("", ""),
    ("pencil", "pencil"),
    ("\x01\x7f", "\x01\x7f"),
    ("\u00e9\x7f\u00b2", "\u00e9\x7f\u00b2"),  # a control character
    ("p\u00e4ss", "p\u00e4ss"),
    ("a\u0308", "\u00e4"),
    ("\u00aa\u2168", "aIX"),  # RFC 4013, section 3
    ("\uff21\ufb01", "Afi"),
    ("\u1100\u1161\u11a8", "\uac01"),
    ("I\u00adX", "IX"),
    ("\u00ad", "\u00ad"),  # nothing would be left
    ("a\u00a0b\u3000c", "a b c"),
    ("a\u200bb", "a b"),  # in both mapping tables: PostgreSQL's spaces come first
    ("a\u200db", "ab"),
    ("\u00b2\U0001f511", "\u00b2\U0001f511"),  # not in Unicode 3.2
    ("\u00b2\u0221", "\u00b2\u0221"),
    ("\u00b2\ue000", "\u00b2\ue000"),  # private use
    ("\u00b2\u2028", "\u00b2\u2028"),
    ("\u00b2\u2ff0", "\u00b2\u2ff0"),
    ("\u00b2\u200e", "\u00b2\u200e"),
    ("\u00b2\ufffd", "\u00b2\ufffd"),
    ("\u00b2\ufdd0", "\u00b2\ufdd0"),
    ("\u00b2\U000e0041", "\u00b2\U000e0041"),
    ("\u05d0\u00b2\u05d1", "\u05d02\u05d1"),
    ("\u05d0\u00b2", "\u05d0\u00b2"),  # right-to-left must begin and end it
    ("\u00b2\u05d0", "\u00b2\u05d0"),
    ("\u05d0b\u00b2\u05d1", "\u05d0b\u00b2\u05d1"),  # and must not be mixed
    ("\u2135\u00b2", "\u05d02"),  # right-to-left only after normalisation
    ("\U0002f868", "\u36fc"),  # decomposes differently in Unicode 3.2
]

# Half of them from the blocks where the tables of RFC 3454 have something to say.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from(
    "a1 \u00ad\u00aa\u00b2\u0308\u0344\u034f\u05d0\u05b0\u0627\u064b\u0221\u1100\u1161\u11a8\u180b"
    "\u2000\u200b\u200d\u200e\u2028\u2060\u2135\u3000\ue000\ufb1d\ufdfa\ufe0f\ufeff\uffe3\U0001d15e"
)


@pytest.fixture(scope="module")
def libpq() -> Iterator[pq.abc.PGconn]:
    """A connection that leads nowhere; hashing a password doesn't need more."""
    connection = pq.PGconn.connect_start(b"host=/nonexistent")
    yield connection
    connection.finish()


def libpq_verifier(libpq: pq.abc.PGconn, password: str) -> ScramVerifier:
    text = libpq.encrypt_password(encode_password(password), b"user", b"scram-sha-256")
    return ScramVerifier.from_text(text.decode())


def our_verifier(password: str, like: ScramVerifier) -> ScramVerifier:
    return ScramVerifier.from_password(password, salt=like.salt, iterations=like.iterations)


@pytest.mark.parametrize(("password", "prepared"), PREPARED)
def test_a_password_is_mapped_checked_and_normalised(password: str, prepared: str) -> None:
    assert saslprep(password) == prepared


@pytest.mark.parametrize("password", [password for password, _ in PREPARED])
def test_the_examples_are_libpqs(libpq: pq.abc.PGconn, password: str) -> None:
    theirs = libpq_verifier(libpq, password)
    assert our_verifier(password, theirs) == theirs


@settings(max_examples=200, deadline=None)
@given(password=st.text(CHARACTERS))
def test_any_password_is_prepared_as_libpq_does(libpq: pq.abc.PGconn, password: str) -> None:
    theirs = libpq_verifier(libpq, password)
    assert our_verifier(password, theirs) == theirs


def test_a_password_that_is_not_utf_8_is_used_byte_by_byte(libpq: pq.abc.PGconn) -> None:
    password = b"\xc2\xb2 \xe9\xff".decode("utf-8", "surrogateescape")
    assert encode_password(saslprep(password)) == b"\xc2\xb2 \xe9\xff"
    theirs = libpq_verifier(libpq, password)
    assert our_verifier(password, theirs) == theirs


def test_a_lone_surrogate_is_an_error_that_does_not_carry_the_password() -> None:
    with pytest.raises(ConfigurationError, match="lone surrogate") as caught:
        encode_password("hunter2\ud800")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("user", "password"), [("joe", "pencil"), ("j\u00f6", "\u05d0b\u200b")])
def test_the_md5_answer_is_the_one_that_libpq_sends(user: str, password: str) -> None:
    salt = b"\x00\xff,\x80"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        connection = pq.PGconn.connect_start(
            f"host=127.0.0.1 port={port} sslmode=disable gssencmode=disable "
            f"user={user} password={password}".encode()
        )
        peer, _ = listener.accept()
        with peer:
            receive_from(connection, peer)
            peer.sendall(b"R" + struct.pack("!ii", 12, 5) + salt)
            answer = receive_from(connection, peer)
        connection.finish()
    assert answer[5:] == md5_password(user, password, salt) + b"\0"


def receive_from(connection: pq.abc.PGconn, peer: socket.socket) -> bytes:
    """Drives libpq until it has sent something."""
    while not select.select([peer], [], [], 0)[0]:
        if connection.connect_poll() == pq.PollingStatus.READING:
            ready, *_ = select.select([connection.socket, peer.fileno()], [], [], 10)
            assert ready, "libpq and its server wait for each other"
    return peer.recv(1000)
