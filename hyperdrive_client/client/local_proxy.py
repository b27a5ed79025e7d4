"""A proxy that this process has started."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyperdrive_client.bindings import Address, Origin
from hyperdrive_client.errors import ProxyStartError

if TYPE_CHECKING:
    from hyperdrive_client.proxy.spawn import RunningProxy

Mode = Literal["process", "thread"]

_PROBE_SECONDS = 1.0
_OFF = "HYPERDRIVE_PROXY=off"


class LocalProxy:
    """A proxy that accepts connections from the moment it is made; it ends with this process.

    ``door`` is where its clients connect to, and how they log in. ``caching``: fields of the
    proxy's ``Caching``, ``None`` for what is not given. The other arguments are the fields of its
    ``Settings`` that say how it listens.

    Raises ``ProxyStartError``, or ``ConfigurationError`` for settings that cannot be.
    """

    def __init__(
        self,
        mode: Mode,
        origin: Origin,
        *,
        origin_connection_limit: int | None = None,
        caching: Mapping[str, Any] | None = None,
        **listening: Any,
    ) -> None:
        if _at_exit.is_set():
            raise ProxyStartError("the proxy can't be started: Python is shutting down")
        self._mode = mode
        self._owner = os.getpid()
        self._running = _start(mode, origin, origin_connection_limit, caching or {}, listening)
        self.door = _door(self._running)
        _all.append(self)

    @property
    def is_running(self) -> bool:
        """Whether it accepts connections. After a fork the child goes on using its parent's."""
        if self._owner == os.getpid():
            return self._running.is_running
        # A thread's socket is inherited and open, even if the parent that served it is gone.
        return self._mode == "process" and _accepts(self.door.addresses[0])

    @property
    def any_drivers_door(self) -> Origin:
        """Where any driver connects to."""
        return self.door

    def listens_at(self, origin: Origin) -> bool:
        """Whether a connection string leads here."""
        return [_comparable(each) for each in origin.addresses] == [
            _comparable(self.door.addresses[0])
        ]

    def close(self) -> None:
        """Stop it and wait until it has gone; harmless when it has, or is the parent's."""
        if self._owner != os.getpid():
            return
        with contextlib.suppress(ValueError):
            _all.remove(self)
        self._running.close()


def is_one_of_ours(origin: Origin) -> bool:
    """Whether a connection string leads to a running proxy that this process has started."""
    return any(proxy.listens_at(origin) and proxy.is_running for proxy in _all.copy())


_all: list[LocalProxy] = []
_at_exit = threading.Event()


@atexit.register
def _close_all() -> None:
    # A pool's thread may still try to connect, and would start the next one.
    _at_exit.set()
    for proxy in _all.copy():
        proxy.close()


def _start(
    mode: Mode,
    origin: Origin,
    origin_connection_limit: int | None,
    caching: Mapping[str, Any],
    listening: dict[str, Any],
) -> RunningProxy:
    # Only here: a program that never connects through a proxy never loads it.
    from hyperdrive_client.proxy import spawn
    from hyperdrive_client.proxy.settings import Caching, Limits, Settings

    limits = Limits()
    if origin_connection_limit is not None:
        limits = Limits(origin_connection_limit=origin_connection_limit)
    user, password = spawn.fresh_credentials()
    settings = Settings(
        origin, user, password, limits=limits, caching=Caching.asked_for(**caching), **listening
    )
    try:
        if mode == "thread":
            return spawn.ThreadProxy(settings)
        return spawn.ProcessProxy(settings)
    except Exception as error:
        if _OFF in str(error):
            raise
        raise ProxyStartError(
            f"the proxy could not be started: {error}; {_OFF} connects without it"
        ) from error


def _door(proxy: RunningProxy) -> Origin:
    settings = proxy.settings
    if settings.host is not None:
        address = Address(settings.host, settings.port)
    else:
        path = Path(settings.unix_socket or "")
        address = Address(str(path.parent), int(path.suffix[1:]))
    return Origin(
        addresses=(address,),
        user=settings.user,
        password=settings.password,
        database=settings.origin.database,
        sslmode="disable",  # TLS is spoken to the origin, not on this hop
    )


def _comparable(address: Address) -> Address:
    return Address("127.0.0.1", address.port) if address.host == "localhost" else address


def _accepts(address: Address) -> bool:
    try:
        if address.is_unix:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_PROBE_SECONDS)
                probe.connect(f"{address.host}/.s.PGSQL.{address.port}")
        else:
            socket.create_connection((address.host, address.port), _PROBE_SECONDS).close()
    except OSError:
        return False
    return True
