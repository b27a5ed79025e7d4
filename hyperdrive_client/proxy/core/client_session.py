"""One client connection: from its first byte to its end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from ...errors import ClientProtocolError
from ...protocol import messages as m
from ...protocol.framing import CONTINUATION, LARGEST_MESSAGE, Chunk, client_framer
from ...sql.session_effects import changes_session, outlives_discard
from . import expected as e
from .client_startup import ClientStartup, Refused
from .effects import CloseClient, PauseClient, ResumeClient, SendToClient, SendToOrigin
from .expected import FAKE, SKIP, Expected
from .origin_startup import ConnectFailure
from .pool import LOST
from .session_variables import Profile, Settings, application_name, startup_settings
from .statements import (
    Change,
    Changes,
    ClientClose,
    ClientParse,
    Eviction,
    ForgetAll,
    MayForget,
    Statement,
    Unnamed,
)

if TYPE_CHECKING:
    from .core import Core
    from .origin_session import OriginSession


class ClientState(Enum):
    STARTUP = "startup"
    """Until authentication is done."""
    JOINING = "joining"
    """Waiting for what only an origin connection can tell."""
    IDLE = "idle"
    WAITING = "waiting"
    """Something is to be done, and there is no link yet."""
    LINKED = "linked"
    STALLED = "stalled"
    """Linked; what is to be done depends on answers that are still to come."""
    CANCELLING = "cancelling"
    """Here only to cancel what another session does."""
    CLOSED = "closed"


# Looking a member up in its class costs more than all else that is done with it here.
_IDLE, _WAITING = ClientState.IDLE, ClientState.WAITING
_LINKED, _STALLED = ClientState.LINKED, ClientState.STALLED
_HAS_LINK = (_LINKED, _STALLED)

# While a client waits it may send this much before it is no longer read from.
MAX_HELD_BYTES = 64 * 1024

SHUTTING_DOWN = m.error_response(
    "57P01", "terminating connection due to administrator command", severity="FATAL"
)
_CANCELLED = ConnectFailure("57014", "canceling statement due to user request", False)

_EXTENDED = frozenset((m.PARSE, m.BIND, m.DESCRIBE, m.EXECUTE, m.CLOSE))
_BEGINS_BATCH = _EXTENDED | {m.QUERY}
_NEEDS_LINK = _BEGINS_BATCH | {m.FUNCTION_CALL}
# Sent late after a failed COPY, PostgreSQL ignores these, and Flush when there is nothing.
_IGNORED_UNLINKED = frozenset((CONTINUATION, m.COPY_DATA, m.COPY_DONE, m.COPY_FAIL, m.FLUSH))
_FORGETS = re.compile(rb"\b(?:deallocate|discard)\b", re.IGNORECASE)
_FORGETS_ALL = re.compile(
    rb"\s*(?:deallocate\s+(?:prepare\s+)?all|discard\s+all)\s*;?\s*\Z", re.IGNORECASE
)
_DEALLOCATE = re.compile(
    rb"""\s*deallocate\s+(?:prepare\s+)?(?:"((?:[^"]|"")+)"|(?!all\b)([\w$]+))\s*;?\s*\Z""",
    re.IGNORECASE,
)
# In a failed transaction these are still obeyed.
_ENDS_TRANSACTION = (b"rollback", b"commit", b"end", b"abort")


class ClientSession:
    """The state of one client connection. ``handle`` belongs to the network layer."""

    def __init__(self, core: Core, now: float) -> None:
        self.core = core
        self.pool = core.pool
        self.effects = core.effects
        self.state = ClientState.STARTUP
        self.since = now
        self.active_at = now
        """When something last came from it, or for it."""
        self.handle: Any = None
        self.startup: ClientStartup | None = ClientStartup(core.doorkeeper)
        self.process_id = 0
        self.secret_key = b""
        self.framer = client_framer()
        self.origin: OriginSession | None = None
        self.waiting_since = now
        self.settings: Settings = ()
        self.reported: Mapping[bytes, bytes] = {}
        self.application_name = b""
        self.statements: dict[bytes, Statement] = {}
        self.unnamed: Statement | None = None
        self._passing = False
        """The message that is being received in parts goes to the origin."""
        self._forgets = False
        """What was bound last is DEALLOCATE ALL or DISCARD ALL."""
        self._failing = False
        """Everything up to the next Sync is ignored, as after an error."""
        self._stalled: tuple[Chunk, int] | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._paused = False

    def __repr__(self) -> str:
        return f"<ClientSession {self.state.value} pid={self.process_id}>"

    @property
    def is_stalled(self) -> bool:
        return self.state is _STALLED

    @property
    def sends_partial_message(self) -> bool:
        """The rest of a message whose beginning is at the origin is still to come."""
        return self._passing

    # What the network layer tells.

    def receive(self, data: bytes, now: float) -> None:
        """Take what the client sent."""
        try:
            if self.state is _LINKED or self.state is _IDLE:
                chunk = self.framer.feed(data)
                if chunk[1]:
                    self._process(chunk, 0, now)
                self._check_framing()
            elif self.state is ClientState.STARTUP:
                self._start(data, now)
            elif self.state is not ClientState.CLOSED:
                self._hold(data)
        except Refused as refusal:
            self.send(refusal.response)
            self.close(now)
        except ClientProtocolError as error:
            self.send(m.error_response(error.sqlstate, str(error), severity="FATAL"))
            self.close(now)

    def lost(self, now: float, *, terminated: bool = False) -> None:
        """The connection is gone; ``terminated`` if the client said so."""
        if self.state is ClientState.CLOSED:
            return
        self._leave(now, vanished=not terminated)
        self.core.forget(self)

    def close(self, now: float) -> None:
        """End the session from our side, after what is already written."""
        self.effects.append(CloseClient(self))
        self.lost(now, terminated=True)

    def shut_down(self, now: float) -> None:
        """The proxy ends: refuse what is not begun, let a transaction finish."""
        if self.state not in _HAS_LINK:
            self.send(SHUTTING_DOWN)
            self.close(now)

    def cancel(self, now: float) -> OriginSession | None:
        """End its waiting, or give the origin connection at which it has something to cancel."""
        if self.state is _WAITING:
            self.pool.leave(self)
            if self.origin is not None:
                self.origin.abandon(now, vanished=True)
                self.origin = None
            self.link_failed(_CANCELLED, now)
        elif self.state in _HAS_LINK and self.origin is not None and self.origin.expected:
            return self.origin
        return None

    def _leave(self, now: float, *, vanished: bool) -> None:
        origin, self.origin = self.origin, None
        self.state = ClientState.CLOSED
        self.pool.leave(self)
        if origin is not None:
            origin.abandon(now, vanished=vanished)

    # Start-up.

    def _start(self, data: bytes, now: float) -> None:
        startup = self.startup
        assert startup is not None
        answer = startup.receive(data)
        if answer:
            self.send(answer)
        if startup.cancel is not None:
            self.startup = None
            self.state = ClientState.CANCELLING
            self.core.cancel(self, startup.cancel, now)
        elif startup.done:
            assert startup.startup is not None
            self.startup = None
            self.core.admit(self, startup.minor)
            parameters = startup.startup.parameters
            self.settings = startup_settings(parameters)
            self.application_name = application_name(parameters)
            self._held.append(startup.rest)
            if self.core.draining:
                self.shut_down(now)
                return
            profile = self.pool.profile(self.settings)
            if profile is not None:
                self._welcome(profile, now)
            else:
                self.state = ClientState.JOINING
                self.pool.acquire(self, now)

    def _welcome(self, profile: Profile, now: float) -> None:
        self.settings = profile.settings
        self.reported = profile.reported
        statuses = [m.parameter_status(*item) for item in profile.reported.items()]
        self.send(
            b"".join(statuses)
            + m.parameter_status(b"application_name", self.application_name)
            + m.backend_key_data(self.process_id, self.secret_key)
            + m.ready_for_query(m.IDLE)
        )
        self.state = _IDLE
        self._resume(now)

    # The link.

    def link(self, origin: OriginSession, now: float, *, ready: bool) -> None:
        """The pool lends ``origin``; ``ready`` once the settings are in force there."""
        self.origin = origin
        if not ready:
            if self.state is _IDLE:
                self.state = _WAITING
            return
        if self.state is ClientState.JOINING:
            profile = self.pool.learn(self.settings, origin)
            self.origin = None
            origin.client = None
            self._welcome(profile, now)
            self.pool.offer(origin, now)
            return
        waited = self.state is _WAITING
        self.state = _LINKED
        if origin.reported is not self.reported:
            self._report(origin.reported)
        if waited:
            self._resume(now)

    def unlinked(self, now: float) -> None:
        """The transaction is over."""
        self.origin = None
        self.state = _IDLE
        if self.core.draining:
            self.shut_down(now)

    def answered(self, now: float) -> None:
        """Answers came: what depended on them can go on."""
        if self.origin is not None and not self.origin.blocks():
            self.state = _LINKED
            self._resume(now)

    def link_failed(self, failure: ConnectFailure, now: float) -> None:
        """There will be no link: an error in place of what the client asked for."""
        self.origin = None
        if self.state is ClientState.JOINING:
            self.send(failure.response("FATAL"))
            self.close(now)
            return
        self.send(failure.response("ERROR"))
        self.state = _IDLE
        self._failing = True
        self._resume(now)

    def origin_lost(self, failure: ConnectFailure | None, now: float) -> None:
        """The linked origin connection is gone.

        ``None``: the client has heard the reason already, or is in the middle of a message.
        """
        self.origin = None
        if self.state in (_WAITING, ClientState.JOINING):
            self.link_failed(failure or LOST, now)
            return
        if failure is not None:
            self.send(failure.response("FATAL"))
        self.close(now)

    def _report(self, reported: Mapping[bytes, bytes]) -> None:
        """Tell the client of values that differ from what it was told."""
        changed = [
            m.parameter_status(name, value)
            for name, value in reported.items()
            if self.reported.get(name) != value
        ]
        self.reported = reported
        if changed:
            self.send(b"".join(changed))

    # Input.

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MAX_HELD_BYTES and not self._paused:
            self._paused = True
            self.effects.append(PauseClient(self))

    def _resume(self, now: float) -> None:
        """Go on with what was held back."""
        if self._paused:
            self._paused = False
            self.effects.append(ResumeClient(self))
        self._held_bytes = 0
        stalled, self._stalled = self._stalled, None
        held, self._held = b"".join(self._held), []
        try:
            if stalled is not None:
                self._process(*stalled, now)
                self._check_framing()
            if held:
                self.receive(held, now)
        except ClientProtocolError as error:
            self.send(m.error_response(error.sqlstate, str(error), severity="FATAL"))
            self.close(now)

    def _check_framing(self) -> None:
        """Raise what is wrong behind the last message, once all before it are done with."""
        if self.framer.failure is not None and self._stalled is None:
            raise self.framer.failure

    def send(self, data: bytes) -> None:
        self.effects.append(SendToClient(self, data))

    def _process(self, chunk: Chunk, first: int, now: float) -> None:
        buffer, messages, end = chunk
        if self.origin is None:
            first = self._process_unlinked(chunk, first, now)
            if first < 0:
                return
        origin = self.origin
        assert origin is not None
        expected = origin.expected
        pieces: list[bytes] = []
        # buffer[start:position] goes to the origin as it is.
        start = position = messages[first][1]
        passed = False
        try:
            for index in range(first, len(messages)):
                kind, position, stop = messages[index]
                replacement: bytes | None = None
                if kind == CONTINUATION:
                    if not self._passing:
                        replacement = b""
                elif origin.skipping and kind != m.SYNC and kind != m.TERMINATE:
                    replacement = b""
                elif kind in _BEGINS_BATCH and not origin.batch_open and origin.blocks():
                    self._stalled = (chunk, index)
                    self.state = _STALLED
                    end = position
                    break
                elif kind == m.QUERY:
                    replacement = self._query(origin, buffer, position, stop)
                elif kind in _EXTENDED:
                    origin.batch_open = True
                    if kind == m.EXECUTE:
                        expected.append(self._execute(origin))
                    elif kind == m.BIND:
                        replacement = self._bind(origin, buffer, position, stop)
                    elif kind == m.PARSE:
                        replacement = self._parse(origin, buffer, position, stop)
                    elif kind == m.DESCRIBE:
                        replacement = self._describe(origin, buffer, position, stop)
                    else:
                        replacement = self._close(origin, buffer, position, stop)
                elif kind == m.SYNC:
                    if not origin.copying_in:
                        origin.batch_open = origin.skipping = False
                        expected.append(e.SYNC)
                elif kind == m.COPY_DONE or kind == m.COPY_FAIL:
                    if origin.copying_in:
                        origin.copying_in = False
                    elif expected:
                        expected.append(e.COPY_END)
                elif kind == m.FUNCTION_CALL:
                    expected.append(e.FUNCTION_CALL)
                    origin.dirty = True
                elif kind == m.TERMINATE:
                    self._flush(origin, pieces, buffer[start:position])
                    self.close(now)
                    return
                elif kind != m.COPY_DATA and kind != m.FLUSH:
                    raise ClientProtocolError(f"invalid frontend message type {kind}")
                if replacement is not None:
                    if start < position:
                        pieces.append(buffer[start:position])
                    pieces.append(replacement)
                    start = stop
                passed = replacement != b""
        except ClientProtocolError:
            # What came before it was fine, and PostgreSQL would have run it.
            self._flush(origin, pieces, buffer[start:position])
            raise
        self._flush(origin, pieces, buffer[start:end])
        if self.state is _LINKED:
            # What is stalled is decided when it goes on.
            self._passing = passed and self.framer.remaining > 0
            if not expected:
                origin.settle(now)

    def _flush(self, origin: OriginSession, pieces: list[bytes], rest: bytes) -> None:
        if pieces:
            pieces.append(rest)
            rest = b"".join(pieces)
        if rest:
            self.effects.append(SendToOrigin(origin, rest))

    def _query(
        self, origin: OriginSession, buffer: bytes, position: int, stop: int
    ) -> bytes | None:
        text = buffer[position + 5 : stop - 1]
        change: Change | None = Unnamed(self, origin) if origin.batch_open else None
        # PostgreSQL, "Simple Query": it ends the unnamed statement.
        self.unnamed = origin.unnamed = None
        origin.batch_open = False
        if not changes_session(text):
            origin.expected.append(Expected(m.QUERY, change=change) if change else e.QUERY)
            return None
        origin.dirty = True
        origin.spent = origin.spent or outlives_discard(text)
        forgets = _FORGETS.search(text)
        name = _deallocated_name(text) if forgets else b""
        if name not in self.statements:
            if forgets:
                all_of_them = _FORGETS_ALL.match(text)
                change = Changes(change, ForgetAll(self, origin) if all_of_them else MayForget())
            origin.expected.append(Expected(m.QUERY, change=change) if change else e.QUERY)
            return None
        # DEALLOCATE of a statement that only the client knows by this name: the origin says what
        # there is to say if it has one of that name.
        change = Changes(change, ClientClose(self, name, self.statements.pop(name)))
        origin.expected.extend((e.SKIPPED_CLOSE, e.SKIPPED_PARSE))
        origin.expected.append(Expected(m.QUERY, change=change))
        return m.close_statement(name) + m.parse(name, b"") + buffer[position:stop]

    def _process_unlinked(self, chunk: Chunk, first: int, now: float) -> int:
        """Handle what needs no link; the index of the first message that has one now, or -1."""
        self._passing = False
        buffer, messages, _ = chunk
        for index in range(first, len(messages)):
            kind, position, stop = messages[index]
            if self._failing:
                if kind in (m.SYNC, m.QUERY, m.FUNCTION_CALL):
                    self._failing = False
                    self.send(m.ready_for_query(m.IDLE))
                    continue
                if kind != m.TERMINATE:
                    continue
            if kind in _NEEDS_LINK:
                if self.core.draining:
                    self.shut_down(now)
                    return -1
                if self._answers_unlinked(buffer, kind, position, stop):
                    continue
                if self.pool.acquire(self, now):
                    return index
                if self.state is _IDLE:
                    self.state = _WAITING
                if self.state is _WAITING:
                    self._stalled = (chunk, index)
                return -1
            if kind == m.SYNC:
                self.send(m.ready_for_query(m.IDLE))
            elif kind == m.TERMINATE:
                self.close(now)
                return -1
            elif kind not in _IGNORED_UNLINKED:
                raise ClientProtocolError(f"invalid frontend message type {kind}")
        return -1

    # Prepared statements.

    def _answers_unlinked(self, buffer: bytes, kind: int, position: int, stop: int) -> bool:
        """Answer what needs no origin: the Parse of a known statement, and any Close."""
        if kind == m.CLOSE:
            is_portal, name = _object(buffer, position, stop)
            if not is_portal and not name:
                self.unnamed = None
            elif not is_portal:
                self.statements.pop(name, None)
            self.send(m.CLOSE_COMPLETE_MESSAGE)
            return True
        if kind != m.PARSE:
            return False
        name, text, types = _parse_fields(buffer, position, stop)
        if not name or name in self.statements:
            return False
        statement = self.pool.registry.get(text, types, self.settings)
        if statement.is_known:
            self.statements[name] = statement
            self.send(m.PARSE_COMPLETE_MESSAGE)
        return statement.is_known

    def _parse(
        self, origin: OriginSession, buffer: bytes, position: int, stop: int
    ) -> bytes | None:
        name, text, types = _parse_fields(buffer, position, stop)
        statement = self.pool.registry.get(text, types, self.settings)
        if not name:
            origin.expected.append(Expected(m.PARSE, change=Unnamed(self, origin)))
            self.unnamed = origin.unnamed = statement
            return None
        if name in self.statements:
            return self._parse_again(origin, name, buffer[position:stop])
        self.statements[name] = statement
        if statement not in origin.statements:
            return origin.prepare(statement, self, name)
        if (origin.status == m.FAILED_TRANSACTION and not _ends_transaction(text)) or any(
            entry.kind in e.ENDS_IN_READY for entry in origin.expected
        ):
            # Whether the transaction is a failed one (25P02) only the origin can say.
            del origin.statements[statement]
            origin.expected.append(Expected(m.CLOSE, SKIP, change=Eviction(statement)))
            again = origin.prepare(statement, self, name)
            return m.close_statement(statement.server_name) + again
        origin.statements.move_to_end(statement)
        self._fake(origin, m.PARSE, m.PARSE_COMPLETE_MESSAGE, ClientParse(self, name))
        return b""

    def _parse_again(self, origin: OriginSession, name: bytes, message: bytes) -> bytes:
        """A name that exists: the origin itself raises the error, in its place and in its words.

        An empty statement of that name is made there first, and removed when the link ends.
        """
        origin.dirty = True
        origin.expected.append(e.SKIPPED_CLOSE)
        origin.expected.append(e.SKIPPED_PARSE)
        origin.expected.append(e.PARSE)
        return m.close_statement(name) + m.parse(name, b"") + message

    def _bind(self, origin: OriginSession, buffer: bytes, position: int, stop: int) -> bytes | None:
        statement = self.unnamed
        if (
            statement is not None
            and statement is origin.unnamed
            and not statement.changes_session
            and buffer.startswith(b"\x00\x00", position + 5)
            and stop > position + 6
        ):
            # What most drivers send for every statement, without the work for the others.
            self._forgets = False
            origin.expected.append(e.BIND)
            return None
        portal_end = buffer.find(b"\x00", position + 5, stop)
        name_end = buffer.find(b"\x00", portal_end + 1, stop) if portal_end >= 0 else -1
        if name_end < 0:
            raise ClientProtocolError("invalid message format: Bind")
        name = buffer[portal_end + 1 : name_end]
        before = self._have(origin, name)
        origin.expected.append(e.BIND)
        statement = self.statements.get(name) if name else self.unnamed
        self._forgets = False
        if statement is not None and statement.changes_session:
            origin.dirty = True
            origin.spent = origin.spent or statement.outlives_discard
            self._forgets = _FORGETS_ALL.match(statement.text) is not None
        if not name or statement is None:
            return before + buffer[position:stop] if before else None
        body_length = stop - position - 1 + len(statement.server_name) - len(name)
        if body_length > LARGEST_MESSAGE:
            raise ClientProtocolError("invalid message length: Bind")
        return b"".join(
            (
                before,
                m.HEADER.pack(m.BIND, body_length),
                buffer[position + 5 : portal_end + 1],
                statement.server_name,
                buffer[name_end:stop],
            )
        )

    def _execute(self, origin: OriginSession) -> Expected:
        if not self._forgets:
            return e.EXECUTE
        self._forgets = False
        return Expected(m.EXECUTE, change=ForgetAll(self, origin))

    def _describe(
        self, origin: OriginSession, buffer: bytes, position: int, stop: int
    ) -> bytes | None:
        is_portal, name = _object(buffer, position, stop)
        if is_portal:
            origin.expected.append(e.DESCRIBE)
            return None
        before = self._have(origin, name)
        origin.expected.append(e.DESCRIBE)
        statement = self.statements.get(name)
        if not name or statement is None:
            return before + buffer[position:stop] if before else None
        return before + m.message(m.DESCRIBE, b"S" + statement.server_name + b"\x00")

    def _have(self, origin: OriginSession, name: bytes) -> bytes:
        """What to send so that the statement the client calls ``name`` is at the origin.

        Nothing for a name that the client does not have: no statement of that name is there, so
        the origin raises the error (26000) that is due.
        """
        if not name:
            if origin.unnamed is self.unnamed:
                return b""
            return origin.prepare_unnamed(self.unnamed)
        statement = self.statements.get(name)
        if statement is None:
            return b""
        if statement in origin.statements:
            origin.statements.move_to_end(statement)
            return b""
        return origin.prepare(statement, None, b"")

    def _close(
        self, origin: OriginSession, buffer: bytes, position: int, stop: int
    ) -> bytes | None:
        is_portal, name = _object(buffer, position, stop)
        if is_portal:
            origin.expected.append(e.CLOSE)
            return None
        if not name:
            origin.expected.append(Expected(m.CLOSE, change=Unnamed(self, origin)))
            self.unnamed = origin.unnamed = None
            return None
        statement = self.statements.pop(name, None)
        if statement is None:
            origin.expected.append(e.CLOSE)
            return None
        self._fake(origin, m.CLOSE, m.CLOSE_COMPLETE_MESSAGE, ClientClose(self, name, statement))
        return b""

    def _fake(self, origin: OriginSession, kind: int, data: bytes, change: Change) -> None:
        """Answer in the origin's place, when it is that answer's turn."""
        if origin.expected:
            origin.expected.append(Expected(kind, FAKE, data=data, change=change))
        else:
            self.send(data)


def _parse_fields(buffer: bytes, position: int, stop: int) -> tuple[bytes, bytes, bytes]:
    """Of a Parse: the name, the text, and the parameter types as they stand there."""
    name_end = buffer.find(b"\x00", position + 5, stop)
    text_end = buffer.find(b"\x00", name_end + 1, stop) if name_end >= 0 else -1
    types = buffer[text_end + 1 : stop]
    if text_end < 0 or len(types) < 2 or len(types) != 2 + 4 * m.INT16.unpack_from(types)[0]:
        raise ClientProtocolError("invalid message format: Parse")
    return buffer[position + 5 : name_end], buffer[name_end + 1 : text_end], types


def _object(buffer: bytes, position: int, stop: int) -> tuple[bool, bytes]:
    """Of a Describe or Close: whether it means a portal, and the name."""
    name_end = buffer.find(b"\x00", position + 6, stop)
    what = buffer[position + 5 : position + 6]
    if name_end < 0 or what not in (b"P", b"S"):
        raise ClientProtocolError(f"invalid message format: {chr(buffer[position])!r}")
    return what == b"P", buffer[position + 6 : name_end]


def _deallocated_name(text: bytes) -> bytes:
    """The name in ``DEALLOCATE [PREPARE] name``; nothing for any other text."""
    found = _DEALLOCATE.match(text)
    if found is None:
        return b""
    quoted, plain = found.groups()
    return quoted.replace(b'""', b'"') if quoted is not None else plain.lower()


def _ends_transaction(text: bytes) -> bool:
    return text.lstrip().lower().startswith(_ENDS_TRANSACTION)
