"""What goes wrong between a proxy and its origin, and at the origin."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg

from .wire import Client, Lost

if TYPE_CHECKING:
    from .stage import Stage

_COMMITS = re.compile(rb"COMMIT|UPDATE|INSERT|bump")
_REPLICATION = b"\x00replication\x00database\x00"
# What the backend of a lost link may still take, before its socket is closed as well.
_LINGER_SECONDS = 0.05
RECEIVER = "cache_check_standby"


class Relay:
    """Passes bytes between one proxy and the origin.

    A connection is one for replication if its start-up message says so.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.links: set[Link] = set()
        self.is_stalled = False
        """Nothing passes on replication connections, be they new."""
        self.trap: Callable[[Link, bytes], bool] | None = None
        """Is asked about all that proxies send on other connections; true keeps it from passing."""
        self.open: set[Any] = set()
        """The transports to the origin, some of whose links are cut already."""
        self.connecting: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(cls, target: int) -> Relay:
        relay = cls(target)
        loop = asyncio.get_running_loop()
        relay._server = await loop.create_server(lambda: Link(relay), "127.0.0.1", 0)
        relay.port = relay._server.sockets[0].getsockname()[1]
        return relay

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in list(self.links):
            link.cut()
        if self.connecting:
            await asyncio.wait(self.connecting)
        for transport in list(self.open):
            transport.abort()
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    def replication(self) -> list[Link]:
        return [link for link in self.links if link.is_replication]

    def stall(self) -> None:
        self.is_stalled = True
        for link in self.replication():
            link.hold()

    def release(self) -> None:
        self.is_stalled = False
        for link in self.replication():
            link.release()

    def lose_a_commit(self, *, heard: bool) -> None:
        """The next link that sends a write or a COMMIT is lost; ``heard``: the origin gets it."""

        def trap(link: Link, data: bytes) -> bool:
            if not _COMMITS.search(data):
                return False
            self.trap = None
            link.lose(heard=heard, data=data)
            return True

        self.trap = trap


class Link(asyncio.Protocol):
    """The proxy's side of one connection; :class:`_Far` is the origin's."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._near: Any = None
        self._far: Any = None
        self._waiting: list[bytes] = []
        self.is_replication = False
        self._is_known = False
        self._is_held = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._near = transport
        self._relay.links.add(self)
        connecting = asyncio.get_running_loop().create_task(self._connect())
        self._relay.connecting.add(connecting)
        connecting.add_done_callback(self._relay.connecting.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._far, _ = await loop.create_connection(
                lambda: _Far(self, self._relay), "127.0.0.1", self._relay.target
            )
        except OSError:
            self.cut()
            return
        if self._near.is_closing():
            self._far.abort()
            return
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self._far.write(data)
        if self._is_held:
            self._far.pause_reading()

    def data_received(self, data: bytes) -> None:
        if not self._is_known:
            self._is_known = True
            self.is_replication = _REPLICATION in data
            if self.is_replication and self._relay.is_stalled:
                self.hold()
        trap = self._relay.trap
        if trap is not None and not self.is_replication and trap(self, data):
            return
        self.send(data)

    def send(self, data: bytes) -> None:
        """On to the origin."""
        if self._far is None or self._is_held:
            self._waiting.append(data)
        else:
            self._far.write(data)

    def answer(self, data: bytes) -> None:
        """Back to the proxy."""
        if not self._near.is_closing():
            self._near.write(data)

    def hold(self) -> None:
        """Nothing passes either way."""
        self._is_held = True
        if self._far is not None:
            self._far.pause_reading()

    def release(self) -> None:
        self._is_held = False
        if self._far is not None:
            waiting, self._waiting = self._waiting, []
            for data in waiting:
                self._far.write(data)
            self._far.resume_reading()

    def lose(self, *, heard: bool, data: bytes) -> None:
        """The proxy sees its connection end; the origin gets ``data`` before, or never."""
        far = self._far
        if heard and far is not None:
            far.write(data)
            far.pause_reading()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, far.abort)
            self._far = None
        self.cut()

    def cut(self) -> None:
        self._relay.links.discard(self)
        self._near.abort()
        if self._far is not None:
            self._far.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._relay.links.discard(self)
        if self._far is not None:
            self._far.close()


class _Far(asyncio.Protocol):
    def __init__(self, link: Link, relay: Relay) -> None:
        self._link = link
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._relay.open.add(transport)

    def data_received(self, data: bytes) -> None:
        self._link.answer(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._relay.open.discard(self._transport)
        self._link._near.close()


# What a run does; each returns when it is over.


async def lose_commits(stage: Stage, random: Random) -> None:
    """Links are lost while they commit, before the origin hears of it and after."""
    for _ in range(4):
        for relay in stage.relays:
            relay.lose_a_commit(heard=random.random() < 0.7)
        await asyncio.sleep(random.uniform(0.05, 0.3))
    for relay in stage.relays:
        relay.trap = None


async def end_backends(stage: Stage, random: Random) -> None:
    """The origin ends some of the proxies' backends."""
    await at_origin(
        stage,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND application_name = 'Cloudflare Hyperdrive' AND pid % 3 = {random.randrange(3)}",
    )


async def cut_stream(stage: Stage, random: Random) -> None:
    for relay in stage.relays:
        for link in relay.replication():
            link.cut()


async def stall_stream(stage: Stage, random: Random) -> None:
    """Nothing comes for a while, though the connections stand."""
    for relay in stage.relays:
        relay.stall()
    await asyncio.sleep(random.uniform(0.5, 2))
    for relay in stage.relays:
        relay.release()


async def stop_sender(stage: Stage, random: Random) -> None:
    """The origin's own process that reads the WAL stands still."""
    with stopped_senders(await senders(stage)):
        await asyncio.sleep(random.uniform(0.5, 2))


async def pause_standby(stage: Stage, random: Random) -> None:
    """Commits are in the WAL, and visible only when a synchronous standby is there again."""
    async with Standby(stage) as standby:
        for _ in range(3):
            with standby.paused():
                await asyncio.sleep(random.uniform(0.1, 0.7))
            await asyncio.sleep(random.uniform(0.05, 0.2))


async def lose_commits_that_wait(stage: Stage, random: Random) -> None:
    """Links are lost while their COMMIT waits for a standby: it is visible long after."""
    async with Standby(stage) as standby:
        for _ in range(2):
            with standby.paused():
                for relay in stage.relays:
                    relay.lose_a_commit(heard=True)
                await asyncio.sleep(random.uniform(0.2, 0.9))
            for relay in stage.relays:
                relay.trap = None
            await asyncio.sleep(0.1)


async def restart(stage: Stage, random: Random) -> None:
    await asyncio.to_thread(stage.postgres.restart)


FAULTS: dict[str, Callable[[Stage, Random], Awaitable[None]]] = {
    "commits lost": lose_commits,
    "backends ended": end_backends,
    "stream cut": cut_stream,
    "stream stalled": stall_stream,
    "walsender stopped": stop_sender,
    "standby paused": pause_standby,
    "commits lost that wait for the standby": lose_commits_that_wait,
    "origin restarted": restart,
}


async def at_origin(stage: Stage, text: str) -> list[tuple[Any, ...]]:
    """Rows of a query at the origin itself; none if it can't be asked."""
    try:
        client = await Client.connect(stage.direct)
    except Lost:
        return []
    try:
        return [tuple(row) for row in (await client.query(text)).rows]
    except Lost:
        return []
    finally:
        client.close()


async def senders(stage: Stage) -> list[int]:
    """Process ids of what sends the WAL to the proxies."""
    rows = await at_origin(
        stage,
        "SELECT active_pid::bigint FROM pg_replication_slots "
        "WHERE active_pid IS NOT NULL AND slot_type = 'logical' AND database = current_database()",
    )
    return [int(pid) for (pid,) in rows]


@contextmanager
def stopped_senders(pids: list[int]) -> Iterator[None]:
    """SIGSTOP, and SIGCONT in the end."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Standby:
    """A synchronous standby: to the origin, ``pg_receivewal --synchronous`` is one."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._folder = tempfile.TemporaryDirectory(prefix="hyperdrive-wal-")

    async def __aenter__(self) -> Standby:
        postgres = self._stage.postgres
        where = (
            f"host=127.0.0.1 port={postgres.port} user={postgres.user} application_name={RECEIVER}"
        )
        self._process = subprocess.Popen(  # noqa: ASYNC220 (a fork, and it is ours)
            [
                postgres.binaries.directory / "pg_receivewal",
                f"--directory={self._folder.name}",
                "--synchronous",
                "--no-loop",
                f"--dbname={where}",
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            await self._alter(f"SET synchronous_standby_names = '{RECEIVER}'")
            await self._until_synchronous()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._alter("RESET synchronous_standby_names")
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No COMMIT ends meanwhile."""
        with stopped_senders([self._process.pid]):
            yield

    async def _alter(self, what: str) -> None:
        url = self._stage.postgres.connection_string

        def alter() -> None:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f"ALTER SYSTEM {what}")
                connection.execute("SELECT pg_reload_conf()")

        await asyncio.to_thread(alter)

    async def _until_synchronous(self) -> None:
        async with asyncio.timeout(20):
            while not await at_origin(  # noqa: ASYNC110 (another process decides)
                self._stage,
                "SELECT 1 FROM pg_stat_replication "
                f"WHERE application_name = '{RECEIVER}' AND sync_state = 'sync'",
            ):
                await asyncio.sleep(0.02)
