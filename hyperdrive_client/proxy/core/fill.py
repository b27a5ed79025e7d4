"""An answer on its way from the origin into the cache."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...protocol import messages as m
from ..cache.cache import Sealed
from ..cache.store import Key

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .statements import Statement

# Types of the messages of a whole answer, DataRows left out: without an error, a notice, a changed
# setting, or anything behind its ReadyForQuery.
_WHOLE = re.compile(rb"TCZ|1?(?:tT)?2(?:t?T)?CZ")


class Flight:
    """A request that others wait for the answer of."""

    __slots__ = ("is_slow", "joined", "sealed", "sent")

    def __init__(self) -> None:
        self.sealed: Sealed | None = None
        """Once it was sent."""
        self.sent = 0.0
        self.joined: list[ClientSession] = []
        self.is_slow = False
        """Who asked for it does not read it."""


class Fill:
    """The copy of what a client is answered to one request."""

    __slots__ = (
        "_limit",
        "_pieces",
        "_size",
        "ended",
        "is_oversized",
        "key",
        "kinds",
        "request",
        "sealed",
        "sent",
        "statement",
    )

    def __init__(
        self,
        key: Key,
        request: bytes,
        sealed: Sealed,
        sent: float,
        limit: int,
        statement: Statement | None = None,
    ) -> None:
        self.key = key
        self.request = request
        self.sealed = sealed
        self.sent = sent
        self.statement = statement
        """The named one that it is of."""
        self.kinds = bytearray()
        """Types of the messages that went to the client, but for DataRows."""
        self.ended = False
        self.is_oversized = False
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """What goes to the client."""
        self._size += len(data)
        if self._size > self._limit:
            self.is_oversized = True
            self._pieces.clear()
        else:
            self._pieces.append(data)

    def answer(self) -> bytes | None:
        """The answer without ParseComplete and ReadyForQuery; ``None`` if it is not whole."""
        if self.is_oversized or not _WHOLE.fullmatch(bytes(self.kinds)):
            return None
        data = b"".join(self._pieces).removeprefix(m.PARSE_COMPLETE_MESSAGE)
        return data[: -len(_READY)]


_READY = m.ready_for_query(m.IDLE)
