"""Prepared statements across origin connections.

A client's statement is known by its name to that client, and by a name of ours at the origin, where
all clients share one server statement for the same text and parameter types. Books are kept
optimistically when a message is sent; each request that altered them carries a :class:`Change`,
which is taken back if the origin did not run it.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING

from ...protocol import messages as m
from ...sql.facts import facts_of
from .session_variables import Settings

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .origin_session import OriginSession


NO_TYPES = b"\x00\x00"
"""The parameter types of a Parse that names none."""


# A text is kept for as long as somebody may have the same; long ones are rarely anybody's.
MAX_SHARED_BYTES = 64 * 1024
MAX_REGISTRY_BYTES = 32 * 1024 * 1024
MAX_DESCRIPTION_BYTES = 4096
MAX_PLAIN = 1000


class Statement:
    """A text with its parameter types, as they stand in a Parse message."""

    __slots__ = (
        "described_in",
        "description",
        "facts",
        "is_known",
        "parameter_types",
        "run_message",
        "server_name",
        "settings",
        "shown",
        "text",
    )

    def __init__(
        self, text: bytes, parameter_types: bytes, settings: Settings | None, server_name: bytes
    ) -> None:
        self.text = text
        self.parameter_types = parameter_types
        self.settings = settings
        """In force when it is parsed; ``None``: not known, so it is shared with nobody."""
        self.server_name = server_name
        self.facts = facts_of(text)
        self.run_message = b""
        """Bind and Execute, of one of ours without parameters."""
        self.shown = b""
        """The client's text, if it is a SHOW of ours, to be answered anew each time."""
        self.is_known = False
        """An origin has parsed it, so a Parse of it needs none."""
        self.description = b""
        """What a Describe of it is answered, if an origin was asked."""
        self.described_in = -1
        """Generation of the catalogue in which that is so."""


class Prepared:
    """A server statement at one origin connection."""

    __slots__ = ("at", "description")

    def __init__(self, at: float) -> None:
        self.at = at
        """When it was parsed, in seconds."""
        self.description: bytes | None = None
        """ParameterDescription and RowDescription or NoData, if it was described."""


class StatementRegistry:
    """One :class:`Statement` per text, parameter types and settings in force when it is parsed.

    The least recently used are forgotten.
    A forgotten one stays valid where it is still referred to; a new client with the same text
    merely gets a server statement of its own.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._statements: OrderedDict[tuple[bytes, bytes, Settings], Statement] = OrderedDict()
        self._bytes = 0
        self.plain: dict[bytes, Statement] = {}
        """Those that are plain reads and were parsed without a name, by the whole Parse message."""
        self._own: dict[bytes, Statement] = {}
        self._count = 0
        # Not to be guessed: a name that a client does not have is passed on as it is.
        self._prefix = b"hyperdrive_" + secrets.token_hex(8).encode() + b"_"
        self.no_name = self._prefix + b"0"
        """What no statement is called."""

    def get(self, text: bytes, parameter_types: bytes, settings: Settings) -> Statement:
        key = (text, parameter_types, settings)
        statement = self._statements.get(key)
        if statement is not None:
            self._statements.move_to_end(key)
            return statement
        statement = self._make(text, parameter_types, settings)
        if len(text) <= MAX_SHARED_BYTES:
            self._statements[key] = statement
            self._bytes += len(text)
        while len(self._statements) > self._size or self._bytes > MAX_REGISTRY_BYTES:
            (forgotten, *_), _ = self._statements.popitem(last=False)
            self._bytes -= len(forgotten)
        return statement

    def remember(
        self, message: bytes, text: bytes, parameter_types: bytes, settings: Settings
    ) -> Statement:
        """What :meth:`get` gives, to be found by the message as well."""
        if len(self.plain) >= MAX_PLAIN:
            self.plain.clear()
        statement = self.plain[message] = self.get(text, parameter_types, settings)
        return statement

    def own(self, text: bytes) -> Statement:
        """One of ours, which means the same whatever changes."""
        statement = self._own.get(text)
        if statement is None:
            statement = self._own[text] = self._make(text, NO_TYPES, ())
        return statement

    def private(self, text: bytes, parameter_types: bytes) -> Statement:
        """One for a session whose settings are not known at the moment."""
        return self._make(text, parameter_types, None)

    def forget(self) -> None:
        """The catalogue has changed: who prepares from now on gets statements of its state."""
        self._statements.clear()
        self._bytes = 0
        self.plain.clear()

    def _make(self, text: bytes, parameter_types: bytes, settings: Settings | None) -> Statement:
        self._count += 1
        name = self._prefix + str(self._count).encode()
        return Statement(text, parameter_types, settings, name)


class Change:
    """What a request did to the books, and how to take it back."""

    __slots__ = ()

    @property
    def forgets_all(self) -> bool:
        """Whether the books were emptied when the request was sent."""
        return False

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        """Take it back; ``failed`` if the request ran and failed, else it was never run."""
        raise NotImplementedError

    def confirm(self) -> None:
        """The request has succeeded."""


class Changes(Change):
    """Several, in the order in which they were made."""

    __slots__ = ("_changes",)

    def __init__(self, *changes: Change | None) -> None:
        self._changes = changes

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        for change in reversed(self._changes):
            if change is not None:
                change.undo(origin, failed=failed)

    @property
    def forgets_all(self) -> bool:
        return any(change.forgets_all for change in self._changes if change is not None)


class Unnamed(Change):
    """Whatever replaces or ends the unnamed statement."""

    __slots__ = ("_at_client", "_at_origin", "_client", "_told")

    def __init__(self, client: ClientSession | None, origin: OriginSession) -> None:
        self._client = client
        self._at_client = client.unnamed if client is not None else None
        self._told = client.unnamed_description if client is not None else None
        self._at_origin = origin.unnamed

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        # PostgreSQL drops the old unnamed statement before it looks at the new text.
        origin.unnamed = None if failed else self._at_origin
        if self._client is not None:
            self._client.unnamed = None if failed else self._at_client
            self._client.unnamed_description = None if failed else self._told


class UnnamedParse(Change):
    """A Parse that is first in its batch: if it fails, or is never run, there is no statement."""

    __slots__ = ("_client",)

    def __init__(self, client: ClientSession) -> None:
        self._client = client

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        self._client.unnamed = origin.unnamed = None


class NamedParse(Change):
    """A Parse of a server statement of ours; by a client's Parse, or before its Bind."""

    __slots__ = ("_client", "_name", "_statement")

    def __init__(self, statement: Statement, client: ClientSession | None, name: bytes) -> None:
        self._statement = statement
        self._client = client
        self._name = name

    def confirm(self) -> None:
        self._statement.is_known = True

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        self._statement.is_known = self._statement.is_known and not failed
        origin.statements.pop(self._statement, None)
        if self._client is not None:
            self._client.statements.pop(self._name, None)


class ClientParse(Change):
    """A client's Parse of what the origin has already."""

    __slots__ = ("_client", "_name")

    def __init__(self, client: ClientSession, name: bytes) -> None:
        self._client = client
        self._name = name

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        self._client.statements.pop(self._name, None)


class ClientClose(Change):
    """A client's Close of a named statement of its own."""

    __slots__ = ("_client", "_name", "_statement")

    def __init__(self, client: ClientSession, name: bytes, statement: Statement) -> None:
        self._client = client
        self._name = name
        self._statement = statement

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        self._client.statements[self._name] = self._statement


class Eviction(Change):
    """A Close of ours."""

    __slots__ = ("_prepared", "_statement")

    def __init__(self, statement: Statement, prepared: Prepared) -> None:
        self._statement = statement
        self._prepared = prepared

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        origin.statements[self._statement] = self._prepared


class Description(Change):
    """A Describe of a server statement that we ask for."""

    __slots__ = ("_prepared", "rows")

    def __init__(self, prepared: Prepared | None) -> None:
        self._prepared = prepared
        self.rows = bytearray()

    def confirm(self) -> None:
        if self._prepared is not None:
            self._prepared.description = types_of(self.rows)

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        """Nobody was told."""


class ClientDescription(Description):
    """A client's Describe of a statement of its own.

    ``generation`` is that of the catalogue in which others would be told the same; -1 if they may
    not be.
    """

    __slots__ = ("_client", "_generation", "_name", "_statement")

    def __init__(
        self,
        prepared: Prepared | None,
        client: ClientSession,
        name: bytes,
        statement: Statement,
        generation: int,
    ) -> None:
        super().__init__(prepared)
        self._client = client
        self._name = name
        self._statement = statement
        self._generation = generation

    def confirm(self) -> None:
        super().confirm()
        client, statement = self._client, self._statement
        if self._name:
            client.described[self._name] = types_of(self.rows)
        elif client.unnamed is statement and (
            self._generation >= 0 or client.unnamed_description is not None
        ):
            client.unnamed_description = types_of(self.rows)
            if self._prepared is None:
                client.parsed_at[b""] = client.pool.now
        if self._generation >= 0 and len(self.rows) <= MAX_DESCRIPTION_BYTES:
            statement.description = bytes(self.rows)
            statement.described_in = self._generation


class ForgetAll(Change):
    """DEALLOCATE ALL or DISCARD ALL by itself: the books are emptied when it is sent."""

    __slots__ = ("_at_client", "_at_origin", "_client")

    def __init__(self, client: ClientSession, origin: OriginSession) -> None:
        self._client = client
        self._at_client = dict(client.statements)
        self._at_origin = origin.statements.copy()
        client.statements.clear()
        origin.statements.clear()

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        self._client.statements = self._at_client
        origin.statements = self._at_origin

    @property
    def forgets_all(self) -> bool:
        return True


class MayForget(Change):
    """A text with DEALLOCATE or DISCARD in it: the origin's answer says what was done."""

    __slots__ = ()

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        """Nothing was noted."""


def types_of(description: bytes | bytearray) -> bytes:
    """A description without the tables that its columns come from: their types may not change."""
    parts: list[bytes | bytearray] = []
    position = 0
    while position < len(description):
        kind, length = m.HEADER.unpack_from(description, position)
        stop = position + 1 + length
        if kind == m.ROW_DESCRIPTION:
            at = position + 7
            while at < stop:
                end = description.find(0, at, stop) + 1
                if not end:
                    break
                # Behind the name: table, column, then type, length, modifier, format.
                parts += (description[at:end], description[end + 6 : end + 18])
                at = end + 18
        else:
            parts.append(description[position:stop])
        position = stop
    return b"".join(parts)


class LazyBegin(Change):
    """A BEGIN that the client was told is done, sent with its first statement."""

    __slots__ = ("_origin",)

    def __init__(self, origin: OriginSession) -> None:
        self._origin = origin

    def confirm(self) -> None:
        self._origin.status = m.IN_TRANSACTION

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        origin.begin_failed = True
