"""The answers that an origin connection owes, in order.

One entry per message that will be answered. PostgreSQL answers in the order of the requests, so
the entry at the head says what an arriving message is the answer to, and who gets it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from ...protocol import messages as m

if TYPE_CHECKING:
    from .statements import Change


class Action(IntEnum):
    FORWARD = 0
    """The client asked; it gets the answer."""
    SKIP = 1
    """We asked; nobody gets the answer, unless it is an error."""
    FAKE = 2
    """The client asked and the origin was not bothered: we answer when it is its turn."""


# Looking a member up in its class costs more than all else that is done with it here.
FORWARD, SKIP, FAKE = Action


class Expected:
    """One expected answer.

    ``kind`` is the request's message type. ``data`` is the answer of a FAKE, or what the client
    gets in place of an error that we provoke. ``change`` is what
    the request did to the books, so that it can be taken back. ``rows`` collects what a SKIP's
    answer consists of, where we want to know.
    """

    __slots__ = ("action", "change", "data", "kind", "rows")

    def __init__(
        self,
        kind: int,
        action: Action = FORWARD,
        *,
        data: bytes = b"",
        change: Change | None = None,
        rows: bytearray | None = None,
    ) -> None:
        self.kind = kind
        self.action = action
        self.data = data
        self.change = change
        self.rows = rows

    def __repr__(self) -> str:
        return f"Expected({chr(self.kind)!r}, {self.action.name})"


# Entries without anything of their own are shared: the hot path makes no objects.
BIND = Expected(m.BIND)
CLOSE = Expected(m.CLOSE)
COPY_END = Expected(m.COPY_DONE, FAKE)
"""A CopyDone or CopyFail sent before the origin said that it is in copy mode. It has no answer."""
DESCRIBE = Expected(m.DESCRIBE)
EXECUTE = Expected(m.EXECUTE)
FUNCTION_CALL = Expected(m.FUNCTION_CALL)
PARSE = Expected(m.PARSE)
QUERY = Expected(m.QUERY)
SYNC = Expected(m.SYNC)
WITHHELD = b"withheld"
"""``data`` of a Query whose ReadyForQuery is not passed on: that of our batch behind it is."""

SKIPPED_BIND = Expected(m.BIND, SKIP)
SKIPPED_CLOSE = Expected(m.CLOSE, SKIP)
SKIPPED_EXECUTE = Expected(m.EXECUTE, SKIP)
SKIPPED_PARSE = Expected(m.PARSE, SKIP)
SKIPPED_QUERY = Expected(m.QUERY, SKIP)
SKIPPED_SYNC = Expected(m.SYNC, SKIP)

# Requests whose answer ends in ReadyForQuery.
ENDS_IN_READY = frozenset((m.QUERY, m.SYNC, m.FUNCTION_CALL))

SKIPPED = {
    m.BIND: SKIPPED_BIND,
    m.CLOSE: SKIPPED_CLOSE,
    m.EXECUTE: SKIPPED_EXECUTE,
    m.PARSE: SKIPPED_PARSE,
}
