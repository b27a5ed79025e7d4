"""Start-up and authentication towards the origin (PostgreSQL, "Start-up")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...bindings.connection_string import Address, Origin, password_for
from ...errors import ORIGIN_IS_A_PROXY, OriginProtocolError
from ...protocol import messages as m
from ...protocol.channel_binding import server_end_point
from ...protocol.passwords import encode_password, md5_password
from ...protocol.scram import (
    SCRAM_SHA_256,
    SCRAM_SHA_256_PLUS,
    ScramClient,
    ScramCredentials,
)
from ...protocol.startup import NEWEST_MINOR
from ..settings import Settings
from .reports import PROXY

APPLICATION_NAME = b"Cloudflare Hyperdrive"

# The first PostgreSQL that speaks protocol 3.2.
_SPEAKS_3_2 = 18
# The answer of all servers before it: NegotiateProtocolVersion with 3.0, and no unknown options.
_ONLY_3_0 = m.INT32.pack(3 << 16) + m.INT32.pack(0)

# What PostgreSQL, and PgBouncer before it knew of 3.2, say to a version they do not know.
_NO_SUCH_VERSION = ("0A000", "08P01")

_SASL = (m.AUTHENTICATION_SASL, m.AUTHENTICATION_SASL_CONTINUE, m.AUTHENTICATION_SASL_FINAL)

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


_IS_A_PROXY = ConnectFailure(
    "0A000",
    f"{ORIGIN_IS_A_PROXY}: connect to it directly (HYPERDRIVE_PROXY=off) or name the PostgreSQL "
    "server behind it",
    False,
)


def _is_standby(reported: Mapping[bytes, bytes]) -> bool:
    """Servers say so from 14 on."""
    return reported.get(b"in_hot_standby") == b"on"


def _has_attributes(wanted: str, reported: Mapping[bytes, bytes]) -> bool:
    """Whether a server is what ``target_session_attrs`` asks for."""
    standby = _is_standby(reported)
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


class ProtocolVersions:
    """Which minor version of protocol 3 each of the origin's servers is asked for.

    3.0 at first, as libpq does: what is older than the negotiation of versions, poolers among
    them, refuses any other. A server that has said to be PostgreSQL 18 or newer is asked for 3.2,
    which has cancel keys too long to be guessed. If it does not answer that, something in between
    does not know it, and 3.0 it is for good.
    """

    def __init__(self) -> None:
        self._may_be_newer: set[Address] = set()
        self._is_newer: dict[Address, bool] = {}

    def to_ask_for(self, address: Address) -> int:
        if address in self._may_be_newer:
            self._may_be_newer.remove(address)
            self._is_newer[address] = False
            return NEWEST_MINOR
        return NEWEST_MINOR if self._is_newer.get(address) else 0

    def answered(self, address: Address) -> None:
        """What we asked for was understood, if not granted."""
        self._is_newer[address] = True

    def seen(self, address: Address, server_version: bytes) -> None:
        major = re.match(rb"[0-9]{1,9}", server_version)
        if major and int(major[0]) >= _SPEAKS_3_2 and address not in self._is_newer:
            self._may_be_newer.add(address)


class Credentials:
    """What authenticates us at the origin: its password, and SCRAM's costly part, kept.

    Beside them what one start-up has learnt for the next.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._scram: dict[str, ScramCredentials] = {}
        self.versions = ProtocolVersions()
        self.not_preferred: set[Address] = set()
        """Where ``prefer-standby`` has met no standby on its way around the addresses."""

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
        self,
        settings: Settings,
        credentials: Credentials,
        address: Address,
        *,
        encrypted: bool,
        parameters: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """``parameters`` go into the StartupMessage over those that a client's would have; who
        gives any is content with protocol 3.0."""
        self._settings = settings
        self._parameters = parameters or {}
        self._credentials = credentials
        self._address = address
        self._encrypted = encrypted
        self._scram: ScramClient | None = None
        self.certificate: bytes | None = None
        """The origin's, in DER, if the connection has TLS."""
        self._minor = 0 if parameters else credentials.versions.to_ask_for(address)
        """What we have asked for and was not answered yet."""
        self._passed_over = address in credentials.not_preferred
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
        return m.startup_message({**parameters, **self._parameters}, self._minor)

    def receive(self, kind: int, body: bytes) -> bytes:
        """The answer to one message, if it needs one; then see ``ready`` and ``failure``."""
        if kind == m.AUTHENTICATION:
            self._version_is_answered()
            return self._authenticate(body)
        if kind == m.ERROR_RESPONSE:
            self.failure = refused_by_origin(body)
            if self._minor and self.failure.sqlstate in _NO_SUCH_VERSION:
                # The next attempt asks for 3.0.
                self.failure = replace(self.failure, transient=True)
        elif kind == m.NOTICE_RESPONSE:
            pass
        elif kind == m.NEGOTIATE_PROTOCOL_VERSION:
            if body != _ONLY_3_0 or not self._minor:
                raise OriginProtocolError("a protocol version that was not asked for")
            self._version_is_answered()
        elif not self._may_be_ready:
            raise OriginProtocolError(f"message type {chr(kind)!r} before authentication was done")
        elif kind == m.PARAMETER_STATUS:
            name, _, rest = body.partition(b"\x00")
            if name == PROXY:
                self.failure = _IS_A_PROXY
            elif name != b"application_name":
                self.reported[name] = rest[:-1]
        elif kind == m.BACKEND_KEY_DATA and 4 + 4 <= len(body) <= 4 + 256:
            self.process_id = m.INT32.unpack_from(body)[0]
            self.secret_key = body[4:]
        elif kind == m.READY_FOR_QUERY:
            self.ready = True
            version = self.reported.get(b"server_version", b"")
            self._credentials.versions.seen(self._address, version)
            wanted = self._settings.origin.target_session_attrs
            if not self._is_wanted(wanted):
                self.failure = ConnectFailure(
                    "58000",
                    f"Server connection attempt failed: no server is {wanted}",
                    True,
                    hint="target_session_attrs in the connection string asks for it.",
                )
        else:
            raise OriginProtocolError(f"message type {chr(kind)!r} during start-up")
        return b""

    def _version_is_answered(self) -> None:
        if self._minor:
            self._minor = 0
            self._credentials.versions.answered(self._address)

    def _is_wanted(self, wanted: str) -> bool:
        if wanted != "prefer-standby":
            return _has_attributes(wanted, self.reported)
        not_preferred = self._credentials.not_preferred
        not_preferred.add(self._address)
        # Once all were tried, or this one for the second time, any server will do.
        if (
            _is_standby(self.reported)
            or self._passed_over
            or not_preferred.issuperset(self._settings.origin.addresses)
        ):
            not_preferred.clear()
            return True
        return False

    def _authenticate(self, body: bytes) -> bytes:
        if len(body) < 4:
            raise OriginProtocolError("an authentication request without a method")
        (request,) = m.INT32.unpack_from(body)
        data = body[4:]
        if self._settings.origin.channel_binding == "require" and not self._may_bind(request):
            return self._unbound("authenticates without channel binding")
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
            return self._begin_scram(password, data.rstrip(b"\x00").split(b"\x00"))
        if request == m.AUTHENTICATION_MD5_PASSWORD and len(data) == 4:
            user = self._settings.origin.user
            return m.password(md5_password(user, password, data) + b"\x00")
        if request == m.AUTHENTICATION_CLEARTEXT_PASSWORD:
            if not (self._encrypted or self._address.is_local):
                return self._unsupported("a cleartext password without TLS")
            return m.password(encode_password(password) + b"\x00")
        return self._unsupported(f"authentication method {request}")

    def _may_bind(self, request: int) -> bool:
        """Whether ``request`` belongs to an exchange that is bound, or can still be."""
        if request == m.AUTHENTICATION_OK:
            return self._scram is not None and self._scram.mechanism == SCRAM_SHA_256_PLUS
        return request in _SASL

    def _begin_scram(self, password: str, offered: list[bytes]) -> bytes:
        """The choice of the mechanism is libpq's, and so is what ``channel_binding`` means."""
        wish = self._settings.origin.channel_binding
        if SCRAM_SHA_256_PLUS in offered and not self._encrypted:
            raise OriginProtocolError("SCRAM-SHA-256-PLUS was offered without TLS")
        binds = self._encrypted and wish != "disable"
        if wish == "require" and not (binds and SCRAM_SHA_256_PLUS in offered):
            where = "offers no channel binding" if self._encrypted else "has no TLS to bind to"
            return self._unbound(where)
        if not (SCRAM_SHA_256 in offered or (binds and SCRAM_SHA_256_PLUS in offered)):
            return self._unsupported("a SASL mechanism other than SCRAM-SHA-256")
        binding = server_end_point(self.certificate or b"") if binds else None
        if binds and binding is None and SCRAM_SHA_256_PLUS in offered:
            return self._unbound(
                "has a certificate whose signature algorithm allows no channel binding",
                "channel_binding=disable goes without.",
            )
        # Without a binding "y" is said all the same where there might be one.
        self._scram = ScramClient(
            self._credentials.scram(password),
            offered,
            channel_binding=(binding or b"") if binds else None,
        )
        self._proved = False
        return m.sasl_initial_response(self._scram.mechanism, self._scram.first())

    def _unbound(self, what: str, hint: str = "channel_binding=require is in force.") -> bytes:
        self.failure = ConnectFailure("28000", f"The origin {what}.", False, hint=hint)
        return b""

    def _unsupported(self, what: str) -> bytes:
        self.failure = ConnectFailure(
            "28000",
            f"The origin asks for {what}, which is not supported.",
            False,
            hint="Use scram-sha-256, md5, or a password over TLS.",
        )
        return b""
