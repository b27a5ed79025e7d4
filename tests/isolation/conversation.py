"""Statements as messages of the protocol, and the answers that are due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import NamedTuple

from hyperdrive_client.protocol import messages as m

from .model import Maker, Result, Session, SqlError, Statement

Answer = tuple[str, ...]
"""A message's type and the fields that matter; of an error the SQLSTATE, and words of its text."""


class Part(NamedTuple):
    """What is sent in one go, and what must have come before the next."""

    data: bytes
    expected: list[Answer]


class Exchange(NamedTuple):
    """Some parts; ``requests`` counts statements. ``cancelled`` may end in 57014 anywhere."""

    parts: list[Part]
    requests: int
    cancelled: bool = False


class Batch:
    """Writes messages, and lets the model answer them as they are written."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._data = bytearray()
        self._expected: list[Answer] = []
        self._parts: list[Part] = []
        self._unnamed: Statement | None = None
        self._portals: dict[str, Statement] = {}
        self._rows: dict[str, list[Answer]] = {}
        self._requests = 0
        self.failed = False
        """Everything up to Sync is ignored."""

    def exchange(self, *, cancelled: bool = False) -> Exchange:
        self._part()
        return Exchange(self._parts, self._requests, cancelled)

    def _part(self) -> None:
        if self._data:
            self._parts.append(Part(bytes(self._data), self._expected))
        self._data, self._expected = bytearray(), []

    def _step(self, message: bytes, answer: Callable[[], Iterable[Answer]]) -> None:
        self._data += message
        if self.failed:
            return
        try:
            self._expected += answer()
        except SqlError as error:
            self._fail(error)

    def _fail(self, error: SqlError) -> None:
        self._expected.append(("E", error.sqlstate, error.words))
        self._session.fail()
        self.failed = True

    def _ready(self) -> None:
        if not self.failed:
            self._session.settle()
        self.failed = False
        self._expected.append(("Z", self._session.status))

    # The simple protocol.

    def query(self, statements: Iterable[Statement]) -> None:
        """One Query; ``statements`` may be made one by one, after the one before has run."""
        texts = []
        for statement in statements:
            texts.append(statement.literal)
            self._requests += 1
            self._step(b"", lambda statement=statement: self._answer(statement))
        text = ";".join(texts).encode()
        self._data += m.query(text)
        if statement.copy == "in":
            self._copy_data(statement)
        self._ready()

    def _answer(self, statement: Statement) -> list[Answer]:
        session = self._session
        session.analyse(statement)
        if statement.copy == "in":
            return [("G",)]
        begin = _described(statement) if statement.columns else []
        self._expected += begin
        return _content(statement, session.run(statement))

    def _copy_data(self, statement: Statement) -> None:
        """What COPY reads; sent before the origin has said that it wants it."""
        try:
            result = self._session.run(statement) if not self.failed else None
        except SqlError as error:
            self._data += m.message(m.COPY_FAIL, error.words.encode() + b"\x00")
            self._fail(error)
            return
        rows = result.rows if result is not None else []
        self._data += b"".join(m.message(m.COPY_DATA, row[0].encode() + b"\n") for row in rows)
        self._data += m.message(m.COPY_DONE, b"")
        if result is not None:
            self._expected.append(("C", result.tag))

    # The extended protocol.

    def parse(self, statement: Statement, name: str = "", maker: Maker | None = None) -> None:
        def answer() -> list[Answer]:
            session = self._session
            if not name:
                self._unnamed = None
            session.analyse(statement)
            if name in session.statements:
                raise SqlError("42P05", name)
            if maker is not None:
                session.statements[name] = maker
            else:
                self._unnamed = statement
            return [("1",)]

        self._step(m.parse(name.encode(), statement.text.encode()), answer)

    def bind(self, statement: Statement, name: str = "", portal: str = "") -> None:
        def answer() -> list[Answer]:
            session = self._session
            if name and name not in session.statements:
                raise SqlError("26000", name)
            session.check(statement)
            self._portals[portal] = statement
            return [("2",)]

        values = [value.encode() for value in statement.values]
        self._step(m.bind(portal.encode(), name.encode(), values), answer)

    def describe(self, portal: str = "") -> None:
        message = m.message(m.DESCRIBE, b"P" + portal.encode() + b"\x00")
        self._step(message, lambda: _described(self._portals[portal]))

    def describe_statement(self, statement: Statement, name: str) -> None:
        def answer() -> list[Answer]:
            session = self._session
            if name not in session.statements:
                raise SqlError("26000", name)
            session.check(statement)
            return [("t",), *_described(statement)]

        self._step(m.message(m.DESCRIBE, b"S" + name.encode() + b"\x00"), answer)

    def close_statement(self, name: str) -> None:
        def answer() -> list[Answer]:
            self._session.statements.pop(name, None)
            return [("3",)]

        self._step(m.close_statement(name.encode()), answer)

    def execute(self, portal: str = "") -> None:
        self._requests += 1
        statement = self._portals.get(portal)

        def answer() -> list[Answer]:
            assert statement is not None
            if statement.copy == "in":
                return [("G",)]
            return _content(statement, self._session.run(statement))

        self._step(m.execute(portal.encode()), answer)
        if statement is not None and statement.copy == "in" and not self.failed:
            self._copy_data(statement)

    def execute_in_two(self, statement: Statement, portal: str) -> None:
        """Some of a portal's rows, then all the others."""
        self._requests += 2
        rows: list[Answer] = []

        def some() -> list[Answer]:
            rows[:] = _content(statement, self._session.run(statement))
            return [*rows[:2], ("s",)]

        def others() -> list[Answer]:
            return [*rows[2:-1], ("C", f"SELECT {len(rows) - 3}")]

        self._step(m.execute(portal.encode(), 2), some)
        self._step(m.execute(portal.encode()), others)

    def flush(self) -> None:
        """Wait for the answers so far, in mid-batch."""
        self._data += m.FLUSH_MESSAGE
        self._part()

    def sync(self) -> None:
        self._data += m.SYNC_MESSAGE
        self._portals.clear()
        self._ready()

    def call(self, oid: int, value: str, answer: str) -> None:
        """A FunctionCall of a function of one text."""
        data = value.encode()
        body = (
            m.INT32.pack(oid) + b"\x00\x00\x00\x01" + m.INT32.pack(len(data)) + data + b"\x00\x00"
        )
        statement = Statement("", lambda session: Result([], ""))

        def answers() -> list[Answer]:
            self._session.run(statement)
            return [("V", answer)]

        self._requests += 1
        self._step(m.message(m.FUNCTION_CALL, body), answers)
        self._ready()


def _described(statement: Statement) -> list[Answer]:
    return [("T", *statement.columns)] if statement.columns else [("n",)]


def _content(statement: Statement, result: Result) -> list[Answer]:
    if statement.copy == "out":
        data = [("d", row[0] + "\n") for row in result.rows]
        return [("H",), *data, ("c",), ("C", result.tag)]
    rows = [("D", *row) for row in result.rows] if statement.columns else []
    return [*rows, ("C", result.tag)]


def in_pieces(random: Random, data: bytes) -> Sequence[bytes]:
    """``data``, cut anywhere or nowhere."""
    if random.random() < 0.7 or len(data) < 2:
        return (data,)
    cuts = sorted(random.sample(range(1, len(data)), min(random.randint(1, 3), len(data) - 1)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
