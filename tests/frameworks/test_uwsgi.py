"""The page for uWSGI: its application, in a server that has Python inside."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from .conftest import wait_until

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project, Server

FRAMEWORKS = ("sqlalchemy",)

# Everything is used before the fork, unless the application is imported after it.
USED = """
import os, sys
from app import engine

def socket():
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        return os.fstat(connection.connection.fileno()).st_ino

before = socket()

def application(environ, start_response):
    start_response("200 OK", [])
    return [f"{os.getpid()} {before} {socket()} {sys.executable}".encode()]
"""
POOLED = """
import hyperdrive_client

pool = hyperdrive_client.ConnectionPool("HYPERDRIVE", min_size=1, open=False)

def application(environ, start_response):
    pool.open()
    with pool.connection(timeout=5) as connection:
        [one] = connection.execute("SELECT 1").fetchone()
    start_response("200 OK", [])
    return [str(one).encode()]
"""


@pytest.fixture
def uwsgi(project: Project, page: Callable[[str], Page]) -> str:
    """The page's application, with its table; the command that serves it."""
    if not Path(sys.executable).with_name("uwsgi").exists():
        assert os.environ.get("HYPERDRIVE_FRAMEWORKS") != "required", "uwsgi is not installed"
        pytest.skip("uwsgi is not installed")
    it = page("docs/uwsgi.md")
    it.write_files(project.folder)
    project.write("used.py", USED)
    project.write("pooled.py", POOLED)
    # The port is the test's to choose; a later option overrides nothing.
    project.replace("app.ini", "http-socket = 127.0.0.1:8000\n", "")
    project.replace("app.ini", "module = app\n", "")
    with psycopg.connect(project.database) as connection:
        connection.execute("CREATE TABLE visit (at timestamptz DEFAULT now())")
    [_, command] = it.blocks("sh")
    return f"{command.strip()} --http-socket 127.0.0.1:PORT"


def workers(project: Project, server: Server) -> set[int]:
    found = {number for number, name in project.processes().items() if "uwsgi" in name}
    return found - {server.process.pid}


@contextmanager
def serve(project: Project, command: str) -> Iterator[Server]:
    """Run uWSGI; at the end its master alone is told, as uWSGI expects, and ends the others."""
    with project.serve(command) as server:
        yield server
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: not workers(project, server), "its processes have ended")


@pytest.mark.parametrize("options", ["", "--enable-threads", "--threads 4", "--lazy-apps"])
def test_four_processes_under_load_use_few_connections(
    project: Project, uwsgi: str, options: str
) -> None:
    serving = serve(project, f"{uwsgi} --module app {options}")
    with serving as server, ThreadPoolExecutor(20) as clients:
        for answer in clients.map(lambda _: server.get("/", b""), range(200)):
            assert answer.isdigit()
        assert project.origin_connections()
        assert len(workers(project, server)) == 4
    assert project.rows("SELECT count(*) FROM visit") == [(200,)]


@pytest.mark.parametrize("options", ["", "--lazy-apps"])
def test_what_was_used_before_the_fork_is_not_shared_after_it(
    project: Project, uwsgi: str, options: str
) -> None:
    serving = serve(project, f"{uwsgi} --module used {options}")
    with serving as server, ThreadPoolExecutor(20) as clients:
        told = set(clients.map(lambda _: server.get("/socket"), range(200)))
    lines = [line.split() for line in told]
    processes = {process for process, *_ in lines}
    sockets = {socket for _, _, socket, _ in lines}
    assert len(lines) == len(processes) == len(sockets) > 1
    if not options:
        assert not sockets & {before for _, before, *_ in lines}
    # It is a server with Python inside, which is what makes it worth a test.
    assert {Path(executable).name for *_, executable in lines} == {"uwsgi"}


@pytest.mark.parametrize("options", ["--enable-threads", "--threads 2 --lazy-apps"])
def test_a_pool_with_threads_of_its_own_needs_threads_enabled(
    project: Project, uwsgi: str, options: str
) -> None:
    with serve(project, f"{uwsgi} --module pooled {options}") as server:
        assert [server.get("/") for _ in range(20)] == ["1"] * 20


def test_processes_that_are_reloaded_or_killed_are_replaced(project: Project, uwsgi: str) -> None:
    with serve(project, f"{uwsgi} --module app") as server, ThreadPoolExecutor(8) as clients:
        before = workers(project, server)
        answers = clients.map(lambda _: server.get("/", b""), range(200))
        server.process.send_signal(signal.SIGHUP)
        assert all(answer.isdigit() for answer in answers)
        wait_until(lambda: not before & workers(project, server), "the old ones have gone")
        wait_until(lambda: len(workers(project, server)) == 4, "they are replaced")
        os.kill(min(workers(project, server)), signal.SIGKILL)
        assert all(map(str.isdigit, clients.map(lambda _: server.get("/", b""), range(100))))
    assert project.rows("SELECT count(*) FROM visit") == [(300,)]
