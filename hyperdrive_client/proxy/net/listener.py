"""Where clients come in: a TCP port or a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from ipaddress import ip_address
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
    """Listen as told; the servers, and the port of the one that has one.

    ``ProxyStartError`` if that is not possible, ``ConfigurationError`` for unusable certificates.
    """
    servers: list[Server] = []
    port = settings.port
    try:
        if settings.host is not None:
            servers.append(await _listen_on_host(network, settings, settings.host))
            port = servers[0].sockets[0].getsockname()[1]
        if settings.unix_socket is not None:
            servers.append(await _listen_on_socket(network, settings.unix_socket))
    except BaseException:
        for server in servers:
            server.close()
        raise
    return servers, port


async def _listen_on_host(network: Network, settings: Settings, host: str) -> Server:
    try:
        if settings.ssl == "off":
            return await _listen_on_port(network, host, settings.port)
        return _listen_with_tls(network, settings)
    except OSError as error:
        raise ProxyStartError(
            f"the proxy can't listen on {host}:{settings.port}: {error.strerror or error}"
        ) from error


async def _listen_on_port(network: Network, host: str, port: int) -> asyncio.Server:
    loop = network.loop
    try:
        version = ip_address(host).version
    except ValueError:
        return await loop.create_server(network.accept, host, port, backlog=BACKLOG)
    # An address needs no resolver, whose threads would not survive a fork of the application.
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    return await loop.create_server(network.accept, sock=listening, backlog=BACKLOG)


def _listen_with_tls(network: Network, settings: Settings) -> Greeter:
    context, channel_binding = client_context(settings)
    network.core.doorkeeper.channel_binding = channel_binding
    # Not in the resolver's threads, which would not survive a fork of the application.
    found = socket.getaddrinfo(
        settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with contextlib.ExitStack() as undo:
        sockets = []
        for family, _, _, _, where in found:
            sockets.append(socket.create_server(where, family=family, backlog=BACKLOG))
            undo.callback(sockets[-1].close)
        undo.pop_all()
    return Greeter(network, context, sockets)


async def _listen_on_socket(network: Network, path: str) -> asyncio.Server:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ProxyStartError(
            f"the proxy can't listen on {path}: a socket's path may have "
            f"{MAX_SOCKET_PATH_BYTES} bytes at most"
        )
    _remove_dead_socket(Path(path))
    # The socket is made under the mask, so there is no moment in which others may connect.
    mask = os.umask(0o177)
    try:
        return await network.loop.create_unix_server(network.accept, path, backlog=BACKLOG)
    except OSError as error:
        raise ProxyStartError(
            f"the proxy can't listen on {path}: {error.strerror or error}"
        ) from error
    finally:
        os.umask(mask)


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
