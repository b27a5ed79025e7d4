"""What the ways in which an origin can't be reached mean."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import cast

import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin
from hyperdrive_client.proxy.app import _new_event_loop
from hyperdrive_client.proxy.net import upstream
from hyperdrive_client.proxy.net.upstream import OriginUnreachableError, open_address, open_origin


def origin_at(address: Address, sslmode: str) -> Origin:
    return Origin((address,), "someone", "somewhere", sslmode=sslmode)  # type: ignore[arg-type]


def never(address: Address, encrypted: bool) -> asyncio.Protocol:
    raise AssertionError("no connection was to be expected")


async def answering(answer: bytes) -> asyncio.Server:
    """An origin with that answer to SSLRequest, which then closes."""

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(answer)
        writer.close()

    return await asyncio.start_server(answer_once, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("answer", "reason", "transient"),
    [(b"", "econnreset", True), (b"N", "does not support TLS", False)],
    ids=["nothing", "no"],
)
def test_an_origin_that_closes_without_an_answer_may_have_tls(
    answer: bytes, reason: str, transient: bool
) -> None:
    async def run() -> None:
        async with await answering(answer) as server:
            address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(OriginUnreachableError, match=reason) as caught:
                await open_origin(origin_at(address, "require"), 0, never, 10)
            assert caught.value.failure.transient is transient
            # A cancel request goes the same way, and meets the same error.
            with pytest.raises(OriginUnreachableError, match=reason):
                await open_address(origin_at(address, "require"), address, True, never)

    asyncio.run(run())


def test_a_name_that_cannot_be_is_not_found() -> None:
    address = Address("a..b", 5432)
    with pytest.raises(OriginUnreachableError, match="host_not_found"):
        asyncio.run(open_origin(origin_at(address, "disable"), 0, never, 10))


class _Aborts(asyncio.Protocol):
    """Ends its connection as soon as it is made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


@pytest.mark.parametrize("new_loop", [_new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_descriptor_of_a_connection_that_ends_at_once_is_closed_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop], is_cancelled: bool
) -> None:
    connection = socket.socket()

    async def run(address: tuple[str, int]) -> None:
        connection.connect(address)
        number = connection.fileno()
        work = upstream._plain(Address(*address), connection, lambda *_: _Aborts())
        opening = asyncio.ensure_future(work)
        await asyncio.sleep(0)
        if is_cancelled:
            opening.cancel()
        await asyncio.wait([opening])
        with pytest.raises(OSError):
            while True:
                os.fstat(number)
                await asyncio.sleep(0)

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        runner.run(asyncio.wait_for(run(server.getsockname()), 10))
    # Whatever has that number from now on is not the socket's to close.
    assert connection.fileno() == -1
