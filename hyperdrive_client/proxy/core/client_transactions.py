"""The beginning and the end of a client's transaction, as far as the origin is not asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...protocol import messages as m
from ...protocol.framing import Chunk
from ...sql.facts import BEGIN, COMMIT, OTHER, Facts, facts_of
from . import client_statements, inspection, reports
from . import expected as e
from .request_fields import lists_statements, parse_fields, text_of
from .statements import NO_TYPES, LazyBegin

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .origin_session import OriginSession

_DEALLOCATE_ALL = re.compile(rb"\s*deallocate\s+(?:prepare\s+)?all\s*;?\s*\Z", re.IGNORECASE)
# What BEGIN, START, COMMIT, END, ROLLBACK, ABORT and DEALLOCATE start with.
_CONTROL_PREFIXES = frozenset((b"be", b"st", b"co", b"en", b"ro", b"ab", b"de"))
# What no statement starts with that wants strong locks.
_WEAK_PREFIXES = frozenset((b"se", b"in", b"up", b"wi", b"va", b"be", b"co", b"ro"))
# Of the unnamed statement, without formats and parameters.
_NO_VALUES = b"\x00" * 5
# Of what names the unnamed portal or statement.
_SIZES = {m.DESCRIBE: 7, m.EXECUTE: 10}
_BIND_COMPLETE = m.message(m.BIND_COMPLETE, b"")
_NO_DATA = m.message(m.NO_DATA, b"")
_NO_PARAMETERS = m.message(m.PARAMETER_DESCRIPTION, b"\x00\x00")
_READ_COMMITTED = (b"read committed", b"read uncommitted")


def is_held_back(client: ClientSession, buffer: bytes, kind: int, position: int, stop: int) -> bool:
    """Whether a statement waits for the locks of transactions that ended early."""
    text = text_of(buffer, kind, position, stop, client.statements)
    if text[:2].lower() in _WEAK_PREFIXES or not facts_of(text).takes_locks:
        return False
    client.held_back_by = client.pool.endings
    if client.pool.siblings is not None:
        client.held_back_by_others = client.pool.siblings.endings()
        if not client.pool.ending and not client.held_back_by_others:
            return False
    client.pool.held_back.append(client)
    reports.begins_to_wait(client, reports.OTHERS_ENDS, client.pool.now)
    return True


def prologue(client: ClientSession, origin: OriginSession, facts: Facts, text: bytes) -> bytes:
    """What is to be sent before the first message of a batch, without a Sync.

    So that nothing of the client's runs if it fails.
    """
    parts = []
    if client.begin is not None:
        parts.append(origin.run(client.begin, LazyBegin(origin)))
        client.begin = None
        if client.heard is not None and not facts.reads:
            # SET TRANSACTION after a query is an error, and the origin has seen none.
            parts.append(origin.run(client.pool.registry.own(b"SELECT 1")))
        if client.may_end_early and client.pool.now - origin.inspected_at >= inspection.MAX_AGE:
            # Before a read: a statement that sets the transaction's mode must be its first.
            client.may_end_early = facts.reads
            if facts.reads:
                parts.append(inspect(origin))
    if facts.recalls:
        parts.append(forget_sequences(client, origin))
    if facts.concerns_us and lists_statements(text):
        parts.append(client_statements.show_own_names(client, origin))
    return b"".join(parts)


def inspect(origin: OriginSession) -> bytes:
    """Find out whether the end of a transaction of reads can be answered early."""
    pool = origin.pool
    looking = inspection.Inspection(origin, pool.now)
    return origin.run(pool.registry.own(inspection.QUERY), looking, rows=looking.rows)


def forget_sequences(client: ClientSession, origin: OriginSession) -> bytes:
    """What others did to sequences there must not be taken for this session's doing."""
    nobody = origin.sequence_client is None and client.sequence_origin is None
    if nobody or origin.sequence_client is client:
        return b""
    origin.hints_at_sequences = client.sequence_origin is not None
    origin.sequence_client = None
    return origin.run(client.pool.registry.own(b"DISCARD SEQUENCES"))


def ends_early(
    client: ClientSession, origin: OriginSession, buffer: bytes, position: int, stop: int
) -> bool:
    """Whether this Query ends a transaction of reads, so that the client need not wait."""
    expected = origin.expected
    if (
        # Behind a client's Query the answer to our own Sync may still be on its way.
        (expected and (len(expected) > 1 or expected[0] is not e.SKIPPED_SYNC))
        or origin.status != m.IN_TRANSACTION
        or not origin.reads_only
        or origin.batch_open
        or origin.reads_may_act
        or origin.traces
        or client.pinned
        or stop > position + 64
    ):
        return False
    return facts_of(buffer[position + 5 : stop - 1]).command >= COMMIT


def end_early(client: ClientSession, origin: OriginSession, message: bytes, now: float) -> None:
    commits = facts_of(message[5:-1]).command == COMMIT
    client.send(
        m.command_complete(b"COMMIT" if commits else b"ROLLBACK") + m.ready_for_query(m.IDLE)
    )
    client.unnamed = None
    client.pool.end_early(origin, message)
    client.unlinked(now)


def control(client: ClientSession, text: bytes, facts: Facts) -> bytes:
    """The tag with which to answer BEGIN, COMMIT or ROLLBACK without the origin, or nothing."""
    if facts.command == BEGIN:
        if client.status != m.IDLE or (facts.needs_primary and not client.pool.is_primary):
            return b""
        text = b" ".join(text.split()).strip(b" ;").upper()
        registry = client.pool.registry
        # What is ours is kept for good, so not every list of modes that a client thinks of.
        plain = text in (b"BEGIN", b"START TRANSACTION")
        client.begin = registry.own(text) if plain else registry.get(text, NO_TYPES, ())
        client.status = m.IN_TRANSACTION
        client.may_end_early = reads_committed(client, facts.isolation)
        client.reads_committed_only = client.may_end_early
        client.default_isolation_decides = not facts.isolation
        client.reads_only = b"READ ONLY" in text and b"READ WRITE" not in text
        return b"START TRANSACTION" if text.startswith(b"START") else b"BEGIN"
    if facts.command == OTHER or client.status == m.IDLE:
        return b""
    done = facts.command == COMMIT and client.status == m.IN_TRANSACTION
    client.begin, client.status = None, m.IDLE
    client.end_transaction()
    return b"COMMIT" if done else b"ROLLBACK"


def reads_committed(client: ClientSession, isolation: bytes) -> bool:
    """Whether each statement of a transaction has a snapshot of its own, as far as we know.

    The origin connection's default is looked at when there is one.
    """
    if not isolation:
        isolation = dict(client.settings).get(b"default_transaction_isolation", b"")
    return not isolation or b" ".join(isolation.split()) in _READ_COMMITTED


def answers_alone(client: ClientSession, chunk: Chunk, index: int) -> int:
    """Answer a command that needs no origin; how many messages it consists of, or 0."""
    buffer, messages, _ = chunk
    kind, position, stop = messages[index]
    if kind == m.QUERY:
        start = position + 5
        if stop <= start + 2 and buffer[start:stop] in (b"\x00", b";\x00"):
            # psycopg's check_connection, SQLAlchemy's pool_pre_ping.
            client.unnamed = None
            client.send(m.EMPTY_QUERY_MESSAGE + m.ready_for_query(client.status))
            return 1
        if buffer[start : start + 2].lower() not in _CONTROL_PREFIXES or stop > position + 200:
            return 0
        text = buffer[start : stop - 1]
        tag = control(client, text, facts_of(text))
        if not tag and not client.pinned and _DEALLOCATE_ALL.match(text):
            if client.status == m.FAILED_TRANSACTION:
                return 0
            client.statements.clear()
            tag = b"DEALLOCATE ALL"
        if not tag:
            return 0
        client.unnamed = None
        client.send(m.command_complete(tag) + m.ready_for_query(client.status))
        return 1
    if kind != m.PARSE or stop > position + 200 or buffer[position + 5 : stop][:1] != b"\x00":
        return 0
    if buffer[position + 6 : position + 8].lower() not in _CONTROL_PREFIXES:
        return 0
    kinds = bytes(max(entry[0], 0) for entry in messages[index : index + 5])
    whole = messages[-1][2] <= chunk[2]
    begins = b"PBDES".startswith(kinds) or kinds == b"PBE"
    if client.status == m.FAILED_TRANSACTION and whole and begins and kinds != b"PBDES":
        # A ROLLBACK, perhaps, of which the rest is still to come.
        client.incomplete = (chunk, index)
        return len(messages) - index
    if not kinds.startswith((b"PBDES", b"PBES")):
        return 0
    return answer_batch(client, buffer, messages[index : index + kinds.index(b"S") + 1])


def answer_batch(client: ClientSession, buffer: bytes, messages: list[tuple[int, int, int]]) -> int:
    """A BEGIN, COMMIT or ROLLBACK by the extended protocol, alone up to its Sync."""
    _, position, stop = messages[0]
    _, text, types = parse_fields(buffer, position, stop)
    answers = [m.PARSE_COMPLETE_MESSAGE, _BIND_COMPLETE]
    for kind, at, end in messages[1:-1]:
        if end != at + _SIZES.get(kind, end - at):
            return 0
        if kind != m.DESCRIBE and buffer[at + 5]:
            return 0
        if kind == m.BIND and buffer[at + 6 : at + 11] != _NO_VALUES:
            # Another statement, or parameters that this one has not: the origin says so.
            return 0
        if kind == m.DESCRIBE:
            if buffer[at + 6]:
                return 0
            if buffer[at + 5 : at + 6] == b"S":
                answers.append(_NO_PARAMETERS)
            answers.append(_NO_DATA)
    tag = control(client, text, facts_of(text)) if types == NO_TYPES else b""
    if not tag:
        return 0
    client.unnamed = client.pool.registry.get(text, types, client.settings)
    client.unnamed_description = None
    client.send(b"".join(answers) + m.command_complete(tag) + m.ready_for_query(client.status))
    return len(messages)
