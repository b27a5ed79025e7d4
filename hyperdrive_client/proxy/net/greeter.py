"""Accepting clients that may ask for TLS.

A connection is accepted as a bare socket, and what comes first decides how it goes on. No byte is
read that could belong to a TLS handshake, and none sent behind a request for encryption is kept: so
nothing in plain text can be taken for the client's words under TLS later (CVE-2021-23214).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Sequence

from ...protocol.startup import GSSENC_REQUEST, MAX_STARTUP_PACKET_LENGTH, SSL_REQUEST
from .network import LAST_WORDS_SECONDS, Network
from .tls import HANDSHAKE
from .transports import ClientConnection

logger = logging.getLogger(__name__)

# As long as asyncio's own servers wait, for some sockets to be closed.
ACCEPT_RETRY_SECONDS = 1.0
_NO_SOCKETS_LEFT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_REQUESTS = (SSL_REQUEST, GSSENC_REQUEST)


class Greeter:
    """Accepts clients on the listening ``sockets`` until it is closed."""

    def __init__(
        self, network: Network, context: ssl.SSLContext | None, sockets: Sequence[socket.socket]
    ) -> None:
        """Without ``context``, and on Unix sockets, TLS is refused by the core."""
        self._network = network
        self._loop = network.loop
        self._context = context
        self._greetings: set[asyncio.Task[None]] = set()
        self.sockets = sockets
        for listening in sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Accept no more; who is being greeted goes on, and the core decides."""
        for listening in self.sockets:
            self._loop.remove_reader(listening)
            listening.close()

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except OSError as error:
            if error.errno in _NO_SOCKETS_LEFT:
                logger.error("no client can be accepted for now: %s", error.strerror)
                self._loop.remove_reader(listening)
                self._loop.call_later(ACCEPT_RETRY_SECONDS, self._resume, listening)
            return
        self.welcome(connection)

    def welcome(self, connection: socket.socket) -> None:
        """Serve a client that was accepted, by whomever."""
        greeting = self._loop.create_task(self._greet(connection))
        self._greetings.add(greeting)
        greeting.add_done_callback(self._greetings.discard)

    def _resume(self, listening: socket.socket) -> None:
        if listening.fileno() != -1:
            self._loop.add_reader(listening, self._accept, listening)

    async def _greet(self, connection: socket.socket) -> None:
        timeout = self._network.core.settings.limits.login_timeout
        try:
            async with asyncio.timeout(timeout or None):
                await self._open(connection)
        except OSError as error:
            # Who breaks the handshake off, or takes too long for it, is told nothing.
            connection.close()
            self._network.client_departed()
            if isinstance(error, ssl.SSLError):
                logger.info("TLS with a client failed: %s", error.reason or error)
        except BaseException:
            connection.close()
            raise

    async def _open(self, connection: socket.socket) -> None:
        since = self._network.now()
        connection.setblocking(False)
        if self._context is None or connection.family == socket.AF_UNIX:
            await self._loop.connect_accepted_socket(
                lambda: ClientConnection(self._network, since), connection
            )
            return
        first = await self._first_bytes(connection)
        if first == GSSENC_REQUEST:
            await self._loop.sock_sendall(connection, b"N")
            first = await self._first_bytes(connection)
        if first == SSL_REQUEST:
            await self._loop.sock_sendall(connection, b"S")
        if first in (SSL_REQUEST, HANDSHAKE):
            await self._loop.connect_accepted_socket(
                lambda: ClientConnection(self._network, since, direct=first == HANDSHAKE),
                connection,
                ssl=self._context,
                ssl_shutdown_timeout=LAST_WORDS_SECONDS,
            )
        else:
            await self._loop.connect_accepted_socket(
                lambda: ClientConnection(self._network, since, first=first), connection
            )

    async def _first_bytes(self, connection: socket.socket) -> bytes:
        """``HANDSHAKE``, which is left unread, or how far a packet has to be read to know it.

        With a request goes what was sent ahead of our answer; the core refuses that.
        """
        if await self._peek(connection) == HANDSHAKE:
            return HANDSHAKE
        data = b""
        while data not in _REQUESTS and any(each.startswith(data) for each in _REQUESTS):
            more = await self._loop.sock_recv(connection, len(SSL_REQUEST) - len(data))
            if not more:
                return data
            data += more
        if data in _REQUESTS:
            with contextlib.suppress(BlockingIOError):
                data += connection.recv(MAX_STARTUP_PACKET_LENGTH)
        return data

    async def _peek(self, connection: socket.socket) -> bytes:
        readable = asyncio.Event()
        self._loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(connection)
        return connection.recv(1, socket.MSG_PEEK)
