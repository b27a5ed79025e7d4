"""A client's prepared statements: what its Parse, Bind, Describe and Close become at an origin.

Each function gives the bytes to send in place of the message, ``None`` for the message as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...errors import ClientProtocolError
from ...protocol import messages as m
from ...protocol.framing import LARGEST_MESSAGE
from ...sql.facts import ANYTHING, SETTINGS, Facts, custom_names
from ..cache.cache import EVERYTHING
from . import client_cache, client_transactions
from . import expected as e
from .expected import FAKE, Expected
from .own_statements import bound_parameters, ends_itself, is_show, substitute
from .request_fields import (
    bound_name,
    deallocated_name,
    ends_transaction,
    executed_name,
    lists_statements,
    object_name,
    parse_fields,
)
from .statements import (
    NO_TYPES,
    Change,
    Changes,
    ClientClose,
    ClientDescription,
    ClientParse,
    ForgetAll,
    MayForget,
    Statement,
    Unnamed,
)

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .origin_session import OriginSession

# In seconds: a server statement that is older than a client's Parse by more than this is made anew
# for it, since it may be the reason for that Parse that the catalogue has changed.
MAX_STATEMENT_AGE = 1.0

_FORGETS_ALL = re.compile(
    rb"\s*(?:deallocate\s+(?:prepare\s+)?all|discard\s+all)\s*;?\s*\Z", re.IGNORECASE
)
_OUTDATED = m.message(
    m.ERROR_RESPONSE,
    b"SERROR\x00VERROR\x00C0A000\x00Mcached plan must not change result type\x00"
    b"RRevalidateCachedQuery\x00\x00",
)


def show_own_names(client: ClientSession, origin: OriginSession) -> bytes:
    """Let pg_prepared_statements have what the client prepared, and nothing else."""
    parts = [origin.unprepare(statement) for statement in list(origin.statements)]
    parts += [lend_name(client, origin, name) for name in client.statements]
    return b"".join(parts)


def forget(
    client: ClientSession, origin: OriginSession, text: bytes, facts: Facts, change: Change | None
) -> tuple[bytes, Change | None]:
    """What DEALLOCATE and DISCARD do to the books; what to send before them."""
    if not facts.forgets:
        return lend_executed(client, origin, text), change
    name = deallocated_name(text)
    if name not in client.statements:
        all_of_them = _FORGETS_ALL.match(text)
        return b"", Changes(change, ForgetAll(client, origin) if all_of_them else MayForget())
    # DEALLOCATE of a statement that only the client knows by this name: the origin says what
    # there is to say if it has one of that name.
    origin.litter.add(name)
    origin.expected.extend((e.SKIPPED_CLOSE, e.SKIPPED_PARSE))
    forgotten = ClientClose(client, name, client.statements.pop(name))
    return m.close_statement(name) + m.parse(name, b""), Changes(change, forgotten)


def lend_executed(client: ClientSession, origin: OriginSession, text: bytes) -> bytes:
    """SQL's EXECUTE of a driver's statement finds it at the origin, for this transaction."""
    return lend_name(client, origin, executed_name(text))


def lend_name(client: ClientSession, origin: OriginSession, name: bytes) -> bytes:
    statement = client.statements.get(name)
    if statement is None:
        return b""
    origin.litter.add(name)
    origin.expected.extend((e.SKIPPED_CLOSE, e.SKIPPED_PARSE))
    parse = m.parse(name, statement.text, statement.parameter_types)
    return m.close_statement(name) + parse


def parse(
    client: ClientSession, origin: OriginSession, buffer: bytes, position: int, stop: int
) -> bytes | None:
    name, text, types = parse_fields(buffer, position, stop)
    message = None
    statement = statement_for(client, origin, text, types)
    if statement.facts.concerns_us:
        substituted = substitute(text, client)
        if ends_itself(text):
            client.ends_with_link = True
        if substituted != text:
            shown = text if is_show(text) else b""
            text, message = substituted, m.parse(name, substituted, types)
            statement = statement_for(client, origin, text, types)
            statement.shown = shown
    before = b""
    if statement.facts.traces == ANYTHING:
        before = lend_executed(client, origin, text)
    if not name:
        origin.expected.append(Expected(m.PARSE, change=Unnamed(client, origin)))
        client.unnamed = origin.unnamed = statement
        client.unnamed_description = None
        client.unnamed_generation = -1 if client.cache is None else client.cache.generation
        return before + (message or buffer[position:stop]) if before else message
    if name in client.statements:
        return parse_again(client, origin, name, buffer[position:stop])
    name_statement(client, statement, name)
    if statement not in origin.statements:
        return before + origin.prepare(statement, client, name)
    if (origin.status == m.FAILED_TRANSACTION and not ends_transaction(text)) or any(
        entry.kind in e.ENDS_IN_READY for entry in origin.expected
    ):
        # Whether the transaction is a failed one (25P02) only the origin can say.
        return origin.unprepare(statement) + origin.prepare(statement, client, name)
    origin.statements.move_to_end(statement)
    fake(client, origin, m.PARSE, m.PARSE_COMPLETE_MESSAGE, ClientParse(client, name))
    return b""


def name_statement(client: ClientSession, statement: Statement, name: bytes) -> None:
    if len(client.parsed_at) > 2 * len(client.statements) + 64:
        # Of statements that were closed.
        for old in client.parsed_at.keys() - client.statements.keys() - {b""}:
            del client.parsed_at[old]
            client.described.pop(old, None)
    client.statements[name] = statement
    client.described.pop(name, None)
    client.parsed_at[name] = client.pool.now


def statement_for(
    client: ClientSession, origin: OriginSession, text: bytes, types: bytes
) -> Statement:
    """What a text means here; shared with others where it means the same for them."""
    registry = client.pool.registry
    if origin.altered:
        return registry.private(text, types)
    statement = registry.get(text, types, client.settings)
    if statement.facts.traces == ANYTHING and executed_name(text):
        return registry.private(text, types)
    return statement


def parse_again(client: ClientSession, origin: OriginSession, name: bytes, message: bytes) -> bytes:
    """A name that exists: the origin itself raises the error, in its place and in its words.

    An empty statement of that name is made there first, and removed when the link ends.
    """
    origin.expected.append(e.SKIPPED_CLOSE)
    origin.expected.append(e.SKIPPED_PARSE)
    origin.expected.append(e.PARSE)
    origin.litter.add(name)
    return m.close_statement(name) + m.parse(name, b"") + message


def bind(
    client: ClientSession, origin: OriginSession, buffer: bytes, position: int, stop: int
) -> bytes | None:
    statement = client.unnamed
    if (
        statement is not None
        and statement is origin.unnamed
        and statement.facts.plain
        and buffer.startswith(b"\x00\x00", position + 5)
        and stop > position + 6
    ):
        # What most drivers send for every statement, without the work for the others.
        if client.cache is not None:
            client_cache.note_text(client, origin, statement.text, whole=True)
        client.forgets = False
        client.deallocated = b""
        if not statement.facts.reads:
            origin.reads_only = False
        origin.expected.append(e.BIND)
        return None
    portal_end = buffer.find(b"\x00", position + 5, stop)
    name_end = buffer.find(b"\x00", portal_end + 1, stop) if portal_end >= 0 else -1
    if name_end < 0:
        raise ClientProtocolError("invalid message format: Bind")
    name = buffer[portal_end + 1 : name_end]
    before = have(client, origin, name)
    statement = client.statements.get(name) if name else client.unnamed
    as_it_is = statement is None or (not name and origin.unnamed is statement)
    told = None if as_it_is else client.told(name)
    if told is not None and (statement is None or origin.statements[statement].description != told):
        # PostgreSQL would refuse it, but the old one is not here to be refused.
        origin.expected.append(Expected(m.BIND, data=_OUTDATED))
        return before + m.bind(b"", client.pool.registry.no_name, ())
    client.forgets = False
    client.deallocated = b""
    if client.cache is not None:
        if statement is None:
            origin.writes(EVERYTHING, client.pool.now)
        else:
            client_cache.note_text(client, origin, statement.text, whole=True)
    if statement is None or portal_end > position + 5:
        origin.reads_only = False
    if statement is not None and not (statement.facts.plain and statement.facts.reads):
        before += note_bound(client, origin, statement, buffer[position:stop], len(buffer))
    origin.expected.append(e.BIND)
    if statement is None or as_it_is:
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


def unverified(
    client: ClientSession, origin: OriginSession, buffer: bytes, position: int, stop: int
) -> bytes:
    """What to ask before a statement runs whose columns the client knows from elsewhere."""
    name = bound_name(buffer, position, stop)
    statement = client.statements.get(name) if name else client.unnamed
    told = client.told(name)
    if told is None or statement is None or (not name and origin.unnamed is statement):
        return b""
    if statement.shown:  # its columns never change
        return b""
    before = have(client, origin, name)
    statement = client.statements[name] if name else client.unnamed
    assert statement is not None
    prepared = origin.statements[statement]
    if prepared.description is not None:
        assert not before
        if prepared.description == told or prepared.at >= client.parsed_at.get(name, 0.0):
            return b""
        # The client has prepared it since.
        before = origin.unprepare(statement) + origin.prepare(statement, None, b"")
    return before + origin.describe(statement)


def note_bound(
    client: ClientSession, origin: OriginSession, statement: Statement, message: bytes, size: int
) -> bytes:
    """What is to be remembered of a statement that is about to run; what to send before."""
    facts = statement.facts
    client.note(origin, facts, statement.text)
    if facts.traces & SETTINGS and b"." in message:
        # The name of a setting may be a parameter.
        client.custom_names |= custom_names(message[5:])
    if facts.concerns_us and len(message) <= size:
        client.signal(statement.text, bound_parameters(message))
    if facts.resets and client.initial:
        client.note_resets(statement.text)
    if facts.recalls:
        return client_transactions.forget_sequences(client, origin)
    if facts.concerns_us and lists_statements(statement.text):
        others = [other for other in origin.statements if other is not statement]
        return b"".join(map(origin.unprepare, others))
    if not facts.forgets:
        return b""
    client.forgets = _FORGETS_ALL.match(statement.text) is not None
    client.deallocated = deallocated_name(statement.text)
    if client.deallocated not in client.statements:
        client.deallocated = b""
        return b""
    # Under the client's name there is nothing at the origin: an empty one takes its place.
    origin.litter.add(client.deallocated)
    origin.expected.extend((e.SKIPPED_CLOSE, e.SKIPPED_PARSE))
    return m.close_statement(client.deallocated) + m.parse(client.deallocated, b"")


def execute(client: ClientSession, origin: OriginSession) -> Expected:
    if client.deallocated:
        name, client.deallocated = client.deallocated, b""
        statement = client.statements.pop(name, None)
        if statement is None:  # closed since it was bound
            return e.EXECUTE
        return Expected(m.EXECUTE, change=ClientClose(client, name, statement))
    if not client.forgets:
        return e.EXECUTE
    client.forgets = False
    return Expected(m.EXECUTE, change=ForgetAll(client, origin))


def describe(
    client: ClientSession, origin: OriginSession, buffer: bytes, position: int, stop: int
) -> bytes | None:
    is_portal, name = object_name(buffer, position, stop)
    if is_portal:
        origin.expected.append(e.DESCRIBE)
        return None
    before = have(client, origin, name)
    statement = client.statements.get(name) if name else client.unnamed
    as_it_is = statement is None or (not name and origin.unnamed is statement)
    if statement is None or (as_it_is and client.cache is None):
        origin.expected.append(e.DESCRIBE)
        return before + buffer[position:stop] if before else None
    prepared = None
    if not as_it_is:
        if not before and origin.statements[statement].at < client.parsed_at.get(name, 0.0):
            # What it is told must be what a Parse of its own would have found.
            before = origin.unprepare(statement) + origin.prepare(statement, None, b"")
        prepared = origin.statements[statement]
    generation = client_cache.generation_described(client, origin, statement)
    telling = ClientDescription(prepared, client, name, statement, generation)
    origin.expected.append(Expected(m.DESCRIBE, change=telling, rows=telling.rows))
    if as_it_is:
        return before + buffer[position:stop] if before else None
    return before + m.message(m.DESCRIBE, b"S" + statement.server_name + b"\x00")


def have(client: ClientSession, origin: OriginSession, name: bytes) -> bytes:
    """What to send so that the statement the client calls ``name`` is at the origin.

    Nothing for a name that the client does not have: no statement of that name is there, so
    the origin raises the error (26000) that is due.
    """
    if not name and (
        client.unnamed is None
        or origin.unnamed is client.unnamed
        or client.unnamed_description is None
    ):
        if origin.unnamed is client.unnamed:
            return b""
        return origin.prepare_unnamed(client.unnamed)
    statement = client.statements.get(name) if name else client.unnamed
    if statement is None:
        if name not in origin.litter:
            return b""
        origin.expected.append(e.SKIPPED_CLOSE)
        return m.close_statement(name)
    if origin.altered:
        if statement not in origin.statements:
            statement = client.pool.registry.private(statement.text, statement.parameter_types)
            _put(client, name, statement)
    elif statement.settings != client.settings and not executed_name(statement.text):
        # It means what it means under the settings in force now.
        statement = statement_for(client, origin, statement.text, statement.parameter_types)
        _put(client, name, statement)
    prepared = origin.statements.get(statement)
    if statement.shown and (prepared is None or prepared.at < client.pool.now - MAX_STATEMENT_AGE):
        return have_shown(client, origin, name, statement.shown)
    if prepared is None:
        before = b""
        if statement.facts.traces == ANYTHING:
            before = lend_executed(client, origin, statement.text)
        return before + origin.prepare(statement, None, b"")
    if prepared.at < client.parsed_at.get(name, 0.0) - MAX_STATEMENT_AGE:
        # The client may have prepared it because the catalogue had changed.
        return origin.unprepare(statement) + origin.prepare(statement, None, b"")
    origin.statements.move_to_end(statement)
    return b""


def _put(client: ClientSession, name: bytes, statement: Statement) -> None:
    if name:
        client.statements[name] = statement
    else:
        client.unnamed = statement


def have_shown(client: ClientSession, origin: OriginSession, name: bytes, shown: bytes) -> bytes:
    """A SHOW of ours, with the answer of now."""
    statement = client.pool.registry.private(substitute(shown, client), NO_TYPES)
    statement.shown = shown
    _put(client, name, statement)
    return origin.prepare(statement, None, b"")


def close_statement(
    client: ClientSession, origin: OriginSession, buffer: bytes, position: int, stop: int
) -> bytes | None:
    is_portal, name = object_name(buffer, position, stop)
    if is_portal:
        origin.expected.append(e.CLOSE)
        return None
    if not name:
        origin.expected.append(Expected(m.CLOSE, change=Unnamed(client, origin)))
        client.unnamed = origin.unnamed = None
        return None
    statement = client.statements.pop(name, None)
    if statement is None:
        origin.expected.append(e.CLOSE)
        return None
    if name in origin.litter:
        # Of that name there is something at the origin as well.
        forgotten = ClientClose(client, name, statement)
        origin.expected.append(Expected(m.CLOSE, change=forgotten))
        return None
    fake(client, origin, m.CLOSE, m.CLOSE_COMPLETE_MESSAGE, ClientClose(client, name, statement))
    return b""


def fake(
    client: ClientSession, origin: OriginSession, kind: int, data: bytes, change: Change
) -> None:
    """Answer in the origin's place, when it is that answer's turn."""
    if origin.expected:
        origin.expected.append(Expected(kind, FAKE, data=data, change=change))
    else:
        client.send(data)
