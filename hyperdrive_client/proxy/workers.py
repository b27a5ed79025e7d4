"""Several workers behind one port: their supervisor, and the process of each.

The supervisor accepts clients and hands each to the worker that has the fewest, by passing the
socket. So a client is refused by nobody while a worker is replaced, and all have as much to do. It
never sees a byte of theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import mmap
import os
import secrets
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, cast

from ..errors import ConfigurationError, HyperdriveError, ProxyStartError
from .app import App, Membership
from .cache.epochs import Epochs
from .core.core import FIRST_PROCESS_ID
from .core.siblings import Siblings, departed, forget_endings, memory_size, rows_of
from .leases import Leases
from .net.listener import listening_sockets, port_of, remove_socket
from .settings import Settings
from .spawn import (
    START_TIMEOUT,
    STOP_TIMEOUT,
    allow_many_sockets,
    environment,
    from_json,
    module_path,
    python,
    to_json,
)

logger = logging.getLogger(__name__)

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); "
    "from hyperdrive_client import alone; alone.IS_ALONE = True; "
    "from hyperdrive_client.proxy.workers import main; main()"
)
# A worker that ends sooner than this after its start is not started again at once.
_SHORT_LIFE = 10.0
_FIRST_PAUSE = 0.1
_LAST_PAUSE = 5.0
# Who waits for connections that nobody has to give up may get them when they are not used.
_SETTLE_SECONDS = 0.5
_ANSWER_TIMEOUT = 5.0
_ACCEPT_AGAIN_SECONDS = 1.0
_HAND_OVER_AGAIN_SECONDS = 0.01
_ACCEPTED_AT_ONCE = 64
# Origin connections that a worker has had; some may be uncertain when it dies.
_BACKENDS_REMEMBERED = 1000
_NO_SOCKETS_LEFT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def run_workers(
    settings: Settings,
    *,
    on_start: Callable[[Settings], None],
    on_drain: Callable[[], object] = lambda: None,
    parent: int | None = None,
) -> None:
    """Run a proxy of several workers, and block until it has ended. For the main thread.

    ``on_start`` gets the settings with the port in use. SIGTERM or SIGINT drains, a second one ends
    at once; so does the end of the file descriptor ``parent``, if given. SIGHUP replaces each
    worker by a new process; the old ones serve their clients to the end, or, at the next SIGHUP,
    drain.

    :raises ConfigurationError: this system has no memory to share.
    :raises ProxyStartError: it could not start.
    """
    if not hasattr(os, "memfd_create"):
        raise ConfigurationError("several workers need Linux: start one, without --workers")
    allow_many_sockets()
    asyncio.run(Supervisor(settings).run(on_start, on_drain, parent))


class Worker:
    """One worker's process, as the supervisor sees it."""

    def __init__(self, number: int, departed: int) -> None:
        self.number = number
        self.door, self.their_door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.words, self.their_words = socket.socketpair()
        self.door.setblocking(False)
        self.process: asyncio.subprocess.Process | None = None
        self.transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started = asyncio.get_running_loop().time()
        self.clients = -departed
        """Those it was given, but for those that had left its column before."""
        self.backends: set[int] = set()
        self.former_backends: deque[int] = deque(maxlen=_BACKENDS_REMEMBERED)

    def say(self, *message: Any) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """Of its process is nothing left."""
        for each in (self.door, self.their_door, self.words, self.their_words):
            each.close()
        if self.transport is not None:
            self.transport.close()


class _Words(asyncio.Protocol):
    """What one worker says."""

    def __init__(self, worker: Worker, hear: Callable[[Worker, list[Any]], None]) -> None:
        self._worker = worker
        self._hear = hear
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._worker.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(self._worker, json.loads(line))


class _Question:
    """What several workers are asked; ``answered`` gets their answers when all are there."""

    def __init__(self, asked: set[Worker], answered: Callable[[list[Any]], None]) -> None:
        self.asked = asked
        self.answers: list[Any] = []
        self.answered = answered


class Supervisor:
    """Of as many workers as the settings say; everything happens on its event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._count = settings.workers
        # While one is being replaced there are two of it.
        self._columns = 2 * settings.workers
        size = memory_size(self._columns)
        self._descriptor = os.memfd_create("hyperdrive")
        os.ftruncate(self._descriptor, size)
        self._memory = mmap.mmap(self._descriptor, size)
        self._rows = rows_of(self._memory, self._columns)
        self._seed = secrets.token_hex(32)
        self._serving: list[Worker] = []
        """Those that get clients."""
        self._workers: dict[int, Worker] = {}
        """All that have a process, by their columns."""
        self._free_columns = deque(range(self._columns))
        self._clients: deque[socket.socket] = deque()
        """Accepted, and with no worker yet."""
        self._leases: dict[str, Leases] = {}
        self._questions: dict[int, _Question] = {}
        self._relays: dict[int, tuple[Worker, Worker, int]] = {}
        """Cancel requests on their way: from whom, to whom, and the asker's number for it."""
        self._tokens = 0
        self._told = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._replacements = 0
        """How often all workers are still to be replaced; the first time is under way."""

    async def run(
        self,
        on_start: Callable[[Settings], None],
        on_drain: Callable[[], object],
        parent: int | None,
    ) -> None:
        """Until told to end, and all workers have ended."""
        loop = self._loop = asyncio.get_running_loop()
        listening = listening_sockets(self._settings)
        self._settings = replace(self._settings, port=port_of(listening, self._settings))
        path = self._settings.unix_socket
        made = None if path is None else os.stat(path)
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._end, on_drain)
            loop.add_signal_handler(signal.SIGHUP, self._replace_all)
            if parent is not None:
                loop.add_reader(parent, self._watch_parent, parent)
            await self._start_all()
            for each in listening:
                each.setblocking(False)
                loop.add_reader(each, self._accept, each)
            loop.call_later(_SETTLE_SECONDS, self._settle_again)
            if not self._told:
                on_start(self._settings)
            await self._ended.wait()
        finally:
            for each in listening:
                loop.remove_reader(each)
                each.close()
            for client in self._clients:
                client.close()
            if path is not None and made is not None:
                remove_socket(path, made)
            await self._kill_all()

    async def _start_all(self) -> None:
        starting = [self._start() for _ in range(self._count)]
        for result in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            self._serving.append(result)

    # Processes.

    async def _start(self) -> Worker:
        """Start a worker; returns when it is ready. ``ProxyStartError``."""
        number = self._free_columns.popleft()
        worker = Worker(number, departed(self._rows, self._columns, number))
        self._workers[number] = worker
        theirs = (worker.their_door, worker.their_words)
        try:
            await self._loop.create_unix_connection(
                lambda: _Words(worker, self._hear), sock=worker.words
            )
            process = worker.process = await asyncio.create_subprocess_exec(
                *(python(), "-P", "-c", _CHILD),
                env=environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(self._descriptor, *(each.fileno() for each in theirs)),
                # Ctrl-C in a terminal is ours to act on.
                start_new_session=True,
            )
            assert process.stdin is not None
            process.stdin.write(self._told_to(worker))
            for each in theirs:
                each.close()
            self._do(self._watch(worker))
            async with asyncio.timeout(START_TIMEOUT):
                await worker.ready
        except OSError as error:
            if worker.process is None:
                self._forget(worker)
            else:
                worker.process.kill()
            reason = "it did not get ready" if isinstance(error, TimeoutError) else error
            raise ProxyStartError(f"a worker's process could not be started: {reason}") from error
        return worker

    def _told_to(self, worker: Worker) -> bytes:
        """Not kept in a variable that tools may show with a traceback."""
        limits, caching = self._settings.limits, self._settings.caching
        part, rest = divmod(limits.client_connection_limit, self._count)
        has_more = worker.number % self._count < rest
        limits = replace(limits, client_connection_limit=max(1, part + has_more))
        caching = replace(caching, memory=caching.memory // self._count)
        told = {
            "settings": to_json(replace(self._settings, limits=limits, caching=caching)),
            "number": worker.number,
            "columns": self._columns,
            "seed": self._seed,
            "memory": self._descriptor,
            "door": worker.their_door.fileno(),
            "words": worker.their_words.fileno(),
        }
        return f"{json.dumps(module_path())}\n{json.dumps(told)}\n".encode()

    async def _watch(self, worker: Worker) -> None:
        """See to it that there is another when it ends."""
        assert worker.process is not None
        code = await worker.process.wait()
        if not worker.ready.done():
            worker.ready.set_exception(
                ProxyStartError(f"a worker's process ended before it was ready (exit code {code})")
            )
        was_serving = worker in self._serving
        await self._bury(worker)
        if not self._told and was_serving:
            logger.error("a worker has ended (exit code %d) and is started again", code)
            await self._start_again(worker)
        if self._told and not self._workers:
            self._ended.set()

    async def _start_again(self, former: Worker) -> None:
        pause = 0.0 if self._loop.time() - former.started >= _SHORT_LIFE else _FIRST_PAUSE
        while not self._told:
            await asyncio.sleep(pause)
            try:
                self._serve_with(await self._start())
            except HyperdriveError as error:
                logger.error("%s", error)
                pause = min(2 * max(pause, _FIRST_PAUSE), _LAST_PAUSE)
            else:
                return

    def _serve_with(self, worker: Worker) -> None:
        self._serving.append(worker)
        if self._told:
            worker.say("drain")
        self._hand_over()

    async def _bury(self, worker: Worker) -> None:
        """Settle what a worker that has ended leaves behind; its column is another's then."""
        if worker in self._serving:
            self._serving.remove(worker)
        if worker.transport is not None:
            # What it said last is still to be read.
            await asyncio.sleep(0)
        forget_endings(self._rows, self._columns, worker.number)
        for database, leases in list(self._leases.items()):
            leases.gone(worker)
            self._settle(database)
        for token, (asker, owner, theirs) in list(self._relays.items()):
            if owner is worker:
                del self._relays[token]
                asker.say("cancelled", theirs)
        del self._workers[worker.number]
        for token in list(self._questions):
            self._answer(worker, token, None)
        epochs = Epochs(self._memory, worker.number, self._columns)
        backends = list(worker.backends)
        if epochs.is_anything_uncertain:
            backends += worker.former_backends
        all_know = asyncio.Event()
        self._ask(set(self._workers.values()), lambda _: all_know.set(), "died", backends)
        await all_know.wait()
        epochs.is_uncertain(0)
        self._forget(worker)

    def _forget(self, worker: Worker) -> None:
        worker.close()
        self._workers.pop(worker.number, None)
        self._free_columns.append(worker.number)

    async def _kill_all(self) -> None:
        for worker in list(self._workers.values()):
            if worker.process is not None and worker.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.kill()
                await worker.process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers.values():
            worker.close()
        self._memory_is_done()

    def _memory_is_done(self) -> None:
        self._rows.release()
        os.close(self._descriptor)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What we are told.

    def _end(self, on_drain: Callable[[], object]) -> None:
        self._told += 1
        word = "drain" if self._told == 1 else "stop"
        for worker in self._workers.values():
            worker.say(word)
        if self._told == 1:
            on_drain()
        if not self._workers:
            self._ended.set()
        patience = STOP_TIMEOUT + (self._settings.limits.drain_timeout if self._told == 1 else 0)
        self._loop.call_later(patience, self._ended.set)

    def _watch_parent(self, parent: int) -> None:
        if not os.read(parent, 4096):
            self._loop.remove_reader(parent)
            self._told += 1
            self._end(lambda: None)

    def _replace_all(self) -> None:
        self._replacements += 1
        if self._replacements == 1:
            self._do(self._replace_each())

    async def _replace_each(self) -> None:
        if self._told:
            return
        try:
            for old in [each for each in self._workers.values() if each not in self._serving]:
                old.say("drain")
            for number, old in enumerate(list(self._serving), 1):
                while not self._free_columns:  # noqa: ASYNC110 - the drained take their time
                    await asyncio.sleep(_SETTLE_SECONDS)
                new = await self._start()
                if old in self._serving:
                    self._serving.remove(old)
                    # It ends with the last of its clients.
                    old.door.close()
                self._serve_with(new)
                logger.info("worker %d of %d is replaced", number, self._count)
        except HyperdriveError as error:
            logger.error("the workers that are left are not replaced: %s", error)
        finally:
            self._replacements -= 1
            if self._replacements:
                self._do(self._replace_each())

    # Clients.

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, _ = listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _NO_SOCKETS_LEFT:
                    logger.error("no client can be accepted for now: %s", error.strerror)
                    self._loop.remove_reader(listening)
                    self._loop.call_later(_ACCEPT_AGAIN_SECONDS, self._accept_again, listening)
                break
            self._clients.append(client)
        self._hand_over()

    def _accept_again(self, listening: socket.socket) -> None:
        if listening.fileno() != -1:
            self._loop.add_reader(listening, self._accept, listening)

    def _hand_over(self) -> None:
        """Give each client to the worker that has the fewest and can take one."""
        clients = self._clients
        while clients and self._serving:
            for worker in sorted(self._serving, key=self._load):
                try:
                    socket.send_fds(worker.door, [b"c"], [clients[0].fileno()])
                except OSError:  # it has not taken those before, or is gone
                    continue
                worker.clients += 1
                clients.popleft().close()
                break
            else:
                self._loop.call_later(_HAND_OVER_AGAIN_SECONDS, self._hand_over)
                return

    def _load(self, worker: Worker) -> int:
        return worker.clients - departed(self._rows, self._columns, worker.number)

    # What workers say.

    def _hear(self, worker: Worker, message: list[Any]) -> None:
        match message:
            case ["ready"]:
                if not worker.ready.done():
                    worker.ready.set_result(None)
            case ["failed", text]:
                if not worker.ready.done():
                    worker.ready.set_exception(ProxyStartError(text))
            case ["want", database, count]:
                self._leases_of(database).want(worker, count)
                self._settle(database)
            case ["return", database, count, backend]:
                if database == self._database:
                    worker.backends.discard(backend)
                    worker.former_backends.append(backend)
                self._leases_of(database).returned(worker, count)
                self._settle(database)
            case ["backend", database, backend]:
                if database == self._database:
                    worker.backends.add(backend)
            case ["cancel", token, process_id, key]:
                self._relay_cancel(worker, token, process_id, key)
            case ["cancelled", token]:
                asker, _, theirs = self._relays.pop(token)
                asker.say("cancelled", theirs)
            case ["signal", process_id, terminates]:
                if (owner := self._owner(process_id)) is not None:
                    owner.say("signal", process_id, terminates)
            case ["leave", database]:
                for other in self._others(worker):
                    other.say("leave", database)
            case ["ask", token, question]:
                self._ask(
                    self._others(worker),
                    lambda answers: worker.say("answers", token, answers),
                    "question",
                    question,
                )
            case ["answer", token, answer]:
                self._answer(worker, token, answer)
            case _:
                raise ValueError(message)

    @property
    def _database(self) -> str:
        """Whose answers are cached, as workers name it."""
        return self._settings.origin.database.encode().decode("latin-1")

    def _others(self, worker: Worker) -> set[Worker]:
        return {each for each in self._workers.values() if each is not worker}

    def _owner(self, process_id: int) -> Worker | None:
        return self._workers.get((process_id - FIRST_PROCESS_ID) % self._columns)

    def _relay_cancel(self, asker: Worker, theirs: int, process_id: int, key: str) -> None:
        owner = self._owner(process_id)
        if owner is None:
            asker.say("cancelled", theirs)
            return
        self._tokens += 1
        self._relays[self._tokens] = (asker, owner, theirs)
        owner.say("cancel", self._tokens, process_id, key)

    def _ask(
        self, asked: set[Worker], answered: Callable[[list[Any]], None], kind: str, *values: object
    ) -> None:
        """Ask them all; ``answered`` gets their answers, of those that have answered in time."""
        self._tokens += 1
        token = self._tokens
        self._questions[token] = _Question(asked, answered)
        for worker in asked:
            worker.say(kind, token, *values)
        if asked:
            self._loop.call_later(_ANSWER_TIMEOUT, self._answer_all, token)
        else:
            self._answer_all(token)

    def _answer(self, worker: Worker, token: int, answer: object) -> None:
        question = self._questions.get(token)
        if question is None or worker not in question.asked:
            return
        question.asked.discard(worker)
        question.answers.append(answer)
        if not question.asked:
            self._answer_all(token)

    def _answer_all(self, token: int) -> None:
        if (question := self._questions.pop(token, None)) is not None:
            question.answered(question.answers)

    # Origin connections.

    def _leases_of(self, database: str) -> Leases:
        limit = self._settings.limits.origin_connection_limit
        return self._leases.setdefault(database, Leases(limit))

    def _settle(self, database: str) -> None:
        for worker, kind, count in self._leases[database].settle(max(1, len(self._serving))):
            cast("Worker", worker).say(kind, database, count)

    def _settle_again(self) -> None:
        self._loop.call_later(_SETTLE_SECONDS, self._settle_again)
        for database in self._leases:
            self._settle(database)


def main() -> None:
    """One worker's process."""
    line = sys.stdin.readline()
    if not line:
        return
    told = json.loads(line)
    number, columns = told["number"], told["columns"]
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s worker {number}: %(message)s")
    memory = mmap.mmap(told["memory"], memory_size(columns))
    os.close(told["memory"])
    words = socket.socket(fileno=told["words"])
    membership = Membership(
        Siblings(number, columns, memory, bytes.fromhex(told["seed"])),
        socket.socket(fileno=told["door"]),
        words,
    )
    app = App(from_json(told["settings"]), membership=membership)
    signal.signal(signal.SIGTERM, lambda *_: app.drain())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allow_many_sockets()
    try:
        app.start()
    except HyperdriveError as error:
        with contextlib.suppress(OSError):
            words.sendall(json.dumps(["failed", str(error)]).encode() + b"\n")
        return
    while app.is_running:
        # A join without end would keep Python from running the handlers on some systems.
        app.join(0.5)
