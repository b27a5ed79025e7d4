"""Tells the cache what it has to know of the origin: its catalogue, and what others write."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from random import Random
from typing import NoReturn

from ...errors import OriginProtocolError
from ..cache.catalogue import Catalogue
from ..cache.catalogue_queries import FINGERPRINT, QUERIES
from ..core.core import Core
from ..core.origin_startup import Credentials
from .first_end import first_end
from .own_connection import OwnConnection, OwnConnectionError, own_connection
from .wal_reader import WalReader, WalRefusedError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 15.0
# A poll of the catalogue that takes longer is as good as none.
POLL_SECONDS = 2.0
LOAD_SECONDS = 30.0
CATALOGUE_SECONDS = 1.0
UNCERTAIN_SECONDS = 0.2
# How often to see whether the first client has come.
CLIENT_SECONDS = 0.1

# An application's own sequence of random numbers is left alone.
_RANDOM = Random()
FIRST_PAUSE = 0.1
LAST_PAUSE = 10.0
# Until somebody may have set up the origin for `auto`, for which no connection is kept.
LOOK_AGAIN_SECONDS = 60.0

# What the role, the database or the connection string may have set otherwise for sessions. It is
# set here and not at start-up, so that what sessions begin with can still be read.
_SETTINGS = b"""
SELECT pg_catalog.set_config('search_path', 'pg_catalog', false);
SELECT set_config(s.name, given.value, false) FROM pg_settings s
JOIN (VALUES ('statement_timeout', '30s'), ('lock_timeout', '0'), ('idle_session_timeout', '0'),
  ('TimeZone', 'UTC'), ('default_transaction_isolation', 'read committed'),
  ('standard_conforming_strings', 'on')) given (name, value) ON given.name = s.name
"""

_LOAD = b";\n".join(
    (
        b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        *QUERIES.values(),
        b"COMMIT",
    )
)

_BACKENDS = b"SELECT pid::text FROM pg_stat_activity WHERE pid IN (%s)"


class CacheKeeper:
    """Of one proxy, for as long as it runs.

    What it needs is had anew as a whole when a part of it fails, after pauses that double, with
    jitter. ``now`` is the clock of the core's events, in seconds.
    """

    def __init__(self, core: Core, now: Callable[[], float]) -> None:
        self._core = core
        self._cache = core.cache
        self._mode = core.cache.settings.mode
        self._now = now
        self._credentials = Credentials(core.settings.origin)
        self._stale = asyncio.Event()
        self._unsure = asyncio.Event()
        self._cache.on_stale = self._wake
        self._stood_at = float("inf")
        """When everything was there that is needed; infinite if it was not."""
        self._said = ""

    async def run(self) -> NoReturn:
        """Until cancelled."""
        pause = FIRST_PAUSE / 2
        if self._mode == "auto":
            await self._wait_for_client()
        while True:
            self._stood_at = float("inf")
            lasting = False
            try:
                await self._keep()
            except (WalRefusedError, OwnConnectionError) as error:
                reason, lasting = str(error), error.is_lasting
            except OriginProtocolError as error:
                reason = f"the origin broke the protocol: {error}"
            except Exception as error:
                logger.exception("the cache's keeper has failed")
                reason = f"internal error: {type(error).__name__}"
            self._lose(reason, lasting=lasting)
            # What breaks again and again at its beginning is no reason to be in a hurry.
            has_stood = self._now() - self._stood_at >= LAST_PAUSE
            pause = FIRST_PAUSE if has_stood else min(2 * pause, LAST_PAUSE)
            if lasting:
                pause = LOOK_AGAIN_SECONDS if self._mode == "auto" else LAST_PAUSE
            await asyncio.sleep(pause * _RANDOM.uniform(0.5, 1))

    async def _wait_for_client(self) -> None:
        """Who may not need a cache at all is not to be kept from the origin by it."""
        while not self._core.counters.origin_connects:  # noqa: ASYNC110 - it is a plain number
            await asyncio.sleep(CLIENT_SECONDS)

    async def _keep(self) -> None:
        """Until something of it fails."""
        core = self._core
        begun = asyncio.Event()
        async with own_connection(core.settings, self._credentials, CONNECT_SECONDS) as side:
            await side.results(_SETTINGS, POLL_SECONDS)
            work = [
                side.lost(),
                self._keep_catalogue(side, begun),
                self._keep_uncertain(side, begun),
            ]
            if self._mode in ("auto", "wal"):
                reader = WalReader(
                    core.settings,
                    self._credentials,
                    self._cache.guard,
                    side,
                    self._now,
                    lambda: core.counters.origin_connects,
                )
                work.append(reader.follow(begun.set))
            else:
                begun.set()
            await first_end(*work)

    async def _keep_catalogue(self, side: OwnConnection, begun: asyncio.Event) -> NoReturn:
        await begun.wait()
        mode = "wal" if self._mode == "auto" else self._mode
        self._cache.decide(mode, "")
        fingerprint = await self._load(side)
        self._stood_at, self._said = self._now(), ""
        logger.info("the cache is in use: %s", mode)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CATALOGUE_SECONDS):
                    await self._stale.wait()
            self._stale.clear()
            if not self._cache.wants_catalogue:
                asked, looks = self._now(), self._cache.looks
                ((now,),) = await side.query(FINGERPRINT, POLL_SECONDS)
                if now == fingerprint:
                    self._cache.catalogue_unchanged(asked, looks)
                    continue
                self._cache.rereads_catalogue()
            fingerprint = await self._load(side)

    async def _load(self, side: OwnConnection) -> bytes | None:
        """Read the catalogue; its fingerprint.

        What changes while it is read shows in the next fingerprint, since this one is older than
        the rows; after DDL of our own it is read again at once. Meanwhile an old catalogue says
        better than none which statements are DDL.
        """
        while True:
            self._stale.clear()
            asked = self._now()
            # Always on the same connection: in each the configuration was loaded at another time.
            ((fingerprint,),) = await side.query(FINGERPRINT, POLL_SECONDS)
            # What sessions begin with only one shows that began after that.
            async with own_connection(
                self._core.settings, self._credentials, CONNECT_SECONDS, address=side.address
            ) as fresh:
                await fresh.results(_SETTINGS, POLL_SECONDS)
                answers = await fresh.results(_LOAD, LOAD_SECONDS)
            if len(answers) != len(QUERIES):
                raise OriginProtocolError("the catalogue's queries have not all been answered")
            named = dict(zip(QUERIES, answers, strict=True))
            self._cache.catalogue_loaded(Catalogue.of(named, self._cache.settings), asked)
            if not self._stale.is_set():
                return fingerprint
            self._cache.rereads_catalogue()

    async def _keep_uncertain(self, side: OwnConnection, begun: asyncio.Event) -> NoReturn:
        """Watch for the end of backends that may still commit."""
        await begun.wait()
        uncertain = self._cache.uncertain
        while True:
            if uncertain:
                asked = list(uncertain)
                listed = b",".join(b"%d" % each for each in asked)
                there = {int(pid or 0) for (pid,) in await side.query(_BACKENDS % listed, 2)}
                for process_id in asked:
                    if process_id not in there:
                        self._cache.backend_gone(process_id)
                await asyncio.sleep(UNCERTAIN_SECONDS)
            else:
                await self._unsure.wait()
            self._unsure.clear()

    def _wake(self) -> None:
        self._stale.set()
        self._unsure.set()

    def _lose(self, reason: str, *, lasting: bool) -> None:
        cache = self._cache
        cache.catalogue_lost(reason)
        mode: str = self._mode
        if mode in ("auto", "wal"):
            cache.guard.lost(reason)
        if mode == "auto":
            mode = "wal" if cache.mode == "wal" and not lasting else "off"
        cache.decide(mode, reason)
        if reason == self._said:
            return
        self._said = reason
        if mode == "off":
            logger.info("the cache is off: %s (`hyperdrive doctor` says what it takes)", reason)
        else:
            logger.warning("nothing is served from the cache: %s", reason)
