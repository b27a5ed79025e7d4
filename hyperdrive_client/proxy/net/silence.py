"""Peers whose system answers nothing at all: switched off, cut off, forgotten by a firewall.

An idle connection is probed by TCP keepalive. Where data waits for an acknowledgement, keepalive
does not run, and the system sends it again for 15 minutes. ``TCP_USER_TIMEOUT`` would shorten that,
but would also end connections to a peer that is alive and has not read for so long, so what the
system knows (tcp(7), ``TCP_INFO``; Linux) is looked at here instead.
"""

from __future__ import annotations

import socket
import sys
from typing import Protocol

_PROBES = 3
# Seconds; Linux takes no more for any of keepalive's times.
_LONGEST = 32767
# struct tcp_info: tcpi_retransmits and tcpi_probes are bytes, tcpi_last_ack_recv is milliseconds.
_RETRANSMITS, _PROBED = 2, 3
_LAST_ACK = slice(56, 60)


class Socket(Protocol):
    """What asyncio gives for a transport's socket."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def keep_alive(connection: Socket, seconds: float) -> None:
    """Have the system end a connection that is idle and silent for ``seconds``; 0: its own time."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if not seconds:
        return
    interval = max(1, round(seconds / (2 * _PROBES)))
    for name, value in (
        ("TCP_KEEPIDLE", max(1, round(seconds) - _PROBES * interval)),
        ("TCP_KEEPINTVL", interval),
        ("TCP_KEEPCNT", _PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, min(value, _LONGEST))


class Silence:
    """Since when one connection's peer has acknowledged nothing although it was asked to."""

    def __init__(self, connection: Socket) -> None:
        self._connection = connection
        self._since: float | None = None

    def seconds(self, now: float) -> float:
        """How long by now; ask every second or so. 0 where the system does not tell."""
        if not hasattr(socket, "TCP_INFO"):
            return 0.0
        info = self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK.stop)
        since = self._since
        if not (info[_RETRANSMITS] or info[_PROBED]):
            self._since = None
        elif since is None or int.from_bytes(info[_LAST_ACK], sys.byteorder) < (now - since) * 1000:
            self._since = now
        return now - self._since if self._since is not None else 0.0
