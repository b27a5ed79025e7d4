"""A Workers project in a temporary folder, and ``wrangler dev`` there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import hyperdrive_client

HERE = Path(__file__).parent
SECONDS = 60.0
VARIABLE = "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_HYPERDRIVE"
_FOREIGN = ("CLOUDFLARE_", "HYPERDRIVE_", "NODE_", "PG", "WRANGLER_", "XDG_", "npm_")
_READY = re.compile(r"Ready on (http://\S+)")
_DEV = "npx wrangler dev {worker}/src/index.ts --local --ip 127.0.0.1 --port 0 --inspector-port 0"


class Worker:
    """A Worker that answers at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str = "/") -> bytes:
        """The body; :class:`urllib.error.HTTPError` unless all went well."""
        with urllib.request.urlopen(self.url + path, timeout=SECONDS) as answer:
            body: bytes = answer.read()
            return body

    def put(self, path: str, data: bytes) -> None:
        request = urllib.request.Request(self.url + path, data, method="PUT")
        urllib.request.urlopen(request, timeout=SECONDS).close()


class Project:
    """A copy of this folder, with a home, a store and shared proxies of its own.

    ``node_modules``: where npm has installed package.json's packages. When this is over, so are all
    the processes that were started here.
    """

    def __init__(self, node_modules: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-"))
        for name in ("home", "runtime"):
            (self.folder / name).mkdir(mode=0o700)
        self.app = self.folder / "app"
        shutil.copytree(HERE, self.app, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        (self.app / "node_modules").symlink_to(node_modules.resolve())
        kept = {name: v for name, v in os.environ.items() if not name.startswith(_FOREIGN)}
        self.environment = {
            **kept,
            "CI": "1",
            # Of where a visitor seems to be, wrangler would ask Cloudflare.
            "CLOUDFLARE_CF_FETCH_ENABLED": "false",
            "HOME": str(self.folder / "home"),
            "HYPERDRIVE_STORE": str(self.folder / "store"),
            "NO_COLOR": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(hyperdrive_client.__file__).parents[1]),
            "WRANGLER_SEND_METRICS": "false",
            "XDG_RUNTIME_DIR": str(self.folder / "runtime"),
            "npm_config_update_notifier": "false",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.hyperdrive("stop", "--all")
        finally:
            shutil.rmtree(self.folder)

    def hyperdrive(self, *arguments: str, said: str = "") -> str:
        """Run ``hyperdrive`` with ``said`` as its input; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "hyperdrive_client", *arguments],
            input=said,
            cwd=self.app,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"hyperdrive {arguments[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    @contextmanager
    def dev(self, worker: str, origin: str | None = None) -> Iterator[Worker]:
        """Run a Worker by ``hyperdrive env``, or with ``origin`` instead, a connection string."""
        command, environment = f"exec {_DEV.format(worker=worker)}", self.environment
        if origin is None:
            command = f'eval "$(hyperdrive env)"; {command}'
        else:
            environment = environment | {VARIABLE: origin}
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=self.app,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        overdue = threading.Timer(SECONDS, _end, [process])
        overdue.start()
        try:
            url = _ready_at(process)
            overdue.cancel()
            yield Worker(url)
        finally:
            overdue.cancel()
            _end(process)

    def processes(self) -> list[str]:
        """The command lines of what has been started here and still runs."""
        mark = f"HOME={self.environment['HOME']}\0".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # It has ended meanwhile.
                if mark in (process / "environ").read_bytes():
                    command = (process / "cmdline").read_bytes()
                    found.append(command.replace(b"\0", b" ").decode())
        return found


def _ready_at(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    log = ""
    for line in process.stdout:
        log += line
        if ready := _READY.search(line):
            # Who does not read stops who writes.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return ready[1]
    raise RuntimeError(f"wrangler dev has ended:\n{log}")


def _end(process: subprocess.Popen[str]) -> None:
    """End npx, wrangler and workerd, which are one session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
