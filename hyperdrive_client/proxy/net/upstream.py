"""Opening connections to the origin: addresses, TLS, and what their failures mean."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

from ...bindings.connection_string import Address, Origin
from ...errors import ConfigurationError
from ...protocol.startup import SSL_REQUEST
from ..core.origin_startup import ConnectFailure
from .tls import ALPN, origin_context

ProtocolFactory = Callable[[Address, bool], asyncio.Protocol]


_NEEDS_17 = "sslnegotiation=direct needs PostgreSQL 17 or newer."


class OriginUnreachableError(Exception):
    """No connection; ``failure`` is what clients are told."""

    def __init__(self, reason: str, *, transient: bool = True, hint: str = "") -> None:
        super().__init__(reason)
        self.failure = ConnectFailure(
            "58000", f"Server connection attempt failed: {reason}", transient, hint=hint
        )


class _TlsRefused(Exception):
    """The origin has no TLS, or the handshake failed; ``prefer`` goes on without."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


async def open_origin(origin: Origin, first: int, factory: ProtocolFactory, timeout: float) -> None:
    """Connect to the first address that answers and hand it to ``factory(address, encrypted)``.

    ``first`` is the index of the address to begin with; past the last it begins anew. The
    addresses share ``timeout`` seconds evenly, so that a silent one leaves time for the next;
    0: none.

    ``OriginUnreachableError`` with the last address's reason if none does.
    """
    failure: OriginUnreachableError | None = None
    first %= len(origin.addresses)
    share = timeout / len(origin.addresses) if timeout else None
    for address in origin.addresses[first:] + origin.addresses[:first]:
        try:
            with _reasons():
                async with asyncio.timeout(share):
                    await _open_address(origin, address, factory)
            return
        except OriginUnreachableError as error:
            failure = error
    assert failure is not None, "an origin has at least one address"
    raise failure


async def open_address(
    origin: Origin, address: Address, encrypted: bool, factory: ProtocolFactory
) -> None:
    """Connect to one address as before: with TLS if ``encrypted``. ``OriginUnreachableError``."""
    with _reasons():
        connection = await _connect(address)
        if not encrypted:
            await _plain(address, connection, factory)
            return
        try:
            await _with_tls(origin, address, connection, factory)
        except _TlsRefused as refusal:
            raise OriginUnreachableError(f"tls_failed ({refusal})") from refusal


async def _open_address(origin: Origin, address: Address, factory: ProtocolFactory) -> None:
    connection = await _connect(address)
    if origin.sslmode == "disable" or address.is_unix:
        await _plain(address, connection, factory)
        return
    try:
        await _with_tls(origin, address, connection, factory)
    except _TlsRefused as refusal:
        if origin.sslmode != "prefer":
            raise OriginUnreachableError(
                f"tls_failed ({refusal})",
                transient=False,
                hint=f"sslmode={origin.sslmode} is in force. {refusal.hint}",
            ) from refusal
        await _plain(address, await _connect(address), factory)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turn what opening a connection may raise into ``OriginUnreachableError``."""
    try:
        yield
    except ConfigurationError as error:
        raise OriginUnreachableError(str(error), transient=False) from error
    except UnicodeError as error:
        # IDNA has no way to write such a name (an empty label, or one that is too long).
        raise OriginUnreachableError(f"host_not_found ({error})") from error
    except OSError as error:
        raise _unreachable(error) from error


def _unreachable(error: OSError) -> OriginUnreachableError:
    if isinstance(error, socket.gaierror):
        return OriginUnreachableError(f"host_not_found ({error.strerror})")
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return OriginUnreachableError("connection_refused")
    if isinstance(error, TimeoutError):
        return OriginUnreachableError("timeout")
    name = errno.errorcode.get(error.errno, "unknown") if error.errno else str(error)
    return OriginUnreachableError(name.lower())


async def _connect(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    if address.is_unix:
        path = f"{address.host}/.s.PGSQL.{address.port}"
        return await _connected(socket.AF_UNIX, path)
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except socket.gaierror:  # a name: the resolver may take its time
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for family, _, _, _, where in found:
        try:
            return await _connected(family, where)
        except OSError as error:
            failure = error
    raise failure or OSError(f"{address.host} has no address")


async def _connected(family: int, where: str | tuple[object, ...]) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, where)
    except BaseException:
        connection.close()
        raise
    return connection


async def _plain(address: Address, connection: socket.socket, factory: ProtocolFactory) -> None:
    await _transport(connection, lambda: factory(address, False))


async def _transport(
    connection: socket.socket, factory: Callable[[], asyncio.Protocol], **tls: Any
) -> asyncio.Transport:
    """Hand ``connection`` over to the event loop, which closes it from then on.

    uvloop makes a socket its own when its transport has started. If that has failed, or the
    transport has ended by then, the descriptor is closed already, and the socket would close that
    number again, whosever it is meanwhile.
    """
    loop = asyncio.get_running_loop()
    is_unix = connection.family == socket.AF_UNIX
    create = loop.create_unix_connection if is_unix else loop.create_connection
    transport: asyncio.Transport | None = None
    try:
        transport, _ = await create(factory, sock=connection, **tls)
        return transport
    finally:
        is_uvloop = not isinstance(loop, asyncio.BaseEventLoop)
        if is_uvloop and (transport is None or transport.is_closing()):
            connection.detach()


async def _with_tls(
    origin: Origin, address: Address, connection: socket.socket, factory: ProtocolFactory
) -> None:
    """PostgreSQL, "SSL Session Encryption": SSLRequest, one byte, then the handshake.

    Exactly one byte is read before the handshake, so nothing sent ahead of it in plain text can
    be taken for the origin's words later (CVE-2021-23222).
    """
    loop = asyncio.get_running_loop()
    try:
        context = origin_context(origin)
        if origin.sslnegotiation != "direct":
            await loop.sock_sendall(connection, SSL_REQUEST)
            answer = await loop.sock_recv(connection, 1)
            if not answer:
                # It is stopping or full, which says nothing of TLS.
                raise ConnectionResetError
            if answer != b"S":
                raise _TlsRefused(
                    "the database does not support TLS",
                    "If that is right (Hyperdrive error 2012), add ?sslmode=disable to its "
                    "connection string.",
                )
        transport = await _transport(
            connection, asyncio.Protocol, ssl=context, server_hostname=address.host
        )
        if transport.is_closing():
            raise ConnectionResetError
        alpn = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if origin.sslnegotiation == "direct" and alpn != ALPN:
            # It could be a server of another protocol, which somebody has led us to.
            transport.abort()
            raise _TlsRefused("no ALPN", _NEEDS_17)
        protocol = factory(address, True)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
    except ssl.SSLError as error:
        connection.close()
        raise _TlsRefused(
            error.reason or str(error), "sslrootcert names the authorities to trust."
        ) from error
    except ConnectionError as error:
        connection.close()
        hint = _NEEDS_17 if origin.sslnegotiation == "direct" else ""
        raise OriginUnreachableError("econnreset", hint=hint) from error
    except BaseException:
        connection.close()
        raise
