"""Where clients come in: a TCP port or a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...errors import ProxyStartError
from ..settings import Settings
from .greeter import Greeter
from .network import Network
from .tls import client_context

BACKLOG = 4096
Server = asyncio.Server | Greeter

# Linux allows 107 bytes, other systems less.
MAX_SOCKET_PATH_BYTES = 100


async def listen(network: Network, settings: Settings) -> tuple[list[Server], int]:
    """Listen as told; the servers, and the port of those that have one.

    ``ProxyStartError`` if that is not possible, ``ConfigurationError`` for unusable certificates.
    """
    sockets = listening_sockets(settings)
    port = port_of(sockets, settings)
    servers: list[Server] = []
    try:
        if settings.ssl != "off" and settings.host is not None:
            tcp = [each for each in sockets if each.family != socket.AF_UNIX]
            servers.append(client_greeter(network, settings, tcp))
            sockets = [each for each in sockets if each not in tcp]
        while sockets:
            servers.append(await _server(network, sockets.pop()))
    except BaseException:
        for each in (*sockets, *servers):
            each.close()
        raise
    return servers, port


def port_of(sockets: Iterable[socket.socket], settings: Settings) -> int:
    """The port in use; what the settings say if there is none."""
    ports = [each.getsockname()[1] for each in sockets if each.family != socket.AF_UNIX]
    return ports[0] if ports else settings.port


def client_greeter(
    network: Network, settings: Settings, sockets: Sequence[socket.socket] = ()
) -> Greeter:
    """Greets clients as told, from ``sockets`` or whoever has accepted them."""
    if settings.ssl == "off":
        return Greeter(network, None, sockets)
    context, channel_binding = client_context(settings)
    network.core.doorkeeper.channel_binding = channel_binding
    return Greeter(network, context, sockets)


async def _server(network: Network, listening: socket.socket) -> asyncio.Server:
    loop = network.loop
    if listening.family == socket.AF_UNIX:
        return await loop.create_unix_server(network.accept, sock=listening, backlog=BACKLOG)
    return await loop.create_server(network.accept, sock=listening, backlog=BACKLOG)


def listening_sockets(settings: Settings) -> list[socket.socket]:
    """Those that the settings name. ``ProxyStartError`` if that is not possible."""
    with contextlib.ExitStack() as undo:
        sockets = []
        for each in _sockets(settings):
            sockets.append(each)
            undo.callback(each.close)
        undo.pop_all()
    return sockets


def _sockets(settings: Settings) -> Iterator[socket.socket]:
    if settings.host is not None:
        try:
            # Not in the resolver's threads, which would not survive a fork of the application.
            found = socket.getaddrinfo(
                settings.host or None,
                settings.port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )
            for family, _, _, _, where in found:
                yield socket.create_server(where, family=family, backlog=BACKLOG)
        except OSError as error:
            raise ProxyStartError(
                f"the proxy can't listen on {settings.host}:{settings.port}: "
                f"{error.strerror or error}"
            ) from error
    if settings.unix_socket is not None:
        yield _unix_socket(settings.unix_socket)


def _unix_socket(path: str) -> socket.socket:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ProxyStartError(
            f"the proxy can't listen on {path}: a socket's path may have "
            f"{MAX_SOCKET_PATH_BYTES} bytes at most"
        )
    _remove_dead_socket(Path(path))
    listening = socket.socket(socket.AF_UNIX)
    # The socket is made under the mask, so there is no moment in which others may connect.
    mask = os.umask(0o177)
    try:
        listening.bind(path)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ProxyStartError(
            f"the proxy can't listen on {path}: {error.strerror or error}"
        ) from error
    finally:
        os.umask(mask)
    return listening


def remove_socket(path: str, made: os.stat_result) -> None:
    """Remove a Unix socket if it is still the one that was made; another may be there by now."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(made, os.stat(path)):
            os.unlink(path)


def _remove_dead_socket(path: Path) -> None:
    """Remove what a dead process left; leave alone what is alive or no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ProxyStartError(f"the proxy can't listen on {path}: that is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            return
    raise ProxyStartError(f"the proxy can't listen on {path}: another process listens there")
