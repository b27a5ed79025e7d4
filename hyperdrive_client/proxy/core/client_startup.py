"""Start-up and authentication of a client (PostgreSQL, "Start-up", "SASL Authentication")."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ClientProtocolError
from ...protocol import messages as m
from ...protocol.framing import password_framer
from ...protocol.scram import InvalidProof, ScramServer, ScramVerifier
from ...protocol.startup import (
    NEWEST_MINOR,
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    take_packet,
    unsupported_protocol,
)
from ..settings import CONSOLE_DATABASE, Settings

CONSOLE = CONSOLE_DATABASE.encode()

# PostgreSQL answers one request of each kind before it wants the StartupMessage.
_MAX_REQUESTS = 2


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What the TLS of a client's connection says.

    ``common_name`` is that of its valid certificate; ``None`` without one. ``direct`` if TLS came
    without an SSLRequest, ``alpn`` if the client has named PostgreSQL's protocol in it.
    """

    common_name: str | None = None
    direct: bool = False
    alpn: bool = False


class Doorkeeper:
    """Which clients may come in, and with what proof.

    ``channel_binding`` is the hash of our certificate, once there is one that has such a hash.
    """

    def __init__(self, settings: Settings, mock_seed: bytes) -> None:
        self._user = settings.user.encode()
        # As an unknown user's, so that all workers have the same and nobody is told apart by it.
        salt = ScramVerifier.mock(mock_seed, settings.user).salt
        self._verifier = ScramVerifier.from_password(settings.password, salt=salt)
        self._mock_seed = mock_seed
        self.demands_proof = settings.auth != "trust"
        self.demands_tls = settings.ssl == "require"
        self.clientcert = settings.clientcert
        self.channel_binding: bytes | None = None
        self.refusal: tuple[str, str] | None = None
        """SQLSTATE and text for all who come now; cancel requests are taken all the same."""
        self.database = settings.origin.database.encode()
        self.any_database = settings.any_database
        self.has_console = False

    def admits(self, database: bytes) -> bool:
        if database == CONSOLE and self.has_console:
            return True
        return self.any_database or database == self.database

    def verifier(self, user: bytes) -> ScramVerifier:
        """An unknown user gets one that nothing matches, so it can't be told from a known one."""
        if user == self._user:
            return self._verifier
        return ScramVerifier.mock(self._mock_seed, user.decode("utf-8", "replace"))


class Refused(Exception):
    """The client may not come in; it is told and closed."""

    def __init__(self, sqlstate: str, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.response = m.error_response(sqlstate, text, severity="FATAL", detail=detail)


class ClientStartup:
    """One start-up, from the first byte to the end of authentication.

    After each :meth:`receive`: ``cancel`` is set if the connection is there only to cancel,
    ``done`` if the client may come in, with ``startup`` and ``rest``, the bytes that followed.
    ``tls`` is set before the first if the connection has TLS, ``is_owner`` if the system vouches
    for who it is.
    """

    def __init__(self, doorkeeper: Doorkeeper) -> None:
        self._doorkeeper = doorkeeper
        self.tls: ClientTls | None = None
        self.is_owner = False
        self._data = b""
        self._requests = 0
        self._framer = password_framer()
        self._scram: ScramServer | None = None
        self._first_sent = False
        self.startup: StartupMessage | None = None
        self.cancel: CancelRequest | None = None
        self.done = False
        self.rest = b""

    @property
    def user(self) -> bytes:
        assert self.startup is not None
        return self.startup.parameters.get(b"user", b"")

    @property
    def database(self) -> bytes:
        """Which it wants; by default that of the user's name, as in PostgreSQL."""
        assert self.startup is not None
        return self.startup.parameters.get(b"database") or self.user

    @property
    def minor(self) -> int:
        assert self.startup is not None
        return min(self.startup.minor, NEWEST_MINOR)

    def receive(self, data: bytes) -> bytes:
        """What to send back. ``Refused`` or ``ClientProtocolError``: close after telling."""
        if self.startup is not None:
            return self._authenticate(data)
        if self.tls is not None and self.tls.direct and not self.tls.alpn:
            # Who means another protocol must not be taken for one of ours.
            raise ClientProtocolError(
                "received direct SSL connection request without ALPN protocol negotiation extension"
            )
        self._data += data
        taken = take_packet(self._data)
        if taken is None:
            return b""
        packet, self._data = taken
        if isinstance(packet, CancelRequest):
            self.cancel = packet
            return b""
        if isinstance(packet, (SSLRequest, GSSENCRequest)):
            if self.tls is not None:
                raise unsupported_protocol(packet.code)
            self._requests += 1
            if self._data or self._requests > _MAX_REQUESTS:
                # Nothing may be sent before our answer is there (CVE-2021-23214 and its kin).
                raise ClientProtocolError("received unencrypted data after an encryption request")
            return b"N"
        return self._begin(packet)

    def _begin(self, packet: StartupMessage) -> bytes:
        self.startup = packet
        if self._doorkeeper.refusal is not None:
            raise Refused(*self._doorkeeper.refusal)
        if not self.user:
            raise Refused("28000", "no PostgreSQL user name specified in startup packet")
        if packet.parameters.get(b"replication", b"off").lower() not in (b"off", b"false", b"0"):
            raise Refused("0A000", "replication connections are not supported by the proxy")
        self._check_tls()
        answer = b""
        if packet.minor > NEWEST_MINOR or packet.unknown_options:
            answer = m.negotiate_protocol_version(self.minor, packet.unknown_options)
        if self.is_owner or not self._doorkeeper.demands_proof:
            return answer + self._finish(self._data)
        binding = self._doorkeeper.channel_binding if self.tls is not None else None
        self._scram = ScramServer(self._doorkeeper.verifier(self.user), channel_binding=binding)
        answer += m.authentication(
            m.AUTHENTICATION_SASL, b"\x00".join((*self._scram.mechanisms, b"", b""))
        )
        if self._data:
            answer += self._authenticate(self._data)
        return answer

    def _check_tls(self) -> None:
        """What can be said before anybody has shown who it is."""
        if self.tls is None and self._doorkeeper.demands_tls:
            raise Refused("28000", "connection is not encrypted, and the proxy demands TLS")
        has_certificate = self.tls is not None and self.tls.common_name is not None
        if self._doorkeeper.clientcert != "no" and not has_certificate:
            raise Refused("28000", "connection requires a valid client certificate")

    def _authenticate(self, data: bytes) -> bytes:
        buffer, messages, end = self._framer.feed(data)
        answer = b""
        for kind, start, stop in messages:
            if kind != m.PASSWORD:
                raise ClientProtocolError(f"expected SASL response, got message type {kind}")
            answer += self._sasl(buffer[start + 5 : stop])
            if self.done:
                # What a client sends ahead of our AuthenticationOk is not ours to refuse.
                return answer + self._finish(buffer[stop:end] + self._framer.held)
        return answer

    def _sasl(self, body: bytes) -> bytes:
        scram = self._scram
        assert scram is not None
        if not self._first_sent:
            self._first_sent = True
            mechanism, first = _initial(body)
            return m.authentication(m.AUTHENTICATION_SASL_CONTINUE, scram.first(first, mechanism))
        try:
            final = scram.final(body)
        except InvalidProof:
            raise self._wrong_password() from None
        self.done = True
        return m.authentication(m.AUTHENTICATION_SASL_FINAL, final)

    def _finish(self, rest: bytes) -> bytes:
        """The client has shown who it is; only now does it matter what it asked for."""
        assert self.startup is not None
        if self._doorkeeper.clientcert == "verify-full":
            assert self.tls is not None
            if (self.tls.common_name or "").encode() != self.user:
                user = self.user.decode("utf-8", "replace")
                raise Refused("28000", f'certificate authentication failed for user "{user}"')
        database = self.database
        if not self._doorkeeper.admits(database):
            raise Refused(
                "3D000", f'database "{database.decode("utf-8", "replace")}" does not exist'
            )
        self.done = True
        self.rest = rest
        return m.authentication(m.AUTHENTICATION_OK)

    def _wrong_password(self) -> Refused:
        user = self.user.decode("utf-8", "replace")
        return Refused("28P01", f'password authentication failed for user "{user}"')


def _initial(body: bytes) -> tuple[bytes, bytes]:
    """The mechanism and the client-first-message in a SASLInitialResponse."""
    mechanism, _, rest = body.partition(b"\x00")
    if len(rest) < 4 or m.INT32.unpack_from(rest)[0] != len(rest) - 4:
        raise ClientProtocolError("malformed SASLInitialResponse message")
    return mechanism, rest[4:]
