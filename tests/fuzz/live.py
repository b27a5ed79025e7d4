"""Inputs to a proxy process with a PostgreSQL behind it."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psycopg

from hyperdrive_client.bindings.connection_string import parse_connection_string
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.scram import SCRAM_SHA_256, ScramClient, ScramCredentials
from hyperdrive_client.proxy.settings import Limits, Settings
from hyperdrive_client.proxy.spawn import ProcessProxy

from .coverage import count_messages
from .messages import CLIENT, SETTINGS, USUAL, mutated, startup

CLIENTS = 8
PASSWORD = "entry"
# An input is answered, or not, in milliseconds.
HANGS_AFTER = 30.0
QUIET_SECONDS = 0.002
PROBES = 10
SHOWN = 2 * CLIENTS

MAX_GROWTH = 8 * 1024 * 1024
"""Bytes of resident memory after the first third. What is kept is bounded: 10,000 statements,
and for their classification twice 4,096 of at most 4 KiB; new ones come all the time."""

TABLES = "CREATE TABLE things (a int); CREATE SEQUENCE numbers"
BUSY = """
    SELECT pid, state, wait_event, query FROM pg_stat_activity
    WHERE application_name = 'Cloudflare Hyperdrive'
        AND (state <> 'idle' OR xact_start IS NOT NULL)"""


class Broken(Exception):
    """The proxy did what it must not do."""


class Live:
    """One proxy, and inputs until there are enough."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.inputs = 0
        self.authenticated = 0
        self.conversations = 0
        self.growth = 0
        """Bytes of resident memory since a third of the inputs."""
        self._recent: deque[str] = deque(maxlen=SHOWN)

    def __str__(self) -> str:
        share = self.authenticated / max(self.inputs, 1)
        return (
            f"{self.inputs} inputs in {self.conversations} connections, {self.authenticated} "
            f"({share:.0%}) after authentication; resident memory grew by "
            f"{self.growth / 1e6:.1f} MB after the first third, {MAX_GROWTH / 1e6:.1f} are allowed"
        )

    def play(self, inputs: int, progress: bool = False) -> None:
        """``Broken`` with the last conversations if the proxy did not stand it."""
        quiet = {"statement_timeout": "2s", "log_min_messages": "panic"}
        with (
            EmbeddedPostgres(auth="trust", settings=quiet) as postgres,
            tempfile.NamedTemporaryFile() as log,
        ):
            with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
                connection.execute(TABLES)
            with _proxy(postgres, log.fileno()) as proxy:
                self._feed(proxy, postgres.connection_string, inputs, progress)
            complaints = Path(log.name).read_text(errors="replace")
            if "Traceback" in complaints or "Error" in complaints:
                raise Broken(self._story(f"the proxy has written:\n{complaints[:5000]}"))

    def _feed(
        self,
        proxy: ProcessProxy,
        origin: str,
        inputs: int,
        progress: bool,
    ) -> None:
        before = 0
        for part in range(1, PROBES + 1):
            asyncio.run(self._converse(proxy.settings, inputs * part // PROBES))
            self._probe(proxy, origin)
            resident = _resident(proxy.pid)
            if part * 3 <= PROBES or not before:
                before = resident
            if progress:
                print(f"live: {self.inputs} inputs, {resident / 1e6:.1f} MB", flush=True)
        self.growth = resident - before
        if self.growth > MAX_GROWTH:
            raise Broken(self._story(f"{self.growth} bytes more than after a third"))

    def _story(self, what: str) -> str:
        recent = "\n".join(self._recent)
        return f"seed {self.seed}, after {self.inputs} inputs: {what}\nThe last were:\n{recent}"

    def _probe(self, proxy: ProcessProxy, origin: str) -> None:
        """Who means well is served, and the origin has nothing to do."""
        if not proxy.is_running:
            raise Broken(self._story("the proxy has ended"))
        settings = proxy.settings
        try:
            with psycopg.connect(
                host="127.0.0.1",
                port=settings.port,
                user=settings.user,
                password=PASSWORD,
                dbname=settings.origin.database,
                connect_timeout=int(HANGS_AFTER),
            ) as client:
                assert client.execute("SELECT 'well'").fetchone() == ("well",)
        except psycopg.Error as error:
            raise Broken(self._story(f"a client that means well hears: {error}")) from error
        deadline = time.monotonic() + HANGS_AFTER
        while busy := _busy(origin, deadline):
            if time.monotonic() > deadline:
                raise Broken(self._story(f"origin connections are busy for ever: {busy}"))
            time.sleep(0.01)

    # Conversations.

    async def _converse(self, settings: Settings, until: int) -> None:
        async def work() -> None:
            while self.inputs < until:
                number = self.conversations
                self.conversations += 1
                try:
                    async with asyncio.timeout(HANGS_AFTER):
                        await self._one(settings, number)
                except TimeoutError:
                    raise Broken(self._story(f"conversation {number} hangs")) from None
                except OSError:
                    # That is how many of them have to end.
                    continue

        await asyncio.gather(*(work() for _ in range(CLIENTS)))

    async def _one(self, settings: Settings, number: int) -> None:
        random = Random(f"{self.seed} live {number}")
        reader, writer = await asyncio.open_connection("127.0.0.1", settings.port)
        sent: list[bytes] = []
        try:
            inside = random.random() < 0.8 and await _enter(reader, writer, settings, random)
            if not inside:
                sent.append(startup(random))
                writer.write(sent[-1])
                self.inputs += 1
            reading = asyncio.create_task(_read(reader))
            wildness = random.choice((0.05, 0.3, 0.8))
            for _ in range(random.randint(1, 12)):
                data = _chunk(random, wildness)
                sent.append(data)
                count = count_messages(data)
                self.inputs += count
                self.authenticated += count if inside else 0
                writer.write(data)
                await writer.drain()
                if random.random() < 0.3:
                    await asyncio.wait([reading], timeout=QUIET_SECONDS)
                if reading.done():
                    break
            if random.random() < 0.5:
                writer.write(m.TERMINATE_MESSAGE)
                writer.write_eof()
                await asyncio.wait([reading], timeout=QUIET_SECONDS)
            reading.cancel()
        finally:
            self._recent.append(f"    {sent!r:.2000}")
            writer.transport.abort()


def _chunk(random: Random, wildness: float) -> bytes:
    kinds = [ord(random.choice(USUAL)) for _ in range(random.choice((1, 1, 2, 5)))]
    parts = [CLIENT[kind](random) for kind in kinds]
    if random.random() < wildness:
        at = random.randrange(len(parts))
        parts[at] = mutated(random, parts[at])
    return b"".join(parts)


async def _enter(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    settings: Settings,
    random: Random,
) -> bool:
    """Start up and prove who we are; whether we were let in."""
    user = {b"user": settings.user.encode(), b"database": settings.origin.database.encode()}
    writer.write(m.startup_message({**user, **random.choice(SETTINGS)}))
    scram = ScramClient(_CREDENTIALS, [SCRAM_SHA_256])
    await _message(reader)
    writer.write(m.sasl_initial_response(SCRAM_SHA_256, scram.first()))
    _, body = await _message(reader)
    writer.write(m.password(scram.final(body[4:])))
    while True:
        kind, body = await _message(reader)
        if kind in (m.READY_FOR_QUERY, m.ERROR_RESPONSE):
            return kind == m.READY_FOR_QUERY


_CREDENTIALS = ScramCredentials(PASSWORD)


async def _message(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    try:
        kind, length = m.HEADER.unpack(await reader.readexactly(5))
        return kind, await reader.readexactly(length - 4)
    except asyncio.IncompleteReadError:
        raise ConnectionResetError from None


async def _read(reader: asyncio.StreamReader) -> None:
    """Until the proxy closes."""
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass


def _busy(origin: str, deadline: float) -> list[tuple[object, ...]]:
    """What the origin does for the proxy.

    A function that is called by a random number may bring PostgreSQL itself down: then it is
    asked again when it is back.
    """
    while True:
        try:
            with psycopg.connect(origin, autocommit=True) as connection:
                return connection.execute(BUSY).fetchall()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def _proxy(postgres: EmbeddedPostgres, log: int) -> Iterator[ProcessProxy]:
    """A proxy process that writes its complaints to ``log``."""
    settings = Settings(
        origin=parse_connection_string(postgres.connection_string),
        user="visitor",
        password=PASSWORD,
        limits=Limits(origin_connection_limit=5),
    )
    stderr = os.dup(2)
    os.dup2(log, 2)
    try:
        proxy = ProcessProxy(settings)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    try:
        yield proxy
    finally:
        proxy.close()


def _resident(pid: int) -> int:
    """Bytes of memory that the process has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
