"""Time-outs that the system is told."""

from __future__ import annotations

import socket

import pytest

from hyperdrive_client.proxy.net.silence import keep_alive


@pytest.mark.parametrize(
    ("seconds", "idle", "interval"),
    [(60, 30, 10), (1, 1, 1), (0.1, 1, 1), (999_999_999, 32767, 32767)],
)
def test_an_idle_connection_is_probed_within_the_time(
    seconds: float, idle: int, interval: int
) -> None:
    with socket.socket() as connection:
        keep_alive(connection, seconds)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == idle
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == interval
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3


def test_without_a_time_the_systems_own_holds() -> None:
    with socket.socket() as connection:
        before = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        keep_alive(connection, 0)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == before
