"""One origin connection: its start-up, and then whom its answers belong to."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...bindings.connection_string import Address
from ...errors import OriginProtocolError
from ...protocol import messages as m
from ...protocol.framing import CONTINUATION, client_framer, origin_framer
from ...sql.facts import ANYTHING, SETTINGS, UNSEEN
from ..cache.cache import EVERYTHING
from . import client_cache, fast_path, read_back, reports
from . import expected as e
from .effects import AbortOrigin, CancelOrigin, CloseOrigin, SendToClient, SendToOrigin
from .expected import FAKE, FORWARD, SKIP, Expected
from .fill import Fill
from .origin_startup import ConnectFailure, OriginStartup, refused_by_origin
from .read_back import ReadBack
from .session_variables import APPLICATION_NAME, Settings, changes, replay
from .statements import (
    Change,
    Description,
    Eviction,
    LazyBegin,
    NamedParse,
    Prepared,
    Statement,
    Unnamed,
)
from .states import OriginState

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .effects import Requester
    from .pool import Pool


# Looking a member up in its class costs more than all else that is done with it here.
_IDLE, _LINKED = OriginState.IDLE, OriginState.LINKED

# Which request an answer completes. A Query is completed by ReadyForQuery alone.
_COMPLETES = {
    m.PARSE_COMPLETE: m.PARSE,
    m.BIND_COMPLETE: m.BIND,
    m.CLOSE_COMPLETE: m.CLOSE,
    m.ROW_DESCRIPTION: m.DESCRIBE,
    m.NO_DATA: m.DESCRIBE,
    m.COMMAND_COMPLETE: m.EXECUTE,
    m.EMPTY_QUERY_RESPONSE: m.EXECUTE,
    m.PORTAL_SUSPENDED: m.EXECUTE,
}
# Parts of an answer that complete nothing.
_CONTENT = frozenset(
    (
        CONTINUATION,
        m.COPY_BOTH_RESPONSE,
        m.COPY_DONE,
        m.COPY_OUT_RESPONSE,
        m.FUNCTION_CALL_RESPONSE,
        m.NOTICE_RESPONSE,
    )
)
_STATUSES = bytes((m.IDLE, m.IN_TRANSACTION, m.FAILED_TRANSACTION))
_FORGETS_STATEMENTS = (b"DEALLOCATE ALL", b"DISCARD ALL")
_SEQUENCE_HINT = (
    b"HThe sequence was advanced in an earlier transaction, on another connection to the origin."
    b" Use RETURNING, or one transaction; the setting pin_sequences keeps the connection.\x00\x00"
)


class OriginSession:
    """The state of one origin connection. ``handle`` belongs to the network layer."""

    def __init__(self, pool: Pool, now: float) -> None:
        self.pool = pool
        self.counters = pool.counters
        self.state = OriginState.CONNECTING
        self.since = now
        """When it began to connect, became idle, was linked, abandoned or cleaned, or began to
        close."""
        self.retires_at = math.inf
        """When it is too old to be lent again."""
        self.client: ClientSession | None = None
        self.handle: Any = None
        self.startup: OriginStartup | None = None
        self.framer = origin_framer()
        self.expected: deque[Expected] = deque()
        self.status = m.IDLE
        self.process_id = 0
        self.secret_key = b""
        self.reported: Mapping[bytes, bytes] = {}
        self.settings: Settings = ()
        self.statements: OrderedDict[Statement, Prepared] = OrderedDict()
        self.unnamed: Statement | None = None
        self.traces = 0
        """What may have been left in the session since it was last read back."""
        self.unread = False
        """A transaction that may have left something is over, and it was not read back yet."""
        self.altered = False
        """Settings may differ from what is known, until the transaction's end at least."""
        self.reads_only = True
        """Nothing but plain reads was sent since the link began."""
        self.committing = 0
        """ReadyForQuery that are still to come until the last COMMIT that was sent is answered."""
        self.served = 0
        """Process id, as clients know it, of whom it was linked to last."""
        self.changes_catalogue = False
        """DDL was sent, perhaps."""
        self.litter: set[bytes] = set()
        """Names, not of ours, of server statements that no client has."""
        self.reads_may_act = True
        """What looks like a read may be more, or not see what is committed by now."""
        self.inspected_at = float("-inf")
        self.sequence_client: ClientSession | None = None
        """Whose nextval was the last here."""
        self.hints_at_sequences = False
        """An error of currval or lastval wants a word of ours."""
        self.fill: Fill | None = None
        """The answer that is on its way into the cache."""
        self.written: frozenset[int] | None = None
        """Tables (OIDs) that were written to since nothing was left to commit."""
        self.writes_since = 0.0
        self._generation = 0
        self.rolls_back = False
        """All that was sent since the last answer is a ROLLBACK."""
        self.changes_cached_catalogue = False
        """Among that is DDL, perhaps."""
        self.ignored: list[Expected] = []
        """What the origin ignored after the last error."""
        self.begin_failed = False
        """The BEGIN that the client believes done was refused."""
        self.retry = b""
        """A batch that can be sent again if its first statement is out of date."""
        self.plain_answer: fast_path.PlainAnswer | None = None
        """To what :func:`.fast_path.request` sent, while nothing else has happened since."""
        self.dirty = False
        """What is in the session is not known."""
        self.spent = False
        """Something ran whose traces DISCARD ALL does not remove."""
        self.batch_open = False
        """An extended-protocol message was sent and no Sync yet."""
        self.skipping = False
        """The origin ignores everything up to the next Sync."""
        self.copying_in = False
        """The origin reads CopyData, and ignores Sync."""
        self.cancels = 0
        """Cancel requests under way: until they are done they could hit whoever is next."""
        self.failure: bytes | None = None
        """Body of the error that a request of ours met."""
        self.fatal = False
        """The origin has said why it is about to close."""
        self.mid_message = False
        """What was passed on to the client ends within a message."""

    def __repr__(self) -> str:
        return f"<OriginSession {self.state.value} pid={self.process_id}>"

    @property
    def is_at_work(self) -> bool:
        """Whether it owes an answer, or is being opened or closed."""
        return bool(self.expected) or self.state not in (_IDLE, _LINKED)

    # Start-up.

    def connected(self, address: Address, *, encrypted: bool) -> None:
        """The connection is open, TLS done: say who we are."""
        pool = self.pool
        self.startup = OriginStartup(pool.settings, pool.credentials, address, encrypted=encrypted)
        self.pool.move(self, OriginState.STARTING)
        self.send(self.startup.first())

    def _start(self, data: bytes, now: float) -> None:
        startup = self.startup
        assert startup is not None
        buffer, messages, _ = self.framer.feed(data)
        for kind, start, stop in messages:
            if kind == CONTINUATION:
                raise OriginProtocolError("a message in parts during start-up")
            answer = startup.receive(kind, buffer[start + 5 : stop])
            if answer:
                self.send(answer)
            if startup.failure is not None:
                self.pool.connect_failed(self, startup.failure, now)
                return
        if startup.ready:
            self.startup = None
            self.process_id = startup.process_id
            self.secret_key = startup.secret_key
            self.reported = self.pool.intern(startup.reported)
            self.pool.started(self, now)

    @property
    def is_at_rest(self) -> bool:
        """Nothing is owed, and no transaction is open."""
        return self.status == m.IDLE and not (
            self.expected or self.batch_open or self.skipping or self.copying_in
        )

    @property
    def describes(self) -> bool:
        """Whether it is being asked for a statement's columns."""
        return any(entry.action is SKIP and entry.kind == m.DESCRIBE for entry in self.expected)

    @property
    def in_block(self) -> bool:
        """Whether the client is in a transaction block, as far as it knows."""
        return self.status != m.IDLE or any(
            isinstance(entry.change, LazyBegin) for entry in self.expected
        )

    # Sending.

    def send(self, data: bytes) -> None:
        self.pool.effects.append(SendToOrigin(self, data))

    def prepare(self, statement: Statement, client: ClientSession | None, name: bytes) -> bytes:
        """A Parse of ``statement`` under its name here, with a Close before it to make room.

        For the client that asked for it as ``name``, or without a client for a Parse of ours,
        whose answer is skipped.
        """
        parts = []
        if len(self.statements) >= self.pool.settings.limits.prepared_statements:
            oldest, prepared = self.statements.popitem(last=False)
            parts.append(m.close_statement(oldest.server_name))
            self.expected.append(Expected(m.CLOSE, SKIP, change=Eviction(oldest, prepared)))
        self.statements[statement] = Prepared(self.pool.now)
        change: Change = NamedParse(statement, client, name)
        action = FORWARD if client is not None else SKIP
        self.expected.append(Expected(m.PARSE, action, change=change))
        parts.append(m.parse(statement.server_name, statement.text, statement.parameter_types))
        return b"".join(parts)

    def unprepare(self, statement: Statement) -> bytes:
        """Close a server statement of ours, to make it anew."""
        prepared = self.statements.pop(statement)
        self.expected.append(Expected(m.CLOSE, SKIP, change=Eviction(statement, prepared)))
        return m.close_statement(statement.server_name)

    def describe(self, statement: Statement) -> bytes:
        """Ask for the columns of a statement, and for the answer at once; nobody gets it."""
        description = Description(self.statements[statement])
        self.expected.append(Expected(m.DESCRIBE, SKIP, change=description, rows=description.rows))
        message = m.message(m.DESCRIBE, b"S" + statement.server_name + b"\x00")
        return message + m.FLUSH_MESSAGE

    def prepare_unnamed(self, statement: Statement | None) -> bytes:
        """Make ``statement`` the unnamed one here; ``None``: see to it that there is none."""
        if statement is None:
            self.expected.append(Expected(m.CLOSE, SKIP, change=Unnamed(None, self)))
            self.unnamed = None
            return m.close_statement(b"")
        self.expected.append(Expected(m.PARSE, SKIP, change=Unnamed(None, self)))
        self.unnamed = statement
        return m.parse(b"", statement.text, statement.parameter_types)

    def run(
        self,
        statement: Statement,
        change: Change | None = None,
        *values: bytes,
        rows: bytearray | None = None,
    ) -> bytes:
        """Messages that run a statement of ours, without a Sync; nobody gets the answers.

        ``rows`` is what collects them.
        """
        if statement in self.statements:
            self.statements.move_to_end(statement)
            parse = b""
        else:
            parse = self.prepare(statement, None, b"")
        self.expected.append(e.SKIPPED_BIND)
        self.expected.append(Expected(m.EXECUTE, SKIP, change=change, rows=rows))
        if values:
            return parse + m.bind(b"", statement.server_name, values) + m.execute()
        if not statement.run_message:
            statement.run_message = m.bind(b"", statement.server_name, ()) + m.execute()
        return parse + statement.run_message

    def replay(self, settings: Settings) -> None:
        """Put a client's settings in force, in a batch of their own."""
        self.counters.replays += 1
        self.counters.round_trips += 1
        self.failure = None
        messages = self.change_settings(changes(self.settings, settings))
        self.expected.append(e.SKIPPED_SYNC)
        self.send(messages + m.SYNC_MESSAGE)

    def change_settings(self, steps: list[tuple[bytes, bytes | None]]) -> bytes:
        """Messages that take ``steps``, without a Sync; nobody gets the answers."""
        messages, kinds = replay(steps)
        self.expected.extend(e.SKIPPED[kind] for kind in kinds)
        self.unnamed = None
        return messages

    def begin_link(self) -> None:
        """What is noted of a link starts anew."""
        self.fill = None
        self.reads_only = True
        self.altered = self.hints_at_sequences = self.unread = False
        self.committing = 0

    def writes(self, tables: frozenset[int], now: float) -> None:
        """Something is about to be sent that may write to these tables (OIDs)."""
        cache = self.pool.cache
        self.rolls_back = False
        self.plain_answer = None
        if self.written is None:
            self.written, self.writes_since = tables, now
            self._generation = 0 if cache is None else cache.generation
        elif tables is EVERYTHING or self.written is EVERYTHING:
            self.written = EVERYTHING
        else:
            self.written |= tables

    def _outdate(self) -> None:
        """What was written is there, or may be, before anybody is told so."""
        cache = self.pool.cache
        if cache is None:
            return
        if self.written is not None:
            # Triggers, say, may have come since it was looked at what it writes.
            is_known = self._generation == cache.generation and not cache.catalogue_is_doubtful
            cache.advance(self.written if is_known else None)
        if self.changes_cached_catalogue:
            cache.changes_catalogue()
        elif self.written is EVERYTHING:
            cache.may_have_changed()

    def _settle_writes(self) -> None:
        """A request is answered."""
        if self.status == m.IDLE:
            if not self.rolls_back:
                self._outdate()
            if not self.expected:
                # Else what was written may be by a request that is not answered yet.
                self.written = None
                self.changes_cached_catalogue = False
        self.rolls_back = False

    def has_vanished(self) -> None:
        """No answer comes any more, of whatever was sent."""
        cache, self.fill = self.pool.cache, None
        if cache is None:
            return
        if self.written is not None:
            cache.outcome_unknown(self.process_id, self.written)
            self.written = None
        if self.changes_cached_catalogue:
            cache.changes_catalogue()
            self.changes_cached_catalogue = False

    def commits(self) -> None:
        """A COMMIT is about to be sent."""
        self.committing = 1 + sum(entry.kind in e.ENDS_IN_READY for entry in self.expected)

    def read_back(self, client: ClientSession, now: float) -> None:
        """Ask what the transaction has left in the session."""
        traces = (self.traces | client.pinned) & ANYTHING
        if self.traces & UNSEEN:
            self.spent = True
            client.pin(client.pinned | UNSEEN, now)
        if self.changes_catalogue:
            self.changes_catalogue = False
            self.pool.registry.forget()
            self.inspected_at = float("-inf")
        if client.pinned & read_back.UNREADABLE:
            traces = ANYTHING
        self.traces = 0
        client.reads_back = True
        names = set(client.custom_names)
        names.update(name for name, _ in self.settings if b"." in name)
        reading = ReadBack(self, client, traces, names, now)
        statement = self.pool.registry.own(read_back.query(traces))
        patience = b""
        if client.reads_patiently:
            patience = self.run(self.pool.registry.own(read_back.PATIENCE))
        message = self.run(statement, reading, read_back.array(names), rows=reading.rows)
        for name in self.litter:
            self.expected.append(e.SKIPPED_CLOSE)
            message += m.close_statement(name)
        self.counters.background_round_trips += 1
        self.send(patience + message + m.SYNC_MESSAGE)
        self.expected.append(e.SKIPPED_SYNC)

    def clean(self) -> None:
        """End what a client left behind."""
        self.counters.background_round_trips += 1
        self.failure = None
        self.pool.move(self, OriginState.CLEANING)
        if self.status != m.IDLE:
            self.expected.append(e.SKIPPED_QUERY)
            self.send(m.query(b"ROLLBACK"))
        self.expected.append(e.SKIPPED_QUERY)
        self.unnamed = None
        self.statements.clear()
        self.settings = ()
        self.sequence_client = None
        self.traces = 0
        self.litter.clear()
        self.dirty = self.changes_catalogue = False
        self.send(m.query(b"DISCARD ALL"))

    def end_early(self, text: bytes) -> None:
        """The client has been told that its transaction has ended; see that it does."""
        self.counters.background_round_trips += 1
        self.client = None
        self.unnamed = None
        self.expected.append(e.SKIPPED_QUERY)
        self.pool.move(self, OriginState.ENDING)
        self.send(text)

    def cancel(self, requester: Requester | None = None) -> None:
        """Cancel what runs; ``requester`` is the connection that asked for it, if one did."""
        self.cancels += 1
        self.pool.effects.append(CancelOrigin(self, requester))

    def close(self, now: float) -> None:
        """Say goodbye, and wait for the origin to close."""
        self.since = now
        self.pool.move(self, OriginState.CLOSING)
        self.send(m.TERMINATE_MESSAGE)
        self.pool.effects.append(CloseOrigin(self))

    def abort(self, now: float) -> None:
        """Close without a word: the conversation is in a state in which no word fits."""
        self.since = now
        self.pool.move(self, OriginState.CLOSING)
        self.pool.effects.append(AbortOrigin(self))
        self.pool.ended(self, now)

    # The client.

    def abandon(self, now: float, *, vanished: bool) -> None:
        """The client is gone; see the origin connection back to rest, or close it."""
        self.since = now
        client, self.client = self.client, None
        if (
            self.state is OriginState.REPLAYING
            or self.traces
            or self.litter
            or (client is not None and (client.pinned or client.reads_back))
        ):
            self.dirty = True
        if (
            self.copying_in
            or self.batch_open
            or self.skipping
            or (client is not None and client.sends_partial_message)
        ):
            # Without the client's own end, PostgreSQL would not commit this: neither do we.
            if self.expected:
                self.cancel()
            self.abort(now)
            return
        self.since = now
        self.pool.move(self, OriginState.DRAINING)
        if self.expected and vanished:
            self.cancel()
        self.settle(now)

    def settle(self, now: float) -> None:
        """If nothing is owed, nothing sent in part and no cancel under way: go on to what follows.

        Called at each ReadyForQuery, and whenever one of the other reasons to wait is gone.
        """
        if self.expected or self.cancels:
            return
        state = self.state
        if state is _LINKED:
            if self.status == m.IDLE and not self.batch_open and not self.skipping:
                client = self.client
                assert client is not None
                if client.sends_partial_message or client.is_stalled:
                    return
                if self.traces or (self.litter and not client.pinned):
                    self.read_back(client, now)
                    return
                if client.pinned:
                    if client.untold:
                        reports.tell(client)
                    # The next transaction begins its own time.
                    self.since = now
                    return
                self.client = None
                client.unlinked(now)
                self._recycle(now)
        elif state is OriginState.ENDING:
            self.pool.ended(self, now)
            if self.failure is not None or self.status != m.IDLE:
                self.close(now)
            else:
                self._recycle(now)
        elif state is OriginState.DRAINING:
            self._recycle(now)
        elif state is OriginState.CLEANING:
            if self.failure is not None or self.status != m.IDLE:
                self.close(now)
            else:
                self.pool.offer(self, now)
        elif state is OriginState.REPLAYING:
            self.pool.replayed(self, now)

    def _recycle(self, now: float) -> None:
        if self.spent or self.fatal:
            self.close(now)
        elif self.status != m.IDLE or self.dirty:
            self.since = now
            self.clean()
        else:
            self.pool.offer(self, now)

    # Receiving.

    def receive(self, data: bytes, now: float) -> None:
        """Take what the origin sent. ``OriginProtocolError`` if that can't be."""
        if self.plain_answer is not None:
            plain, self.plain_answer = self.plain_answer, None
            if fast_path.answer(self, data, plain, now):
                return
        if self.startup is not None:
            self._start(data, now)
            return
        buffer, messages, end = self.framer.feed(data)
        expected = self.expected
        pieces: list[bytes] = []
        # buffer[start:last] is the client's; what follows, up to the next listed message, belongs
        # to the answer at the head of the queue.
        start = last = 0
        ready = lands = False
        for kind, position, stop in messages:
            head = expected[0] if expected else None
            completes = _COMPLETES.get(kind)
            skip = head is not None and head.action is SKIP
            if skip and head is not None and head.rows is not None:
                head.rows += buffer[last:position]
                if kind == CONTINUATION:
                    head.rows += buffer[:stop]
            if completes is not None:
                if head is None:
                    raise self._unexpected(kind)
                if (
                    kind == m.COMMAND_COMPLETE
                    and not skip
                    and buffer[position + 5 : stop][:1] == b"D"
                ):
                    self._completed(head, buffer[position + 5 : stop])
                if (
                    kind == m.COMMAND_COMPLETE
                    and (self.written is not None or self.changes_cached_catalogue)
                    and buffer.startswith(b"COMMIT", position + 5)
                ):
                    self._outdate()
                if head.kind == completes:
                    if head.change is not None:
                        if head.kind == m.DESCRIBE and head.rows is not None:
                            head.rows += buffer[position:stop]
                        head.change.confirm()
                    expected.popleft()
                    if expected and expected[0].action is FAKE:
                        if skip:
                            pieces.append(buffer[start:last])
                        else:
                            pieces.append(buffer[start:stop])
                        start = last = stop
                        pieces.append(self._fakes())
                        continue
                elif head.kind != m.QUERY:
                    raise self._unexpected(kind)
            elif kind == m.READY_FOR_QUERY:
                if (
                    head is None
                    or head.kind not in e.ENDS_IN_READY
                    or stop != position + 6
                    or buffer[position + 5] not in _STATUSES
                ):
                    raise self._unexpected(kind)
                expected.popleft()
                self.status = buffer[position + 5]
                ready = True
                if self.committing:
                    self.committing -= 1
                if self.traces and self.status == m.IDLE:
                    self.unread = True
                if self.written is not None or self.changes_cached_catalogue:
                    self._settle_writes()
                skip = skip or head.data is e.WITHHELD
                if not skip:
                    self.counters.round_trips += 1
                    if self.client is not None and self.client.cache is not None:
                        self.client.heard_at, self.client.heard = now, None
                        lands = True
                        if self.fill is not None:
                            self.fill.ended = True
                            if any(entry.action is not SKIP for entry in expected):
                                # Its end can't be told from what follows.
                                self.fill = None
            elif kind == m.ERROR_RESPONSE:
                if self.state is _IDLE:
                    # It says why it is about to close; nobody is to be linked to it now.
                    self.abort(now)
                    return
                body = buffer[position + 5 : stop]
                if self._is_the_end(body):
                    pieces.append(buffer[start : last if skip else position])
                    self._end(b"".join(pieces), refused_by_origin(body), now)
                    return
                skip = self._error(head, body, now)
                if self.begin_failed and self.client is not None:
                    # The client was told that it is in a transaction: it must not go on outside.
                    self.status = m.IN_TRANSACTION
                    queries = [entry for entry in self.ignored if entry.kind == m.QUERY]
                    self.expected.extendleft(reversed(queries))
                    self.batch_open = self.batch_open or (self.skipping and not queries)
                    self.skipping = False
                    self._end(b"".join(pieces), refused_by_origin(body), now)
                    return
                if head is not None and head.kind == m.BIND and head.data:
                    # It was made to fail, in place of what the client is told.
                    pieces.append(buffer[start:position])
                    pieces.append(head.data)
                    start = last = stop
                    continue
                if self.hints_at_sequences and not skip and b"C55000\x00" in body:
                    pieces.append(buffer[start:position])
                    pieces.append(m.message(m.ERROR_RESPONSE, body[:-1] + _SEQUENCE_HINT))
                    start = last = stop
                    continue
            elif kind == m.PARAMETER_STATUS:
                skip = self._parameter_status(buffer[position + 5 : stop])
            elif kind == m.COPY_IN_RESPONSE:
                if self.state is not _LINKED:
                    # Nobody is there to send what is to be copied.
                    raise self._unexpected(kind)
                self._copy_in()
            elif kind == m.NOTIFICATION_RESPONSE:
                self.fill = None
                pieces.append(buffer[start : last if skip else position])
                pieces.append(self.pool.translate(buffer[position:stop]))
                start = last = stop
                continue
            elif kind == m.PARAMETER_DESCRIPTION:
                if head is not None and head.rows is not None:
                    head.rows += buffer[position:stop]
            elif kind not in _CONTENT:
                raise self._unexpected(kind)
            if skip:
                if start < last:
                    pieces.append(buffer[start:last])
                start = stop
            elif self.fill is not None and kind != CONTINUATION:
                self.fill.kinds.append(kind)
            last = stop
            if ready and expected and expected[0].action is FAKE:
                pieces.append(buffer[start:last])
                start = last
                pieces.append(self._fakes())
        if expected and expected[0].action is SKIP:
            if expected[0].rows is not None:
                expected[0].rows += buffer[last:end]
            end = min(last, end)
        client = self.client
        if client is not None and self.state is _LINKED:
            if start < end:
                pieces.append(buffer[start:end])
            if pieces:
                data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                self.pool.effects.append(SendToClient(client, data))
                if self.fill is not None:
                    self.fill.add(data)
        self.mid_message = self.framer.remaining > 0
        if self.framer.failure is not None:
            raise self.framer.failure
        if client is not None:
            if ready and client.cache is not None:
                if self.fill is not None and self.fill.ended:
                    client_cache.filled(client, self, self.fill, now)
                if lands and client.flight is not None:
                    client_cache.land(client, now)
            if client.is_stalled:
                client.answered(now)
        elif self.skipping:
            # The Sync that would end this was never sent.
            self.abort(now)
            return
        if ready:
            self.settle(now)

    def blocks(self) -> bool:
        """Whether an earlier batch, complete but not answered, may still change the books."""
        changes = False
        for entry in self.expected:
            changes = changes or entry.change is not None
            if changes and entry.kind in e.ENDS_IN_READY:
                return True
        return False

    def _fakes(self) -> bytes:
        """The answers of ours that are due now."""
        expected = self.expected
        parts = []
        while expected and expected[0].action is FAKE:
            parts.append(expected.popleft().data)
        return b"".join(parts)

    def _completed(self, head: Expected, body: bytes) -> None:
        noted = head.change is not None and head.change.forgets_all
        if m.command_tag(body) in _FORGETS_STATEMENTS and not noted:
            self.statements.clear()
            if self.client is not None:
                self.client.statements.clear()

    def _is_the_end(self, body: bytes) -> bool:
        """Whether the origin closes with this error, and the client can go on elsewhere."""
        if b"VFATAL\x00" not in body and b"VPANIC\x00" not in body:
            return False
        client = self.client
        goes_on = client is not None and not self.is_at_rest and client.outlives_link(self)
        self.fatal = not (goes_on and self.state is _LINKED)
        return not self.fatal

    def _end(self, data: bytes, failure: ConnectFailure, now: float) -> None:
        """The link is over, though the transaction was not; the client gets what came before."""
        client, self.client = self.client, None
        if client is None:
            return
        if data:
            self.pool.effects.append(SendToClient(client, data))
        self.abort(now)
        client.origin_lost(self, failure, now)

    def _error(self, head: Expected | None, body: bytes, now: float) -> bool:
        """Whether the error is ours alone."""
        if head is None:
            # Right behind the end of a transaction: the client's link ends there.
            pinned = self.client is not None and self.client.pinned
            return self.status == m.IDLE and not self.batch_open and not pinned
        if head.kind in e.ENDS_IN_READY:
            if head.change is not None:
                head.change.undo(self, failed=True)
            if head.action is SKIP:
                self.failure = body
                return True
            self.copying_in = False
            return False
        # PostgreSQL, "Extended Query": after an error everything is ignored up to Sync.
        self.copying_in = False
        dropped: list[Expected] = []
        while self.expected and self.expected[0].kind != m.SYNC:
            dropped.append(self.expected.popleft())
        self.skipping = not self.expected
        self.ignored = dropped
        for entry in reversed(dropped):
            if entry.change is not None:
                entry.change.undo(self, failed=entry is head)
        if self.state is not _LINKED:
            self.failure = body
            return True
        if b"C0A000\x00" in body and b"RRevalidateCachedQuery\x00" in body:
            # "cached plan must not change result type": the catalogue has changed.
            self.dirty = True
            self.pool.registry.forget()
            if self._may_retry(head, dropped) and self._retry(now):
                return True
        if self.expected and all(entry.action is SKIP for entry in dropped):
            return True
        if self.expected and self.expected[0].action is SKIP:
            # The Query that our Sync follows was ignored: this Sync answers for it.
            self.expected[0] = e.SYNC
        # A Parse of ours that fails is the client's error: it would have met the same one.
        return False

    def _may_retry(self, head: Expected, dropped: list[Expected]) -> bool:
        """Whether a batch alone in flight has failed at its first message, outside a transaction.

        So nothing of it has happened, and nobody has heard of it.
        """
        return (
            bool(self.retry)
            and self.status == m.IDLE
            and head is e.BIND
            and all(entry.change is None for entry in dropped)
            and list(self.expected) == [e.SYNC]
        )

    def _retry(self, now: float) -> bool:
        client = self.client
        if client is None:
            return False
        chunk = client_framer().feed(self.retry)
        if not client.may_prepare_again(chunk):
            return False
        self.counters.round_trips += 1
        self.expected[0] = e.SKIPPED_SYNC
        client.prepare_again(self, chunk, now)
        return True

    def _parameter_status(self, body: bytes) -> bool:
        """Whether the client need not hear of it."""
        name, _, rest = body.partition(b"\x00")
        linked = self.client is not None and self.state is _LINKED
        if name != APPLICATION_NAME:
            self.reported = self.pool.intern({**self.reported, name: rest[:-1]})
            if linked:
                assert self.client is not None
                self.client.reported = self.reported
        if linked:
            # Whatever did it, a trigger perhaps: the session has another value now.
            self.traces |= SETTINGS
        return not linked

    def _copy_in(self) -> None:
        """The origin reads CopyData from here on, and ignores Sync until CopyDone or CopyFail.

        PostgreSQL, "COPY Operations". What the client has sent already is in the queue.
        """
        expected = self.expected
        ahead = list(expected)
        until = ahead.index(e.COPY_END) if e.COPY_END in ahead else None
        self.copying_in = until is None
        kept = [entry for entry in ahead[:until] if entry.kind != m.SYNC]
        expected.clear()
        expected.extend(kept)
        if until is not None:
            expected.extend(ahead[until + 1 :])
        if not any(entry.kind == m.SYNC for entry in expected):
            # The Sync that ends this batch is still to come.
            self.batch_open = any(entry.kind != m.QUERY for entry in kept)

    def _unexpected(self, kind: int) -> OriginProtocolError:
        return OriginProtocolError(
            f"message type {chr(kind)!r} from the origin, where "
            f"{'nothing' if not self.expected else repr(self.expected[0])} was expected"
        )
