"""What the environment says about the proxies that start by themselves."""

from __future__ import annotations

import math
import os
import re
from typing import Literal

from hyperdrive_client.bindings import Configuration
from hyperdrive_client.errors import ConfigurationError

WHERE = "HYPERDRIVE_PROXY"
ORIGIN_CONNECTION_LIMIT = "HYPERDRIVE_ORIGIN_CONNECTION_LIMIT"
PROXY_IDLE_TIMEOUT = "HYPERDRIVE_PROXY_IDLE_TIMEOUT"
CACHE = "HYPERDRIVE_CACHE"
MAX_AGE = "HYPERDRIVE_MAX_AGE"
SWR = "HYPERDRIVE_SWR"
CACHE_MEMORY = "HYPERDRIVE_CACHE_MEMORY"

# Seconds: longer than a pause between two runs of a script, and than most between two requests.
_DEFAULT_IDLE_TIMEOUT = 300.0
# Seconds, as for ``Caching``; that is the proxy's, which is not loaded to find one that runs.
_LARGEST_AGE = 3600.0


def where() -> Literal["on", "shared", "process", "thread", "off"]:
    """Return where proxies run; ``on`` is wherever it works best. ``ConfigurationError``."""
    text = os.environ.get(WHERE, "").lower()
    match text:
        case "":
            return "on"
        case "on" | "off" | "shared" | "process" | "thread":
            return text
    raise ConfigurationError(f"{WHERE} is {text!r}: expected on, shared, process, thread or off")


def origin_connection_limit(configuration: Configuration | None = None) -> int | None:
    """Return how many origin connections a proxy opens at most; ``ConfigurationError``.

    What a stored configuration says of that comes first.
    """
    if configuration is not None and configuration.origin_connection_limit is not None:
        return configuration.origin_connection_limit
    text = os.environ.get(ORIGIN_CONNECTION_LIMIT, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigurationError(
            f"{ORIGIN_CONNECTION_LIMIT} is {text!r}: expected a whole number from 1 on"
        )
    return int(text)


def proxy_idle_timeout() -> float:
    """Return after how many seconds without a client a shared proxy ends; 0: never.

    Raises ``ConfigurationError``.
    """
    seconds = _seconds(PROXY_IDLE_TIMEOUT, 1e9)
    return _DEFAULT_IDLE_TIMEOUT if seconds is None else seconds


def caching(configuration: Configuration | None = None) -> dict[str, str | float | int | None]:
    """Return what is said of the cache, by the fields of the proxy's ``Caching``.

    What a stored configuration says of it comes first. Raises ``ConfigurationError``.
    """
    said = _caching()
    return said if configuration is None else said | configuration.caching


def _caching() -> dict[str, str | float | int | None]:
    mode, memory = os.environ.get(CACHE, "").lower(), os.environ.get(CACHE_MEMORY, "")
    if mode not in ("", "auto", "wal", "writes", "ttl", "off"):
        raise ConfigurationError(f"{CACHE} is {mode!r}: expected auto, wal, writes, ttl or off")
    try:
        size = bytes_of(memory) if memory else None
    except ValueError as error:
        raise ConfigurationError(f"{CACHE_MEMORY} is {memory!r}: {error}") from None
    return {
        "mode": mode or None,
        "max_age": _seconds(MAX_AGE, _LARGEST_AGE),
        "stale_while_revalidate": _seconds(SWR, _LARGEST_AGE),
        "memory": size,
    }


def bytes_of(text: str) -> int:
    """Return a size that is written as PostgreSQL writes one: ``64MB``. ``ValueError``."""
    match = re.fullmatch(r"\s*([0-9]{1,15})\s*(B|kB|MB|GB)?\s*", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError("expected a size such as 64MB (units: B, kB, MB, GB)")
    return int(match[1]) << {"": 0, "B": 0, "KB": 10, "MB": 20, "GB": 30}[(match[2] or "").upper()]


def _seconds(variable: str, limit: float) -> float | None:
    text = os.environ.get(variable, "")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= limit:
        most = f" to {limit:g}" if limit == _LARGEST_AGE else " on"
        raise ConfigurationError(f"{variable} is {text!r}: expected seconds from 0{most}")
    return seconds
