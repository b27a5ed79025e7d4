"""Who is at the other end of a Unix socket (PostgreSQL, "Peer Authentication")."""

from __future__ import annotations

import asyncio
import socket
import struct

_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid; unix(7), SO_PEERCRED


def peer_user(transport: asyncio.BaseTransport) -> int | None:
    """The user id of the process that has connected, where the system tells it."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = _CREDENTIALS.size
    _, user, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return int(user)
