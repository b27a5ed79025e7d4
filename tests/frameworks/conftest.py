"""A user's project: the files of a page of the documentation, and the commands that run there."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import hyperdrive_client

SECONDS = 60.0
_OURS = "test"
# Proxies inherit it, too, as they do all that is Python's.
_MARK = "PYTHON_FRAMEWORKS_TEST"
ORIGIN_CONNECTION_LIMIT = 5
_FOREIGN = ("HYPERDRIVE_", "CLOUDFLARE_", "WRANGLER_", "PG", "PYTEST_", "DJANGO_", "FLASK_")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as ``condition`` holds; an error that says ``what`` if it never does."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(0.02)


class Server:
    """A server that runs, and the requests to it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, data: bytes | None = None, **headers: str) -> str:
        """The body of the answer, whatever its status; with ``data`` it is a POST."""
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return str(error.read().decode())

    def answers(self) -> bool:
        assert self.process.poll() is None, f"it has ended: {self.process.returncode}"
        try:
            self.get("/")
        except OSError:
            return False
        return True


class Project:
    """A folder with programs whose binding ``HYPERDRIVE`` leads to a database of the test's own."""

    def __init__(self, folder: Path, runtime: Path, database: str) -> None:
        self.folder = folder
        self.database = database
        programs = Path(sys.executable).parent
        kept = {name: v for name, v in os.environ.items() if not name.startswith(_FOREIGN)}
        self.environment = {
            **kept,
            _MARK: uuid4().hex,
            "HYPERDRIVE_URL_HYPERDRIVE": database,
            "HYPERDRIVE_ORIGIN_CONNECTION_LIMIT": str(ORIGIN_CONNECTION_LIMIT),
            "HYPERDRIVE_PROXY_IDLE_TIMEOUT": "1",
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(hyperdrive_client.__file__).parents[1]),
            # SQLAlchemy leaves its pool's connections open at the end, and psycopg remarks on it.
            "PYTHONWARNINGS": "error,ignore::ResourceWarning",
            "XDG_RUNTIME_DIR": str(runtime),
        }

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def replace(self, name: str, old: str, new: str) -> None:
        """Edit a file: what is replaced must be there, once."""
        text = self.read(name)
        assert text.count(old) == 1, (name, old, text)
        self.write(name, text.replace(old, new))

    def try_to_run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command line, without a shell."""
        return subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def run(self, command: str, **environment: str) -> str:
        """Run a command line that must succeed; its output."""
        done = self.try_to_run(command, **environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Warning" not in done.stderr, f"{command}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serve(self, command: str, **environment: str) -> Iterator[Server]:
        """Run a server that answers by HTTP; ``PORT`` in the command is a free one."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = self.folder / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                shlex.split(command.replace("PORT", str(port))),
                cwd=self.folder,
                env=self.environment | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            server = Server(process, port)
            wait_until(server.answers, f"{command} answers")
            yield server
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(SECONDS)
        except BaseException as error:
            error.add_note(log.read_text(errors="replace"))
            raise
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query answers at the database itself."""
        with psycopg.connect(self.database, autocommit=True, application_name=_OURS) as connection:
            return connection.execute(query.encode()).fetchall()

    def origin_connections(self) -> int:
        """How many the proxy has; nobody else has any, and it never has more than its limit."""
        # Without a state it is still starting, and has no name yet; ours may take a moment to end.
        names = self.rows(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND state IS NOT NULL "
            f"AND application_name <> '{_OURS}'"
        )
        # The proxy looks for what the cache needs on a connection of its own.
        assert set(names) <= {("Cloudflare Hyperdrive",), ("Cloudflare Hyperdrive cache",)}
        pooled = names.count(("Cloudflare Hyperdrive",))
        assert pooled <= ORIGIN_CONNECTION_LIMIT
        return pooled

    def end_origin_connections(self) -> None:
        """Have the database end all connections, as an administrator would."""
        self.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
        wait_until(lambda: not self.origin_connections(), "the connections have ended")

    def processes(self) -> dict[int, str]:
        """The ids and command lines of what has been started from here and still runs."""
        mark = f"{_MARK}={self.environment[_MARK]}".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(process.name)] = command
            except OSError:
                continue  # It has ended meanwhile.
        return found

    def proxies(self) -> list[int]:
        """The process ids of the proxies that run."""
        found = self.processes().items()
        return [number for number, command in found if "hyperdrive_client" in command]

    def kill_proxy(self) -> None:
        """End the one proxy as a crash does."""
        [number] = self.proxies()
        os.kill(number, signal.SIGKILL)
        wait_until(lambda: not self.origin_connections(), "its connections have ended")


@pytest.fixture(autouse=True)
def frameworks(request: pytest.FixtureRequest) -> None:
    """What the test module names in ``FRAMEWORKS`` is installed, or its tests are skipped.

    With ``HYPERDRIVE_FRAMEWORKS=required`` a framework that is missing is an error.
    """
    required = os.environ.get("HYPERDRIVE_FRAMEWORKS") == "required"
    for name in request.module.FRAMEWORKS:
        if required:
            importlib.import_module(name)
        else:
            pytest.importorskip(name)


@pytest.fixture
def project(database: str, tmp_path: Path) -> Iterator[Project]:
    """An empty project. When the test is over, nothing of it may be left."""
    # Short, for the path of a socket has little room.
    runtime = Path(tempfile.mkdtemp(prefix="hd-"))
    started = Project(tmp_path, runtime, database)
    try:
        yield started
        wait_until(lambda: not started.processes(), "no process is left")
        wait_until(lambda: not started.origin_connections(), "no connection is left")
        assert [path for path in runtime.rglob("*") if path.is_socket()] == []
    finally:
        shutil.rmtree(runtime)
