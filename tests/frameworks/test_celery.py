"""The page for Celery: its worker, with the prefork pool."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from .conftest import SECONDS, wait_until

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project

FRAMEWORKS = ("celery",)

# In the place of Redis: a file is all that the processes of one machine need.
BROKER = """
broker_url = "sqla+sqlite:///broker.sqlite"
"""
KINDS = ("connection", "pool", "engine")
TASKS = ("tasks.with_a_connection", "tasks.with_a_pool", "tasks.with_an_engine")
SEND = """
import sys
from tasks import app
start, stop, *names = sys.argv[1:]
for number in range(int(start), int(stop)):
    for name in names:
        app.send_task(name, [number])
"""
# What an application may do at its start: use everything before the fork. And a task that tells
# which process it ran in, and on which sockets.
FORKED = """
import os, time, hyperdrive_client
from tasks import app, engine, pool

def use():
    pool.open()
    with (
        hyperdrive_client.connect("HYPERDRIVE") as plain,
        pool.connection() as pooled,
        engine.connect() as checked_out,
    ):
        each = (plain, pooled, checked_out.connection)
        for connection in each:
            assert connection.cursor().execute("SELECT 1").fetchone() == (1,)
            connection.rollback()  # holds none of the proxy's few connections
        return [os.fstat(connection.fileno()).st_ino for connection in each]

before = use()

@app.task
def tell(number):
    time.sleep(0.05)
    with open("told", "a") as told:
        print(os.getpid(), *before, *use(), file=told)
"""


@pytest.fixture
def tasks(project: Project, page: Callable[[str], Page]) -> Project:
    """The page's tasks, with a broker that is a file, and the table that they fill."""
    it = page("docs/celery.md")
    it.write_files(project.folder)
    project.write("celeryconfig.py", BROKER)
    project.write("send.py", SEND)
    project.write("forked.py", FORKED)
    project.write("told", "")
    with psycopg.connect(project.database) as connection:
        connection.execute("CREATE TABLE done (number int, kind text)")
    return project


@contextmanager
def worker(project: Project, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is ready for tasks; at the end it is told to stop, and must."""
    path = project.folder / "worker.log"
    # Celery and kombu have warnings of their own.
    environment = project.environment | {"PYTHONWARNINGS": "default"}
    with path.open("wb") as log:
        process = subprocess.Popen(
            [*shlex.split(command), "--loglevel", "info"],
            cwd=project.folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: " ready." in path.read_text(), "the worker is ready")
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        assert "psycopg" not in path.read_text()
    except BaseException as error:
        error.add_note(path.read_text(errors="replace"))
        raise
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def send(project: Project, numbers: range, *names: str) -> None:
    """Put tasks into the queue: each of the page's for each number, or those of these names."""
    each = " ".join(names or TASKS)
    command = f"python send.py {numbers.start} {numbers.stop} {each}"
    project.run(command, PYTHONWARNINGS="ignore")


def done(project: Project) -> Counter[tuple[int, str]]:
    """How often each task has been done."""
    return Counter(project.rows("SELECT number, kind FROM done"))


def once(count: int) -> Counter[tuple[int, str]]:
    return Counter((number, kind) for number in range(count) for kind in KINDS)


def test_every_task_is_done_once_over_few_connections(
    tasks: Project, page: Callable[[str], Page]
) -> None:
    [_, command] = page("docs/celery.md").blocks("sh")
    with worker(tasks, command):
        send(tasks, range(100))
        wait_until(lambda: len(done(tasks)) == 300, "all tasks are done")
        assert tasks.origin_connections()
    assert done(tasks) == once(100)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_was_used_before_the_fork_is_not_shared_after_it(tasks: Project, pool: str) -> None:
    with worker(tasks, f"celery -A forked worker --pool {pool} --concurrency 4"):
        send(tasks, range(60), "forked.tell")
        wait_until(lambda: len(told(tasks)) == 60, "all tasks have told")
    owners: dict[int, set[int]] = {}
    for process, *sockets in told(tasks):
        assert len(set(sockets)) == 6 or pool == "threads"
        for each in sockets[3:]:
            owners.setdefault(each, set()).add(process)
    assert len({process for process, *_ in told(tasks)}) == (4 if pool == "prefork" else 1)
    assert all(len(processes) == 1 for processes in owners.values())


def told(project: Project) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in project.read("told").splitlines()]


def test_processes_that_end_or_are_killed_are_replaced(tasks: Project) -> None:
    with worker(tasks, "celery -A tasks worker --concurrency 4 --max-tasks-per-child 5") as parent:
        send(tasks, range(30))
        wait_until(lambda: len(done(tasks)) == 90, "all tasks are done")
        others = [number for number, name in tasks.processes().items() if "celery" in name]
        os.kill(max({*others} - {parent.pid}), signal.SIGKILL)
        wait_until(lambda: "signal 9" in tasks.read("worker.log"), "the worker has seen it")
        send(tasks, range(60))
        wait_until(lambda: len(done(tasks)) == 180, "all tasks are done")
    assert done(tasks) == once(30) + once(60)


def test_a_proxy_that_crashes_is_replaced(tasks: Project) -> None:
    with worker(tasks, "celery -A tasks worker --concurrency 4"):
        send(tasks, range(10))
        wait_until(lambda: done(tasks) == once(10), "all tasks are done")
        tasks.kill_proxy()
        send(tasks, range(10, 20), "tasks.with_a_connection")
        wait_until(lambda: len(done(tasks)) == 40, "new connections work")
