"""The console: a virtual database that answers from the proxy itself, whatever the origin does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from ...errors import ClientProtocolError
from ...protocol import messages as m
from ..core.core import Core
from ..core.snapshots import SHOWN, Table
from . import parts
from .parts import Part, Purged, Reconnected

_HELP = Table(
    ("command", "shows"),
    [
        ("SHOW STATS", "counters since the proxy began, and how many there are now"),
        ("SHOW SESSIONS", "clients: process id, state, what keeps an origin connection, name"),
        ("SHOW PINS", "what keeps origin connections: sessions now, and how often so far"),
        ("SHOW POOL", "the origin connections of the configured database, and who waits"),
        ("SHOW CACHE", "the cache: its mode and why, what it holds, how statements fared with it"),
        ("SHOW HELP", "this list"),
        ("PURGE", "forgets all answers that the cache holds"),
        ("PURGE TABLE schema.name", "forgets those that depend on the table, or on several: a, b"),
        ("RECONNECT", "ends each origin connection as soon as nobody uses it"),
    ],
)
_BLANKS = b"; \t\r\n"
_EXTENDED = frozenset((m.PARSE, m.BIND, m.DESCRIBE, m.EXECUTE, m.CLOSE))
# What belongs to a COPY that there is not, and the rest of a message that was too long.
_IGNORED = frozenset((-1, m.COPY_DATA, m.COPY_DONE, m.COPY_FAIL, m.FLUSH))


class Console:
    """One client's conversation with the console, in the simple protocol.

    All that can be changed is what the cache holds, and that connections to the origin end.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._question = ""
        self._part: Part = Reconnected()
        """This worker's part of the answer to the question."""
        self.waiting: deque[tuple[int, bytes]] = deque()
        self._status = m.IDLE
        self._failing = False
        """Everything up to the next Sync is ignored."""

    def answer(self, kind: int, body: bytes) -> bytes:
        """The answer to one message. ``ClientProtocolError`` if there is no such message."""
        if kind == m.SYNC:
            self._failing = False
            return m.ready_for_query(self._status)
        if self._failing or kind in _IGNORED:
            return b""
        if kind == m.QUERY:
            text = body.rstrip(b"\x00")
            answer = self._query(text)
            if isinstance(answer, bytes):
                return answer + m.ready_for_query(self._status)
            if self._core.siblings is None:
                return _message(answer) + m.ready_for_query(self._status)
            self._question, self._part = text.decode("latin-1"), answer
            return b""
        refusal = m.error_response("0A000", "the console understands simple queries only")
        if kind == m.FUNCTION_CALL:
            return refusal + m.ready_for_query(self._status)
        if kind not in _EXTENDED:
            raise ClientProtocolError(f"invalid frontend message type {kind}")
        self._failing = True
        return refusal

    def asks(self) -> str:
        """What the other workers are to be asked, whose answers :meth:`whole_answer` needs."""
        return self._question

    def partial_answer(self, question: str) -> Any:
        """What this worker has to say, as :func:`~.parts.to_json` writes it."""
        answer = self._query(question.encode("latin-1"))
        return None if isinstance(answer, bytes) else parts.to_json(answer)

    def whole_answer(self, answers: list[Any]) -> bytes:
        """The answer of all workers; ``answers`` are the others'."""
        self._question = ""
        others = [parts.from_json(each) for each in answers if each is not None]
        return _message(parts.merged([self._part, *others])) + m.ready_for_query(self._status)

    def _query(self, text: bytes) -> bytes | Part:
        """What to say, or this worker's part of it."""
        match text.lower().replace(b";", b" ").split():
            case []:
                return m.EMPTY_QUERY_MESSAGE
            case [b"begin", *_] | [b"start", b"transaction", *_]:
                self._status = m.IN_TRANSACTION
                return m.command_complete(b"BEGIN")
            case [b"commit" | b"end" as word, *_] | [b"rollback" | b"abort" as word, *_]:
                self._status = m.IDLE
                return m.command_complete(b"COMMIT" if word in (b"commit", b"end") else b"ROLLBACK")
            case [b"show", b"help"]:
                return _rows(_HELP)
            case [b"show", name] if show := SHOWN.get(name.removeprefix(b"hyperdrive.")):
                return show(self._core, self._core.pool)
            case [b"purge"]:
                return Purged(self._core.cache.purge())
            case [b"reconnect"]:
                self._core.retire_origins()
                return Reconnected()
            case [b"purge", b"table", _, *_]:
                return self._purge_tables(text)
        commands = ", ".join(str(command) for command, _ in _HELP.rows)
        return m.error_response("42601", f"the console knows {commands}, and no other command")

    def _purge_tables(self, text: bytes) -> bytes | Part:
        """Names are exactly as written, each up to a comma."""
        cache = self._core.cache
        if cache.catalogue is None:
            return m.error_response("55000", f"the cache knows no tables now: {cache.closed}")
        names = text.strip(_BLANKS).split(None, 2)[2].split(b",")
        tables = {name.strip(_BLANKS): 0 for name in names}
        for name in tables:
            table = cache.catalogue.oid_of(name)
            if table is None:
                shown = name.decode("utf-8", "replace")
                return m.error_response("42P01", f"the cache knows no table {shown!r}")
            tables[name] = table
        return Purged(cache.purge(tables.values()))


def _message(answer: Part) -> bytes:
    match answer:
        case Table():
            return _rows(answer)
        case Purged(answers):
            return m.command_complete(b"PURGE %d" % answers)
        case Reconnected():
            return m.command_complete(b"RECONNECT")


def _rows(table: Table) -> bytes:
    return (
        m.row_description(column.encode() for column in table.columns)
        + b"".join(m.data_row(_texts(row)) for row in table.rows)
        + m.command_complete(b"SHOW")
    )


def _texts(row: Iterable[object]) -> Iterable[bytes]:
    return (str(value).encode() for value in row)
