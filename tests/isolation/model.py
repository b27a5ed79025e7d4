"""One PostgreSQL session, as far as the scripts can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple

FAILED = "current transaction is aborted"


class SqlError(Exception):
    """What the server says instead; ``words`` are in its text."""

    def __init__(self, sqlstate: str, words: str) -> None:
        super().__init__(sqlstate, words)
        self.sqlstate = sqlstate
        self.words = words


class Result(NamedTuple):
    """The rows of one statement, and the tag of its CommandComplete."""

    rows: list[tuple[str, ...]]
    tag: str


class Statement(NamedTuple):
    """One statement; ``text`` has ``$1`` where ``values`` belong.

    ``columns`` is empty if it gives no rows. ``copy`` is what a COPY reads (``in``) or writes
    (``out``). ``alone`` shares its transaction with no other statement, ``simple`` is for the
    simple protocol only, and what ``ends_failed`` is obeyed in a failed transaction.
    """

    text: str
    effect: Callable[[Session], Result]
    columns: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    parse_error: SqlError | None = None
    copy: str = ""
    alone: bool = False
    simple: bool = False
    ends_failed: bool = False

    @property
    def literal(self) -> str:
        """The text with its values in place, for the simple protocol."""
        text = self.text
        for number, value in enumerate(self.values, 1):
            text = text.replace(f"${number}", f"'{value}'")
        return text


Maker = Callable[[Random, "Session", str], Statement | None]
"""Makes a statement with a tag that fits the session as it is; ``None`` if there is none."""


@dataclass(frozen=True)
class State:
    """What a rolled back transaction takes back."""

    settings: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """By name: the session's value, and the transaction's own (SET LOCAL)."""
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Temporary tables and their rows."""
    listening: frozenset[str] = frozenset()
    notified: tuple[tuple[str, str], ...] = ()
    cursors: Mapping[str, str] = field(default_factory=dict)
    """Open cursors and the value of all their rows; those ``held`` outlive the transaction."""
    held: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()
    """What this client has in the table that all share."""


class Session:
    """The state of one session; statements change it through :meth:`run`."""

    def __init__(self, defaults: Mapping[str, str], rows: frozenset[str]) -> None:
        self.defaults = defaults
        self.status = "I"
        self.state = State(rows=rows)
        self.locks: frozenset[int] = frozenset()
        self.prepared: dict[str, str] = {}
        """PREPARE's statements, and the value that they give."""
        self.statements: dict[str, Maker] = {}
        """Named statements of the extended protocol, by what makes them for new values."""
        self.notifications: list[tuple[str, str]] = []
        """Channel and payload of what this session must have been told."""
        self.just_unlistened: frozenset[str] = frozenset()
        """Channels whose notifications may have been on their way."""
        self._base: State | None = None
        self._savepoints: list[tuple[str, State]] = []

    # What is asked of it.

    def show(self, name: str) -> str:
        value, local = self.state.settings.get(name, (self.defaults[name], None))
        return value if local is None else local

    @property
    def committed_rows(self) -> frozenset[str]:
        return self.state.rows if self._base is None else self._base.rows

    @property
    def listening(self) -> frozenset[str]:
        """LISTEN takes effect at commit."""
        return self.state.listening if self._base is None else self._base.listening

    @property
    def holds(self) -> bool:
        """Whether there is something that keeps an origin connection from serving others."""
        state = self.state
        return bool(state.tables or state.listening or state.held or self.locks or self.prepared)

    @property
    def savepoints(self) -> list[str]:
        return [name for name, _ in self._savepoints]

    # Transactions.

    def check(self, statement: Statement) -> None:
        """What the server does first, be it at Parse, Bind or Execute."""
        if self.status == "E" and not statement.ends_failed:
            raise SqlError("25P02", FAILED)

    def analyse(self, statement: Statement) -> None:
        self.check(statement)
        if statement.parse_error is not None:
            raise statement.parse_error

    def run(self, statement: Statement) -> Result:
        """Execute one statement; ``SqlError`` if it fails."""
        self.analyse(statement)
        if self._base is None:
            self._base = self.state
        return statement.effect(self)

    def fail(self) -> None:
        """A statement has failed."""
        if self.status == "T":
            self.status = "E"
        elif self.status == "I":
            self._end(commit=False)

    def settle(self) -> None:
        """A Query or a Sync is done with: outside a transaction block, all of it is committed."""
        if self.status == "I":
            self._end(commit=True)

    def begin(self) -> Result:
        self.status = "T"
        return Result([], "BEGIN")

    def end(self, *, commit: bool) -> Result:
        commit = commit and self.status != "E"
        self._end(commit=commit)
        return Result([], "COMMIT" if commit else "ROLLBACK")

    def _end(self, *, commit: bool) -> None:
        base, self._base = self._base, None
        self.status = "I"
        self._savepoints.clear()
        if base is not None:
            self.state = self.state if commit else base
            self.just_unlistened |= base.listening - self.state.listening
        state = self.state
        if commit:
            told = [each for each in state.notified if each[0] in state.listening]
            self.notifications += told
        self.state = replace(
            state,
            settings={name: (value, None) for name, (value, _) in state.settings.items()},
            notified=(),
            cursors={name: value for name, value in state.cursors.items() if name in state.held},
        )

    def savepoint(self, name: str) -> Result:
        self._savepoints.append((name, self.state))
        return Result([], "SAVEPOINT")

    def roll_back_to(self, name: str) -> Result:
        while self._savepoints[-1][0] != name:
            self._savepoints.pop()
        self.state = self._savepoints[-1][1]
        self.status = "T"
        return Result([], "ROLLBACK")

    def release(self, name: str) -> Result:
        while self._savepoints.pop()[0] != name:
            pass
        return Result([], "RELEASE")

    def close_cursor(self, name: str) -> None:
        """No ROLLBACK opens it again."""

        def without(state: State) -> State:
            cursors = {each: tag for each, tag in state.cursors.items() if each != name}
            return replace(state, cursors=cursors, held=state.held - {name})

        self.state = without(self.state)
        self._base = without(self._base) if self._base is not None else None
        self._savepoints = [(each, without(state)) for each, state in self._savepoints]

    # Settings.

    def set(self, name: str, value: str, *, local: bool = False) -> None:
        kept = self.state.settings.get(name, (self.defaults[name], None))[0]
        self.change(
            settings={**self.state.settings, name: (kept, value) if local else (value, None)}
        )

    def reset_all(self) -> None:
        """RESET ALL: all but the role."""
        role = {
            name: self.state.settings[name] for name in ("role",) if name in self.state.settings
        }
        self.change(settings=role)

    def discard_all(self) -> None:
        self.state = State(rows=self.state.rows)
        self.locks = frozenset()
        self.prepared.clear()
        self.statements.clear()

    def change(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]
