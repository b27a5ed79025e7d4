"""One origin connection: its start-up, and then whom its answers belong to."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from ...bindings.connection_string import Address
from ...errors import OriginProtocolError
from ...protocol import messages as m
from ...protocol.framing import CONTINUATION, origin_framer
from . import expected as e
from .effects import AbortOrigin, CancelOrigin, CloseOrigin, SendToClient, SendToOrigin
from .expected import FAKE, FORWARD, SKIP, Expected
from .origin_startup import OriginStartup
from .session_variables import APPLICATION_NAME, Settings, replay
from .statements import Eviction, NamedParse, Statement, Unnamed

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .pool import Pool


class OriginState(Enum):
    CONNECTING = "connecting"
    """The network layer opens the connection."""
    STARTING = "starting"
    """Start-up and authentication."""
    IDLE = "idle"
    """Clean, waiting for a client."""
    REPLAYING = "replaying"
    """Linked; the client's settings are being put in force."""
    LINKED = "linked"
    DRAINING = "draining"
    """The client is gone; its answers are still coming."""
    CLEANING = "cleaning"
    """ROLLBACK and DISCARD ALL under way."""
    CLOSING = "closing"
    """Terminate is said; counts until the origin has closed, since it counts there as well."""
    CLOSED = "closed"


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
        m.NOTIFICATION_RESPONSE,
        m.PARAMETER_DESCRIPTION,
    )
)
_STATUSES = bytes((m.IDLE, m.IN_TRANSACTION, m.FAILED_TRANSACTION))
_FORGETS_STATEMENTS = (b"DEALLOCATE ALL", b"DISCARD ALL")


class OriginSession:
    """The state of one origin connection. ``handle`` belongs to the network layer."""

    def __init__(self, pool: Pool, now: float) -> None:
        self.pool = pool
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
        self.statements: OrderedDict[Statement, None] = OrderedDict()
        self.unnamed: Statement | None = None
        self.dirty = False
        """Something ran that may have left state in the session."""
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
            oldest, _ = self.statements.popitem(last=False)
            parts.append(m.close_statement(oldest.server_name))
            self.expected.append(Expected(m.CLOSE, SKIP, change=Eviction(oldest)))
        self.statements[statement] = None
        change = NamedParse(statement, client, name)
        action = FORWARD if client is not None else SKIP
        self.expected.append(Expected(m.PARSE, action, change=change))
        parts.append(m.parse(statement.server_name, statement.text, statement.parameter_types))
        return b"".join(parts)

    def prepare_unnamed(self, statement: Statement | None) -> bytes:
        """Make ``statement`` the unnamed one here; ``None``: see to it that there is none."""
        if statement is None:
            self.expected.append(Expected(m.CLOSE, SKIP, change=Unnamed(None, self)))
            self.unnamed = None
            return m.close_statement(b"")
        self.expected.append(Expected(m.PARSE, SKIP, change=Unnamed(None, self)))
        self.unnamed = statement
        return m.parse(b"", statement.text, statement.parameter_types)

    def replay(self, settings: Settings) -> None:
        """Put a client's start-up settings in force, in a batch of their own."""
        self.failure = None
        if self.settings:
            self._discard_all()
        if settings:
            messages, count = replay(settings)
            self.expected.append(e.SKIPPED_PARSE)
            self.expected.extend((e.SKIPPED_BIND, e.SKIPPED_EXECUTE) * count)
            # Our statement must not be there for a client to bind.
            self.expected.append(e.SKIPPED_CLOSE)
            self.expected.append(e.SKIPPED_SYNC)
            self.unnamed = None
            self.send(messages + m.close_statement(b"") + m.SYNC_MESSAGE)

    def _discard_all(self) -> None:
        self.expected.append(e.SKIPPED_QUERY)
        self.unnamed = None
        self.statements.clear()
        self.settings = ()
        self.dirty = False
        self.send(m.query(b"DISCARD ALL"))

    def clean(self) -> None:
        """End what a client left behind."""
        self.failure = None
        self.pool.move(self, OriginState.CLEANING)
        if self.status != m.IDLE:
            self.expected.append(e.SKIPPED_QUERY)
            self.send(m.query(b"ROLLBACK"))
        self._discard_all()

    def cancel(self, requester: ClientSession | None = None) -> None:
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

    # The client.

    def abandon(self, now: float, *, vanished: bool) -> None:
        """The client is gone; see the origin connection back to rest, or close it."""
        self.since = now
        client, self.client = self.client, None
        if self.state is OriginState.REPLAYING:
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
                if client.sends_partial_message:
                    return
                self.client = None
                client.unlinked(now)
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
        if self.startup is not None:
            self._start(data, now)
            return
        buffer, messages, end = self.framer.feed(data)
        expected = self.expected
        pieces: list[bytes] = []
        # buffer[start:last] is the client's; what follows, up to the next listed message, belongs
        # to the answer at the head of the queue.
        start = last = 0
        ready = False
        for kind, position, stop in messages:
            head = expected[0] if expected else None
            completes = _COMPLETES.get(kind)
            skip = head is not None and head.action is SKIP
            if completes is not None:
                if head is None:
                    raise self._unexpected(kind)
                if (
                    kind == m.COMMAND_COMPLETE
                    and not skip
                    and buffer[position + 5 : stop][:1] == b"D"
                ):
                    self._completed(head, buffer[position + 5 : stop])
                if head.kind == completes:
                    if kind == m.PARSE_COMPLETE and head.change is not None:
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
            elif kind == m.ERROR_RESPONSE:
                if self.state is _IDLE:
                    # It says why it is about to close; nobody is to be linked to it now.
                    self.abort(now)
                    return
                skip = self._error(head, buffer[position + 5 : stop])
            elif kind == m.PARAMETER_STATUS:
                skip = self._parameter_status(buffer[position + 5 : stop]) or skip
            elif kind == m.COPY_IN_RESPONSE:
                if self.state is not _LINKED:
                    # Nobody is there to send what is to be copied.
                    self.abort(now)
                    return
                self._copy_in()
            elif kind not in _CONTENT:
                raise self._unexpected(kind)
            if skip:
                if start < last:
                    pieces.append(buffer[start:last])
                start = stop
            last = stop
            if ready and expected and expected[0].action is FAKE:
                pieces.append(buffer[start:last])
                start = last
                pieces.append(self._fakes())
        if expected and expected[0].action is SKIP:
            end = min(last, end)
        client = self.client
        if client is not None and self.state is _LINKED:
            if start < end:
                pieces.append(buffer[start:end])
            if pieces:
                self.pool.effects.append(
                    SendToClient(client, pieces[0] if len(pieces) == 1 else b"".join(pieces))
                )
        self.mid_message = self.framer.remaining > 0
        if self.framer.failure is not None:
            raise self.framer.failure
        if client is not None:
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

    def _error(self, head: Expected | None, body: bytes) -> bool:
        """Whether the error is ours alone."""
        if b"VFATAL\x00" in body or b"VPANIC\x00" in body:
            self.fatal = True
        elif b"C0A000\x00" in body:
            # "cached plan must not change result type": statements here are of no more use.
            self.dirty = True
        if head is None:
            # Right behind the end of a transaction: the client's link ends there.
            return self.status == m.IDLE and not self.batch_open
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
        for entry in reversed(dropped):
            if entry.change is not None:
                entry.change.undo(self, failed=entry is head)
        if self.state is not _LINKED:
            self.failure = body
            return True
        # A Parse of ours that fails is the client's error: it would have met the same one.
        return False

    def _parameter_status(self, body: bytes) -> bool:
        """Whether the client need not hear of it."""
        name, _, rest = body.partition(b"\x00")
        if name != APPLICATION_NAME:
            self.reported = self.pool.intern({**self.reported, name: rest[:-1]})
            if self.client is not None and self.state is _LINKED:
                self.client.reported = self.reported
        return False

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
