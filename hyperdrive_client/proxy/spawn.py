"""Starting a proxy: in a thread of this process, or in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Protocol

from ..bindings.connection_string import parse_connection_string
from ..errors import HyperdriveError, ProxyStartError
from .settings import Caching, Limits, Settings

# Until a child has answered; starting Python and listening takes a fraction of it.
START_TIMEOUT = 30.0
# The child imports what this process would import: a working directory with a json.py of its own
# must not decide what runs.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); "
    "from hyperdrive_client import alone; alone.IS_ALONE = True; "
    "from hyperdrive_client.proxy.spawn import main; main()"
)
_PYTHON = re.compile(r"python|pypy", re.IGNORECASE)
_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|TEMP|TMP|XDG_RUNTIME_DIR|SYSTEMROOT|VIRTUAL_ENV"
    r"|(LD|DYLD)_LIBRARY_PATH|LD_PRELOAD|SSL_CERT_(FILE|DIR)|PYTHON\w+|COVERAGE_\w+|COV_CORE_\w+",
    re.IGNORECASE,
)
# A child that was told to stop at once and has not gone by then is killed.
STOP_TIMEOUT = 5.0


class RunningProxy(Protocol):
    """A proxy that accepts connections; ``settings`` has the port in use."""

    settings: Settings

    @property
    def is_running(self) -> bool: ...

    def close(self) -> None:
        """Stop it and wait until it has gone; harmless when it has."""


def fresh_credentials() -> tuple[str, str]:
    """A user and a password for a proxy's clients, as unguessable as Hyperdrive's."""
    return secrets.token_hex(16), secrets.token_hex(16)


class ThreadProxy:
    """A proxy in a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        gevent = sys.modules.get("gevent.monkey")
        if gevent is not None and gevent.is_module_patched("threading"):
            raise ProxyStartError(
                "a proxy can't run in a thread that gevent has made a greenlet: "
                "HYPERDRIVE_PROXY=process runs it in a process of its own"
            )
        from .app import App

        self._app = App(settings)
        self.settings = self._app.start()

    @property
    def is_running(self) -> bool:
        return self._app.is_running

    def close(self) -> None:
        self._app.stop()
        self._app.join()


class ProcessProxy:
    """A proxy in a child process, which ends when this process does.

    The child reads its settings, secrets among them, from its standard input, and takes the end
    of that as the end of its parent.
    """

    def __init__(self, settings: Settings) -> None:
        self._owner = os.getpid()
        try:
            self._child = subprocess.Popen(
                [python(), "-P", "-c", _CHILD],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Ctrl-C in a terminal is the application's to act on.
                start_new_session=True,
            )
        except OSError as error:
            raise ProxyStartError(
                f"the proxy process could not be started: {error}; HYPERDRIVE_PYTHON names the "
                "interpreter to start, HYPERDRIVE_PROXY=off connects without a proxy"
            ) from error
        try:
            self.settings = self._handshake(settings)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        if os.getpid() == self._owner:
            return self._child.poll() is None
        # After a fork the child is not ours to wait for.
        try:
            os.kill(self._child.pid, 0)
        except OSError:
            return False
        return True

    def close(self) -> None:
        child = self._child
        if os.getpid() != self._owner:
            # After a fork the proxy is still the parent's.
            return
        if child.poll() is None:
            with contextlib.suppress(OSError):
                child.send_signal(signal.SIGTERM)
                child.send_signal(signal.SIGTERM)
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _handshake(self, settings: Settings) -> Settings:
        stdin, stdout = self._child.stdin, self._child.stdout
        assert stdin is not None
        assert stdout is not None
        overdue = threading.Timer(START_TIMEOUT, self._child.kill)
        overdue.daemon = True
        overdue.start()
        try:
            stdin.write(f"{json.dumps(module_path())}\n{to_json(settings)}\n".encode())
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = b""
        finally:
            overdue.cancel()
            # The application may fork next, and forks better without a thread of ours.
            overdue.join()
        if not line:
            raise ProxyStartError(
                f"the proxy process ended before it was ready (exit code {self._child.wait()}); "
                "HYPERDRIVE_PROXY=off connects without it"
            )
        try:
            answer = json.loads(line)
        except ValueError:
            raise ProxyStartError(
                f"the proxy process said {line[:200]!r} where its settings were expected; does "
                "something print at the start of every Python here?"
            ) from None
        if "error" in answer:
            raise ProxyStartError(answer["error"])
        return from_json(answer["settings"])


def python() -> str:
    """The interpreter to start; an embedding server's ``sys.executable`` is the server itself."""
    if named := os.environ.get("HYPERDRIVE_PYTHON"):
        return named
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = (
        sys.executable,
        os.path.join(sys.prefix, "bin", name),
        getattr(sys, "_base_executable", ""),
        os.path.join(sys.base_prefix, "bin", name),
    )
    for path in candidates:
        if path and _PYTHON.match(os.path.basename(path)) and os.access(path, os.X_OK):
            return path
    raise ProxyStartError(
        f"no Python interpreter is found beside {sys.executable or 'this program'}: name one in "
        "HYPERDRIVE_PYTHON"
    )


def module_path() -> list[str]:
    """Where this process imports from, but for what depends on the working directory."""
    return [entry for entry in sys.path if os.path.isabs(entry)]


def environment() -> dict[str, str]:
    """What a proxy's process gets of ours: nothing that may be a secret of the application's."""
    return {name: text for name, text in os.environ.items() if _INHERITED.fullmatch(name)}


def to_json(settings: Settings) -> str:
    """All of ``settings``, passwords included: for a pipe, never for a log."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    values["origin"] = settings.origin.connection_string
    values["limits"] = asdict(settings.limits)
    values["caching"] = asdict(settings.caching)
    return json.dumps(values)


def from_json(text: str) -> Settings:
    """The inverse of :func:`to_json`."""
    values: dict[str, Any] = json.loads(text)
    values["origin"] = parse_connection_string(values["origin"])
    values["limits"] = Limits(**values["limits"])
    caching = values["caching"]
    values["caching"] = Caching(**{**caching, "functions": tuple(caching["functions"])})
    return Settings(**values)


def run_until_told(
    settings: Settings,
    *,
    on_start: Callable[[Settings], None],
    on_drain: Callable[[], object] = lambda: None,
    on_retire: Callable[[], object] | None = None,
    leave: Callable[[], bool] = lambda: True,
    parent: int | None = None,
) -> None:
    """Run a proxy in this process, and block until it has ended. For the main thread.

    ``on_start`` gets the settings with the port in use. SIGTERM or SIGINT drains, a second one
    ends at once; so does the end of the file descriptor ``parent``, if given. With ``on_retire``
    SIGHUP has it leave its sockets to another and end with the last client that it has. ``leave``
    is asked before it ends because it is not used.

    :raises ProxyStartError: it could not start, or ended although nobody told it to.
    """
    from .app import App

    told = 0

    def may_leave() -> bool:
        nonlocal told
        left = leave()
        told += left
        return left

    app = App(settings, may_leave)

    def handle(number: int, frame: object) -> None:
        nonlocal told
        told += 1
        if told > 1:
            app.stop()
        else:
            app.drain()
            on_drain()

    def retire(number: int, frame: object) -> None:
        nonlocal told
        told += 1
        app.retire()
        assert on_retire is not None
        on_retire()

    def watch(descriptor: int) -> None:
        nonlocal told
        while os.read(descriptor, 4096):
            pass
        told += 1
        app.stop()

    # Before anybody hears of the proxy, who may then at once tell it to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    if on_retire is not None:
        signal.signal(signal.SIGHUP, retire)
    allow_many_sockets()
    settings = app.start()
    if told:
        app.drain()
    if parent is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
    on_start(settings)
    while app.is_running:
        # A join without end would keep Python from running the handlers on some systems.
        app.join(0.5)
    if not told:
        raise ProxyStartError("the proxy has ended although nobody told it to")


def allow_many_sockets() -> None:
    """Each client is a file descriptor, and the usual soft limit is 1024 of them."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """The child's side of :class:`ProcessProxy`."""
    line = sys.stdin.readline()
    if not line:
        return
    from .workers import run_workers

    settings = from_json(line)
    try:
        (run_until_told if settings.workers == 1 else run_workers)(
            settings,
            on_start=lambda settings: _answer(settings=to_json(settings)),
            parent=sys.stdin.fileno(),
        )
    except HyperdriveError as error:
        _answer(error=str(error))


def _answer(**answer: str) -> None:
    print(json.dumps(answer), flush=True)
