"""One client connection: from its first byte to its end."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ClientProtocolError
from ...protocol import messages as m
from ...protocol.framing import CONTINUATION, Chunk, client_framer
from ...sql.facts import (
    ANYTHING,
    COMMIT,
    CURSORS,
    SETTINGS,
    Facts,
    custom_names,
    facts_of,
    reset_names,
)
from ...version import __version__
from ..cache.cache import EVERYTHING, Cache
from ..cache.store import MAX_WORDING_BYTES, Entry
from . import client_cache, client_statements, client_transactions, fast_path, reports
from . import expected as e
from .client_startup import CONSOLE, ClientStartup, Refused
from .effects import CloseClient, PauseClient, ResumeClient, SendToClient, SendToOrigin
from .expected import SKIP, Expected
from .fill import Flight
from .origin_startup import ConnectFailure
from .own_statements import ends_itself, signalled, substitute
from .pool import LOST
from .read_back import SEQUENCES, UNREADABLE, reasons
from .reports import MARKER
from .request_fields import (
    bound_name,
    malformed,
    names_database,
    object_name,
    parse_fields,
    text_of,
)
from .session_variables import (
    Profile,
    Settings,
    after_transaction,
    application_name,
    asks_for_reports,
    startup_settings,
)
from .statements import (
    Change,
    LazyBegin,
    Statement,
    Unnamed,
)
from .states import ClientState

if TYPE_CHECKING:
    from .core import Conversation, Core
    from .origin_session import OriginSession


logger = logging.getLogger(__name__)


# Looking a member up in its class costs more than all else that is done with it here.
_IDLE, _WAITING = ClientState.IDLE, ClientState.WAITING
_LINKED, _STALLED = ClientState.LINKED, ClientState.STALLED
_HAS_LINK = (_LINKED, _STALLED)
_OUTSIDE = m.IDLE

# While a client waits it may send this much before it is no longer read from.
MAX_HELD_BYTES = 64 * 1024
SHUTTING_DOWN = m.error_response(
    "57P01", "terminating connection due to administrator command", severity="FATAL"
)
# What drivers look for at start-up.
_NONE: Mapping[int, int] = {}
_CONSOLE_REPORTED = {
    b"client_encoding": b"UTF8",
    b"DateStyle": b"ISO, MDY",
    b"integer_datetimes": b"on",
    b"server_encoding": b"UTF8",
    b"server_version": __version__.encode(),
    b"standard_conforming_strings": b"on",
}
_CANCELLED = ConnectFailure("57014", "canceling statement due to user request", False)

_EXTENDED = frozenset((m.PARSE, m.BIND, m.DESCRIBE, m.EXECUTE, m.CLOSE))
_BEGINS_BATCH = _EXTENDED | {m.QUERY}
_NEEDS_LINK = _BEGINS_BATCH | {m.FUNCTION_CALL}
# Sent late after a failed COPY, PostgreSQL ignores these, and Flush when there is nothing.
_IGNORED_UNLINKED = frozenset((CONTINUATION, m.COPY_DATA, m.COPY_DONE, m.COPY_FAIL, m.FLUSH))
_RECALLS = re.compile(rb"currval|lastval", re.IGNORECASE)
# What is known of a FunctionCall.
_CALLS = Facts(traces=ANYTHING, takes_locks=True, alters=True)
_ABORTED = m.error_response(
    "25P02", "current transaction is aborted, commands ignored until end of transaction block"
)


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
        self.console: Conversation | None = None
        self.process_id = 0
        self.secret_key = b""
        self.framer = client_framer()
        self.origin: OriginSession | None = None
        self.waits_for = ""
        """Why it has no link yet, or must not use it; nothing while it need not wait."""
        self.waiting_since = now
        self.wants_reports = False
        """It has asked to be told of its waits and pins."""
        self.untold: dict[bytes, bytes] = {}
        """What it is to be told where no message is cut by it."""
        self.initial: Settings = ()
        """What it asked for at start-up, and RESET brings back."""
        self.settings: Settings = ()
        self.custom_names: set[bytes] = set()
        """Settings that no module defines, and that it may have set."""
        self.reported: Mapping[bytes, bytes] = {}
        self.application_name = b""
        self.status = m.IDLE
        """Of the transaction, as the client knows it, while there is no link."""
        self.begin: Statement | None = None
        """What began the transaction and is still to be sent."""
        self.pinned = 0
        """What keeps the link, as flags of :mod:`.read_back`."""
        self.reads_back = False
        """What the last transaction left is being asked for."""
        self.wanted: OriginSession | None = None
        """The only origin connection of use to it."""
        self.held_back_by = 0
        self.held_back_by_others: Mapping[int, int] = _NONE
        self.statements: dict[bytes, Statement] = {}
        self.unnamed: Statement | None = None
        self.unnamed_parse: Expected | None = None
        """What is expected of each Parse of that on the fast path."""
        self.unnamed_generation = -1
        """Of the catalogue, when it prepared that: it may have been told its columns since."""
        self.described: dict[bytes, bytes] = {}
        """What it was told of its named statements' parameters and columns."""
        self.unnamed_description: bytes | None = None
        """The same of the unnamed one, while there is one."""
        self.parsed_at: dict[bytes, float] = {}
        """When it prepared those that were there already."""
        self.may_end_early = False
        self._lost_link: ConnectFailure | None = None
        """Why the transaction is gone, until the client has heard."""
        self.ends_with_link = False
        """It has asked for the end of the origin's process."""
        self._ends_now = False
        """It has asked for its own end."""
        self.sequence_origin: OriginSession | None = None
        self.cache: Cache | None = None
        """What its reads may be answered from, while it is on."""
        self.looked_up = False
        """The message that is next was looked for in the cache already."""
        self.miss: client_cache.Miss | None = None
        """The read that goes to the origin next, and whose answer may be kept."""
        self.flight: Flight | None = None
        """Its request, if others may wait for the answer as well."""
        self.joins: Flight | None = None
        """Another's request, whose answer it waits for."""
        self.has_joined = False
        """It has waited for another's answer to the request that is next."""
        self.reads_committed_only = False
        """In its transaction each statement has a snapshot of its own."""
        self.default_isolation_decides = False
        """If so, because that is the database's default."""
        self.reads_only = False
        """Its transaction began with READ ONLY."""
        self.heard: Entry | None = None
        """What its transaction was answered last from the cache."""
        self.heard_at = 0.0
        """When what its transaction was answered came from the origin."""
        self.link_began = self._pinned_since = 0.0
        self._unreadable = False
        self._resets: set[bytes] = set()
        """What the current batch resets."""
        self.deallocated = b""
        """What was bound last is DEALLOCATE of this statement of a driver's."""
        self.incomplete: tuple[Chunk, int] | None = None
        """The beginning of a batch that can be answered as a whole only."""
        self._sync_due = False
        """A Sync of ours follows the Query that is being received."""
        self._passing = False
        """The message that is being received in parts goes to the origin."""
        self.forgets = False
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
            framer = self.framer
            if self.state is _IDLE and not (framer.remaining or framer.needed or self._failing):
                if self.cache is None:
                    if self.status == _OUTSIDE and fast_path.request(self, data, now):
                        return
                elif (
                    len(data) <= MAX_WORDING_BYTES
                    and self._lost_link is None
                    and self.incomplete is None
                    and client_cache.exact(self, data, now)
                ):
                    return
            if self.state is _LINKED or self.state is _IDLE:
                chunk = self.framer.feed(data)
                if chunk[1]:
                    if self.incomplete is not None:
                        chunk = self._completed(chunk)
                    self._process(chunk, 0, now)
                self._check_framing()
            elif self.state is ClientState.STARTUP:
                self._start(data, now)
            elif self.state is ClientState.CONSOLE:
                self._consult(data, now)
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
        if self.state not in _HAS_LINK or (self.origin is not None and self.origin.is_at_rest):
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
        if self in self.pool.held_back and self.origin is not None:
            self.pool.leave(self)
            if self.origin.is_at_rest:
                self.origin.abandon(now, vanished=False)
                self._link_ended(now)
                self.link_failed(_CANCELLED, now)
            else:
                # It goes ahead, so that the origin has something to cancel.
                self.answered(now)
        if self.state in _HAS_LINK and self.origin is not None and self.origin.expected:
            return self.origin
        return None

    def _leave(self, now: float, *, vanished: bool) -> None:
        origin, has_link = self.origin, self.state in _HAS_LINK
        self.pool.leave(self)
        self.state = ClientState.CLOSED
        self.joins = None
        client_cache.land(self, now)
        if origin is not None:
            origin.abandon(now, vanished=vanished)
        self._link_ended(now, has_link)
        self.pinned = 0
        # It is told nothing any more.
        self.wants_reports = False
        reports.has_waited(self, now)

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
            if self.core.draining:
                self.shut_down(now)
                return
            if startup.database == CONSOLE and self.core.open_console is not None:
                self.console = self.core.open_console(self.core)
                self.state = ClientState.CONSOLE
                self._greet(_CONSOLE_REPORTED)
                self._consult(startup.rest, now)
                return
            parameters = startup.startup.parameters
            self.settings = startup_settings(parameters)
            self.application_name = application_name(parameters)
            self.core.counters.clients += 1
            self.wants_reports = asks_for_reports(parameters)
            self.pool = self.core.pool_of(startup.database)
            self.cache = self.pool.serving_cache
            self._held.append(startup.rest)
            profile = self.pool.profile(self.settings)
            if profile is not None:
                self._welcome(profile, now)
            else:
                self.state = ClientState.JOINING
                self.pool.acquire(self, now)

    def _welcome(self, profile: Profile, now: float) -> None:
        self.settings = self.initial = profile.settings
        self.reported = profile.reported
        self._greet(profile.reported)
        self.state = _IDLE
        self._resume(now)

    def _greet(self, reported: Mapping[bytes, bytes]) -> None:
        statuses = [m.parameter_status(*item) for item in reported.items()]
        if self.wants_reports and self.console is None:
            statuses.append(reports.cache_is_off(self))
        self.send(
            b"".join(statuses)
            + m.parameter_status(b"application_name", self.application_name)
            + MARKER
            + m.backend_key_data(self.process_id, self.secret_key)
            + m.ready_for_query(m.IDLE)
        )

    # The console.

    def _consult(self, data: bytes, now: float) -> None:
        """Answer without any origin."""
        assert self.console is not None
        buffer, messages, _ = self.framer.feed(data)
        self.console.waiting.extend(
            (kind, buffer[position + 5 : stop]) for kind, position, stop in messages
        )
        self._go_on_consulting(now)
        self._check_framing()

    def _go_on_consulting(self, now: float) -> None:
        assert self.console is not None
        while self.console.waiting and not self.console.asks():
            kind, body = self.console.waiting.popleft()
            if kind == m.TERMINATE:
                self.close(now)
                return
            if answer := self.console.answer(kind, body):
                self.send(answer)
            if question := self.console.asks():
                self.core.ask_others(self, question)

    def console_answered(self, answers: list[Any], now: float) -> None:
        """The other workers' parts of the answer are there."""
        if self.state is ClientState.CONSOLE:
            assert self.console is not None
            self.send(self.console.whole_answer(answers))
            self._go_on_consulting(now)

    # The link.

    def link(self, origin: OriginSession, now: float, *, ready: bool) -> None:
        """The pool lends ``origin``; ``ready`` once the settings are in force there."""
        self.origin = origin
        if not ready:
            if self.state is _IDLE:
                self.state = _WAITING
            return
        if self.state is ClientState.JOINING:
            reports.has_waited(self, now)
            profile = self.pool.learn(self.settings, origin)
            self.origin = None
            origin.client = None
            self._welcome(profile, now)
            self.pool.offer(origin, now)
            return
        waited = self.state is _WAITING
        self.state = _LINKED
        self.link_began = now
        if waited:
            reports.has_waited(self, now)
        if origin.reported is not self.reported:
            self._report(origin.reported)
        if waited:
            self._resume(now)

    def _link_ended(self, now: float, had_link: bool = True) -> None:
        if had_link:
            counters = self.pool.counters
            counters.links += 1
            counters.link_seconds += now - self.link_began
            if self.pinned:
                counters.pinned_seconds += now - self._pinned_since
        self.origin = None
        self.reads_back = self._unreadable = self.may_end_early = False

    def unlinked(self, now: float) -> None:
        """The transaction is over."""
        self._link_ended(now)
        self.end_transaction()
        self.state = _IDLE
        self.status = m.IDLE
        if self.untold:
            reports.tell(self)
        if self.core.draining:
            self.shut_down(now)

    def end_transaction(self) -> None:
        """What is known of a transaction for the cache is known no more."""
        self.reads_committed_only = self.reads_only = False
        self.heard = None
        self.heard_at = 0.0

    def wait_for_answer(self, flight: Flight, chunk: Chunk, index: int, now: float) -> None:
        """Wait for what another has asked for."""
        reports.begins_to_wait(self, reports.ANOTHERS_ANSWER, now)
        self.joins = flight
        self.state = _WAITING
        self._stalled = (chunk, index)

    def go_on(self, now: float) -> None:
        """What it waited for with another has come, or never will."""
        self.joins = None
        self.has_joined = True
        self.state = _IDLE
        reports.has_waited(self, now)
        self._resume(now)

    def answered(self, now: float) -> None:
        """Answers came: what depended on them can go on."""
        origin = self.origin
        if origin is None or origin.blocks() or origin.describes:
            return
        if self not in self.pool.held_back:
            self.state = _LINKED
            reports.has_waited(self, now)
            self._resume(now)

    def link_failed(self, failure: ConnectFailure, now: float) -> None:
        """There will be no link: an error in place of what the client asked for."""
        self.origin = self.joins = None
        self.looked_up = False
        client_cache.land(self, now)
        reports.has_waited(self, now)
        if self.state is ClientState.JOINING:
            self.send(failure.response("FATAL"))
            self.close(now)
            return
        self.send(failure.response("ERROR"))
        if self.status == m.IN_TRANSACTION:
            self.begin, self.status = None, m.FAILED_TRANSACTION
        self.state = _IDLE
        self._fail_from_stalled()
        self._resume(now)

    def _fail_from_stalled(self) -> None:
        """The message that waited has met an error: nothing more of its batch is done."""
        assert self._stalled is not None
        chunk, index = self._stalled
        if chunk[1][index][0] in (m.QUERY, m.FUNCTION_CALL):
            self.send(m.ready_for_query(self.status))
            self._stalled = (chunk, index + 1)
        else:
            self._failing = True

    def outlives_link(self, origin: OriginSession) -> bool:
        """Whether the session can go on without its origin connection."""
        return not (
            self.pinned
            or self.reads_back
            or origin.unread
            or self.ends_with_link
            or self._passing
            or origin.copying_in
            or any(entry.kind == m.FUNCTION_CALL for entry in origin.expected)
        )

    def origin_lost(
        self, origin: OriginSession, failure: ConnectFailure | None, now: float
    ) -> None:
        """The linked origin connection is gone.

        ``None``: the client has heard the reason already, or is in the middle of a message.
        """
        reports.has_waited(self, now)
        # It may have been held back.
        self.pool.leave(self)
        if self.state in (_WAITING, ClientState.JOINING):
            self.link_failed(failure or LOST, now)
        elif failure is not None and self.outlives_link(origin):
            self._transaction_lost(origin, failure, now)
        else:
            self.dismiss(failure, now)

    def dismiss(self, failure: ConnectFailure | None, now: float) -> None:
        """End the session, for a reason that the client may have heard already."""
        self.origin = None
        if self.state in (_WAITING, ClientState.JOINING):
            self.link_failed(failure or LOST, now)
            return
        if failure is not None:
            self.send(failure.response("FATAL"))
        self.close(now)

    def _transaction_lost(self, origin: OriginSession, failure: ConnectFailure, now: float) -> None:
        """The link broke. An error in place of each answer that is owed, or of the next one."""
        in_block = origin.in_block
        self.status = m.FAILED_TRANSACTION if in_block and not origin.committing else m.IDLE
        owed = [entry for entry in origin.expected if entry.action is not SKIP]
        for entry in reversed(origin.expected):
            if entry.change is not None:
                entry.change.undo(origin, failed=False)
        ends = sum(entry.kind in e.ENDS_IN_READY and entry.data is not e.WITHHELD for entry in owed)
        if not owed and not origin.batch_open and not origin.skipping:
            if in_block:
                self.status, self._lost_link = m.IN_TRANSACTION, failure
        elif not origin.skipping:
            if origin.committing or not (in_block or origin.reads_only):
                failure = _unknown_outcome(failure)
            answer = failure.response("ERROR")
            for _ in range(ends):
                self.send(answer + m.ready_for_query(self.status))
                if self.status == m.FAILED_TRANSACTION:
                    answer = _ABORTED
            if origin.batch_open:
                self.send(answer)
        self._failing = origin.batch_open or origin.skipping
        self._link_ended(now)
        self.end_transaction()
        client_cache.land(self, now)
        self.state = _IDLE
        self._resume(now)

    # What the last transaction left in the session.

    def read_back(self, traces: int, found: int, in_force: Settings | None, now: float) -> None:
        """The origin has answered: its settings, and what of ``traces`` is there."""
        origin = self.origin
        assert origin is not None
        self.reads_back = self._unreadable = False
        if in_force is not None:
            origin.settings = in_force
            self.settings = after_transaction(self.initial, in_force)
        origin.begin_link()
        origin.litter.clear()
        self.pin((self.pinned & ~traces & ~UNREADABLE) | found, now)

    def unreadable(self, traces: int, now: float) -> None:
        """It could not be read back: it may be for a time-out or a cancel meant for another."""
        self.reads_back = False
        origin = self.origin
        if origin is None:
            return
        if self._unreadable:
            self.pin(self.pinned | UNREADABLE, now)
        else:
            origin.traces |= traces
        self._unreadable = not self._unreadable

    @property
    def reads_patiently(self) -> bool:
        """Whether its own statement_timeout must not be in force when its state is read back."""
        return self._unreadable

    def pin(self, pinned: int, now: float) -> None:
        """Keep the link for as long as ``pinned`` is not 0."""
        new = reasons(pinned & ~self.pinned)
        for reason in new:
            self.pool.counters.pins[reason] += 1
            logger.info("session %d keeps its origin connection: %s", self.process_id, reason)
        if pinned and not self.pinned:
            self._pinned_since = now
        elif self.pinned and not pinned:
            self.pool.counters.pinned_seconds += now - self._pinned_since
        self.pinned = pinned
        if new:
            reports.is_pinned(self)

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

    def _completed(self, chunk: Chunk) -> Chunk:
        """What was kept because it was not a whole batch, and what has come since."""
        assert self.incomplete is not None
        (kept, messages, end), index = self.incomplete
        self.incomplete = None
        first = messages[index][1]
        shift = end - first
        old = [(kind, start - first, stop - first) for kind, start, stop in messages[index:]]
        new = [(kind, start + shift, stop + shift) for kind, start, stop in chunk[1]]
        return kept[first:end] + chunk[0], old + new, chunk[2] + shift

    def _check_framing(self) -> None:
        """Raise what is wrong behind the last message, once all before it are done with."""
        closed = self.state is ClientState.CLOSED
        if self.framer.failure is not None and self._stalled is None and not closed:
            raise self.framer.failure

    def send(self, data: bytes) -> None:
        self.effects.append(SendToClient(self, data))

    def _process(self, chunk: Chunk, first: int, now: float) -> None:
        buffer, messages, end = chunk
        self.pool.now = now
        if self.origin is None:
            first = self._process_unlinked(chunk, first, now)
            if first < 0:
                return
        origin = self.origin
        assert origin is not None
        expected = origin.expected
        origin.plain_answer = None
        origin.retry = b""
        pieces: list[bytes] = []
        # buffer[start:position] goes to the origin as it is.
        start = position = messages[first][1]
        passed = False
        # Messages before that one were answered from the cache.
        answered = 0
        try:
            for index in range(first, len(messages)):
                kind, position, stop = messages[index]
                replacement: bytes | None = None
                if (
                    self.cache is not None
                    and index >= answered
                    and kind in _NEEDS_LINK
                    and not origin.batch_open
                    and not origin.skipping
                ):
                    if not expected and not self.looked_up:
                        answered = index + client_cache.answer(self, chunk, index, now)
                    self.looked_up = False
                    if self.miss is not None:
                        client_cache.open_fill(self, origin, now)
                if index < answered:
                    replacement = b""
                elif kind == CONTINUATION:
                    if not self._passing:
                        replacement = b""
                    elif self._sync_due and (index or not self.framer.remaining):
                        self._sync_due = False
                        replacement = buffer[position:stop] + m.SYNC_MESSAGE
                elif origin.skipping and kind != m.SYNC and kind != m.TERMINATE:
                    replacement = b""
                elif (
                    kind in _NEEDS_LINK
                    and not origin.batch_open
                    and (
                        origin.blocks()
                        or (
                            (self.pool.ending or self.pool.siblings is not None)
                            and client_transactions.is_held_back(self, buffer, kind, position, stop)
                        )
                    )
                ):
                    # What it will be when it goes on is not known.
                    origin.fill = None
                    self._stalled = (chunk, index)
                    self.state = _STALLED
                    end = position
                    break
                elif kind == m.QUERY:
                    if (
                        self.may_end_early
                        and index + 1 == len(messages)
                        and client_transactions.ends_early(self, origin, buffer, position, stop)
                    ):
                        self._flush(origin, pieces, buffer[start:position])
                        client_transactions.end_early(self, origin, buffer[position:stop], now)
                        return
                    facts = facts_of(buffer[position + 5 : stop - 1])
                    prologue = b""
                    if self.begin is not None or (
                        (facts.recalls or facts.concerns_us)
                        and not origin.batch_open
                        and origin.status != m.FAILED_TRANSACTION
                    ):
                        text = buffer[position + 5 : stop - 1]
                        prologue = client_transactions.prologue(self, origin, facts, text)
                    replacement = self._query(origin, facts, buffer, position, stop)
                    if prologue:
                        replacement = prologue + (replacement or buffer[position:stop])
                        if expected[-2].change.__class__ is not LazyBegin:
                            replacement += self._sync_after(stop, len(buffer))
                elif kind in _EXTENDED:
                    if not origin.batch_open:
                        origin.batch_open = True
                        if self.begin is not None:
                            text = text_of(buffer, kind, position, stop, self.statements)
                            pieces.append(buffer[start:position])
                            pieces.append(
                                client_transactions.prologue(self, origin, facts_of(text), b"")
                            )
                            if kind not in (m.PARSE, m.BIND):
                                # Our portal must not be there for the client.
                                expected.append(e.SKIPPED_CLOSE)
                                pieces.append(m.close_portal(b""))
                            start = position
                        elif kind == m.BIND and not index and not expected:
                            origin.retry = buffer
                        if self.unnamed_description is not None:
                            # What is there may have other columns than it was told of.
                            origin.unnamed = self.pool.registry.own(b"")
                    if kind == m.EXECUTE:
                        expected.append(client_statements.execute(self, origin))
                    elif kind == m.BIND:
                        if self.described or self.unnamed_description is not None:
                            question = client_statements.unverified(
                                self, origin, buffer, position, stop
                            )
                            if question:
                                origin.counters.round_trips += 1
                                pieces += (buffer[start:position], question)
                                self._flush(origin, pieces, b"")
                                self._stalled = (chunk, index)
                                self.state = _STALLED
                                return
                        replacement = client_statements.bind(self, origin, buffer, position, stop)
                    elif kind == m.PARSE:
                        replacement = client_statements.parse(self, origin, buffer, position, stop)
                    elif kind == m.DESCRIBE:
                        replacement = client_statements.describe(
                            self, origin, buffer, position, stop
                        )
                    else:
                        replacement = client_statements.close_statement(
                            self, origin, buffer, position, stop
                        )
                elif kind == m.SYNC:
                    if stop != position + 5:
                        raise malformed(kind)
                    if not origin.copying_in:
                        if self._resets and not origin.skipping:
                            replacement = self._restore(origin) + m.SYNC_MESSAGE
                        self._resets.clear()
                        origin.batch_open = origin.skipping = False
                        expected.append(e.SYNC)
                elif kind == m.COPY_DONE or kind == m.COPY_FAIL:
                    if origin.copying_in:
                        origin.copying_in = False
                    elif expected:
                        expected.append(e.COPY_END)
                elif kind == m.FUNCTION_CALL:
                    prologue = (
                        client_transactions.prologue(self, origin, _CALLS, b"")
                        if self.begin is not None
                        else b""
                    )
                    expected.append(e.FUNCTION_CALL)
                    origin.traces |= ANYTHING
                    origin.reads_only = False
                    if self.cache is not None:
                        origin.writes(EVERYTHING, now)
                    if prologue:
                        replacement = prologue + buffer[position:stop]
                        replacement += self._sync_after(stop, len(buffer))
                elif kind == m.TERMINATE:
                    self._flush(origin, pieces, buffer[start:position])
                    self._say_goodbye(origin, now)
                    return
                elif kind == m.FLUSH:
                    if stop != position + 5:
                        raise malformed(kind)
                    if expected:
                        origin.counters.round_trips += 1
                elif kind != m.COPY_DATA:
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
        if self._ends_now:
            self.core.signal(self.process_id, now, terminates=True)
            return
        if self.state is _LINKED:
            # What is stalled is decided when it goes on.
            self._passing = passed and self.framer.remaining > 0
            if not expected:
                origin.settle(now)

    def _say_goodbye(self, origin: OriginSession, now: float) -> None:
        """Terminate, perhaps while something runs: nothing of that lasts if it can't commit."""
        in_vain = not origin.committing and (origin.in_block or origin.reads_only)
        self.effects.append(CloseClient(self))
        self.lost(now, terminated=not in_vain)

    def _flush(self, origin: OriginSession, pieces: list[bytes], rest: bytes) -> None:
        if pieces:
            pieces.append(rest)
            rest = b"".join(pieces)
        if rest:
            self.effects.append(SendToOrigin(origin, rest))

    # The beginning and the end of a transaction.

    def _sync_after(self, stop: int, size: int) -> bytes:
        """The Sync that ends a batch of ours with a Query in it, or nothing yet."""
        assert self.origin is not None
        self.origin.expected.append(e.SKIPPED_SYNC)
        if stop <= size:
            return m.SYNC_MESSAGE
        self._sync_due = True
        return b""

    # Queries.

    def _query(
        self, origin: OriginSession, facts: Facts, buffer: bytes, position: int, stop: int
    ) -> bytes | None:
        in_batch = origin.batch_open
        if self.cache is not None:
            whole = stop <= len(buffer)
            client_cache.note_text(self, origin, buffer[position + 5 : stop - 1], whole=whole)
        change: Change | None = Unnamed(self, origin) if in_batch else None
        # PostgreSQL, "Simple Query": it ends the unnamed statement.
        self.unnamed = origin.unnamed = None
        origin.batch_open = False
        if facts.plain:
            if not facts.reads:
                origin.reads_only = False
            origin.expected.append(Expected(m.QUERY, change=change) if change else e.QUERY)
            return None
        text = buffer[position + 5 : stop - 1]
        self.note(origin, facts, text)
        before, change = client_statements.forget(self, origin, text, facts, change)
        if facts.concerns_us:
            message = m.query(self._substitute(text, lambda number: None))
        else:
            message = buffer[position:stop]
        if facts.resets and self.initial and stop <= len(buffer):
            self.note_resets(text)
        if not self._resets or in_batch:
            # Within a batch, its Sync is the time.
            origin.expected.append(Expected(m.QUERY, change=change) if change else e.QUERY)
            return before + message
        # The client hears that it is done when what it started with is in force again.
        origin.expected.append(Expected(m.QUERY, data=e.WITHHELD, change=change))
        message += self._restore(origin) + m.SYNC_MESSAGE
        origin.expected.append(e.SYNC)
        return before + message

    def note_resets(self, text: bytes) -> None:
        names = reset_names(text)
        initial = dict(self.initial)
        self._resets.update(initial if names is None else initial.keys() & names)

    def note(self, origin: OriginSession, facts: Facts, text: bytes) -> None:
        """What is to be remembered of a statement until its transaction is over."""
        if facts.command or facts.commits:
            self.reads_committed_only = False
        if facts.command:
            # What begins or ends at the origin is not what was begun here.
            self.may_end_early = False
            if facts.commits:
                origin.commits()
            return
        if not facts.reads:
            origin.reads_only = False
        if facts.traces:
            origin.traces |= facts.traces
            origin.changes_catalogue = origin.changes_catalogue or facts.takes_locks
            if facts.traces & SETTINGS:
                self.custom_names |= custom_names(text)
        if facts.alters:
            origin.altered = True
        if facts.commits:
            origin.commits()
        if facts.advances:
            origin.sequence_client = self
            self.sequence_origin = origin
            if self.core.settings.pin_sequences and not self.pinned & SEQUENCES:
                self.pin(self.pinned | SEQUENCES, self.pool.now)
        if facts.notifies:
            self.pool.notifies(origin, self)
        if facts.closes:
            origin.traces |= self.pinned & CURSORS
        if facts.takes_locks and names_database(text):
            self.core.leave_other_databases(self.pool, self.pool.now)
            if self.pool.siblings is not None:
                self.pool.tell("leave")

    def _substitute(self, text: bytes, parameters: Callable[[int], bytes | None]) -> bytes:
        """What to send for a text that is about us, after what it asks of us is done."""
        if ends_itself(text):
            self.ends_with_link = True
        text = substitute(text, self)
        self.signal(text, parameters)
        return text

    def signal(self, text: bytes, parameters: Callable[[int], bytes | None]) -> None:
        for process_id, terminates in signalled(text, parameters):
            if process_id == self.process_id and terminates:
                # Once what it has sent is on its way.
                self._ends_now = True
                continue
            self.core.signal(process_id, self.pool.now, terminates=terminates)

    def _restore(self, origin: OriginSession) -> bytes:
        """Put back in force what the session started with, after a RESET. Without a Sync."""
        steps: list[tuple[bytes, bytes | None]] = [
            (name, value) for name, value in self.initial if name in self._resets
        ]
        self._resets.clear()
        return origin.change_settings(steps)

    def _process_unlinked(self, chunk: Chunk, first: int, now: float) -> int:
        """Handle what needs no link; the index of the first message that has one now, or -1."""
        self._passing = False
        buffer, messages, _ = chunk
        index = first
        while index < len(messages):
            kind, position, stop = messages[index]
            index += 1
            if self._failing:
                if kind == m.SYNC:
                    self._failing = False
                    self.send(m.ready_for_query(self.status))
                elif kind == m.TERMINATE:
                    self.close(now)
                    return -1
            elif kind in _NEEDS_LINK:
                if self.core.draining:
                    self.shut_down(now)
                    return -1
                answered = self._answers_unlinked(chunk, index - 1)
                if answered:
                    index += answered - 1
                    continue
                if self.cache is not None and not self.looked_up:
                    answered = client_cache.answer(self, chunk, index - 1, now)
                    if answered < 0:
                        return -1
                    if answered:
                        index += answered - 1
                        continue
                    self.looked_up = True
                if self.sequence_origin is not None:
                    self._want(buffer, kind, position, stop)
                if self.pool.acquire(self, now):
                    return index - 1
                if self.state is _IDLE:
                    self.state = _WAITING
                if self.state is _WAITING:
                    self._stalled = (chunk, index - 1)
                return -1
            elif kind == m.SYNC:
                self.send(m.ready_for_query(self.status))
            elif kind == m.TERMINATE:
                self.close(now)
                return -1
            elif kind not in _IGNORED_UNLINKED:
                raise ClientProtocolError(f"invalid frontend message type {kind}")
        return -1

    def _want(self, buffer: bytes, kind: int, position: int, stop: int) -> None:
        """currval and lastval have an answer on one origin connection alone."""
        if _RECALLS.search(buffer, position, stop):
            text = text_of(buffer, kind, position, stop, self.statements)
            if facts_of(text).recalls:
                self.wanted = self.sequence_origin

    # Prepared statements.

    def _answers_unlinked(self, chunk: Chunk, index: int) -> int:
        """Answer what needs no origin; how many messages that is, or 0.

        BEGIN, and the end of what has not reached the origin; an empty query; the Parse of a known
        statement, any Close; and anything in a transaction that is lost.
        """
        buffer, messages, _ = chunk
        kind, position, stop = messages[index]
        if kind == m.CLOSE:
            is_portal, name = object_name(buffer, position, stop)
            if not is_portal and not name:
                self.unnamed = None
            elif not is_portal:
                self.statements.pop(name, None)
            self.send(m.CLOSE_COMPLETE_MESSAGE)
            return 1
        if self._lost_link is not None:
            return self._tell_of_loss(self._lost_link, buffer, kind, position, stop)
        answered = client_transactions.answers_alone(self, chunk, index)
        if answered:
            return answered
        if self.status == m.FAILED_TRANSACTION:
            self._fail(_ABORTED, kind)
            return 1
        if kind != m.PARSE:
            return 0
        name, text, types = parse_fields(buffer, position, stop)
        if not name or name in self.statements:
            return 0
        statement = self.pool.registry.get(text, types, self.settings)
        if not statement.is_known:
            return 0
        client_statements.name_statement(self, statement, name)
        self.send(m.PARSE_COMPLETE_MESSAGE)
        return 1

    def _tell_of_loss(
        self, failure: ConnectFailure, buffer: bytes, kind: int, position: int, stop: int
    ) -> int:
        """The first answer after the link broke within a transaction that was at rest."""
        self._lost_link = None
        text = text_of(buffer, kind, position, stop, self.statements)
        ends = facts_of(text).command >= COMMIT
        self.status = m.IDLE if ends else m.FAILED_TRANSACTION
        self._fail(failure.response("ERROR"), kind)
        return 1

    def _fail(self, error: bytes, kind: int) -> None:
        """An error in place of the answer; by the extended protocol up to the next Sync."""
        self.send(error)
        if kind in (m.QUERY, m.FUNCTION_CALL):
            self.send(m.ready_for_query(self.status))
        else:
            self._failing = True

    def told(self, name: bytes) -> bytes | None:
        """What it knows of a statement's parameters and columns; ``None``: nothing."""
        return self.described.get(name) if name else self.unnamed_description

    def may_prepare_again(self, chunk: Chunk) -> bool:
        """Whether a batch that starts with Bind can be sent anew without the client's noticing.

        Not if it was told of other columns.
        """
        buffer, messages, _ = chunk
        kinds = bytes(max(kind, 0) for kind, _, _ in messages)
        _, position, stop = messages[0]
        if not re.fullmatch(rb"BD?E+S", kinds) or self._passing:
            return False
        name = bound_name(buffer, position, stop)
        return bool(name) and name in self.statements and name not in self.described

    def prepare_again(self, origin: OriginSession, chunk: Chunk, now: float) -> None:
        """Send the batch once more, with the statement made anew."""
        buffer, messages, _ = chunk
        _, position, stop = messages[0]
        statement = self.statements[bound_name(buffer, position, stop)]
        origin.statements.pop(statement, None)
        origin.expected.append(e.SKIPPED_CLOSE)
        origin.send(m.close_statement(statement.server_name))
        self._process(chunk, 0, now)


def _unknown_outcome(failure: ConnectFailure) -> ConnectFailure:
    """PostgreSQL, "Error Codes": transaction_resolution_unknown."""
    text = "The connection to the origin was lost during COMMIT: its outcome is not known."
    return ConnectFailure("08007", text, True, detail=failure.text)
