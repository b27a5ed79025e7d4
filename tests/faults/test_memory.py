"""What one client can make the proxy hold has a limit, before authentication and after."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.startup import MAX_STARTUP_PACKET_LENGTH
from hyperdrive_client.proxy.core.client_session import MAX_HELD_BYTES
from hyperdrive_client.proxy.net.transports import HIGH_WATER_BYTES

if TYPE_CHECKING:
    from hyperdrive_client.proxy.spawn import ProcessProxy

    from .conftest import StartProxy

KIB = 1024
CLIENTS = 300
# A session, its transport and what the allocator rounds up, without any data.
FIXED = 24 * KIB
# One read of uvloop's.
READ = 256 * KIB


def resident(process: ProcessProxy, what: str = "VmRSS") -> int:
    """Bytes."""
    with open(f"/proc/{process.pid}/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines[what].split()[0]) * KIB


class Raw:
    """A client of raw bytes."""

    def __init__(self, process: ProcessProxy) -> None:
        self.socket = socket.create_connection(("127.0.0.1", process.settings.port), 10)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send_all_that_is_taken(self, data: bytes, most: int) -> int:
        """Send ``data`` again and again until nobody reads for a second, or ``most`` bytes."""
        self.socket.settimeout(1)
        sent = 0
        with suppress(TimeoutError, ConnectionError):
            while sent < most:
                sent += self.socket.send(data)
        return sent

    def is_answered(self) -> None:
        assert self.socket.recv(1)


def startup(size: int) -> bytes:
    """A StartupMessage of ``size`` bytes but for the last."""
    user = {b"user": b"app", b"database": b"postgres", b"options": b""}
    user[b"options"] = b"x" * (size - len(m.startup_message(user)))
    message = m.startup_message(user)
    assert len(message) == size
    return message


HALVES = {
    "before the StartupMessage is complete": (
        startup(MAX_STARTUP_PACKET_LENGTH)[:-1],
        b"",
        MAX_STARTUP_PACKET_LENGTH,
    ),
    "while it authenticates": (
        m.startup_message({b"user": b"app", b"database": b"postgres"}),
        b"p" + m.INT32.pack(10_000) + b"x" * 9_995,
        10_000,
    ),
}


@pytest.mark.parametrize("case", HALVES)
def test_who_is_not_authenticated_is_held_for_within_its_limit(
    start_process: Callable[..., ProcessProxy], case: str
) -> None:
    first, second, limit = HALVES[case]
    process = start_process()
    with ExitStack() as stack:
        before = resident(process)
        for _ in range(CLIENTS):
            client = stack.enter_context(Raw(process))
            client.socket.sendall(first)
            if second:
                client.is_answered()
                client.socket.sendall(second)
        # Whoever comes last is answered, so all before it has been read.
        last = stack.enter_context(Raw(process))
        last.socket.sendall(m.INT32.pack(8) + m.INT32.pack(80877103))
        last.is_answered()
        each = (resident(process) - before) / CLIENTS
    print(f"\n{case}: {each / KIB:.1f} KiB for each of {CLIENTS} clients, {limit / KIB:.1f} sent")
    assert each <= limit + FIXED


def test_a_flood_before_authentication_is_cut_off(
    start_process: Callable[..., ProcessProxy],
) -> None:
    process = start_process()
    before = resident(process)
    with Raw(process) as client:
        sent = client.send_all_that_is_taken(b"\x00\x00\x27\x10" + b"x" * 65_536, 1 << 28)
    assert sent < 1 << 26
    assert resident(process, "VmHWM") - before < 4 * READ


def test_a_client_that_waits_is_not_read_beyond_its_limit(
    start_process: Callable[..., ProcessProxy], start_proxy: StartProxy
) -> None:
    process = start_process(origin_connection_limit=1, pool_timeout=0)
    port = process.settings.port
    with (
        start_proxy().connect(port=port) as holder,
        start_proxy().connect(port=port) as waiting,
    ):
        holder.execute("SELECT 1")
        before = resident(process)
        # libpq's socket, without libpq's own buffer.
        with socket.socket(fileno=socket.dup(waiting.fileno())) as raw:
            raw.settimeout(1)
            data = m.query(b"SELECT '" + b"x" * 8000 + b"'") * 8
            sent = 0
            with suppress(TimeoutError):
                while sent < 1 << 28:
                    sent += raw.send(data)
        grown = resident(process, "VmHWM") - before
        print(f"\nwaiting: {sent / KIB:.0f} KiB taken, {grown / KIB:.0f} KiB of them by the proxy")
        # The rest is in the two sockets' buffers.
        assert grown <= MAX_HELD_BYTES + 4 * READ
        waiting.pgconn.finish()
    assert HIGH_WATER_BYTES <= READ


def test_there_are_only_so_many_clients(start_process: Callable[..., ProcessProxy]) -> None:
    process = start_process(client_connection_limit=20)
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(Raw(process))
            client.socket.sendall(startup(100))
            client.is_answered()
        refused = stack.enter_context(Raw(process))
        refused.socket.sendall(startup(100))
        body = b""
        while data := refused.socket.recv(4096):
            body += data
        assert m.error_fields(body[5:])["C"] == "53300"
