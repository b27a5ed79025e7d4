"""What we say of ourselves in ParameterStatus: who we are, and to those who asked, what it cost.

A client asks by ``-c hyperdrive.report=on`` in the start-up parameter ``options``. It hears why it
was pinned last, and what it waited for last, when that happens and no message is cut by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...protocol import messages as m
from ...version import __version__
from .read_back import reasons

if TYPE_CHECKING:
    from .client_session import ClientSession

LAST_PIN = b"hyperdrive.last_pin"
LAST_WAIT = b"hyperdrive.last_wait"
CACHE = b"hyperdrive.cache"
PROXY = b"hyperdrive.proxy"
"""Told to every client, so that one who takes us for PostgreSQL can know better."""
MARKER = m.parameter_status(PROXY, __version__.encode())

# What a client waits for, beside the text that names the limit.
OPENING = "opening an origin connection"
AWAY = "the origin is away"
NO_MORE = "no further origin connection can be opened"
ANOTHERS_LINK = "the origin connection of its sequence is in use"
ANOTHERS_ANSWER = "another's answer to the same query is on its way"
OTHERS_ENDS = "held back until other transactions have ended"
SETTINGS = "putting its settings in force"


def begins_to_wait(client: ClientSession, cause: str, now: float) -> None:
    client.waits_for = cause
    client.waiting_since = now


def has_waited(client: ClientSession, now: float) -> None:
    """A wait is over, whatever the reason."""
    cause, client.waits_for = client.waits_for, ""
    if not cause:
        return
    seconds = now - client.waiting_since
    if cause != SETTINGS:
        counters = client.core.counters
        counters.waits += 1
        counters.wait_seconds += seconds
    if client.wants_reports:
        client.untold[LAST_WAIT] = f"{cause}, {seconds:.3f} s".encode()
        tell(client)


def is_pinned(client: ClientSession) -> None:
    """It is for more reasons than before."""
    if client.wants_reports:
        client.untold[LAST_PIN] = ", ".join(reasons(client.pinned)).encode()
        tell(client)


def cache_status(client: ClientSession, status: str, reason: str) -> None:
    """How its last statement has fared with the cache."""
    if client.wants_reports:
        text = f"{status}: {reason}" if reason else status
        client.untold[CACHE] = text.replace("\x00", "").encode("utf-8", "replace")
        tell(client)


def cache_is_off(client: ClientSession) -> bytes:
    """What who has just come in is told, if nothing is cached for it."""
    if client.cache is not None:
        return b""
    cache = client.pool.cache
    if client.pool is not client.core.pool:
        reason = "not the configured database"
    else:
        reason = "switched off" if cache is None else cache.closed
    return m.parameter_status(CACHE, f"disabled: {reason}".encode())


def tell(client: ClientSession) -> None:
    """Now, or once the message that is on its way to the client has come to its end."""
    if client.origin is None or not client.origin.mid_message:
        client.send(b"".join(m.parameter_status(*each) for each in client.untold.items()))
        client.untold.clear()
