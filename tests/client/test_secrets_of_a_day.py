"""A day in the life of a program, with failures: nothing that it leaves shows a password."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

import hyperdrive_client

PASSWORD = "hush/ %42 ärgerlich"
NEEDLES = tuple({PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), "hush", "%2F"})

DAY = """
import asyncio, json, logging, os, pprint, signal, sys, time, traceback, warnings

logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
warnings.simplefilter("default")
import psycopg
import sqlalchemy
import hyperdrive_client
from hyperdrive_client import bindings

def failing(step, *expected):
    try:
        step()
    except expected or psycopg.Error as error:
        print("EXPECTED", type(error).__name__)
        traceback.print_exc(file=sys.stdout)
        logging.getLogger("app").exception("it failed: %r", error)
        print(error.args)
        if "HYPERDRIVE_PROXY" not in os.environ:
            # Without a proxy psycopg keeps the parameters of a failed connection in here.
            print(vars(error))
    else:
        raise AssertionError(f"{step} has not failed")

def show(*objects):
    for each in objects:
        print(repr(each), str(each), f"{each}")
        pprint.pprint(each)

# Morning: everything works.
connection = hyperdrive_client.connect("HYPERDRIVE")
connection.execute("SELECT 1")
pool = hyperdrive_client.ConnectionPool("HYPERDRIVE", min_size=1)
with pool.connection() as pooled:
    show(pooled, pooled.info, pool, pool.get_stats(), pool.conninfo, pool.kwargs)
engine = sqlalchemy.create_engine("hyperdrive://HYPERDRIVE", echo="debug", echo_pool="debug")
with engine.connect() as checked_out:
    show(checked_out, checked_out.scalar(sqlalchemy.text("SELECT 1")))
binding = hyperdrive_client.binding("HYPERDRIVE")
show(connection, connection.info.dsn, engine, engine.url, engine.pool, engine.pool.status())
show(binding, binding.origin, binding.resolution, binding.source, vars(binding))
show(bindings.resolve("HYPERDRIVE"), bindings.parse_connection_string(os.environ["ORIGIN"]))
engine_of_url = sqlalchemy.create_engine(os.environ["ORIGIN"].replace("postgresql", "hyperdrive"))
with engine_of_url.connect():
    show(engine_of_url, engine_of_url.url, engine_of_url.pool)
with hyperdrive_client.Proxy("HYPERDRIVE") as proxy:
    show(proxy, proxy.origin)
    hyperdrive_client.connect(proxy.connection_string).close()

async def in_a_loop():
    async with await hyperdrive_client.AsyncConnection.connect("HYPERDRIVE") as it:
        show(it, await it.execute("SELECT 1"))
asyncio.run(in_a_loop())

# Noon: mistakes.
failing(lambda: connection.execute("SELEC"))
connection.rollback()
failing(lambda: hyperdrive_client.connect("HYPERDRIV"))
failing(lambda: hyperdrive_client.connect("HYPERDRIVE", password=None, host="elsewhere"))
failing(lambda: hyperdrive_client.connect("WRONG_PASSWORD"))
failing(lambda: hyperdrive_client.connect("AWAY"))
failing(lambda: hyperdrive_client.connect("BROKEN"))
failing(lambda: hyperdrive_client.connect("SPELLED"))
failing(lambda: hyperdrive_client.connect(os.environ["ORIGIN"] + "?sslmod=require"))
failing(lambda: hyperdrive_client.binding(os.environ["ORIGIN"]))
failing(lambda: hyperdrive_client.Proxy("HYPERDRIVE", host="203.0.113.1").start())
away = sqlalchemy.create_engine("hyperdrive://AWAY", echo=True)
failing(away.connect, sqlalchemy.exc.OperationalError)
os.environ["HYPERDRIVE_PYTHON"] = "/bin/false"
failing(lambda: hyperdrive_client.connect("OTHER"))
del os.environ["HYPERDRIVE_PYTHON"]

# Evening: the proxy is killed.
print("READY", flush=True)
sys.stdin.readline()
failing(lambda: connection.execute("SELECT 1"))
query = sqlalchemy.text("SELECT 1")
failing(lambda: engine.connect().execute(query), sqlalchemy.exc.OperationalError)
with engine.connect() as checked_out:
    show(checked_out.scalar(sqlalchemy.text("SELECT 1")))
hyperdrive_client.connect("HYPERDRIVE").close()
os.environ["HYPERDRIVE_PROXY"] = "off"
with hyperdrive_client.connect("HYPERDRIVE") as straight:
    show(straight, straight.info.dsn)
failing(lambda: hyperdrive_client.connect("WRONG_PASSWORD"))
connection.close()
print("READY", flush=True)
sys.stdin.readline()
pool.close()
engine.dispose()
engine_of_url.dispose()
"""


class Day:
    """A program that runs, the proxies that it uses, and all that they show."""

    def __init__(self, folder: Path, origin: str, elsewhere: str) -> None:
        self.runtime = folder
        packages = (hyperdrive_client.__file__, psycopg.__file__)
        wrong = origin.replace(quote(PASSWORD, safe=""), quote(f"{PASSWORD}!", safe=""))
        self.environment = {
            "HYPERDRIVE_PROXY_IDLE_TIMEOUT": "1",
            "HYPERDRIVE_URL_AWAY": elsewhere,
            "HYPERDRIVE_URL_BROKEN": origin.replace("://", ":/"),
            "HYPERDRIVE_URL_HYPERDRIVE": origin,
            "HYPERDRIVE_URL_OTHER": f"{origin}?application_name=other",
            "HYPERDRIVE_URL_SPELLED": f"{origin}?sslmode=requires",
            "HYPERDRIVE_URL_WRONG_PASSWORD": wrong,
            "ORIGIN": origin,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(str(Path(file).parents[1]) for file in packages),
            "XDG_RUNTIME_DIR": str(folder),
        }
        self.shown = ""

    def run(self) -> None:
        """Live through the day; looks at the processes and at the files in between."""
        process = subprocess.Popen(
            [sys.executable, "-c", DAY],
            env=self.environment,
            cwd=self.runtime,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for hour in ("noon", "evening"):
            for line in process.stdout:
                self.shown += line
                if line == "READY\n":
                    break
            self.look(process.pid)
            self.command("status")
            self.command("logs")
            self.command("resolve", "HYPERDRIVE")
            self.command("resolve", "BROKEN")
            if hour == "noon":
                for proxy in self.proxies(process.pid):
                    os.kill(proxy, signal.SIGKILL)
            process.stdin.write("\n")
            process.stdin.flush()
        self.shown += process.communicate(timeout=60)[0]
        assert process.returncode == 0, self.shown[-3000:]

    def command(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "hyperdrive_client", *words],
            env=self.environment,
            cwd=self.runtime,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.stdout
        self.shown += done.stdout

    def proxies(self, program: int) -> list[int]:
        mark = f"XDG_RUNTIME_DIR={self.runtime}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
            except OSError:
                continue
        return [number for number in found if number != program]

    def look(self, program: int) -> None:
        """Add what ``ps`` shows of all, the environment of the proxies, and all files."""
        proxies = self.proxies(program)
        assert proxies
        for number in (program, *proxies):
            self.shown += Path(f"/proc/{number}/cmdline").read_text()
        for number in proxies:
            self.shown += Path(f"/proc/{number}/environ").read_text()
        files = [path for path in self.runtime.glob("**/*") if path.is_file()]
        assert {path.name for path in files} >= {"log", "proxy.json"}
        for path in files:
            self.shown += path.read_text(errors="replace")


@pytest.fixture
def day(database: str) -> Iterator[Day]:
    """A day at a database whose user has the password that must not be seen."""
    user = f"day_{os.getpid()}"
    with psycopg.connect(database, autocommit=True) as connection:
        create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
        connection.execute(create.format(sql.Identifier(user), sql.Literal(PASSWORD)))
    folder = Path(tempfile.mkdtemp(prefix="hd-"))
    try:
        address = database.partition("@")[2]
        origin = f"postgresql://{user}:{quote(PASSWORD, safe='')}@{address}"
        elsewhere = f"postgresql://{user}:{quote(PASSWORD, safe='')}@127.0.0.1:1/nowhere"
        day = Day(folder, origin, elsewhere)
        yield day
        deadline = time.monotonic() + 60
        while day.proxies(0):
            assert time.monotonic() < deadline, "a proxy does not end"
            time.sleep(0.05)
    finally:
        shutil.rmtree(folder)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))


def test_a_day_with_failures_shows_no_password(day: Day) -> None:
    day.run()
    assert day.shown.count("EXPECTED ") == 15
    assert day.shown.count("Traceback") > 10
    leaks = [line for line in day.shown.splitlines() if any(each in line for each in NEEDLES)]
    assert leaks == []
