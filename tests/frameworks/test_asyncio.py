"""The page for asyncio: its programs, several event loops, and cancelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg
import pytest

from .conftest import wait_until

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project

FRAMEWORKS = ("sqlalchemy", "greenlet", "uvloop")

# Beginning of a program: how a loop is run decides nothing else.
BEGINNING = """
import asyncio, sys, uvloop
from hyperdrive_client import AsyncConnection, AsyncConnectionPool, connect
run = uvloop.run if sys.argv[1] == "uvloop" else asyncio.run
"""
LOOPS = """
async def with_a_pool():
    async with AsyncConnectionPool("HYPERDRIVE", min_size=1, max_size=3) as pool:
        async def one():
            async with pool.connection() as connection:
                cursor = await connection.execute("SELECT pg_backend_pid(), pg_sleep(0.02)")
                await cursor.fetchone()
        await asyncio.gather(*(one() for _ in range(9)))

async def with_a_connection():
    async with await AsyncConnection.connect("HYPERDRIVE") as connection:
        cursor = await connection.execute("SELECT count(*) FROM pg_settings")
        await cursor.fetchone()

for _ in range(3):
    run(with_a_pool())
    run(with_a_connection())
print("done")
"""
CANCELLED = """
async def connects():
    await (await AsyncConnection.connect("HYPERDRIVE")).close()

async def sleeps():
    async with await AsyncConnection.connect("HYPERDRIVE") as connection:
        await connection.execute("SELECT pg_sleep(60)")

async def main():
    # The first is cancelled while the proxy starts.
    for seconds in (0.01, 0, 0.001, 0.002, 0.005):
        task = asyncio.create_task(connects())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or seconds
    await connects()
    tasks = [asyncio.create_task(sleeps()) for _ in range(4)]
    async with await AsyncConnection.connect("HYPERDRIVE", autocommit=True) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
        async def sleeping():
            return (await (await connection.execute(query)).fetchone())[0]
        while await sleeping() < 4:
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        active = f"{query} AND state = 'active'"
        while (await (await connection.execute(active)).fetchone())[0]:
            await asyncio.sleep(0.02)
    assert all(task.cancelled() for task in tasks)
    await connects()

run(main())
print("done")
"""
NESTED = """
from contextlib import ExitStack
with ExitStack() as stack:
    for depth in range(int(sys.argv[2])):
        connection = stack.enter_context(connect("HYPERDRIVE", autocommit=sys.argv[3] == "on"))
        connection.execute("SELECT count(*) FROM pg_class")
print("done")
"""


@pytest.fixture
def numbers(project: Project, page: Callable[[str], Page]) -> Project:
    """The page's programs, with their table."""
    page("docs/asyncio-and-gevent.md").write_files(project.folder)
    with psycopg.connect(project.database) as connection:
        connection.execute("CREATE TABLE number (number int)")
    return project


def test_the_programs_of_the_page_run(numbers: Project) -> None:
    assert numbers.run("python main.py") == "(100,)\n"
    assert numbers.run("python models.py") == "100\n"
    assert len(numbers.rows("SELECT DISTINCT number FROM number")) == 100


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_one_event_loop_after_another_uses_one_proxy(project: Project, loop: str) -> None:
    project.write("loops.py", BEGINNING + LOOPS)
    assert project.run(f"python loops.py {loop}") == "done\n"
    assert project.origin_connections()
    assert len(project.processes()) == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_is_cancelled_leaves_nothing_behind(project: Project, loop: str) -> None:
    project.write("cancelled.py", BEGINNING + CANCELLED)
    assert project.run(f"python cancelled.py {loop}") == "done\n"
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid()"
    )
    wait_until(lambda: project.rows(f"{query} AND datname = current_database()") == [(0,)], "idle")


@pytest.mark.parametrize(("limit", "autocommit"), [("10", "off"), ("1", "on")])
def test_ten_nested_connections_in_one_thread_do_not_wait_for_each_other(
    project: Project, limit: str, autocommit: str
) -> None:
    project.write("nested.py", BEGINNING + NESTED)
    command = f"python nested.py asyncio 10 {autocommit}"
    assert project.run(command, HYPERDRIVE_ORIGIN_CONNECTION_LIMIT=limit) == "done\n"
    [(connections,)] = project.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'Cloudflare Hyperdrive' "
        "AND datname = current_database()"
    )
    assert connections <= int(limit)


def test_nested_transactions_beyond_the_limit_are_an_error_and_not_a_deadlock(
    project: Project,
) -> None:
    project.write("nested.py", BEGINNING + NESTED)
    environment = {"HYPERDRIVE_ORIGIN_CONNECTION_LIMIT": "2"}
    done = project.try_to_run("python nested.py asyncio 3 off", **environment)
    assert done.returncode == 1
    assert "Failed to acquire a connection from the pool" in done.stderr
