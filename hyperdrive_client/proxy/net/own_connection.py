"""Connections of the proxy's own to the origin, for what it asks on nobody's behalf."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

from ...bindings.connection_string import Address
from ...errors import OriginProtocolError
from ...protocol import messages as m
from ...protocol.framing import own_framer
from ..core.origin_startup import ConnectFailure, Credentials, OriginStartup, refused_by_origin
from ..settings import Settings
from .canceller import request_cancel
from .upstream import OriginUnreachableError, open_origin

Row = tuple[bytes | None, ...]

# What else shows as ours in pg_stat_activity are the connections that clients are linked to.
APPLICATION_NAME = b"Cloudflare Hyperdrive cache"

QUERY_CANCELED = "57014"
# Errors that pass by themselves seldom: of access and configuration, and of what is used up.
_LASTING = ("28", "3D", "42", "53", "55")

CLOSE_SECONDS = 0.5
CANCEL_SECONDS = 1.0


class OwnConnectionError(Exception):
    """The origin has refused something, or the connection is of no use any more.

    ``sqlstate`` is the origin's, or what it would be; empty where the connection was lost.
    """

    def __init__(self, text: str, sqlstate: str = "") -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.is_lasting = sqlstate.startswith(_LASTING)
        """Somebody has to change something."""


def _refused(failure: ConnectFailure) -> OwnConnectionError:
    return OwnConnectionError(failure.text, failure.sqlstate)


@asynccontextmanager
async def own_connection(
    settings: Settings,
    credentials: Credentials,
    timeout: float,
    *,
    parameters: Mapping[bytes, bytes] | None = None,
    address: Address | None = None,
) -> AsyncIterator[OwnConnection]:
    """A connection to the first of the origin's servers that is wanted, or to ``address``.

    ``parameters`` are for its start-up, ``timeout`` is in seconds, for each server.
    ``OwnConnectionError`` with the last one's reason if none lets us in. Closed at the end.
    """
    addresses = settings.origin.addresses if address is None else (address,)
    connection = None
    failure: OwnConnectionError | None = None
    for each in addresses:
        try:
            connection = await _open(settings, credentials, timeout, parameters or {}, each)
            break
        except OwnConnectionError as error:
            failure = error
    if connection is None:
        assert failure is not None, "an origin has at least one address"
        raise failure
    try:
        yield connection
    finally:
        await connection.close()


async def _open(
    settings: Settings,
    credentials: Credentials,
    timeout: float,
    parameters: Mapping[bytes, bytes],
    address: Address,
) -> OwnConnection:
    made: list[OwnConnection] = []

    def factory(address: Address, encrypted: bool) -> OwnConnection:
        startup = OriginStartup(
            settings,
            credentials,
            address,
            encrypted=encrypted,
            parameters={b"application_name": APPLICATION_NAME, **parameters},
        )
        made.append(OwnConnection(settings, startup, address, encrypted=encrypted))
        return made[-1]

    try:
        async with asyncio.timeout(timeout):
            await open_origin(replace(settings.origin, addresses=(address,)), 0, factory, 0)
            await made[-1].answer()
    except OriginUnreachableError as error:
        raise _refused(error.failure) from error
    except TimeoutError as error:
        _abort(made)
        raise OwnConnectionError("the origin does not let us in in time") from error
    except BaseException:
        _abort(made)
        raise
    return made[-1]


def _abort(made: list[OwnConnection]) -> None:
    for connection in made:
        connection.abort()


class OwnConnection(asyncio.Protocol):
    """One connection, which asks one thing at a time (PostgreSQL, "Simple Query")."""

    def __init__(
        self, settings: Settings, startup: OriginStartup, address: Address, *, encrypted: bool
    ) -> None:
        self._settings = settings
        self._startup = startup
        self.address = address
        self._encrypted = encrypted
        loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._framer = own_framer()
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[list[list[Row]]] = loop.create_future()
        self._results: list[list[Row]] = []
        self._refusal: OwnConnectionError | None = None
        self._on_data: Callable[[bytes], None] | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        self._given_up = False

    # What it is asked.

    async def query(self, text: bytes, timeout: float) -> list[Row]:
        """The rows of the last statement that has any, each column as text.

        ``OwnConnectionError`` if the origin refuses it, or the connection is lost, which it also is
        after ``timeout`` seconds and if the caller is cancelled.
        """
        return (await self.results(text, timeout))[-1]

    async def results(self, text: bytes, timeout: float) -> list[list[Row]]:
        """The same for several statements: the rows of each that may have any."""
        async with self._turn:
            return await self._ask(text, timeout)

    async def stream(self, text: bytes, on_data: Callable[[bytes], None], timeout: float) -> None:
        """Begin to replicate; from then on ``on_data`` gets the body of each CopyData, of a large
        one the beginning. An ``OriginProtocolError`` that it raises ends the connection."""
        self._on_data = on_data
        await self._ask(text, timeout)

    async def _ask(self, text: bytes, timeout: float) -> list[list[Row]]:
        self._check()
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._results, self._refusal = [], None
        self._transport.write(m.query(text))
        try:
            async with asyncio.timeout(timeout):
                return await self._answer
        except TimeoutError as error:
            reason = f"the origin has not answered within {timeout:g} s"
            self._end(OwnConnectionError(reason, QUERY_CANCELED))
            await self._cancel()
            self._check()
            raise AssertionError("it has ended") from error
        except asyncio.CancelledError:
            self._given_up = True
            self._end(OwnConnectionError("the answer was not waited for"))
            await self._cancel()
            raise

    async def answer(self) -> list[list[Row]]:
        """Of what was asked last; at first that is to be let in."""
        return await self._answer

    def send(self, data: bytes) -> None:
        """Send a message while replicating; nothing if the connection is lost."""
        if self._transport is not None:
            self._transport.write(data)

    async def lost(self) -> None:
        """Wait for the end, then raise its reason: ``OwnConnectionError``.

        Not for one by a caller that was cancelled: whoever did that has the reason.
        """
        await asyncio.shield(self._gone)
        if self._given_up:
            await asyncio.get_running_loop().create_future()
        self._check()

    def _check(self) -> None:
        if self._gone.done():
            raise self._refusal or OwnConnectionError("the connection to the origin was lost")

    async def close(self) -> None:
        """Say goodbye and wait until it is closed; the second time does nothing."""
        transport = self._transport
        if transport is None or self._gone.done():
            return
        if not transport.is_closing():
            transport.write(m.TERMINATE_MESSAGE)
            transport.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.shield(self._gone)
        except TimeoutError:
            transport.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _end(self, reason: OwnConnectionError) -> None:
        self._refusal = self._refusal or reason
        self.abort()
        if not self._gone.done():
            self._gone.set_result(None)

    async def _cancel(self) -> None:
        """A backend that waits for a lock does not notice that its client has gone."""
        with contextlib.suppress(OriginUnreachableError, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await request_cancel(
                    self._settings.origin,
                    self.address,
                    self._encrypted,
                    self._startup.process_id,
                    self._startup.secret_key,
                )

    # What it hears.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._startup.certificate = tls.getpeercert(binary_form=True)
        if not self.address.is_unix:
            # asyncio sets it only on sockets that were made with IPPROTO_TCP by name.
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.write(self._startup.first())

    def data_received(self, data: bytes) -> None:
        if self._gone.done():
            return
        try:
            buffer, messages, end = self._framer.feed(data)
            for kind, start, stop in messages:
                if kind >= 0:
                    self._receive(kind, buffer[start + 5 : min(stop, end)])
            if self._framer.failure is not None:
                raise self._framer.failure
        except OriginProtocolError as error:
            self._end(OwnConnectionError(f"the origin broke the protocol: {error}", "08P01"))
            self._fail()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        self._fail()

    def _fail(self) -> None:
        if not self._answer.done():
            error = self._refusal or OwnConnectionError("the connection to the origin was lost")
            self._answer.set_exception(error)
            # Whoever was to await it may have been cancelled.
            self._answer.exception()

    def _receive(self, kind: int, body: bytes) -> None:
        if self._on_data is not None and self._answer.done():
            self._receive_stream(kind, body)
        elif not self._startup.ready:
            self._start_up(kind, body)
        elif kind == m.ROW_DESCRIPTION:
            self._results.append([])
        elif kind == m.DATA_ROW and self._results:
            self._results[-1].append(m.row_values(body))
        elif kind == m.ERROR_RESPONSE:
            self._refusal = _refused(refused_by_origin(body))
        elif kind in (m.COPY_BOTH_RESPONSE, m.READY_FOR_QUERY) and not self._answer.done():
            self._give()

    def _receive_stream(self, kind: int, body: bytes) -> None:
        assert self._on_data is not None
        if kind == m.COPY_DATA:
            self._on_data(body)
        elif kind == m.ERROR_RESPONSE:
            self._end(_refused(refused_by_origin(body)))
        elif kind == m.COPY_DONE:
            self._end(OwnConnectionError("the origin has ended the stream"))

    def _start_up(self, kind: int, body: bytes) -> None:
        answer = self._startup.receive(kind, body)
        if answer:
            self.send(answer)
        if self._startup.failure is not None:
            self._end(_refused(self._startup.failure))
            self._fail()
        elif self._startup.ready:
            self._give()

    def _give(self) -> None:
        """The answer is complete."""
        if self._refusal is not None:
            self._answer.set_exception(self._refusal)
            self._refusal = None
        else:
            self._answer.set_result(self._results)
