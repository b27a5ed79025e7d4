"""CancelRequest, on a connection of its own (PostgreSQL, "Canceling Requests in Progress")."""

from __future__ import annotations

import asyncio
from typing import cast

from ...bindings.connection_string import Address, Origin
from ...protocol import messages as m
from ...protocol.startup import CANCEL_REQUEST_CODE
from .upstream import open_address


async def request_cancel(
    origin: Origin, address: Address, encrypted: bool, process_id: int, secret_key: bytes
) -> None:
    """Have what a backend does cancelled; returns when PostgreSQL has acted on it.

    That is when it closes the connection, for which the caller sets a limit of time.
    ``OriginUnreachableError``.
    """
    body = m.INT32.pack(CANCEL_REQUEST_CODE) + m.INT32.pack(process_id) + secret_key
    canceller = _Canceller(m.INT32.pack(len(body) + 4) + body)
    try:
        await open_address(origin, address, encrypted, lambda *_: canceller)
        await canceller.done
    finally:
        if canceller.transport is not None:
            canceller.transport.abort()


class _Canceller(asyncio.Protocol):
    """Sends one CancelRequest and waits for the end."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)
