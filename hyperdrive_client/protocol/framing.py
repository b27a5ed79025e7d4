"""Cutting a byte stream into messages, without copying what nobody looks at."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ClientProtocolError, OriginProtocolError, ProtocolError
from . import messages as m

# In place of a type byte: the rest of a message whose beginning was in an earlier chunk.
CONTINUATION = -1

KIB = 1024
MIB = 1024 * KIB


Chunk = tuple[bytes, list[tuple[int, int, int]], int]
"""What one read brought: ``buffer``, ``messages``, ``end``.

``buffer[:end]`` may be passed on. ``messages`` are (type, start, stop) of those messages that begin
in it and that the framer lists; the last one's ``stop`` may lie beyond ``end``: it is passed on in
parts.
"""


class Framer:
    """Message boundaries of one direction of one connection.

    A message whose type is in ``streamed`` is passed on as soon as that many bytes of it are here;
    all others are kept back until they are complete. Types in ``unlisted`` are not reported.
    ``limits`` bounds the length of a type, ``limit`` that of all others, in bytes; if that is
    ``None``, there are no others. None is below 10,000, up to which no length is looked up.
    """

    __slots__ = (
        "_error",
        "_have",
        "_limit",
        "_limits",
        "_parts",
        "_streamed",
        "_unlisted",
        "failure",
        "needed",
        "remaining",
    )

    def __init__(
        self,
        *,
        streamed: Mapping[int, int],
        unlisted: frozenset[int],
        limits: Mapping[int, int],
        limit: int | None,
        error: type[ProtocolError],
    ) -> None:
        self._streamed = streamed
        self._unlisted = unlisted
        self._limits = limits
        self._limit = limit
        self._error = error
        self._parts: list[bytes] = []
        self._have = 0
        self.needed = 0
        """Bytes that must be here before the message that has begun is passed on."""
        self.remaining = 0
        """Bytes of a streamed message that are still to come."""
        self.failure: ProtocolError | None = None
        """What is wrong with the message behind those that :meth:`feed` gave last."""

    @property
    def held(self) -> bytes:
        """Bytes received and not yet passed on."""
        return b"".join(self._parts)

    def feed(self, data: bytes) -> Chunk:
        """Take one read's bytes.

        ``ProtocolError`` if the first message's length is impossible; if it is a later one's, the
        messages before it are given and ``failure`` is set, which the next call raises.
        """
        if self.failure is not None:
            raise self.failure
        if self.needed:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self.needed:
                return b"", [], 0
            data = b"".join(self._parts)
            self._parts.clear()
            self._have = self.needed = 0
        size = len(data)
        listed: list[tuple[int, int, int]] = []
        position = 0
        remaining = self.remaining
        if remaining:
            position = remaining if remaining < size else size
            self.remaining = remaining - position
            listed.append((CONTINUATION, 0, position))
        unlisted = self._unlisted
        unpack = m.HEADER.unpack_from
        while size - position >= 5:
            kind, length = unpack(data, position)
            stop = position + 1 + length
            if (stop > size or length < 4 or length > 10_000) and not self._allows(kind, length):
                if not position:
                    assert self.failure is not None
                    raise self.failure
                return data, listed, position
            if stop > size:
                if size - position >= self._streamed.get(kind, length + 1):
                    self.remaining = stop - size
                    if kind not in unlisted:
                        listed.append((kind, position, stop))
                    position = size
                else:
                    self.needed = min(length + 1, self._streamed.get(kind, length + 1))
                break
            if kind not in unlisted:
                listed.append((kind, position, stop))
            position = stop
        if position < size:
            self._parts.append(data[position:])
            self._have = size - position
            self.needed = self.needed or 5
        return data, listed, position

    def _allows(self, kind: int, length: int) -> bool:
        limit = self._limits.get(kind, self._limit)
        if limit is None:
            self.failure = self._error(f"invalid frontend message type {kind}")
        elif not 4 <= length <= limit:
            self.failure = self._error(
                f"invalid message length {length} for message type {chr(kind)!r}: "
                f"between 4 and {limit} is allowed"
            )
        return self.failure is None


# PostgreSQL's own limits for what a client may send (PQ_LARGE_MESSAGE_LIMIT is what a palloc can
# hold, PQ_SMALL_MESSAGE_LIMIT is for messages that hold a name at most). Parse is kept whole, since
# its text may have to be sent again elsewhere.
LARGEST_MESSAGE = 0x3FFFFFFE
_SMALL = 10_000
_CLIENT_LIMITS = {
    m.COPY_DONE: _SMALL,
    m.FLUSH: _SMALL,
    m.SYNC: _SMALL,
    m.TERMINATE: _SMALL,
    m.BIND: LARGEST_MESSAGE,
    m.COPY_DATA: LARGEST_MESSAGE,
    m.COPY_FAIL: LARGEST_MESSAGE,
    m.FUNCTION_CALL: LARGEST_MESSAGE,
    m.PARSE: 256 * MIB,
    m.QUERY: LARGEST_MESSAGE,
    # Names have no limit of their own in the protocol.
    m.CLOSE: MIB,
    m.DESCRIBE: MIB,
    m.EXECUTE: MIB,
}
# How much of a message must be here before it is passed on: Bind's names, a Query's first words.
_CLIENT_STREAMED = {
    m.BIND: MIB,
    m.COPY_DATA: 5,
    m.COPY_FAIL: 5,
    m.FUNCTION_CALL: 5,
    m.QUERY: MIB,
}
_ORIGIN_STREAMED = {m.DATA_ROW: 5, m.COPY_DATA: 5, m.FUNCTION_CALL_RESPONSE: 5}
_ORIGIN_UNLISTED = frozenset((m.DATA_ROW, m.COPY_DATA))
_ORIGIN_LIMITS = dict.fromkeys(_ORIGIN_STREAMED, 0x7FFFFFFF)


def client_framer() -> Framer:
    """For what an authenticated client sends."""
    return Framer(
        streamed=_CLIENT_STREAMED,
        unlisted=frozenset(),
        limits=_CLIENT_LIMITS,
        limit=None,
        error=ClientProtocolError,
    )


def password_framer() -> Framer:
    """For what a client sends while it authenticates, whose proofs are far smaller.

    PostgreSQL takes 1024 bytes of SASL (PG_MAX_SASL_MESSAGE_LENGTH).
    """
    return Framer(
        streamed={},
        unlisted=frozenset(),
        limits={m.PASSWORD: _SMALL},
        limit=None,
        error=ClientProtocolError,
    )


def origin_framer() -> Framer:
    """For what an origin sends; 64 MiB is far more than any RowDescription or error needs."""
    return Framer(
        streamed=_ORIGIN_STREAMED,
        unlisted=_ORIGIN_UNLISTED,
        limits=_ORIGIN_LIMITS,
        limit=64 * MIB,
        error=OriginProtocolError,
    )


def own_framer() -> Framer:
    """For what an origin sends in answer to us; of a change in the WAL only the head is looked at,
    while the names in a TRUNCATE have to fit."""
    return Framer(
        streamed={m.COPY_DATA: MIB},
        unlisted=frozenset(),
        limits={m.COPY_DATA: 0x7FFFFFFF},
        limit=64 * MIB,
        error=OriginProtocolError,
    )
