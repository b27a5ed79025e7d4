"""Where a proxy has a hard time: the first query succeeds, or there is one clear error, soon."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

import hyperdrive_client
from hyperdrive_client.bindings import parse_connection_string

SECONDS = 5.0
"""From the first call of ours to an answer or an error; none of these is a matter of waiting."""
PATIENCE = 60.0

# Everything is told in a file, for there may be no standard output.
PROGRAM = """
import json, sys, time
from hyperdrive_client import connect
import psycopg

began = time.monotonic()
told = {}
try:
    with connect("HYPERDRIVE") as connection:
        told["door"] = connection.info.host
        told["row"] = connection.execute("SELECT 1").fetchone()
except Exception as error:
    told["error"] = f"{type(error).__name__}: {error}"
    told["is_psycopgs"] = isinstance(error, psycopg.Error)
told["seconds"] = time.monotonic() - began
with open(sys.argv[1], "w") as file:
    json.dump(told, file)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can set the stage")


@dataclass
class Told:
    """What a program has told of its first query."""

    seconds: float
    door: str = ""
    row: list[int] | None = None
    error: str = ""
    is_psycopgs: bool = False


class Place:
    """An environment that is a test's own, with a short path for the runtime folder."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.runtime = folder / "run"
        self.temporary = folder / "tmp"
        for each in (self.runtime, self.temporary):
            each.mkdir(0o700)
        kept = ("PATH", "LANG", "COVERAGE_PROCESS_START")
        packages = (hyperdrive_client.__file__, psycopg.__file__)
        self.environment = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": str(folder),
            "HYPERDRIVE_URL_HYPERDRIVE": database,
            "HYPERDRIVE_PROXY_IDLE_TIMEOUT": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(str(Path(file).parents[1]) for file in packages),
            "PYTHONWARNINGS": "error",
            "TMPDIR": str(self.temporary),
            "XDG_RUNTIME_DIR": str(self.runtime),
        }

    def first_query(self, *prefix: str, python: str = sys.executable, **options: Any) -> Told:
        """Run the program in a process of its own, as ``prefix`` says, and see what it tells."""
        answer = self.folder / f"told-{time.monotonic_ns()}"
        answer.touch()
        answer.chmod(0o666)
        command = [*prefix, python, "-c", PROGRAM, str(answer)]
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=options.pop("cwd", self.folder),
            timeout=PATIENCE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        assert done.returncode == 0, done.stderr
        told = Told(**json.loads(answer.read_text()))
        answer.unlink()
        assert told.seconds < SECONDS, told
        # One of both, and whoever handles psycopg's errors handles this one.
        assert bool(told.row) != bool(told.error), told
        assert told.is_psycopgs == bool(told.error), told
        return told

    def processes(self) -> list[int]:
        """What has been started from here and still runs."""
        mark = f"TMPDIR={self.temporary}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
            except OSError:
                continue
        return found

    def files(self) -> list[Path]:
        """What is in the runtime folders."""
        runtime = [self.runtime / "hyperdrive", *self.temporary.glob("hyperdrive-*")]
        return [path for folder in runtime for path in folder.glob("**/*")]

    def proxy(self) -> int:
        """The process id of the one shared proxy."""
        [record] = [path for path in self.files() if path.name == "proxy.json"]
        return int(json.loads(record.read_text())["pid"])


@pytest.fixture
def place(database: str) -> Iterator[Place]:
    """A place in which nothing may be left when the test is over."""
    folder = Path(tempfile.mkdtemp(prefix="hd-"))
    folder.chmod(0o755)
    place = Place(folder, database)
    try:
        yield place
        wait_until(lambda: not place.processes(), "no process is left")
        assert place.files() == []
    finally:
        shutil.rmtree(folder)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.02)


def in_namespace(script: str) -> tuple[str, ...]:
    """The beginning of a command that changes what it sees as the file system, and nobody else."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here")
    return "unshare", "--mount", "sh", "-c", f'set -e; {script}; exec "$@"', "sh"


def test_a_socket_that_a_dead_process_has_left(place: Place) -> None:
    door = place.first_query().door
    proxy = place.proxy()
    os.kill(proxy, signal.SIGKILL)
    wait_until(lambda: proxy not in place.processes(), "it is dead")
    assert "proxy.json" in {path.name for path in place.files()}
    assert place.first_query().door == door
    assert place.proxy() != proxy


@pytest.mark.parametrize("where", ["", "shared"])
@pytest.mark.parametrize("how", ["another's", "a link", "open to a group", "a file"])
def test_runtime_folders_that_cannot_be_trusted(place: Place, how: str, where: str) -> None:
    folders = (place.runtime / "hyperdrive", place.temporary / f"hyperdrive-{os.geteuid()}")
    for folder in folders:
        spoil(folder, how)
    place.environment["HYPERDRIVE_PROXY"] = where
    told = place.first_query()
    if where == "shared":
        assert told.error.startswith("ProxyStartError: ")
        assert str(folders[1]) in told.error
    else:
        # A proxy of the program's own, on a port.
        assert told.door == "127.0.0.1"
    assert place.files() == []


def spoil(folder: Path, how: str) -> None:
    match how:
        case "another's":
            if os.geteuid() != 0:
                pytest.skip("only root can give a folder away")
            folder.mkdir(0o700)
            os.chown(folder, 65534, 65534)
        case "a link":
            target = folder.with_name(f"{folder.name}.target")
            target.mkdir(0o700)
            folder.symlink_to(target)
        case "open to a group":
            folder.mkdir()
            folder.chmod(0o770)
        case "a file":
            folder.write_text("")


def test_without_a_home(place: Place) -> None:
    del place.environment["HOME"]
    assert place.first_query().row
    place.environment["HOME"] = "/nowhere"
    assert place.first_query().row


def test_without_a_runtime_folder_it_is_the_temporary_one(place: Place) -> None:
    for runtime in ("", "/nowhere", "relative", str(place.runtime / ("long" * 40))):
        place.environment["XDG_RUNTIME_DIR"] = runtime
        assert place.first_query().door.startswith(str(place.temporary))


def test_with_a_temporary_folder_that_is_missing(place: Place) -> None:
    place.environment["TMPDIR"] = "/nowhere"
    assert place.first_query().door.startswith(str(place.runtime))
    place.environment["TMPDIR"] = str(place.temporary)  # so that it is found again
    wait_until(lambda: not place.files(), "it has ended")


def test_in_a_folder_that_has_been_removed(place: Place) -> None:
    removed = place.folder / "removed"
    script = f'rmdir {removed}; exec "$@"'
    removed.mkdir()
    command = ["sh", "-c", script, "sh", sys.executable, "-c", "import psycopg"]
    if subprocess.run(command, cwd=removed, capture_output=True).returncode:
        pytest.skip("psycopg itself can't be imported there with this Python")
    removed.mkdir()
    assert place.first_query("sh", "-c", script, "sh", cwd=removed).row


def test_without_standard_streams(place: Place) -> None:
    assert place.first_query("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh").row


def test_with_the_deaths_of_children_ignored(place: Place) -> None:
    ignore = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    run = "os.execv(sys.argv[1], sys.argv[1:])"
    assert place.first_query(sys.executable, "-c", ignore + run).row


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o177])
def test_with_any_umask(place: Place, mask: int) -> None:
    told = place.first_query("sh", "-c", f'umask {mask:o}; exec "$@"', "sh")
    assert told.row
    assert all(not path.stat().st_mode & 0o077 for path in place.files() if path.is_dir())


@as_root
def test_on_a_read_only_file_system(place: Place) -> None:
    script = f"mount --make-rprivate /; mount --bind {place.folder} {place.folder}; cd /proc"
    for folder in ("/tmp", "/var/tmp", place.runtime, place.temporary):
        script += f"; mount --rbind {folder} {folder}; mount -o remount,ro,bind {folder}"
    assert place.first_query(*in_namespace(script)).door == "127.0.0.1"
    place.environment["HYPERDRIVE_PROXY"] = "shared"
    told = place.first_query(*in_namespace(script))
    assert told.error.startswith("ProxyStartError: ")
    assert place.files() == []


@as_root
def test_on_a_full_file_system(place: Place) -> None:
    script = "mount --make-rprivate /"
    for folder in (place.runtime, place.temporary):
        script += f"; mount -t tmpfs -o size=4k,mode=700 tmpfs {folder}; "
        script += f"dd if=/dev/zero of={folder}/filler bs=4k count=1 2>/dev/null || true"
    assert place.first_query(*in_namespace(script)).row


@as_root
def test_without_shared_memory(place: Place) -> None:
    script = "mount --make-rprivate /; mount -t tmpfs -o ro,size=4k,mode=555 tmpfs /dev/shm"
    assert place.first_query(*in_namespace(script)).row


@as_root
def test_without_any_place_for_files(place: Place) -> None:
    # Where the standard library looks; what the test needs of it is put back.
    script = "mount --make-rprivate /; mount --bind / /mnt"
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        script += f"; mount -t tmpfs tmpfs {folder}"
    for path in (str(place.folder), *place.environment["PYTHONPATH"].split(os.pathsep), sys.prefix):
        if path.startswith("/tmp/"):
            script += f"; mkdir -p {path}; mount --rbind /mnt{path} {path}"
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        script += f"; mount -o remount,ro {folder}"
    place.environment |= {"XDG_RUNTIME_DIR": "/nowhere", "TMPDIR": "/nowhere"}
    assert place.first_query(*in_namespace(script), cwd="/proc").door == "127.0.0.1"


@pytest.mark.parametrize("python", ["/nowhere/python", "/", "false", "garbage"])
def test_an_interpreter_that_is_none(place: Place, python: str) -> None:
    if python == "false":
        python = shutil.which("false") or ""
    if python == "garbage":
        script = place.folder / "python"
        script.write_text("#!/bin/sh\necho garbage\n")
        script.chmod(0o755)
        python = str(script)
    place.environment["HYPERDRIVE_PYTHON"] = python
    told = place.first_query()
    assert told.error.startswith("ProxyStartError: ")
    assert "HYPERDRIVE_PROXY=off" in told.error
    assert "\n" not in told.error


@pytest.mark.parametrize("files", [8, 16, 32])
def test_with_few_open_files(place: Place, files: int) -> None:
    told = place.first_query("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")
    assert told.row or "OperationalError" in told.error or "ProxyStartError" in told.error
    assert told.row or files < 32
    wait_until(lambda: not place.processes(), "its proxy has ended")
    # The next one asks for as many as it may have.
    told = place.first_query("sh", "-c", f'ulimit -S -n {files}; exec "$@"', "sh")
    assert told.row or files < 16


@as_root
def test_with_no_more_processes(place: Place) -> None:
    candidates = (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")
    python = next((path for path in candidates if runs_for_anyone(path)), None)
    if python is None:
        pytest.skip("no Python that anyone may run")
    for folder in (place.runtime, place.temporary):
        os.chown(folder, 64999, 64999)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))

    told = place.first_query(python=python, user=64999, group=64999, preexec_fn=limit)
    assert told.error.startswith("ProxyStartError: ")
    assert "HYPERDRIVE_PROXY=off" in told.error
    told = place.first_query(python=python, user=64999, group=64999)
    assert told.row


def runs_for_anyone(python: str) -> bool:
    try:
        done = subprocess.run([python, "-c", ""], user=64999, group=64999, cwd="/")
    except OSError:
        return False
    return done.returncode == 0


def test_two_environments_never_share_a_proxy(place: Place) -> None:
    venv.create(place.folder / "other", with_pip=False, symlinks=True)
    one = place.first_query().door
    other = place.first_query(python=str(place.folder / "other" / "bin" / "python")).door
    assert one != other
    assert place.first_query().door == one


SESSION = """
import sys
import psycopg
from hyperdrive_client import connect
connection = connect("HYPERDRIVE", autocommit=True)
for line in sys.stdin:
    try:
        if line == "connect\\n":
            connection.close()
            connection = connect("HYPERDRIVE", autocommit=True)
        connection.execute("SELECT 1").fetchone()
        print("works", flush=True)
    except psycopg.OperationalError as error:
        print("OperationalError", flush=True)
"""


class Session:
    """A program that asks when it is told to."""

    def __init__(self, place: Place) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SESSION],
            env=place.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=place.folder,
        )

    def ask(self, how: str = "query") -> str:
        """The program's answer, which must come soon."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        began = time.monotonic()
        self.process.stdin.write(f"{how}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert time.monotonic() - began < SECONDS
        return answer

    def end(self) -> None:
        self.process.communicate()


def test_a_proxy_killed_between_connect_and_the_first_query(place: Place) -> None:
    session = Session(place)
    wait_until(lambda: any(path.name == "proxy.json" for path in place.files()), "it runs")
    session.ask("connect")
    os.kill(place.proxy(), signal.SIGKILL)
    assert session.ask() == "OperationalError"
    assert [session.ask("connect"), session.ask()] == ["works", "works"]
    session.end()


class Relay(threading.Thread):
    """Passes bytes between clients and a port, until it resets all connections."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return  # reset

    def reset(self) -> None:
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Whoever waits for it in another thread would keep it open.
            os.close(each.detach())

    def stop(self) -> None:
        # Wakes who waits for the next.
        self._listening.shutdown(socket.SHUT_RDWR)
        self.join()
        self._listening.close()
        self.reset()


@pytest.mark.parametrize("how", ["told", "reset"])
def test_a_container_that_was_frozen_while_the_origin_ended_its_connections(
    place: Place, how: str
) -> None:
    database = place.environment["HYPERDRIVE_URL_HYPERDRIVE"]
    origin = parse_connection_string(database)
    port = origin.addresses[0].port
    relay = Relay(port)
    relay.start()
    place.environment["HYPERDRIVE_URL_HYPERDRIVE"] = database.replace(
        f":{port}/", f":{relay.port}/"
    )
    session = Session(place)
    assert session.ask() == "works"
    tree = [session.process.pid, place.proxy()]
    for process in tree:
        os.kill(process, signal.SIGSTOP)
    if how == "reset":
        relay.reset()
    else:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE application_name = 'Cloudflare Hyperdrive' AND datname = current_database()"
            )
    for process in tree:
        os.kill(process, signal.SIGCONT)
    answers = [session.ask() for _ in range(10)]
    assert answers[1:] == ["works"] * 9
    assert answers[0] in ("works", "OperationalError")
    session.end()
    relay.stop()
