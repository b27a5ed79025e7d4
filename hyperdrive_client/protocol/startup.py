"""The first packet of a client: StartupMessage, or a request in its place.

PostgreSQL, "Start-up" under "Message Flow", and the packets without a type byte under
"Message Formats".
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ClientProtocolError
from .messages import INT32

# PostgreSQL's MAX_STARTUP_PACKET_LENGTH: the least that is accepted before anyone is known.
MAX_STARTUP_PACKET_LENGTH = 10_000

CANCEL_REQUEST_CODE = 1234 << 16 | 5678
SSL_REQUEST_CODE = 1234 << 16 | 5679
GSSENC_REQUEST_CODE = 1234 << 16 | 5680

SSL_REQUEST = INT32.pack(8) + INT32.pack(SSL_REQUEST_CODE)
GSSENC_REQUEST = INT32.pack(8) + INT32.pack(GSSENC_REQUEST_CODE)

# The newest minor version of protocol 3 that we speak to clients: 3.2 has long cancel keys.
NEWEST_MINOR = 2


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """The client asks for TLS."""

    code = SSL_REQUEST_CODE


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    """The client asks for GSSAPI encryption."""

    code = GSSENC_REQUEST_CODE


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """The client asks that what another connection runs be cancelled."""

    process_id: int
    secret_key: bytes


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """The client starts a session.

    ``parameters`` as sent, without the terminating NULs; ``unknown_options`` are the names that
    begin with ``_pq_.``, none of which we know.
    """

    minor: int
    parameters: dict[bytes, bytes]
    unknown_options: tuple[bytes, ...]


Packet = SSLRequest | GSSENCRequest | CancelRequest | StartupMessage


def take_packet(data: bytes) -> tuple[Packet, bytes] | None:
    """The first packet in ``data`` and what follows it; ``None`` if it is not complete yet.

    ``ClientProtocolError`` if it can't be one.
    """
    if len(data) < 4:
        return None
    (length,) = INT32.unpack_from(data)
    # PostgreSQL does not count the length itself.
    if not 4 <= length - 4 <= MAX_STARTUP_PACKET_LENGTH:
        raise ClientProtocolError(f"invalid length of startup packet: {length}")
    if len(data) < length:
        return None
    return _packet(data[4:length]), data[length:]


def _packet(body: bytes) -> Packet:
    (code,) = INT32.unpack_from(body)
    if code == SSL_REQUEST_CODE:
        return SSLRequest()
    if code == GSSENC_REQUEST_CODE:
        return GSSENCRequest()
    if code == CANCEL_REQUEST_CODE:
        # Protocol 3.2 allows keys of up to 256 bytes.
        if not 4 < len(body) - 4 <= 4 + 256:
            raise ClientProtocolError("invalid length of cancel request")
        return CancelRequest(INT32.unpack_from(body, 4)[0], body[8:])
    if code >> 16 != 3:
        raise unsupported_protocol(code)
    parameters = _parameters(body[4:])
    unknown = tuple(name for name in parameters if name.startswith(b"_pq_."))
    for name in unknown:
        del parameters[name]
    return StartupMessage(code & 0xFFFF, parameters, unknown)


def unsupported_protocol(code: int) -> ClientProtocolError:
    """The error for a version, or a request where none is possible any more."""
    return ClientProtocolError(
        f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: server supports 3.0 to "
        f"3.{NEWEST_MINOR}",
        sqlstate="0A000",
    )


def _parameters(body: bytes) -> dict[bytes, bytes]:
    if not body.endswith(b"\x00"):
        raise ClientProtocolError("invalid startup packet layout: expected terminator as last byte")
    if body == b"\x00":
        return {}
    if not body.endswith(b"\x00\x00"):
        raise ClientProtocolError("invalid startup packet layout: expected terminator as last byte")
    words = body[:-2].split(b"\x00")
    if len(words) % 2 or not all(words[::2]):
        raise ClientProtocolError(
            "invalid startup packet layout: parameter names and values do not pair up"
        )
    return dict(zip(words[::2], words[1::2], strict=True))


def option_settings(options: bytes) -> dict[bytes, bytes]:
    """The settings in the start-up parameter ``options``: ``-c name=value`` and ``--name=value``.

    Spaces separate arguments unless escaped by a backslash. ``ClientProtocolError`` for any other
    switch, with PostgreSQL's text and code. The names are in lower case, each with its last value.
    """
    settings: dict[bytes, bytes] = {}
    arguments = iter(_arguments(options))
    for argument in arguments:
        if argument == b"-c":
            pair = next(arguments, b"")
        elif argument.startswith((b"-c", b"--")):
            pair = argument[2:]
        else:
            raise _invalid_argument(argument)
        name, separator, value = pair.partition(b"=")
        if not name or not separator:
            raise _invalid_argument(argument)
        # PostgreSQL's ParseLongOption: dashes in a name stand for underscores.
        settings[name.replace(b"-", b"_").lower()] = value
    return settings


def _invalid_argument(argument: bytes) -> ClientProtocolError:
    return ClientProtocolError(
        "invalid command-line argument for server process: "
        f"{argument.decode('utf-8', 'replace')}; only -c name=value and --name=value are known",
        sqlstate="42601",
    )


def _arguments(options: bytes) -> list[bytes]:
    words: list[bytearray] = []
    escaped = False
    inside = False
    for byte in options:
        if escaped:
            escaped = False
        elif byte in b" \t\n\r\f\v":
            inside = False
            continue
        elif byte == ord("\\"):
            escaped = True
            if not inside:
                words.append(bytearray())
                inside = True
            continue
        if not inside:
            words.append(bytearray())
            inside = True
        words[-1].append(byte)
    return [bytes(word) for word in words]
