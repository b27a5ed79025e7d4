"""One asyncio protocol for each side. Bytes go to the core; back-pressure stays here.

Who can't write is not read for: a client that does not read stops its origin connection from being
read, an origin that does not read stops its client, and neither is buffered for beyond the limits
of two transports.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, cast

from ...bindings.connection_string import Address
from ..core.client_session import ClientSession
from ..core.origin_session import OriginSession
from .peer import peer_user
from .silence import Silence, keep_alive
from .tls import client_tls

if TYPE_CHECKING:
    from .network import Network

logger = logging.getLogger(__name__)

# Enough for one read of the other side (256 KiB in uvloop), so that a fast reader never stops us.
HIGH_WATER_BYTES = 256 * 1024


class Connection(asyncio.Protocol):
    """What both sides share."""

    transport: asyncio.Transport

    def __init__(self, network: Network) -> None:
        self.network = network
        self.blocked = False
        """What was written is not being read."""
        self.holds = 0
        """Reasons not to read."""
        self._silence: Silence | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.network.connections.add(self)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            # uvloop sets it, asyncio only on sockets made with IPPROTO_TCP by name.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(connection, self.network.core.settings.limits.silence_timeout)
            self._silence = Silence(connection)

    def end_if_silent(self, limit: float, now: float) -> None:
        """Close if the peer's system has answered nothing for ``limit`` seconds."""
        if self._silence is None or self.transport.is_closing():
            return
        if self._silence.seconds(now) >= limit:
            peer = self.transport.get_extra_info("peername")
            logger.warning("%s acknowledges nothing for %g s: connection closed", peer, limit)
            self.transport.abort()

    def hold(self, reason: int) -> None:
        """Stop reading, for one more reason."""
        if not self.holds and not self.transport.is_closing():
            self.transport.pause_reading()
        self.holds |= reason

    def let_go(self, reason: int) -> None:
        """Read again if no other reason is left."""
        if not self.holds & reason:
            return
        self.holds &= ~reason
        if not self.holds and not self.transport.is_closing():
            self.transport.resume_reading()


# Reasons not to read.
CORE_HAS_ENOUGH = 1
OUTPUT_IS_BLOCKED = 2
PEER_IS_BLOCKED = 4


class ClientConnection(Connection):
    """The network's end of a client session."""

    session: ClientSession

    def __init__(
        self, network: Network, since: float, *, first: bytes = b"", direct: bool = False
    ) -> None:
        """``since`` when it was accepted, with ``first`` read of it or ``direct`` TLS."""
        super().__init__(network)
        self._since = since
        self._first = first
        self._direct = direct

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        encrypted = transport.get_extra_info("ssl_object")
        tls = None if encrypted is None else client_tls(encrypted, direct=self._direct)
        core = self.network.core
        is_owner = core.settings.auth == "peer" and peer_user(transport) == os.geteuid()
        self.session = core.client_connected(self._since, tls, is_owner=is_owner)
        self.session.handle = self
        if self._first:
            self.data_received(self._first)

    def data_received(self, data: bytes) -> None:
        network = self.network
        network.core.client_received(self.session, data, network.now())
        network.perform()

    def connection_lost(self, exc: Exception | None) -> None:
        origin = self.session.origin
        self.network.connections.discard(self)
        self.network.client_departed()
        self.network.core.client_lost(self.session, self.network.now())
        if origin is not None and origin.handle is not None:
            # Nobody reads the answers now; they must be read to be done with.
            origin.handle.let_go(PEER_IS_BLOCKED)
        self.network.perform()

    def pause_writing(self) -> None:
        self.blocked = True
        self.hold(OUTPUT_IS_BLOCKED)
        self.network.client_blocked(self.session)
        origin = self.session.origin
        if origin is not None:
            origin.handle.hold(PEER_IS_BLOCKED)

    def resume_writing(self) -> None:
        self.blocked = False
        origin = self.session.origin
        if origin is not None:
            origin.handle.let_go(PEER_IS_BLOCKED)
        self.let_go(OUTPUT_IS_BLOCKED)


class OriginConnection(Connection):
    """The network's end of an origin session, once the connection is open."""

    def __init__(
        self, network: Network, session: OriginSession, address: Address, *, encrypted: bool
    ) -> None:
        super().__init__(network)
        self.session = session
        self.address = address
        self.encrypted = encrypted
        self._stopped: set[Connection] = set()
        """Clients that are not read because of us; a link may end before they are again."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.session.handle = self
        tls = transport.get_extra_info("ssl_object")
        self.network.core.origin_connected(
            self.session,
            self.address,
            encrypted=self.encrypted,
            certificate=None if tls is None else tls.getpeercert(binary_form=True),
        )
        self.network.perform()

    def data_received(self, data: bytes) -> None:
        network = self.network
        session = self.session
        network.core.origin_received(session, data, network.now())
        network.perform()
        client = session.client
        if client is not None and client.handle.blocked:
            self.hold(PEER_IS_BLOCKED)

    def connection_lost(self, exc: Exception | None) -> None:
        self.network.connections.discard(self)
        self.resume_writing()
        self.network.core.origin_lost(self.session, self.network.now())
        self.network.perform()

    def pause_writing(self) -> None:
        self.blocked = True
        self.stop_client()

    def resume_writing(self) -> None:
        self.blocked = False
        while self._stopped:
            self._stopped.pop().let_go(PEER_IS_BLOCKED)

    def stop_client(self) -> None:
        """Stop reading from whom this is linked to until more can be written here."""
        client = self.session.client
        if client is not None:
            client.handle.hold(PEER_IS_BLOCKED)
            self._stopped.add(client.handle)
