"""What the ways in which an origin can't be reached mean."""

from __future__ import annotations

import asyncio

import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin
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
