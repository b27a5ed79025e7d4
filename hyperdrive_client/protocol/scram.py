"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both sides, as PostgreSQL speaks them.

RFC 5802, RFC 7677 and PostgreSQL, "SASL Authentication". What goes in and out is the data that
the SASL messages carry::

    ScramClient                            ScramServer
    first()    -- client-first-message ->  first()
    final()   <-  server-first-message --
               -- client-final-message ->  final()
    verify()  <-  server-final-message --

A message out of turn is an error like a malformed one, so the caller may pass on what comes.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Self

from hyperdrive_client.errors import (
    ClientProtocolError,
    ConfigurationError,
    OriginProtocolError,
    ProtocolError,
)
from hyperdrive_client.protocol.passwords import encode_password, saslprep

__all__ = [
    "SCRAM_SHA_256",
    "SCRAM_SHA_256_PLUS",
    "InvalidProof",
    "ScramClient",
    "ScramCredentials",
    "ScramServer",
    "ScramVerifier",
]

SCRAM_SHA_256 = b"SCRAM-SHA-256"
SCRAM_SHA_256_PLUS = b"SCRAM-SHA-256-PLUS"

# PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH, which bounds every field too; real messages have less
# than 300 bytes.
_MAX_MESSAGE = 1024

# A hostile server could stop our event loop with a huge count. This one takes 0.2 to 0.5 s, and
# leaves room over the 600,000 that OWASP recommends; PostgreSQL's default is 4096 (1 ms).
_MAX_ITERATIONS = 1_000_000

# A role has one verifier; a second while its password is set anew, the rest for other servers.
_KEPT_KEYS = 8

# PostgreSQL's SCRAM_DEFAULT_SALT_LEN, SCRAM_RAW_NONCE_LEN, SCRAM_SHA_256_DEFAULT_ITERATIONS.
_SALT_LENGTH = 16
_RAW_NONCE_LENGTH = 18
_DEFAULT_ITERATIONS = 4096
_KEY_LENGTH = 32

_CHANNEL_BINDING = b"p=tls-server-end-point"

_GS2_HEADER = re.compile(rb"(n|y|p=[A-Za-z0-9.-]*),([^,]*),")
_NONCE = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
_EXTENSION = re.compile(rb"[A-Za-z]=")
_ITERATIONS = re.compile(rb"[1-9][0-9]*")
_VERIFIER = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,9}):([^:$]+)\$([^:$]{44}):([^:$]{44})")


class InvalidProof(ClientProtocolError):
    """The client does not know the password, or the user does not exist."""

    sqlstate = "28P01"


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server keeps of a password: enough to check it, too little to log in with it."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def from_password(
        cls, password: str, *, salt: bytes | None = None, iterations: int = _DEFAULT_ITERATIONS
    ) -> Self:
        """Takes about a millisecond for every 4096 iterations.

        :raises ConfigurationError: see :func:`.passwords.encode_password`.
        """
        if salt is None:
            salt = secrets.token_bytes(_SALT_LENGTH)
        client_key, server_key = _derive_keys(_prepare(password), salt, iterations)
        return cls(salt, iterations, _hash(client_key), server_key)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Reads what PostgreSQL keeps as ``rolpassword`` (PostgreSQL, "pg_authid").

        :raises ConfigurationError: ``text`` is not of that form.
        """
        try:
            if match := _VERIFIER.fullmatch(text):
                iterations, *encoded = match.groups()
                salt, stored_key, server_key = (b64decode(part, validate=True) for part in encoded)
                if len(stored_key) == len(server_key) == _KEY_LENGTH:
                    return cls(salt, int(iterations), stored_key, server_key)
        except ValueError:
            pass
        raise ConfigurationError(
            "not a SCRAM verifier: it must have the form "
            "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, the last three in base64"
        )

    @classmethod
    def mock(cls, seed: bytes, user: str, *, iterations: int = _DEFAULT_ITERATIONS) -> Self:
        """The verifier of an unknown user, so that it can't be told from a known one.

        It has the same salt every time, and fits no password. ``seed`` is a secret that must
        outlive the process if the known users' verifiers do.
        """
        digest = hmac.digest(seed, user.encode("utf-8", "surrogatepass"), "sha256")
        keys = secrets.token_bytes(_KEY_LENGTH), secrets.token_bytes(_KEY_LENGTH)
        return cls(digest[:_SALT_LENGTH], iterations, *keys)

    def to_text(self) -> str:
        """The inverse of :meth:`from_text`: a secret."""
        salt, stored_key, server_key = (
            b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored_key}:{server_key}"


class ScramServer:
    """The server's side of one authentication.

    ``channel_binding`` is the hash of our certificate (RFC 5929, section 4.1) if the connection
    has TLS and we offer SCRAM-SHA-256-PLUS. ``nonce`` is our part of it, random unless given.

    The user name in the client's message is ignored: the StartupMessage has it.
    """

    def __init__(
        self,
        verifier: ScramVerifier,
        *,
        nonce: str | None = None,
        channel_binding: bytes | None = None,
    ) -> None:
        self._verifier = verifier
        self._nonce = _new_nonce() if nonce is None else nonce.encode()
        self._channel_binding = channel_binding
        self._binding_input = b""
        self._first_messages: bytes | None = None

    @property
    def mechanisms(self) -> tuple[bytes, ...]:
        """What AuthenticationSASL offers, the preferred one first."""
        plus = () if self._channel_binding is None else (SCRAM_SHA_256_PLUS,)
        return (*plus, SCRAM_SHA_256)

    def first(self, client_first: bytes, mechanism: bytes = SCRAM_SHA_256) -> bytes:
        """The server-first-message; ``mechanism`` is the one in the SASLInitialResponse.

        :raises ClientProtocolError: the message is malformed or wants what we don't support.
        """
        if mechanism not in self.mechanisms:
            raise ClientProtocolError("client selected an invalid SASL authentication mechanism")
        message = _Message(client_first, "client-first-message", ClientProtocolError)
        if self._binding_input:
            raise message.error("it comes out of turn")
        header = message.take_gs2_header()
        self._check_flag(header, mechanism, message)
        if message.begins_with("m"):
            raise message.error("it requires an extension that is not supported", "0A000")
        message.take("n")
        client_nonce = message.take_nonce()
        message.end()

        self._nonce = client_nonce + self._nonce
        salt, iterations = b64encode(self._verifier.salt), b"%d" % self._verifier.iterations
        server_first = b"r=%b,s=%b,i=%b" % (self._nonce, salt, iterations)
        bound = self._channel_binding if mechanism == SCRAM_SHA_256_PLUS else None
        self._binding_input = b64encode(header + (bound or b""))
        self._first_messages = client_first.removeprefix(header) + b"," + server_first
        return server_first

    def final(self, client_final: bytes) -> bytes:
        """The server-final-message.

        :raises InvalidProof: the client does not know the password.
        :raises ClientProtocolError: the message is malformed or not bound to this connection.
        """
        message = _Message(client_final, "client-final-message", ClientProtocolError)
        first_messages, self._first_messages = self._first_messages, None
        if first_messages is None:
            raise message.error("it comes out of turn")
        if message.take("c") != self._binding_input:
            raise ClientProtocolError("SCRAM channel binding check failed", "28000")
        if message.take_nonce() != self._nonce:
            raise message.error("the nonce is not the one of this exchange")
        proof = message.take_key("p", after_extensions=True)
        message.end(extensions=False)

        auth_message = first_messages + b"," + client_final.rpartition(b",p=")[0]
        stored_key = self._verifier.stored_key
        client_key = _xor(proof, _sign(stored_key, auth_message))
        if not hmac.compare_digest(_hash(client_key), stored_key):
            raise InvalidProof("password authentication failed")
        return b"v=" + b64encode(_sign(self._verifier.server_key, auth_message))

    def _check_flag(self, header: bytes, mechanism: bytes, message: _Message) -> None:
        """RFC 5802, section 6: the flag must agree with the mechanism and with what we offer."""
        flag = header.partition(b",")[0]
        if mechanism == SCRAM_SHA_256_PLUS:
            if flag != _CHANNEL_BINDING:
                raise message.error("SCRAM-SHA-256-PLUS needs the flag p=tls-server-end-point")
        elif flag.startswith(b"p"):
            raise message.error("SCRAM-SHA-256 goes without channel binding data")
        elif flag == b"y" and self._channel_binding is not None:
            raise ClientProtocolError(
                "SCRAM channel binding negotiation error: the client supports channel binding and "
                "thinks the server does not, but it does; somebody in between may have removed it",
                "28000",
            )


class ScramCredentials:
    """The password for a server, to be kept as long as the server is connected to.

    It remembers the keys made from the password, for a server's salt is the same each time.

    :raises ConfigurationError: see :func:`.passwords.encode_password`.
    """

    def __init__(self, password: str) -> None:
        self._keys = lru_cache(maxsize=_KEPT_KEYS)(partial(_derive_keys, _prepare(password)))

    def keys(self, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
        """ClientKey and ServerKey; safe in any thread, and leaves others running meanwhile."""
        return self._keys(salt, iterations)


class ScramClient:
    """The client's side of one authentication.

    ``offered`` are the mechanisms in AuthenticationSASL. ``channel_binding`` is the hash of the
    server's certificate (RFC 5929, section 4.1) if the connection has TLS. ``mechanism`` is the
    chosen one, for the SASLInitialResponse. ``nonce`` is random unless given.

    An AuthenticationOk before :meth:`verify` returned must not be believed.

    :raises OriginProtocolError: nothing that we support is offered.
    """

    def __init__(
        self,
        credentials: ScramCredentials,
        offered: Collection[bytes] = (SCRAM_SHA_256,),
        *,
        nonce: str | None = None,
        channel_binding: bytes | None = None,
    ) -> None:
        self._credentials = credentials
        self._nonce = _new_nonce() if nonce is None else nonce.encode()
        self._server_signature: bytes | None = None
        if channel_binding is not None and SCRAM_SHA_256_PLUS in offered:
            self.mechanism = SCRAM_SHA_256_PLUS
            self._header = _CHANNEL_BINDING + b",,"
            self._binding_input = self._header + channel_binding
        elif SCRAM_SHA_256 in offered:
            self.mechanism = SCRAM_SHA_256
            # "y" lets the server notice if somebody took SCRAM-SHA-256-PLUS out of its offer.
            self._header = b"n,," if channel_binding is None else b"y,,"
            self._binding_input = self._header
        else:
            raise OriginProtocolError(
                "none of the server's SASL authentication mechanisms is supported; "
                "use a role with a SCRAM-SHA-256 password"
            )

    def first(self) -> bytes:
        """The client-first-message. The user name is empty: the StartupMessage has it."""
        return self._header + self._bare_first

    def final(self, server_first: bytes) -> bytes:
        """The client-final-message; takes time if the salt is new (see ``ScramVerifier``).

        :raises OriginProtocolError: the message is malformed or hostile.
        """
        message = _Message(server_first, "server-first-message", OriginProtocolError)
        if self._server_signature is not None:
            raise message.error("it comes out of turn")
        nonce = message.take_nonce()
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise message.error("the nonce does not extend the client's")
        salt = message.take_base64("s")
        iterations = message.take_iterations()
        message.end()

        without_proof = b"c=" + b64encode(self._binding_input) + b",r=" + nonce
        auth_message = b",".join((self._bare_first, server_first, without_proof))
        client_key, server_key = self._credentials.keys(salt, iterations)
        self._server_signature = _sign(server_key, auth_message)
        proof = _xor(client_key, _sign(_hash(client_key), auth_message))
        return without_proof + b",p=" + b64encode(proof)

    def verify(self, server_final: bytes) -> None:
        """Makes sure that the server knows the password as well.

        :raises OriginProtocolError: it does not, or refuses us, or the message is malformed.
        """
        message = _Message(server_final, "server-final-message", OriginProtocolError)
        if self._server_signature is None:
            raise message.error("it comes out of turn")
        if message.begins_with("e"):
            reason = message.take("e")[:64].decode("latin-1")
            raise OriginProtocolError(f"the server refused the SCRAM exchange: {reason!a}")
        signature = message.take_key("v")
        message.end()
        if not hmac.compare_digest(signature, self._server_signature):
            raise OriginProtocolError(
                "incorrect server signature: the server does not know the password; "
                "make sure that this is the server you mean"
            )

    @property
    def _bare_first(self) -> bytes:
        return b"n=,r=" + self._nonce


class _Message:
    """The attributes of a SCRAM message, taken in their order (RFC 5802, section 5.1).

    No error text of it quotes the peer: anyone can make us log those.
    """

    def __init__(self, data: bytes, name: str, blame: type[ProtocolError]) -> None:
        self._data = data
        self._name = name
        self._blame = blame
        if not 0 < len(data) <= _MAX_MESSAGE or b"\0" in data:
            raise self.error(f"1 to {_MAX_MESSAGE} bytes expected, none of them NUL")
        self._fields = data.split(b",")
        self._fields.reverse()

    def error(self, what: str, sqlstate: str | None = None) -> ProtocolError:
        return self._blame(f"malformed SCRAM message ({self._name}): {what}", sqlstate)

    def begins_with(self, letter: str) -> bool:
        """For the first attribute only: later there may be none."""
        return self._fields[-1].startswith(letter.encode() + b"=")

    def take_gs2_header(self) -> bytes:
        """RFC 5802, section 7: ``gs2-header``."""
        header = _GS2_HEADER.match(self._data)
        if header is None:
            raise self.error("it does not begin with a channel binding flag")
        if header[2]:
            raise self.error("an authorization identity is not supported", "0A000")
        del self._fields[-2:]
        return header[0]

    def take(self, letter: str, *, after_extensions: bool = False) -> bytes:
        """The value of the next attribute, which must be ``letter``."""
        while self._fields:
            attribute = self._fields.pop()
            if attribute.startswith(letter.encode() + b"="):
                return attribute[2:]
            if not (after_extensions and _EXTENSION.match(attribute)):
                break
        raise self.error(f"attribute {letter} expected")

    def take_nonce(self) -> bytes:
        nonce = self.take("r")
        if not _NONCE.fullmatch(nonce):
            raise self.error("the nonce is empty or not printable ASCII")
        return nonce

    def take_base64(self, letter: str, *, after_extensions: bool = False) -> bytes:
        value = self.take(letter, after_extensions=after_extensions)
        try:
            return b64decode(value, validate=True)
        except binascii.Error:
            raise self.error(f"attribute {letter} is not base64") from None

    def take_key(self, letter: str, *, after_extensions: bool = False) -> bytes:
        key = self.take_base64(letter, after_extensions=after_extensions)
        if len(key) != _KEY_LENGTH:
            raise self.error(f"attribute {letter} is not {_KEY_LENGTH} bytes long")
        return key

    def take_iterations(self) -> int:
        value = self.take("i")
        if not _ITERATIONS.fullmatch(value):
            raise self.error("the iteration count is not a number from 1 on")
        if int(value) > _MAX_ITERATIONS:
            raise self._blame(
                f"the server wants more than {_MAX_ITERATIONS} SCRAM iterations; "
                "set the password anew there with fewer (PostgreSQL: scram_iterations)"
            )
        return int(value)

    def end(self, *, extensions: bool = True) -> None:
        """Nothing must follow but extensions, which are ignored, if they are allowed here."""
        if not all(extensions and _EXTENSION.match(rest) for rest in self._fields):
            raise self.error("it goes on after its last attribute")


def _prepare(password: str) -> bytes:
    return encode_password(saslprep(password))


def _derive_keys(password: bytes, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """ClientKey and ServerKey (RFC 5802, section 3)."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    return _sign(salted, b"Client Key"), _sign(salted, b"Server Key")


def _sign(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(left, right, strict=True))


def _new_nonce() -> bytes:
    return b64encode(secrets.token_bytes(_RAW_NONCE_LENGTH))
