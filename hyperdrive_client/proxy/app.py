"""One worker: a core, its network and its event loop, from the first socket to the last."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from ..errors import HyperdriveError, ProxyStartError
from .admin.console import Console
from .core.core import Core
from .core.siblings import Siblings
from .net.cache_keeper import CacheKeeper
from .net.listener import Server, client_greeter, listen, remove_socket
from .net.network import TICK_SECONDS, Network
from .net.supervised import Door, Supervised
from .settings import Settings

# The SQL parser may recurse deeply; threads have 8 MiB of stack, or 512 KiB on some systems.
STACK_BYTES = 64 * 1024 * 1024


# The loop may have ended meanwhile; else it takes a moment.
_RETIRE_TIMEOUT = 5.0


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@dataclass(frozen=True, slots=True)
class Membership:
    """What makes a worker one of several."""

    siblings: Siblings
    door: socket.socket
    """Where clients come from."""
    words: socket.socket
    """Where the supervisor speaks and listens."""


class App:
    """A proxy on a thread of its own.

    :meth:`start` returns when it accepts connections. :meth:`drain` and :meth:`stop` may be called
    from any thread; :meth:`join` waits for the end.
    """

    def __init__(
        self,
        settings: Settings,
        leave: Callable[[], bool] = lambda: True,
        membership: Membership | None = None,
    ) -> None:
        """``leave`` is called on the thread when no client has come for ``proxy_idle_timeout``
        seconds, and says whether it may end for that. With ``membership`` this is one of several
        workers: clients come from their supervisor."""
        self.settings = settings
        self._membership = membership
        self._leave = leave
        self._started: Future[Settings] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: _Worker | None = None
        self._thread = threading.Thread(target=self._run, name="hyperdrive-proxy", daemon=True)

    def start(self) -> Settings:
        """Start and wait; the settings with the port in use. ``ProxyStartError`` if it can't."""
        with _stack_size:
            before = threading.stack_size(STACK_BYTES)
            try:
                self._thread.start()
            finally:
                threading.stack_size(before)
        self.settings = self._started.result()
        return self.settings

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def drain(self) -> None:
        """Refuse new work, let transactions finish, then end."""
        self._tell(lambda worker: worker.drain())

    def retire(self) -> None:
        """Leave the sockets to another proxy, serve who is connected, and end with the last.

        Nobody listens there any more when it returns.
        """
        left = threading.Event()

        def retire(worker: _Worker) -> None:
            worker.retire()
            left.set()

        self._tell(retire)
        left.wait(_RETIRE_TIMEOUT)

    def stop(self) -> None:
        """End at once."""
        self._tell(lambda worker: worker.stop())

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    def _tell(self, what: Callable[[_Worker], None]) -> None:
        loop, worker = self._loop, self._worker
        if loop is None or worker is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
            loop.call_soon_threadsafe(what, worker)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(
                    error
                    if isinstance(error, HyperdriveError)
                    else ProxyStartError(f"the proxy could not start: {error!r}")
                )
                return
            raise

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        worker = _Worker(self.settings, loop, self._leave, self._membership)
        settings = await worker.listen()
        self._loop, self._worker = loop, worker
        self._started.set_result(settings)
        await worker.run()


_stack_size = threading.Lock()


class _Worker:
    """What lives on the loop."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        leave: Callable[[], bool],
        membership: Membership | None,
    ) -> None:
        self.settings = settings
        self._membership = membership
        self.core = Core(settings, Console, None if membership is None else membership.siblings)
        self.network = Network(self.core, loop)
        self._loop = loop
        self._leave = leave
        self._end: float | None = None
        self._used_at = loop.time()
        self._servers: list[Server | Door] = []
        self._socket: os.stat_result | None = None
        self._is_retired = False

    async def listen(self) -> Settings:
        if self._membership is not None:
            await self._join(self._membership)
            return self.settings
        servers, port = await listen(self.network, self.settings)
        self._servers = [*servers]
        if self.settings.unix_socket is not None:
            self._socket = os.stat(self.settings.unix_socket)
        return replace(self.settings, port=port)

    async def _join(self, membership: Membership) -> None:
        greeter = client_greeter(self.network, self.settings)
        self._servers = [Door(greeter, membership.door, self.retire)]
        _, supervised = await self._loop.create_unix_connection(
            lambda: Supervised(self.network, self._obey), sock=membership.words
        )
        supervised.say(["ready"])

    def _obey(self, word: str) -> None:
        if word == "drain":
            self.drain()
        else:
            self.stop()

    async def run(self) -> None:
        """Until drained or stopped."""
        keeper = None
        if not self.core.cache.is_off:
            keeper = self._loop.create_task(CacheKeeper(self.core, self.network.now).run())
        try:
            while not self._has_ended():
                await asyncio.sleep(TICK_SECONDS)
                self._end_unused()
        finally:
            self._close_servers()
            self.core.stop(self.network.now())
            self.network.perform()
            if keeper is not None:
                keeper.cancel()
            await self.network.close()
            if keeper is not None:
                await asyncio.wait((keeper,))

    def drain(self) -> None:
        """Still listens: who wants to end a query that keeps this from ending comes that way."""
        if self._end is not None:
            return
        self._end = self._loop.time() + self.settings.limits.drain_timeout
        self.core.drain(self.network.now())
        self.network.perform()

    def retire(self) -> None:
        self._close_servers()
        self._is_retired = True

    def stop(self) -> None:
        self._end = 0.0

    def _has_ended(self) -> bool:
        if self._end is None:
            return False
        at_rest = self.core.at_rest and not self.network.connections
        return at_rest or self._loop.time() >= self._end

    def _end_unused(self) -> None:
        timeout, now = self.settings.limits.proxy_idle_timeout, self._loop.time()
        if self._is_retired:
            if not self.core.has_clients:
                self.stop()
        elif self.core.has_clients or not timeout:
            self._used_at = now
        elif now - self._used_at >= timeout and self._leave():
            self.stop()

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        if self.settings.unix_socket is not None and self._socket is not None:
            remove_socket(self.settings.unix_socket, self._socket)
