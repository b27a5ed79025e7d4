"""The proxies that this process uses: one for each origin, found or started at its first use."""

from __future__ import annotations

import logging
import re
import threading

from hyperdrive_client.bindings import Configuration, Origin, Resolution
from hyperdrive_client.client import variables
from hyperdrive_client.client.after_fork import notice_fork, run_after_fork
from hyperdrive_client.client.local_proxy import LocalProxy, Mode, is_one_of_ours
from hyperdrive_client.client.shared_proxy import SharedProxy, shared_proxy_at
from hyperdrive_client.errors import ProxyStartError

# User and password of a proxy, as ``fresh_credentials`` makes them.
_FRESH = re.compile(r"[0-9a-f]{32}")

logger = logging.getLogger(__name__)

_proxies: dict[tuple[str, Origin, Configuration | None], LocalProxy | SharedProxy] = {}
_lock = threading.Lock()
_found_to_be_proxies: set[Origin] = set()
"""Origins that are proxies of ours, on another host perhaps."""


def proxy_for(resolution: Resolution) -> LocalProxy | SharedProxy | None:
    """Return the proxy in front of an origin.

    It is found or started if there is none yet, or if it has died. ``None`` if the origin is to be
    connected to straight: it is hosted, or a proxy of ours itself, or ``HYPERDRIVE_PROXY=off``.

    Raises ``ProxyStartError``, and ``ConfigurationError`` for a variable that is wrong.
    """
    where = variables.where()
    origin = resolution.origin
    if where == "off" or resolution.hosted or origin in _found_to_be_proxies:
        return None
    notice_fork()
    key = where, origin, resolution.configuration
    proxy = _proxies.get(key)
    if proxy is not None and proxy.is_running:
        return proxy  # without waiting for those who start others
    with _lock:
        proxy = _proxies.get(key)
        if proxy is not None and proxy.is_running:
            return proxy
        if is_a_proxy(origin):
            return None
        is_leased = isinstance(proxy, SharedProxy) and proxy.is_leased
        if proxy is not None:
            proxy.close()
        started = _proxies[key] = _found_or_started(*key)
        if is_leased and isinstance(started, SharedProxy):
            # What this program has read of the last one is right for this one, too.
            started.lease()
        return started


def is_a_proxy(origin: Origin) -> bool:
    """Whether a connection string leads to a proxy of ours, which may have ended."""
    return is_one_of_ours(origin) or is_a_door(origin) or shared_proxy_at(origin) is not None


def is_a_door(origin: Origin) -> bool:
    """Whether a connection string is one that a proxy on this machine makes for its clients."""
    return (
        origin.sslmode == "disable"
        and [each.is_local for each in origin.addresses] == [True]
        and all(_FRESH.fullmatch(text) for text in (origin.user, origin.password or ""))
    )


def was_found_to_be_a_proxy(origin: Origin) -> bool:
    """Whether a proxy that was put in front of this origin has refused it as a proxy of ours."""
    return origin in _found_to_be_proxies


def found_to_be_a_proxy(origin: Origin) -> None:
    """Have an origin connected to straight from now on, and end what was put in front of it."""
    with _lock:
        _found_to_be_proxies.add(origin)
        for key in [key for key in _proxies if key[1] == origin]:
            _proxies.pop(key).close()


def _found_or_started(
    where: str, origin: Origin, configuration: Configuration | None
) -> LocalProxy | SharedProxy:
    if where == "thread":
        return _local("thread", origin, configuration)
    if where == "process":
        return _local("process", origin, configuration)
    try:
        return SharedProxy(origin, configuration)
    except ProxyStartError as error:
        if where == "shared":
            raise ProxyStartError(f"{error}; HYPERDRIVE_PROXY=off connects without it") from error
        logger.warning("this program gets a proxy of its own: %s", error)
        return _local("process", origin, configuration)


def _local(mode: Mode, origin: Origin, configuration: Configuration | None) -> LocalProxy:
    return LocalProxy(
        mode,
        origin,
        origin_connection_limit=variables.origin_connection_limit(configuration),
        caching=variables.caching(configuration),
    )


def _renew_lock() -> None:
    # Another thread of the parent may have held it; in the child nobody would release it.
    global _lock
    _lock = threading.Lock()


run_after_fork(_renew_lock)
