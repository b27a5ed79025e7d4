"""What the environment says about the proxies that start by themselves."""

from __future__ import annotations

import math
import os
from typing import Literal

from hyperdrive_client.errors import ConfigurationError

WHERE = "HYPERDRIVE_PROXY"
ORIGIN_CONNECTION_LIMIT = "HYPERDRIVE_ORIGIN_CONNECTION_LIMIT"
PROXY_IDLE_TIMEOUT = "HYPERDRIVE_PROXY_IDLE_TIMEOUT"

# Seconds: longer than a pause between two runs of a script, and than most between two requests.
_DEFAULT_IDLE_TIMEOUT = 300.0


def where() -> Literal["on", "shared", "process", "thread", "off"]:
    """Return where proxies run; ``on`` is wherever it works best. ``ConfigurationError``."""
    text = os.environ.get(WHERE, "").lower()
    match text:
        case "":
            return "on"
        case "on" | "off" | "shared" | "process" | "thread":
            return text
    raise ConfigurationError(f"{WHERE} is {text!r}: expected on, shared, process, thread or off")


def origin_connection_limit() -> int | None:
    """Return how many origin connections a proxy opens at most; ``ConfigurationError``."""
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
    text = os.environ.get(PROXY_IDLE_TIMEOUT, "")
    if not text:
        return _DEFAULT_IDLE_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise ConfigurationError(f"{PROXY_IDLE_TIMEOUT} is {text!r}: expected seconds from 0 on")
    return seconds
