"""The page for gunicorn: its application, served by four workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from hyperdrive_client.bindings import parse_connection_string

from .conftest import wait_until

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project, Server

FRAMEWORKS = ("gunicorn", "sqlalchemy")

# Everything is used before the fork, and a path tells which worker answers, on which socket.
USED = """
import os
from app import app as counter, engine

def socket():
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        return os.fstat(connection.connection.fileno()).st_ino

before = socket()

def app(environ, start_response):
    if environ["PATH_INFO"] != "/socket":
        return counter(environ, start_response)
    start_response("200 OK", [])
    return [f"{os.getpid()} {before} {socket()}".encode()]
"""


@pytest.fixture
def app(project: Project, page: Callable[[str], Page]) -> str:
    """The page's application, with its table; the command that serves it."""
    it = page("docs/gunicorn.md")
    it.write_files(project.folder)
    project.write("used.py", USED)
    with psycopg.connect(project.database) as connection:
        connection.execute("CREATE TABLE visit (at timestamptz DEFAULT now())")
    command = it.blocks("sh")[1]
    assert "--workers 4" in command
    return command.replace("8000", "PORT")


def workers(project: Project, server: Server) -> set[int]:
    found = {number for number, name in project.processes().items() if "gunicorn" in name}
    return found - {server.process.pid}


def visits(project: Project) -> int:
    [(count,)] = project.rows("SELECT count(*) FROM visit")
    return int(count)


@pytest.mark.parametrize("threads", [1, 4])
def test_four_workers_under_load_use_few_connections(
    project: Project, app: str, threads: int
) -> None:
    serving = project.serve(f"{app} --threads {threads}")
    with serving as server, ThreadPoolExecutor(20) as clients:
        for answer in clients.map(lambda _: server.get("/", b""), range(400)):
            assert answer.isdigit()
        assert project.origin_connections()
        assert len(workers(project, server)) == 4
    assert visits(project) == 400


@pytest.mark.parametrize("when", ["--preload", ""])
def test_what_was_used_before_the_fork_is_not_shared_after_it(
    project: Project, app: str, when: str
) -> None:
    serving = project.serve(f"{app} {when}".replace("app:app", "used:app"))
    with serving as server, ThreadPoolExecutor(20) as clients:
        told = set(clients.map(lambda _: server.get("/socket"), range(200)))
    lines = [[int(word) for word in line.split()] for line in told]
    processes = {process for process, _, _ in lines}
    sockets = {socket for _, _, socket in lines}
    assert len(lines) == len(processes) == len(sockets) > 1
    if when:
        [before] = {before for _, before, _ in lines}
        assert before not in sockets


def test_a_reload_under_load_loses_no_request(project: Project, app: str) -> None:
    with project.serve(app) as server, ThreadPoolExecutor(8) as clients:
        before = workers(project, server)
        answers = clients.map(lambda _: server.get("/", b""), range(400))
        server.process.send_signal(signal.SIGHUP)
        assert all(answer.isdigit() for answer in answers)
        wait_until(lambda: not before & workers(project, server), "the old workers have gone")
        assert server.get("/") == "400"
        assert project.origin_connections()
    assert visits(project) == 400


def test_a_killed_worker_leaves_nothing_open(project: Project, app: str) -> None:
    with project.serve(app) as server, ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: server.get("/"), range(100)))
        before = workers(project, server)
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: min(before) not in workers(project, server), "it has gone")
        wait_until(lambda: len(workers(project, server)) == 4, "it is replaced")
        answers = list(clients.map(lambda _: server.get("/", b""), range(100)))
        assert all(answer.isdigit() for answer in answers)
    assert visits(project) == 100


@pytest.mark.parametrize("ping", [False, True])
def test_a_killed_proxy_costs_each_worker_its_pooled_connection_unless_it_pings(
    project: Project, app: str, ping: bool
) -> None:
    if ping:
        project.replace("app.py", 'HYPERDRIVE")', 'HYPERDRIVE", pool_pre_ping=True)')
    with project.serve(app) as server, ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: server.get("/"), range(100)))
        project.kill_proxy()
        answers = list(clients.map(lambda _: server.get("/", b""), range(200)))
        good = [answer for answer in answers if answer.isdigit()]
        # One connection in each of four workers, which have no threads.
        assert len(good) >= (200 if ping else 196)
        assert visits(project) == len(good)


def test_a_proxy_killed_under_load_loses_no_visit_that_was_answered(
    project: Project, app: str
) -> None:
    project.replace("app.py", 'HYPERDRIVE")', 'HYPERDRIVE", echo=True)')
    serving = project.serve(f"{app} --log-level debug")
    with serving as server, ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: server.get("/"), range(50)))
        answers = clients.map(lambda _: server.get("/", b""), range(300))
        wait_until(lambda: visits(project) >= 100, "a third of them is done")
        project.kill_proxy()
        good = [answer for answer in answers if answer.isdigit()]
        # The requests under way, and each worker's pooled connection.
        assert len(good) >= 300 - 8 - 4
        # What has failed at its COMMIT may have been committed.
        assert len(good) <= visits(project) <= 300
        assert all(map(str.isdigit, clients.map(lambda _: server.get("/"), range(50))))
        assert project.origin_connections()
    log = project.read("server.log")
    assert "INSERT INTO visit" in log
    assert str(parse_connection_string(project.database).password) not in log
