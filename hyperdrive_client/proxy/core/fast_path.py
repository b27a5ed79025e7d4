"""The plainest requests and their answers, which most are, without a look at every message.

A read from a session with nothing else on its mind, by one Query, or by Parse or Bind up to Sync,
while an origin connection is idle; and its whole answer, which ends the link. What comes of it is
what the general path makes of it, ``ClientSession.receive`` and ``OriginSession.receive``, which
has all else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ClientProtocolError
from ...protocol import messages as m
from ...sql.facts import PLAIN_READ, facts_of
from . import expected as e
from .client_statements import MAX_STATEMENT_AGE
from .effects import SendToClient, SendToOrigin
from .expected import Expected
from .request_fields import parse_fields
from .statements import Statement, UnnamedParse

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .origin_session import OriginSession

# Longer ones are not remembered by their bytes.
MAX_PARSE_BYTES = 4096

_EXECUTE_AND_SYNC = m.execute() + m.SYNC_MESSAGE
_DESCRIBE_TO_SYNC = m.message(m.DESCRIBE, b"P\x00") + _EXECUTE_AND_SYNC
_READY = m.ready_for_query(m.IDLE)

PlainAnswer = tuple[bytes, bool]
"""What an answer starts with, and whether a RowDescription is next; the rest is DataRows,
CommandComplete and ReadyForQuery."""

_BIND_COMPLETE = m.message(m.BIND_COMPLETE, b"")
_PARSE_AND_BIND_COMPLETE = m.PARSE_COMPLETE_MESSAGE + _BIND_COMPLETE
_TO_QUERY: PlainAnswer = (b"", True)
_TO_PARSE: PlainAnswer = (_PARSE_AND_BIND_COMPLETE, False)
_TO_PARSE_AND_DESCRIBE: PlainAnswer = (_PARSE_AND_BIND_COMPLETE, True)
_TO_BIND: PlainAnswer = (_BIND_COMPLETE, False)
_TO_BIND_AND_DESCRIBE: PlainAnswer = (_BIND_COMPLETE, True)

# Looking a name up in a module costs more than all else that is done with it here.
_int32 = m.INT32.unpack_from
_QUERY, _PARSE, _BIND, _ROW_DESCRIPTION, _DATA_ROW, _COMMAND_COMPLETE = (
    m.QUERY,
    m.PARSE,
    m.BIND,
    m.ROW_DESCRIPTION,
    m.DATA_ROW,
    m.COMMAND_COMPLETE,
)


def request(client: ClientSession, data: bytes, now: float) -> bool:
    """Pass ``data`` on if it is one whole plain read; else nothing has changed.

    The client is idle, outside a transaction and between two messages, and has no cache.
    """
    pool = client.pool
    size = len(data)
    if size < 8 or not pool.idle:
        return False
    origin = pool.idle[-1]
    if origin.settings != client.settings or origin.reported is not client.reported:
        return False
    kind = data[0]
    stop = 1 + _int32(data, 1)[0]
    if kind == _QUERY:
        if stop != size or facts_of(data[5:-1]) is not PLAIN_READ:
            return False
        pool.lend(origin, client, now)
        client.unnamed = origin.unnamed = None
        origin.expected.append(e.QUERY)
        origin.plain_answer = _TO_QUERY
        origin.retry = b""
    elif kind == _PARSE:
        # The names of the statement, of the portal and of what it is bound to are empty.
        if data[5] or data[stop : stop + 1] != b"B" or data[stop + 5 : stop + 7] != b"\x00\x00":
            return False
        rest = data[stop + 1 + _int32(data, stop + 1)[0] :]
        described = rest == _DESCRIBE_TO_SYNC
        if not described and rest != _EXECUTE_AND_SYNC:
            return False
        statement = pool.registry.plain.get(data[:stop]) or _parsed(client, data[:stop])
        if statement is None or statement.settings != client.settings:
            return False
        pool.lend(origin, client, now)
        client.unnamed = origin.unnamed = statement
        client.unnamed_description = None
        client.unnamed_generation = -1
        client.forgets = False
        client.deallocated = b""
        parse = client.unnamed_parse
        if parse is None:
            parse = client.unnamed_parse = Expected(_PARSE, change=UnnamedParse(client))
        if described:
            origin.expected.extend((parse, e.BIND, e.DESCRIBE, e.EXECUTE, e.SYNC))
            origin.plain_answer = _TO_PARSE_AND_DESCRIBE
        else:
            origin.expected.extend((parse, e.BIND, e.EXECUTE, e.SYNC))
            origin.plain_answer = _TO_PARSE
        origin.retry = b""
    elif kind == _BIND:
        rest = data[stop:]
        described = rest == _DESCRIBE_TO_SYNC
        if data[5] or (not described and rest != _EXECUTE_AND_SYNC):
            return False
        end = data.find(b"\x00", 6, stop)
        name = data[6:end]
        statement = client.statements.get(name)
        if statement is None or statement.settings != client.settings or statement.shown:
            return False
        prepared = origin.statements.get(statement)
        if (
            prepared is None
            or statement.facts is not PLAIN_READ
            or prepared.at < client.parsed_at.get(name, 0.0) - MAX_STATEMENT_AGE
            or client.unnamed_description is not None
            or client.described.get(name, prepared.description) != prepared.description
        ):
            return False
        pool.lend(origin, client, now)
        origin.statements.move_to_end(statement)
        client.forgets = False
        client.deallocated = b""
        if described:
            origin.expected.extend((e.BIND, e.DESCRIBE, e.EXECUTE, e.SYNC))
            origin.plain_answer = _TO_BIND_AND_DESCRIBE
        else:
            origin.expected.extend((e.BIND, e.EXECUTE, e.SYNC))
            origin.plain_answer = _TO_BIND
        origin.retry = data
        server_name = statement.server_name
        length = m.INT32.pack(stop - 1 + len(server_name) - len(name))
        data = b"".join((b"B", length, b"\x00", server_name, data[end:]))
    else:
        return False
    client.effects.append(SendToOrigin(origin, data))
    return True


def _parsed(client: ClientSession, message: bytes) -> Statement | None:
    """What a Parse of the unnamed statement means, if it is a plain read."""
    if len(message) > MAX_PARSE_BYTES:
        return None
    try:
        _, text, types = parse_fields(message, 0, len(message))
    except ClientProtocolError:
        return None
    if facts_of(text) is not PLAIN_READ:
        return None
    return client.pool.registry.remember(message, text, types, client.settings)


def answer(origin: OriginSession, data: bytes, plain: PlainAnswer, now: float) -> bool:
    """Pass ``data`` on if it is the whole answer to ``request`` and end the link; else nothing has
    changed.
    """
    start, described = plain
    if not data.endswith(_READY) or not data.startswith(start) or origin.framer.needed:
        return False
    end = len(data) - len(_READY)
    position = len(start)
    if described:
        if data[position] != _ROW_DESCRIPTION:
            return False
        position += 1 + _int32(data, position + 1)[0]
    while position < end and data[position] == _DATA_ROW:
        position += 1 + _int32(data, position + 1)[0]
    if (
        position >= end
        or data[position] != _COMMAND_COMPLETE
        or position + 1 + _int32(data, position + 1)[0] != end
    ):
        return False
    client = origin.client
    assert client is not None
    origin.expected.clear()
    origin.counters.round_trips += 1
    client.effects.append(SendToClient(client, data))
    if origin.cancels or not origin.pool.take_back(origin, client, now):
        origin.settle(now)
    return True
