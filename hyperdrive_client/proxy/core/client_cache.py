"""A client's reads and the cache: what is answered from there, what is kept, what is outdated."""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ...protocol import messages as m
from ...protocol.framing import Chunk
from ...sql.facts import ROLLBACK, TEMPORARY, facts_of
from ...sql.folded import folded, hints_of
from ...sql.reads import has_clock_word
from ..cache.cache import EVERYTHING, Cache
from ..cache.store import Entry, Key
from . import client_statements, reports
from .expected import FAKE
from .fill import Fill, Flight
from .request_fields import bound_name, object_name, parse_fields, text_of
from .statements import NO_TYPES, Statement, types_of

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .origin_session import OriginSession

# One Bind, and one Execute of all rows, of the unnamed portal: all others are no whole answer.
_BATCH = re.compile(rb"P?D?BD?ES")
# The beginning of one. Without Sync or Flush nobody can wait for an answer to it (PostgreSQL
# documentation, "Extended Query"), and sockets without cork send each message by itself.
_BEGINNING = re.compile(rb"P?D?(?:BD?E?)?")
_MAX_MESSAGES = 6
# A statement's columns are asked for before it is bound.
_DESCRIBES = re.compile(rb"P?D[HS]")
_EXECUTES_ALL = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
_DESCRIBES_PORTAL = b"D\x00\x00\x00\x06P\x00"
# What commands start with that are no reads: most of those that programs send.
_NO_READS = frozenset((b"in", b"up", b"de", b"be", b"co", b"ro", b"me", b"cr", b"al", b"dr"))
# timetz and its array: the zone's offset is today's.
_TIMES_WITH_ZONE = (1266, 1270)
# FirstNormalObjectId.
_FIRST_USERS_OID = 16384
# Longer parameters are rarely anybody else's.
MAX_BOUND_BYTES = 16 * 1024
# How many answers are fetched anew in the background at once.
MAX_REFRESHES = 4


class Batch(NamedTuple):
    """A request that may be answered as a whole: a Query, or Parse to Sync."""

    messages: int
    text: bytes
    types: bytes
    bound: bytes
    shape: bytes
    parses: bool
    name: bytes
    """Of its statement; empty for the unnamed one and for a Query."""
    statement: Statement | None


class Hints(NamedTuple):
    """What a comment in the text asks of the cache."""

    off: bool = False
    refresh: bool = False
    max_age: float | None = None
    unknown: bytes = b""


class Miss(NamedTuple):
    """A read that goes to the origin; its answer may be kept."""

    key: Key
    tables: tuple[int, ...]
    request: bytes
    """Messages that ask for the same, by the unnamed statement."""
    generation: int
    """Of the catalogue that says so."""
    statement: Statement | None = None
    """The server statement that it is of, whose columns are checked."""


def exact(client: ClientSession, data: bytes, now: float) -> bool:
    """Answer bytes that were answered before, without a look at what they say."""
    cache = client.cache
    assert cache is not None
    wording = data
    statement: Statement | None = None
    name = b""
    if data[0] == m.BIND:
        name, statement, wording = _bound(client, data)
        if statement is None:
            return False
    found = cache.store.found(client.settings, wording)
    if found is None:
        return False
    entry, belongings = found
    if (
        cache.refusal(now)
        or entry.reported is not client.reported
        or now - entry.sent >= cache.settings.max_age
        or cache.epochs.vector(entry.slots) != entry.vector
        or (client.status != m.IDLE and not _goes_on(client, cache, entry))
        or (statement is not None and client.told(name) not in (None, entry.description))
    ):
        return False
    entry.hits += 1
    assert isinstance(belongings, _Belongings)
    if statement is None:
        client.unnamed = belongings.unnamed
        client.unnamed_description = None
        client.unnamed_generation = cache.generation
    _serve(client, entry, belongings.prefix, now)
    return True


def _goes_on(client: ClientSession, cache: Cache, entry: Entry) -> bool:
    """Whether a transaction may be answered by ``entry``."""
    return (
        client.status == m.IN_TRANSACTION
        and not _transaction_refusal(client, cache)
        and _may_serve(client, cache, entry)
    )


def _bound(client: ClientSession, data: bytes) -> tuple[bytes, Statement | None, bytes]:
    """Of a batch that begins with Bind: the statement, and the bytes with our name for it."""
    end = data.find(0, 6)
    if len(data) < 7 or data[5] or end < 0:
        return b"", None, b""
    name = data[6:end]
    statement = client.statements.get(name) if name else _unnamed(client)
    if statement is None:
        return name, None, b""
    (length,) = m.INT32.unpack_from(data, 1)
    rest = length - len(name)
    return name, statement, b"%b %d %b" % (statement.server_name, rest, data[end:])


def _unnamed(client: ClientSession) -> Statement | None:
    """The unnamed statement, unless its columns may be others by now than it was told."""
    cache = client.cache
    is_known = cache is not None and client.unnamed_generation == cache.generation
    return client.unnamed if is_known else None


class _Belongings(NamedTuple):
    """What goes with an answer to one wording."""

    prefix: bytes
    unnamed: Statement | None


def answer(client: ClientSession, chunk: Chunk, index: int, now: float) -> int:
    """Answer from the cache; how many messages that is.

    0: it is for the origin, and ``client.miss`` says what to do with its answer. -1: the client
    waits for the answer that another waits for. What is only the beginning of a read is kept in
    ``client.incomplete`` until the rest has come.
    """
    cache = client.cache
    assert cache is not None
    client.miss = None
    batch = _batch(client, chunk, index)
    if batch is None:
        if told := _tell(client, cache, chunk, index, now):
            return told
        if _is_beginning(client, cache, chunk, index):
            client.incomplete = (chunk, index)
            return len(chunk[1]) - index
        return _not_asked(client, chunk, index)
    catalogue = cache.catalogue
    if catalogue is None or cache.closed:
        return _not_served(client, "disabled", cache.closed)
    verdict = catalogue.verdict(batch.text, client.settings)
    if verdict.status:
        return _not_served(client, verdict.status, verdict.reason)
    if unguarded := cache.unguarded(verdict.tables):
        return _not_served(client, "uncacheable", unguarded)
    if _has_odd_types(batch.types):
        return _not_served(client, "uncacheable", "a parameter's type")
    if batch.bound and has_clock_word(batch.bound):
        return _not_served(client, "volatile", "a parameter that may mean the time of day")
    if refusal := _transaction_refusal(client, cache):
        return _not_served(client, "transaction", refusal)
    hints = _hints(batch.text)
    if hints.unknown:
        text = hints.unknown.decode("utf-8", "replace")
        return _not_served(client, "uncacheable", f"a hint that is not understood: {text!r}")
    if hints.off:
        return _not_served(client, "disabled", "by the statement's hint")
    key = Key(client.settings, folded(batch.text), batch.types, batch.bound, batch.shape)
    is_checked = batch.name or client.unnamed_description is not None
    statement = batch.statement if is_checked else None
    client.miss = Miss(key, verdict.tables, _request(batch), cache.generation, statement)
    refusal = cache.refusal(now)
    if refusal:
        return _not_served(client, "disabled", refusal)
    if not hints.refresh and (found := cache.get(key, now)):
        entry, is_stale = found
        if hints.max_age is not None:
            is_stale = False
        young = hints.max_age is None or now - entry.sent < hints.max_age
        if young and _may_serve(client, cache, entry) and _is_as_told(client, batch, entry):
            if is_stale and client.status != m.IDLE:
                return _missed(client)
            client.miss = None
            _serve_parsed(client, chunk, index, batch, entry, now, is_stale=is_stale)
            return batch.messages
    if not hints.refresh and _joins(client, cache, key, chunk, index, now):
        return -1
    return _missed(client)


def _missed(client: ClientSession) -> int:
    miss = client.miss
    assert miss is not None
    client.has_joined = False
    _report(client, "miss", "")
    if miss.key not in client.pool.flights:
        client.flight = client.pool.flights[miss.key] = Flight()
    return 0


def _not_asked(client: ClientSession, chunk: Chunk, index: int) -> int:
    """A request that can't be answered from anywhere but the origin."""
    buffer, messages, _ = chunk
    kind, position, stop = messages[index]
    text = text_of(buffer, kind, position, stop, client.statements)
    if facts_of(text).command:
        return 0
    if text[:2].lower() in _NO_READS:
        return _not_served(client, "notaquery", "")
    return _not_served(client, "uncacheable", "it is not one whole query alone")


def _not_served(client: ClientSession, status: str, reason: str) -> int:
    _report(client, status, reason)
    return 0


def _report(client: ClientSession, status: str, reason: str) -> None:
    client.core.counters.cache[status] += 1
    if client.wants_reports:
        reports.cache_status(client, status, reason)


# What may be answered.


def _transaction_refusal(client: ClientSession, cache: Cache) -> str:
    """Why nothing may be served to this transaction, or kept of it."""
    if client.pinned:
        return "the session keeps its origin connection"
    origin = client.origin
    if origin is None and client.status == m.IDLE:
        return ""
    if not client.reads_committed_only or (
        origin is not None and origin.status != m.IN_TRANSACTION
    ):
        return "its isolation level, or how it began"
    if cache.catalogue is not None and client.default_isolation_decides:
        isolation = cache.catalogue.default_isolation
        if isolation not in (b"read committed", b"read uncommitted"):
            return "the default isolation level"
    if origin is not None and (
        not origin.reads_only or origin.altered or origin.traces or origin.written is not None
    ):
        return "it has done more than read"
    return ""


def _may_serve(client: ClientSession, cache: Cache, entry: Entry) -> bool:
    """Whether ``entry`` is not older than what the transaction was answered so far."""
    if client.status == m.IDLE and client.origin is None:
        return True
    if cache.mode == "ttl" and not client.reads_only:
        return False
    heard_at = client.heard_at
    return entry is client.heard or entry.sent > heard_at or _known_until(client, cache) > heard_at


def _known_until(client: ClientSession, cache: Cache) -> float:
    """What is current now reflects everything that others could see by then."""
    if cache.mode == "wal":
        return cache.known_until
    # Of other workers' writes it is known when they are done, not when they began.
    if cache.mode == "writes" and client.pool.siblings is None:
        began = [o.writes_since for o in client.pool.origins if o.written is not None]
        return min(began, default=float("inf"))
    return float("-inf")


def _is_as_told(client: ClientSession, batch: Batch, entry: Entry) -> bool:
    """Whether the columns, and how values are written, are those that the client was told of.

    Connections that began under other defaults write them in another way.
    """
    if entry.reported is not client.reported:
        return False
    told = None if batch.statement is None else client.told(batch.name)
    return told is None or told == entry.description


def _joins(
    client: ClientSession, cache: Cache, key: Key, chunk: Chunk, index: int, now: float
) -> bool:
    """Wait for an answer that is on its way to another.

    Not with a link: the other could wait for a lock of ours, and nobody would see that.
    """
    flight = client.pool.flights.get(key)
    if flight is None or client.origin is not None or client.has_joined or flight.is_slow:
        return False
    if flight.sealed is not None and not (
        cache.holds(flight.sealed) and (client.status == m.IDLE or flight.sent > client.heard_at)
    ):
        return False
    flight.joined.append(client)
    client.wait_for_answer(flight, chunk, index, now)
    return True


# Answers from the cache.


def _serve(client: ClientSession, entry: Entry, prefix: bytes, now: float) -> None:
    client.core.counters.cache["hit"] += 1
    client.has_joined = False
    if client.status != m.IDLE:
        client.heard = entry
        client.heard_at = max(client.heard_at, entry.arrived)
    if client.wants_reports:
        age = b"hit: %.1f s old" % max(0.0, now - entry.sent)
        prefix = m.parameter_status(reports.CACHE, age) + prefix
    client.send(prefix + entry.answer + _READY[client.status])


_READY = {status: m.ready_for_query(status) for status in (m.IDLE, m.IN_TRANSACTION)}


def _serve_parsed(
    client: ClientSession,
    chunk: Chunk,
    index: int,
    batch: Batch,
    entry: Entry,
    now: float,
    *,
    is_stale: bool,
) -> None:
    cache, pool = client.cache, client.pool
    assert cache is not None
    prefix = b""
    if batch.shape == b"Q":
        client.unnamed = None
    elif batch.parses:
        prefix = m.PARSE_COMPLETE_MESSAGE
        statement = pool.registry.get(batch.text, batch.types, client.settings)
        if batch.name:
            client_statements.name_statement(client, statement, batch.name)
        else:
            client.unnamed = statement
            client.unnamed_description = None
            client.unnamed_generation = cache.generation
    _serve(client, entry, prefix, now)
    if is_stale:
        _refresh(client, entry, now)
        return
    buffer, messages, _ = chunk
    whole = index == 0 and batch.messages == len(messages) and messages[-1][2] == len(buffer)
    if not whole or (batch.parses and batch.name) or hints_of(batch.text):
        return
    if buffer[0] == m.DESCRIBE or (not batch.parses and _STATEMENT in batch.shape):
        # Which statement is meant does not show in these bytes.
        return
    wording = _bound(client, buffer)[2] if buffer[0] == m.BIND else buffer
    cache.store.remember(entry, wording, _Belongings(prefix, client.unnamed))


def _refresh(client: ClientSession, entry: Entry, now: float) -> None:
    """Fetch it anew for those who come later, unless somebody does already."""
    pool = client.pool
    if entry.key in pool.flights or pool.refreshes >= MAX_REFRESHES:
        return
    client.core.refresh(pool, entry, now)


# Answers from the origin.


def open_fill(client: ClientSession, origin: OriginSession, now: float) -> None:
    """Right before the request is written: what it is answered may be kept."""
    miss, client.miss = client.miss, None
    cache = client.cache
    if miss is None or cache is None or origin.expected:
        return
    # Under a new catalogue, or for who began with other defaults, it may mean something else.
    if miss.generation != cache.generation or origin.retires_at <= now:
        return
    sealed = cache.seal(miss.tables)
    if client.flight is not None:
        client.flight.sealed, client.flight.sent = sealed, now
    if sealed.keeps:
        limit = min(cache.settings.result_limit, cache.settings.memory)
        origin.fill = Fill(miss.key, miss.request, sealed, now, limit, miss.statement)


def _request(batch: Batch) -> bytes:
    if batch.shape == b"Q":
        return m.query(batch.text)
    parts = [m.parse(b"", batch.text, batch.types)]
    for kind in batch.shape:
        if kind == m.BIND:
            parts.append(m.message(m.BIND, b"\x00\x00" + batch.bound))
        elif kind == m.EXECUTE:
            parts.append(_EXECUTES_ALL)
        elif kind == _STATEMENT:
            parts.append(m.message(m.DESCRIBE, b"S\x00"))
        else:
            parts.append(_DESCRIBES_PORTAL)
    return b"".join(parts) + m.SYNC_MESSAGE


def filled(client: ClientSession, origin: OriginSession, fill: Fill, now: float) -> None:
    """The whole answer is here."""
    origin.fill = None
    cache = client.cache
    if cache is None:
        return
    answer = fill.answer()
    if fill.is_oversized:
        client.core.counters.cache["oversizedresult"] += 1
        if client.wants_reports:
            reports.cache_status(client, "oversizedresult", "")
    elif answer is not None and cache.holds(fill.sealed):
        description = None
        if fill.statement is not None:
            prepared = origin.statements.get(fill.statement)
            description = prepared.description if prepared is not None else None
        cache.keep(
            Entry(
                fill.key,
                answer,
                request=fill.request,
                tables=fill.sealed.tables,
                slots=fill.sealed.slots,
                vector=fill.sealed.vector,
                sent=fill.sent,
                arrived=now,
                description=description,
                reported=origin.reported,
            )
        )


def land(client: ClientSession, now: float) -> None:
    """What others waited for with this client has come, or never will."""
    flight, client.flight = client.flight, None
    client.miss = None
    if flight is None:
        return
    flights = client.pool.flights
    for key in [key for key, each in flights.items() if each is flight]:
        del flights[key]
    release(flight, now)


def release(flight: Flight, now: float) -> None:
    """Who waits for this answer waits no more."""
    joined, flight.joined = flight.joined, []
    for other in joined:
        if other.joins is flight:
            other.go_on(now)


# Writes.


def note_text(client: ClientSession, origin: OriginSession, text: bytes, *, whole: bool) -> None:
    """A statement is about to be sent: what it may write is outdated when it has."""
    cache = client.cache
    assert cache is not None
    catalogue = cache.catalogue
    in_block = origin.status != m.IDLE
    if facts_of(text).command == ROLLBACK and whole and in_block and not origin.expected:
        origin.rolls_back = True
        return
    origin.rolls_back = False
    if catalogue is None or not whole:
        facts = facts_of(text)
        if not facts.command:
            origin.writes(EVERYTHING, client.pool.now)
            if facts.takes_locks:
                origin.changes_cached_catalogue = True
        return
    written = catalogue.written(text, client.settings)
    if written.changes_catalogue:
        origin.changes_cached_catalogue = True
    if written.tables is None:
        origin.writes(EVERYTHING, client.pool.now)
    elif written.tables:
        # Names may mean something else by now, or a temporary table with triggers of its own.
        is_odd = origin.altered or (client.pinned | origin.traces) & TEMPORARY
        origin.writes(EVERYTHING if is_odd else written.tables, client.pool.now)


# Requests.


def generation_described(client: ClientSession, origin: OriginSession, statement: Statement) -> int:
    """In which generation of the catalogue others would be told the same of its columns.

    -1 if they might not be, or need not know: only reads are answered here.
    """
    cache, expected = client.cache, origin.expected
    if cache is None or cache.catalogue is None or cache.closed or statement.settings is None:
        return -1
    was_parsed_now = expected and expected[-1].kind == m.PARSE and expected[-1].action is not FAKE
    if not was_parsed_now or client.pinned:
        return -1
    if cache.catalogue.verdict(statement.text, statement.settings).status:
        return -1
    return cache.generation


def _tell(client: ClientSession, cache: Cache, chunk: Chunk, index: int, now: float) -> int:
    """Answer the Describe of a read, and its Parse, by what another was answered.

    How many messages that is. Some drivers ask for the parameters' types before they bind them.
    """
    buffer, messages, _ = chunk
    kinds = bytes([max(each[0], 0) for each in messages[index : index + 3]])
    found = _DESCRIBES.match(kinds)
    if found is None or client.origin is not None or cache.refusal(now):
        return 0
    parses, last = kinds[0] == m.PARSE, index + found.end() - 2
    _, position, stop = messages[last]
    is_portal, name = object_name(buffer, position, stop)
    if parses:
        parsed, text, types = parse_fields(buffer, *messages[index][1:])
        if parsed != name or name in client.statements:
            return 0
        statement = client.pool.registry.get(text, types, client.settings)
    else:
        known = client.statements.get(name) if name else _unnamed(client)
        if known is None:
            return 0
        statement = known
    if is_portal or statement.described_in != cache.generation:
        return 0
    columns = types_of(statement.description)
    if name:
        if parses:
            client_statements.name_statement(client, statement, name)
        client.described[name] = columns
    else:
        client.unnamed, client.unnamed_generation = statement, cache.generation
        client.unnamed_description = columns
        client.parsed_at[name] = now
    client.send((m.PARSE_COMPLETE_MESSAGE if parses else b"") + statement.description)
    return last - index + 1


def _is_beginning(client: ClientSession, cache: Cache, chunk: Chunk, index: int) -> bool:
    """Whether what is here is the beginning of a request that may be answered as a whole."""
    buffer, messages, end = chunk
    if client.origin is not None or cache.catalogue is None or cache.closed:
        return False
    kind, position, stop = messages[index]
    is_short = messages[-1][2] <= end and end - position <= MAX_BOUND_BYTES
    kinds = bytes([max(each[0], 0) for each in messages[index : index + _MAX_MESSAGES]])
    if not is_short or not _BEGINNING.fullmatch(kinds):
        return False
    text = text_of(buffer, kind, position, stop, client.statements)
    if kind == m.BIND and not bound_name(buffer, position, stop):
        text = client.unnamed.text if client.unnamed is not None else b""
    if kind == m.DESCRIBE:
        _, name = object_name(buffer, position, stop)
        statement = client.statements.get(name) if name else client.unnamed
        text = statement.text if statement is not None else b""
    return not cache.catalogue.verdict(text, client.settings).status


def _batch(client: ClientSession, chunk: Chunk, index: int) -> Batch | None:
    """The request that begins at ``index``, if it is here as a whole and can be answered so."""
    buffer, messages, end = chunk
    kind, position, stop = messages[index]
    if kind == m.QUERY:
        if stop > end or buffer[position + 5 : position + 7].lower() in _NO_READS:
            return None
        text = buffer[position + 5 : stop - 1]
        return Batch(1, text, NO_TYPES, b"", b"Q", False, b"", None)
    kinds = bytes([max(each[0], 0) for each in messages[index : index + _MAX_MESSAGES]])
    found = _BATCH.match(kinds)
    if found is None or messages[index + found.end() - 1][2] > end:
        return None
    statement: Statement | None = None
    text = types = bound = name = b""
    shape = []
    for kind, position, stop in messages[index : index + found.end() - 1]:
        if kind == m.PARSE:
            name, text, types = parse_fields(buffer, position, stop)
            if name in client.statements:
                return None
        elif kind == m.DESCRIBE:
            if buffer[position:stop] == _DESCRIBES_PORTAL:
                shape.append(kind)
            elif buffer[position + 5 : stop] == b"S\x00" and not name:
                shape.append(_STATEMENT)
            else:
                return None
        elif kind == m.BIND:
            if buffer[position + 5]:
                return None
            parts = buffer[position + 6 : stop].split(b"\x00", 1)
            if len(parts) < 2 or (kinds.startswith(b"P") and parts[0] != name):
                return None
            name, bound = parts
            shape.append(kind)
            if not kinds.startswith(b"P"):
                statement = client.statements.get(name) if name else _unnamed(client)
                if statement is None or statement.shown:
                    return None
                text, types = statement.text, statement.parameter_types
        elif buffer[position:stop] != _EXECUTES_ALL:
            return None
        else:
            shape.append(kind)
    if len(bound) > MAX_BOUND_BYTES or text[:2].lower() in _NO_READS:
        return None
    if kinds.startswith(b"D") and name:
        return None
    parses = kinds.startswith(b"P")
    return Batch(found.end(), text, types, bound, bytes(shape), parses, name, statement)


_STATEMENT = ord("S")


@lru_cache(maxsize=1024)
def _has_odd_types(types: bytes) -> bool:
    """Whether a parameter's input may depend on the date, or be a user's own function."""
    oids = struct.unpack_from(f">{len(types) // 4}I", types, 2)
    return any(oid in _TIMES_WITH_ZONE or oid >= _FIRST_USERS_OID for oid in oids)


@lru_cache(maxsize=1024)
def _hints(text: bytes) -> Hints:
    found = Hints()
    for word in hints_of(text):
        name, _, value = word.partition(b"=")
        if word == b"cache=off":
            found = found._replace(off=True)
        elif word == b"refresh":
            found = found._replace(refresh=True)
        elif name == b"max_age" and re.fullmatch(rb"[0-9]{1,4}", value) and int(value) <= 3600:
            found = found._replace(max_age=float(value))
        else:
            found = found._replace(unknown=word or b"(nothing)")
    return found
