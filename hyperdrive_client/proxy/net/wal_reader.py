"""Follows the origin's WAL, so that writes that did not come through this proxy are known of.

Two connections to one server: the stream, which has a temporary slot, and the side connection,
which asks what the stream can't tell: which of the commits it has brought are visible by now, and
how far the WAL had been written at some point in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from ...bindings.connection_string import Origin
from ...protocol.replication import (
    Committed,
    Snapshot,
    TransactionStream,
    lsn_of,
    standby_status_update,
)
from ..cache.guard import Guard
from ..core.origin_startup import Credentials
from ..settings import PUBLICATION, Settings
from .first_end import first_end
from .own_connection import QUERY_CANCELED, OwnConnection, OwnConnectionError, own_connection

logger = logging.getLogger(__name__)

QUERY_SECONDS = 2.0
# Making a slot waits for the transactions that are open.
SLOT_SECONDS = 10.0
# How often the side connection looks; while commits are not visible yet, more often.
LOOK_SECONDS = 0.1
LEAST_LOOK_SECONDS = 0.005
# After that long, what is not flushed is helped along.
NUDGE_SECONDS = 0.2
# A stream that has not come to where the WAL was so long ago is begun anew, from where the WAL is
# then. No sooner: a backend that decodes a large transaction does not notice that we have gone.
STALL_SECONDS = 60.0
PUBLICATION_SECONDS = 1.0
# Attempts to see that new connections lead to the same server.
MOST_FAILURES = 4

LOCK_NOT_AVAILABLE = "55P03"

_STREAM_PARAMETERS = {
    b"replication": b"database",
    # For when this process dies while its slot is being made.
    b"lock_timeout": b"%d" % (SLOT_SECONDS * 1500),
    b"statement_timeout": b"0",
}

_REQUIREMENTS = b"""
SELECT current_setting('server_version_num'), pg_is_in_recovery()::text,
  current_setting('wal_level'), (current_setting('synchronous_standby_names') LIKE '%*%')::text
"""

# Which server this is, and since when it runs.
_IDENTITY = b"""
SELECT s.system_identifier::pg_catalog.text,
  pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::pg_catalog.text
FROM pg_catalog.pg_control_system() s
"""

_PUBLICATION = f"""
SELECT p.pubviaroot::text, (p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate)::text,
  concat_ws(' ', p.oid, p.xmin, (SELECT string_agg(d.objid::text, ' ' ORDER BY d.objid)
    FROM pg_depend d WHERE d.refclassid = p.tableoid AND d.refobjid = p.oid))
FROM pg_publication p WHERE p.pubname = '{PUBLICATION}';

SELECT c.oid::text, c.relname::text,
  CASE WHEN to_jsonb(t) ->> 'rowfilter' IS NOT NULL THEN 'only some of its rows are published'
  WHEN NOT (c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident
      ELSE false END))
  THEN 'it has no replica identity, so that PostgreSQL rejects every UPDATE and DELETE' END
FROM pg_publication_tables t
JOIN pg_namespace n ON n.nspname = t.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
WHERE t.pubname = '{PUBLICATION}' ORDER BY c.oid
""".encode()

_UNDER_WAY = b"""
SELECT transactionid::text FROM pg_locks
WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
"""

_STATE = b"""
SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text,
  pg_current_wal_flush_lsn()::text
"""

# A record of some 50 bytes that concerns nobody: its end has the WAL's writer flush what is there.
_NUDGE = b"SELECT pg_logical_emit_message(false, 'hyperdrive', '')::text"

_START = f"""START_REPLICATION SLOT "%s" LOGICAL 0/0
(proto_version '1', publication_names '"{PUBLICATION}"')"""


class WalRefusedError(Exception):
    """Why the WAL can't be followed; ``is_lasting`` if somebody has to change something."""

    def __init__(self, reason: str, *, lasting: bool) -> None:
        super().__init__(reason)
        self.is_lasting = lasting


class Publication(NamedTuple):
    """What is published; different once it was changed, be it for a moment."""

    entries: bytes | None
    tables: tuple[tuple[bytes | None, ...], ...]

    @property
    def guarded(self) -> frozenset[int]:
        """OIDs of the tables whose changes are all published."""
        return frozenset(int(oid or 0) for oid, _, objection in self.tables if objection is None)

    @property
    def objections(self) -> list[str]:
        """Which tables are not guarded, and why."""
        return [
            f"{(name or b'').decode('utf-8', 'replace')}: {objection.decode()}"
            for _, name, objection in self.tables
            if objection is not None
        ]


class Mark(NamedTuple):
    """An LSN up to which there was WAL when the side connection looked, first and last."""

    lsn: int
    first: float
    last: float


async def check_requirements(side: OwnConnection, origin: Origin) -> None:
    """Raise ``WalRefusedError`` for what an origin must have but for the publication."""
    if len(origin.addresses) > 1 and origin.target_session_attrs not in ("primary", "read-write"):
        raise WalRefusedError(
            "the origin has several addresses: set target_session_attrs to primary, so that "
            "all connections lead to the server whose WAL is followed",
            lasting=True,
        )
    ((version, replica, level, anyone),) = await side.query(_REQUIREMENTS, QUERY_SECONDS)
    if int(version or 0) < 140000:
        raise WalRefusedError("the origin is older than PostgreSQL 14", lasting=True)
    if replica != b"false":
        raise WalRefusedError("the origin is a replica: it has no WAL of its own", lasting=True)
    if level != b"logical":
        raise WalRefusedError("wal_level is not logical at the origin", lasting=True)
    if anyone != b"false":
        raise WalRefusedError(
            "synchronous_standby_names at the origin has a *, which takes us for a standby that "
            "keeps what is committed",
            lasting=True,
        )


async def read_publication(side: OwnConnection) -> Publication:
    """Our publication as it is now. ``WalRefusedError`` if it is missing or not fit."""
    found, tables = await side.results(_PUBLICATION, QUERY_SECONDS)
    if not found:
        raise WalRefusedError(f"there is no publication {PUBLICATION} at the origin", lasting=True)
    ((via_root, complete, entries),) = found
    if complete != b"true":
        raise WalRefusedError(
            f"the publication {PUBLICATION} does not publish all of insert, update, delete and "
            "truncate",
            lasting=True,
        )
    if via_root != b"false":
        raise WalRefusedError(
            f"the publication {PUBLICATION} has publish_via_partition_root", lasting=True
        )
    return Publication(entries, tuple(tables))


class WalReader:
    """One attempt to follow the WAL, until it fails.

    ``side`` has the search_path pg_catalog, ``now`` is the clock in seconds, and ``connects`` says
    how many connections to the origin clients have had opened.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        guard: Guard,
        side: OwnConnection,
        now: Callable[[], float],
        connects: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._guard = guard
        self._side = side
        self._now = now
        self._connects = connects
        self._transactions = TransactionStream()
        self._news = asyncio.Event()
        self._passed = 0
        """The LSN up to which all commits were decoded."""
        self._confirmed = (0, 0.0)
        """What of that the origin was told, and when."""
        self._written = 0
        """The LSN up to which there was WAL when the side connection looked last."""
        self._marks: deque[Mark] = deque()
        """Ahead of ``_passed``, in their order."""

    async def follow(self, started: Callable[[], None]) -> NoReturn:
        """``started()`` is called when the stream stands.

        ``WalRefusedError``, ``OwnConnectionError`` or ``OriginProtocolError`` with the reason that
        it can't, or does not any more.
        """
        await check_requirements(self._side, self._settings.origin)
        published = await read_publication(self._side)
        server = await self._side.query(_IDENTITY, QUERY_SECONDS)
        connects = self._connects()
        async with contextlib.AsyncExitStack() as ended:
            self._stream = stream = await self._open_stream(ended)
            if await stream.query(_IDENTITY, QUERY_SECONDS) != server:
                raise WalRefusedError(
                    "the origin's address leads to several servers", lasting=False
                )
            slot = f"hyperdrive_{secrets.token_hex(8)}"
            await self._create_slot(slot)
            await self._see_ended()
            # Of a table that was added meanwhile, some changes may not be in the stream.
            if await read_publication(self._side) != published:
                raise WalRefusedError("the publication is being changed", lasting=False)
            for objection in published.objections:
                logger.warning("not guarded, although in %s: %s", PUBLICATION, objection)
            self._guard.started(published.guarded, self._now())
            await stream.stream((_START % slot).encode(), self._receive, QUERY_SECONDS)
            started()
            await first_end(
                stream.lost(),
                self._look(),
                self._watch_publication(published),
                self._watch_server(server, connects),
            )
        raise AssertionError("it has not ended")

    def _connect(
        self, parameters: dict[bytes, bytes]
    ) -> contextlib.AbstractAsyncContextManager[OwnConnection]:
        return own_connection(
            self._settings,
            self._credentials,
            self._settings.limits.connect_timeout or SLOT_SECONDS,
            parameters=parameters,
            address=self._side.address,
        )

    async def _open_stream(self, ended: contextlib.AsyncExitStack) -> OwnConnection:
        try:
            return await ended.enter_async_context(self._connect(_STREAM_PARAMETERS))
        except OwnConnectionError as error:
            raise WalRefusedError(
                f"no replication connection: {error}", lasting=error.is_lasting
            ) from error

    async def _create_slot(self, slot: str) -> None:
        command = f'CREATE_REPLICATION_SLOT "{slot}" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT'
        try:
            await self._stream.query(command.encode(), SLOT_SECONDS)
        except OwnConnectionError as error:
            if error.sqlstate in (QUERY_CANCELED, LOCK_NOT_AVAILABLE):
                raise _transactions_are_open() from error
            raise WalRefusedError(
                f"no replication slot: {error}", lasting=error.is_lasting
            ) from error

    async def _see_ended(self) -> None:
        """Wait for the transactions that were open when the slot had been made.

        One may have written its commit before the slot's beginning and be visible only later, for
        instance when a standby has confirmed it; and releases of 2024 and before begin a slot with
        transactions whose first changes they do not decode. A transaction's lock on its own id
        ends when it is visible.
        """
        deadline = self._now() + SLOT_SECONDS
        left = set(await self._side.query(_UNDER_WAY, QUERY_SECONDS))
        pause = LEAST_LOOK_SECONDS
        while left:
            if self._now() > deadline:
                raise _transactions_are_open()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LOOK_SECONDS)
            left.intersection_update(await self._side.query(_UNDER_WAY, QUERY_SECONDS))

    # The stream.

    def _receive(self, body: bytes) -> None:
        received = self._transactions.receive(body)
        if received is None:
            return
        if isinstance(received, Committed):
            if received.tables:
                self._guard.decoded(received.transaction, received.tables)
                self._news.set()
            self._pass(received.end)
        else:
            self._pass(received.end)
            if received.wants_reply:
                self._confirm()

    def _pass(self, lsn: int) -> None:
        """All that was committed up to there was decoded."""
        self._passed = max(self._passed, lsn)
        marks = self._marks
        while marks and marks[0].lsn <= self._passed:
            self._guard.reached(marks.popleft().last)

    def _confirm(self) -> None:
        """Let the origin forget, and say how far it is.

        While it has something to send it says so only if asked; when it waits for more WAL it says
        so by itself, unless that was confirmed already.
        """
        self._confirmed = self._passed, self._now()
        self._stream.send(standby_status_update(self._passed, wants_reply=bool(self._marks)))

    # The side connection.

    async def _look(self) -> NoReturn:
        pause = LOOK_SECONDS
        while True:
            asked = self._now()
            ((snapshot, inserted, flushed),) = await self._side.query(_STATE, QUERY_SECONDS)
            self._settle(Snapshot.of(snapshot or b""))
            self._mark(lsn_of(inserted or b""), asked)
            await self._help_along(lsn_of(flushed or b""), asked)
            passed, at = self._confirmed
            if (self._marks or passed < self._passed) and asked - at >= LOOK_SECONDS:
                self._confirm()
            pause = min(2 * pause, LOOK_SECONDS) if self._guard.pending else LOOK_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
                self._news.clear()
                await asyncio.sleep(asked + LEAST_LOOK_SECONDS - self._now())
                pause = LEAST_LOOK_SECONDS / 2

    def _settle(self, snapshot: Snapshot) -> None:
        pending = self._guard.pending
        if pending:
            self._guard.settled(each for each in pending if snapshot.sees(each))

    def _mark(self, written: int, asked: float) -> None:
        """When the stream has passed ``written``, all that was visible at ``asked`` is known of.

        A commit is inserted into the WAL before anyone sees it, but with synchronous_commit=off it
        is seen before it is flushed, so that only the end of what is inserted will do.
        """
        if written < self._written:
            raise WalRefusedError("the origin's WAL went back", lasting=False)
        self._written = written
        if written <= self._passed:
            self._guard.reached(asked)
        elif self._marks and self._marks[-1].lsn == written:
            self._marks[-1] = self._marks[-1]._replace(last=asked)
        else:
            self._marks.append(Mark(written, asked, asked))

    async def _help_along(self, flushed: int, asked: float) -> None:
        """See that the stream can come to the first mark at all.

        The stream has only what is flushed. What an open transaction has inserted is not until
        something ends, or a page is full; on an idle origin the stream would wait for that. And
        where a page has just become full, what is inserted seems to end behind the next one's head.
        """
        if not self._marks:
            return
        lsn, since, _ = self._marks[0]
        if asked - since >= STALL_SECONDS:
            raise OwnConnectionError(f"the WAL has not come for {STALL_SECONDS:g} s")
        if asked - since >= NUDGE_SECONDS and flushed < lsn:
            try:
                await self._side.query(_NUDGE, QUERY_SECONDS)
            except OwnConnectionError as error:
                if not error.sqlstate:  # a refusal is a pity, no more
                    raise

    async def _watch_publication(self, published: Publication) -> NoReturn:
        while True:
            await asyncio.sleep(PUBLICATION_SECONDS)
            await check_requirements(self._side, self._settings.origin)
            if await read_publication(self._side) != published:
                raise WalRefusedError("what is published was changed", lasting=False)

    async def _watch_server(
        self, server: list[tuple[bytes | None, ...]], connects: int
    ) -> NoReturn:
        """See that new connections lead where ours do: an address may get another server."""
        failures = 0
        while True:
            await asyncio.sleep(PUBLICATION_SECONDS)
            opened = self._connects()
            if opened == connects:
                continue
            try:
                async with self._connect({}) as another:
                    if await another.query(_IDENTITY, QUERY_SECONDS) != server:
                        raise WalRefusedError(
                            "the origin's address leads to another server", lasting=False
                        )
            except OwnConnectionError as error:
                # It may be full for a moment, though it was not for clients.
                failures += 1
                if failures == MOST_FAILURES:
                    raise WalRefusedError(
                        "it can't be seen whether the origin's address leads to the same server: "
                        f"{error}",
                        lasting=False,
                    ) from error
            else:
                connects, failures = opened, 0


def _transactions_are_open() -> WalRefusedError:
    return WalRefusedError(
        "transactions are open at the origin that a replication slot has to wait for",
        lasting=False,
    )
