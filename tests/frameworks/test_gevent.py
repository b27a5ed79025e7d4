"""The page for gevent: its application under gunicorn, and greenlets that use everything."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project

FRAMEWORKS = ("gevent", "gunicorn", "sqlalchemy")

GREENLETS = """
from gevent import monkey
monkey.patch_all()

import time
import gevent
import hyperdrive_client
from sqlalchemy import create_engine, text

def together(function, count):
    jobs = [gevent.spawn(function, number) for number in range(count)]
    gevent.joinall(jobs, timeout=30, raise_error=True)
    return [job.value for job in jobs]

def with_a_connection(number):
    with hyperdrive_client.connect("HYPERDRIVE") as connection:
        query = "SELECT %s::int + 0 * length(pg_sleep(1)::text)"
        return connection.execute(query, [number]).fetchone()[0]

def with_the_pool(number):
    with pool.connection() as connection:
        return connection.execute("SELECT %s::int", [number]).fetchone()[0]

def with_the_engine(number):
    with engine.begin() as connection:
        return connection.scalar(text("SELECT cast(:number AS int)"), {"number": number})

# The first of them all starts the proxy, and the others wait for that.
assert together(with_a_connection, 10) == list(range(10))
began = time.monotonic()
assert together(with_a_connection, 10) == list(range(10))
# One after another they would take ten seconds.
assert time.monotonic() - began < 8

pool = hyperdrive_client.ConnectionPool("HYPERDRIVE", min_size=1, max_size=3)
engine = create_engine("hyperdrive://HYPERDRIVE")
assert together(with_the_pool, 50) == list(range(50))
assert together(with_the_engine, 50) == list(range(50))
pool.close()
engine.dispose()
print("done")
"""
CONNECT = """
from gevent import monkey
monkey.patch_all()
import hyperdrive_client
hyperdrive_client.connect("HYPERDRIVE")
"""


def test_the_application_of_the_page_serves_many_at_once(
    project: Project, page: Callable[[str], Page]
) -> None:
    it = page("docs/asyncio-and-gevent.md")
    it.write_files(project.folder)
    with psycopg.connect(project.database) as connection:
        connection.execute("CREATE TABLE visit (at timestamptz DEFAULT now())")
    command = it.blocks("sh")[-1]
    with project.serve(command.replace("8000", "PORT")) as server, ThreadPoolExecutor(20) as many:
        for answer in many.map(lambda _: server.get("/", b""), range(200)):
            assert answer.isdigit()
        assert project.origin_connections()
    assert project.rows("SELECT count(*) FROM visit") == [(200,)]


@pytest.mark.parametrize("where", ["shared", "process"])
def test_greenlets_do_not_wait_for_each_others_queries(project: Project, where: str) -> None:
    project.write("greenlets.py", GREENLETS)
    assert project.run("python greenlets.py", HYPERDRIVE_PROXY=where) == "done\n"


def test_a_proxy_in_a_greenlet_is_refused(project: Project) -> None:
    project.write("connects.py", CONNECT)
    done = project.try_to_run("python connects.py", HYPERDRIVE_PROXY="thread")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "ProxyStartError" in last
    assert "gevent" in last
    assert "HYPERDRIVE_PROXY=process" in last
