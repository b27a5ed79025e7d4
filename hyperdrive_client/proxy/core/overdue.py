"""Clients whose time is over, judged as PostgreSQL does by its settings of the same names.

Looked for by the clock, a few times a second: nothing is measured per message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...protocol import messages as m
from ..settings import Limits
from .client_session import ClientSession
from .origin_session import OriginSession
from .states import ClientState, OriginState


def _fatal(sqlstate: str, what: str) -> bytes:
    text = f"terminating connection due to {what} timeout"
    return m.error_response(sqlstate, text, severity="FATAL")


IDLE_IN_TRANSACTION = _fatal("25P03", "idle-in-transaction")
TRANSACTION = _fatal("25P04", "transaction")
IDLE_SESSION = _fatal("57P05", "idle-session")


def overdue_links(
    origins: Iterable[OriginSession], limits: Limits, now: float
) -> Iterator[tuple[ClientSession, bytes]]:
    """Of the linked clients those whose time is over, and what they are told."""
    for origin in origins:
        client = origin.client
        if client is None or origin.state is not OriginState.LINKED:
            continue
        silent = now - client.active_at
        busy = bool(origin.expected)
        if busy or origin.batch_open or origin.status != m.IDLE:
            if 0 < limits.transaction_timeout <= now - origin.since:
                yield client, TRANSACTION
            elif not busy and 0 < limits.idle_transaction_timeout <= silent:
                yield client, IDLE_IN_TRANSACTION
        elif 0 < limits.client_idle_timeout <= silent:
            yield client, IDLE_SESSION


def overdue_sessions(
    clients: Iterable[ClientSession], limits: Limits, now: float
) -> Iterator[tuple[ClientSession, bytes]]:
    """The same of those that have no link."""
    if not limits.client_idle_timeout:
        return
    for client in clients:
        if (
            client.state is ClientState.IDLE
            and now - client.active_at >= limits.client_idle_timeout
        ):
            yield client, IDLE_SESSION
