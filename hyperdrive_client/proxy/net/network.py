"""Performs the core's effects on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from ...bindings.connection_string import Address
from ..core.client_session import ClientSession
from ..core.core import Core
from ..core.effects import (
    AbortOrigin,
    CancelOrigin,
    CloseClient,
    CloseOrigin,
    ConnectOrigin,
    Effect,
    PauseClient,
    Requester,
    ResumeClient,
    SendToClient,
    SendToOrigin,
    TellSupervisor,
)
from ..core.origin_session import OriginSession
from .canceller import request_cancel
from .transports import (
    CORE_HAS_ENOUGH,
    PEER_IS_BLOCKED,
    ClientConnection,
    Connection,
    OriginConnection,
)
from .upstream import OriginUnreachableError, open_origin

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
# A client that does not read its last words does not get to keep its socket.
LAST_WORDS_SECONDS = 5.0
CANCEL_TIMEOUT_SECONDS = 5.0
# How long clients may take to read their last words when the proxy ends.
CLOSE_SECONDS = 0.5
# How long the origin may take then to be told that their queries are cancelled.
CLOSE_CANCELS_SECONDS = 2.0
SILENCE_CHECK_SECONDS = 1.0


class Network:
    """The event loop's side of one :class:`Core`."""

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop) -> None:
        self.core = core
        self.loop = loop
        self.now = loop.time
        self.connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancels: set[asyncio.Task[None]] = set()
        self._silence_checked = 0.0
        self._performing = False
        self._ticking = loop.call_later(TICK_SECONDS, self._tick)
        self.tell_supervisor: Callable[[list[Any]], None] = lambda message: None

    def accept(self) -> ClientConnection:
        """The protocol for a new client."""
        return ClientConnection(self, self.now())

    def client_blocked(self, client: ClientSession) -> None:
        """What is written to it is not being read."""
        self.core.client_blocked(client, self.now())
        self.perform()

    def perform(self) -> None:
        """Do what the core asks, in order.

        Writing may call back into a protocol; what that adds is done in the same pass.
        """
        if self._performing:
            return
        self._performing = True
        effects = self.core.effects
        try:
            for effect in effects:
                # The two that nearly all are, without the work of a match.
                if effect.__class__ is SendToOrigin:
                    origin, data = effect
                    handle = origin.handle
                    handle.transport.write(data)
                    if handle.holds and not _client_is_blocked(origin):
                        handle.let_go(PEER_IS_BLOCKED)
                    if handle.blocked:
                        handle.stop_client()
                elif effect.__class__ is SendToClient:
                    client, data = effect
                    client.handle.transport.write(data)
                else:
                    self._perform_rarely(effect)
        finally:
            effects.clear()
            self._performing = False

    def _perform_rarely(self, effect: Effect) -> None:
        match effect:
            case CloseClient(client):
                self._close(client.handle)
            case PauseClient(client):
                client.handle.hold(CORE_HAS_ENOUGH)
            case ResumeClient(client):
                client.handle.let_go(CORE_HAS_ENOUGH)
            case ConnectOrigin(origin):
                self._start(self._connect(origin), self._tasks)
            case CloseOrigin(origin):
                origin.handle.let_go(PEER_IS_BLOCKED)
            case AbortOrigin(origin):
                if origin.handle is not None:
                    origin.handle.transport.abort()
            case CancelOrigin(origin, requester):
                self._start(self._cancel(origin, requester), self._cancels)
            case TellSupervisor(message):
                self.tell_supervisor(message)

    def client_departed(self) -> None:
        """A connection of a client is closed, however far it had come."""
        if self.core.siblings is not None:
            self.core.siblings.departed()

    async def close(self) -> None:
        """Close what is open, last words first, and wait until it is."""
        self._ticking.cancel()
        if self._cancels:
            await asyncio.wait(self._cancels, timeout=CLOSE_CANCELS_SECONDS)
        left = self._tasks | self._cancels
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._all_closed()
        except TimeoutError:
            for connection in self.connections:
                connection.transport.abort()
            await self._all_closed()

    async def _all_closed(self) -> None:
        while self.connections:  # noqa: ASYNC110 - once in a proxy's life
            await asyncio.sleep(0.001)

    def _start(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = self.loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _tick(self) -> None:
        self._ticking = self.loop.call_later(TICK_SECONDS, self._tick)
        now = self.now()
        self.core.tick(now)
        self.perform()
        if now - self._silence_checked >= SILENCE_CHECK_SECONDS:
            self._silence_checked = now
            self._end_silent(now)
        for origin in self.core.origins:
            # Its link may have ended without a word to the origin while its client was blocked.
            if origin.handle is not None and not _client_is_blocked(origin):
                origin.handle.let_go(PEER_IS_BLOCKED)

    def _end_silent(self, now: float) -> None:
        """Of those whose silence costs an origin connection; the others have keepalive."""
        limit = self.core.settings.limits.silence_timeout
        if not limit:
            return
        for origin in self.core.origins:
            for session in (origin, origin.client):
                if session is not None and session.handle is not None:
                    session.handle.end_if_silent(limit, now)

    def _close(self, connection: ClientConnection) -> None:
        connection.transport.close()
        if connection.transport.get_write_buffer_size():
            self.loop.call_later(LAST_WORDS_SECONDS, connection.transport.abort)

    async def _connect(self, origin: OriginSession) -> None:
        def factory(address: Address, encrypted: bool) -> OriginConnection:
            return OriginConnection(self, origin, address, encrypted=encrypted)

        try:
            await open_origin(
                origin.pool.settings.origin,
                origin.pool.first_address,
                factory,
                self.core.settings.limits.connect_timeout,
            )
        except OriginUnreachableError as error:
            if error.failure != origin.pool.last_failure:
                logger.warning("%s", error.failure.text)
            self.core.origin_connect_failed(origin, error.failure, self.now())
            self.perform()

    async def _cancel(self, origin: OriginSession, requester: Requester | None) -> None:
        """Deliver a CancelRequest; PostgreSQL closes the connection when it has acted on it."""
        handle: OriginConnection = origin.handle
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_SECONDS):
                await request_cancel(
                    self.core.settings.origin,
                    handle.address,
                    handle.encrypted,
                    origin.process_id,
                    origin.secret_key,
                )
        except OriginUnreachableError as error:
            logger.warning("a cancel request did not reach the origin: %s", error)
        except TimeoutError:
            logger.warning("the origin has not closed a cancelling connection in time")
        finally:
            with contextlib.suppress(RuntimeError):
                self.core.cancel_done(origin, self.now(), requester)
                self.perform()


def _client_is_blocked(origin: OriginSession) -> bool:
    return origin.client is not None and bool(origin.client.handle.blocked)
