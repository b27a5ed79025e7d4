"""Start-up and authentication towards the origin (PostgreSQL, "Start-up")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...bindings.connection_string import Address, Origin, password_for
from ...errors import OriginProtocolError
from ...protocol import messages as m
from ...protocol.passwords import encode_password, md5_password
from ...protocol.scram import SCRAM_SHA_256, ScramClient, ScramCredentials
from ..settings import Settings

APPLICATION_NAME = b"Cloudflare Hyperdrive"

# Worth another try later: the origin is starting, stopping, recovering, or full.
_TRANSIENT = frozenset(("53200", "53300", "53400", "57P01", "57P02", "57P03"))


@dataclass(frozen=True, slots=True)
class ConnectFailure:
    """Why there is no origin connection.

    ``sqlstate``, ``text``, ``detail`` and ``hint`` are what waiting clients are told;
    ``transient`` if it may pass by itself.
    """

    sqlstate: str
    text: str
    transient: bool
    detail: str = ""
    hint: str = ""

    def response(self, severity: str) -> bytes:
        return m.error_response(
            self.sqlstate, self.text, severity=severity, detail=self.detail, hint=self.hint
        )


def _has_attributes(wanted: str, reported: Mapping[bytes, bytes]) -> bool:
    """Whether a server is what ``target_session_attrs`` asks for; it says so from 14 on."""
    standby = reported.get(b"in_hot_standby") == b"on"
    read_only = standby or reported.get(b"default_transaction_read_only") == b"on"
    match wanted:
        case "read-write":
            return not read_only
        case "read-only":
            return read_only
        case "primary":
            return not standby
        case "standby":
            return standby
    return True


def refused_by_origin(body: bytes) -> ConnectFailure:
    """What an ErrorResponse during start-up means; the origin's own words pass unchanged."""
    fields = m.error_fields(body)
    sqlstate = fields.get("C", "58000")
    return ConnectFailure(
        sqlstate,
        fields.get("M", "Internal error."),
        sqlstate in _TRANSIENT,
        fields.get("D", ""),
        fields.get("H", ""),
    )


class Credentials:
    """What authenticates us at the origin: its password, and SCRAM's costly part, kept."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._scram: dict[str, ScramCredentials] = {}

    def password(self, address: Address) -> str | None:
        return password_for(self._origin, address)

    def scram(self, password: str) -> ScramCredentials:
        # A password file may change under us; one entry is all that is ever needed.
        if password not in self._scram:
            self._scram = {password: ScramCredentials(password)}
        return self._scram[password]


class OriginStartup:
    """One start-up, from StartupMessage to the first ReadyForQuery."""

    def __init__(
        self, settings: Settings, credentials: Credentials, address: Address, *, encrypted: bool
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._address = address
        self._encrypted = encrypted
        self._scram: ScramClient | None = None
        self._proved = True
        self._may_be_ready = False
        self.ready = False
        self.failure: ConnectFailure | None = None
        self.process_id = 0
        self.secret_key = b""
        self.reported: dict[bytes, bytes] = {}

    def first(self) -> bytes:
        """The StartupMessage."""
        origin = self._settings.origin
        parameters = {
            b"user": origin.user.encode(),
            b"database": origin.database.encode(),
            b"application_name": APPLICATION_NAME,
        }
        if origin.options:
            parameters[b"options"] = origin.options.encode()
        timeout = self._settings.limits.statement_timeout
        if timeout:
            parameters[b"statement_timeout"] = str(max(1, round(timeout * 1000))).encode()
        return m.startup_message(parameters)

    def receive(self, kind: int, body: bytes) -> bytes:
        """The answer to one message, if it needs one; then see ``ready`` and ``failure``."""
        if kind == m.AUTHENTICATION:
            return self._authenticate(body)
        if kind == m.ERROR_RESPONSE:
            self.failure = refused_by_origin(body)
        elif kind == m.NOTICE_RESPONSE:
            pass
        elif not self._may_be_ready:
            raise OriginProtocolError(f"message type {chr(kind)!r} before authentication was done")
        elif kind == m.PARAMETER_STATUS:
            name, _, rest = body.partition(b"\x00")
            if name != b"application_name":
                self.reported[name] = rest[:-1]
        elif kind == m.BACKEND_KEY_DATA and len(body) > 4:
            self.process_id = m.INT32.unpack_from(body)[0]
            self.secret_key = body[4:]
        elif kind == m.READY_FOR_QUERY:
            self.ready = True
            wanted = self._settings.origin.target_session_attrs
            if not _has_attributes(wanted, self.reported):
                self.failure = ConnectFailure(
                    "58000",
                    f"Server connection attempt failed: no server is {wanted}",
                    True,
                    hint="target_session_attrs in the connection string asks for it.",
                )
        else:
            raise OriginProtocolError(f"message type {chr(kind)!r} during start-up")
        return b""

    def _authenticate(self, body: bytes) -> bytes:
        if len(body) < 4:
            raise OriginProtocolError("an authentication request without a method")
        (request,) = m.INT32.unpack_from(body)
        data = body[4:]
        if request == m.AUTHENTICATION_OK:
            if not self._proved:
                raise OriginProtocolError("the origin ended SCRAM without proving itself")
            self._may_be_ready = True
            return b""
        if request == m.AUTHENTICATION_SASL_FINAL and self._scram is not None:
            self._scram.verify(data)
            self._proved = True
            return b""
        if request == m.AUTHENTICATION_SASL_CONTINUE and self._scram is not None:
            return m.password(self._scram.final(data))
        password = self._credentials.password(self._address)
        if password is None:
            self.failure = ConnectFailure(
                "28P01",
                "The origin asks for a password and none is configured.",
                False,
                hint="Put one into the connection string, PGPASSFILE or ~/.pgpass.",
            )
            return b""
        if request == m.AUTHENTICATION_SASL:
            offered = data.rstrip(b"\x00").split(b"\x00")
            if SCRAM_SHA_256 not in offered:
                return self._unsupported("a SASL mechanism other than SCRAM-SHA-256")
            self._scram = ScramClient(self._credentials.scram(password), offered)
            self._proved = False
            return m.sasl_initial_response(self._scram.mechanism, self._scram.first())
        if request == m.AUTHENTICATION_MD5_PASSWORD and len(data) == 4:
            user = self._settings.origin.user
            return m.password(md5_password(user, password, data) + b"\x00")
        if request == m.AUTHENTICATION_CLEARTEXT_PASSWORD:
            if not (self._encrypted or self._address.is_local):
                return self._unsupported("a cleartext password without TLS")
            return m.password(encode_password(password) + b"\x00")
        return self._unsupported(f"authentication method {request}")

    def _unsupported(self, what: str) -> bytes:
        self.failure = ConnectFailure(
            "28000",
            f"The origin asks for {what}, which is not supported.",
            False,
            hint="Use scram-sha-256, md5, or a password over TLS.",
        )
        return b""
