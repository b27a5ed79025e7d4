"""The proxies that connections share: one for each origin, started at its first use."""

from __future__ import annotations

import os
import threading
from typing import Literal

from hyperdrive_client.bindings import Origin, Resolution
from hyperdrive_client.client.local_proxy import LocalProxy, Mode, is_one_of_ours
from hyperdrive_client.errors import ConfigurationError

VARIABLE = "HYPERDRIVE_PROXY"

_proxies: dict[tuple[Mode, Origin], LocalProxy] = {}
_lock = threading.Lock()


def door(resolution: Resolution) -> Origin:
    """Return where to connect to, in order to reach an origin through a proxy.

    That is a proxy's address; it is started if there is none for this origin, or if it has died.
    It is the origin itself if that is hosted or one of our own proxies, or with
    ``HYPERDRIVE_PROXY=off``.

    Raises ``ProxyStartError``, and ``ConfigurationError`` for a wrong ``HYPERDRIVE_PROXY``.
    """
    mode = _mode()
    origin = resolution.origin
    if mode == "off" or resolution.hosted or is_one_of_ours(origin):
        return origin
    with _lock:
        proxy = _proxies.get((mode, origin))
        if proxy is None or not proxy.is_running:
            if proxy is not None:
                proxy.close()
            proxy = _proxies[mode, origin] = LocalProxy(mode, origin)
        return proxy.door


def _mode() -> Mode | Literal["off"]:
    text = os.environ.get(VARIABLE, "").lower()
    match text:
        case "" | "on":
            return "process"
        case "off" | "process" | "thread":
            return text
    raise ConfigurationError(f"{VARIABLE} is {text!r}: expected on, off, process or thread")


def _renew_lock() -> None:
    # Another thread of the parent may have held it; in the child nobody would release it.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)
