"""Many processes that share one proxy, each with transactions to run; prints what was seen.

``python tests/client/many_processes.py --processes 16 --transactions 1000 --kill`` starts a
PostgreSQL of its own; ``nox -s processes`` does it, with and without ``--kill``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

import hyperdrive_client

LIMIT = 5
IDLE_TIMEOUT = 3.0
PATIENCE = 60.0
TABLES = """
CREATE TABLE done (process int, number int, PRIMARY KEY (process, number));
CREATE TABLE account (process int PRIMARY KEY, count int);
"""
# A transaction fails if its proxy dies. Whether it was committed is then not known, so it is run
# again: if it was, its row is there already. The first time no row may be there.
PROGRAM = """
import json, sys, time
import psycopg
import hyperdrive_client

process, count = map(int, sys.argv[1:])
sys.stdin.readline()
began = time.monotonic()
errors = found = 0
doors = set()
connection = None

def run(number):
    global connection
    if connection is None:
        connection = hyperdrive_client.connect("HYPERDRIVE")
        doors.add(connection.info.host)
    with connection.transaction():
        connection.execute("INSERT INTO done VALUES (%s, %s)", [process, number])
        connection.execute("UPDATE account SET count = count + 1 WHERE process = %s", [process])

for number in range(count):
    failed = False
    while True:
        try:
            run(number)
            break
        except psycopg.errors.UniqueViolation:
            assert failed, f"transaction {number} ran twice"
            found += 1
            break
        except psycopg.OperationalError:
            failed = True
            errors += 1
            if connection is not None:
                connection.close()
            connection = None
connection.close()
seconds = time.monotonic() - began
print(json.dumps({"errors": errors, "found": found, "doors": sorted(doors), "seconds": seconds}))
"""


@dataclass
class Seen:
    """What was seen of one run; times in seconds."""

    processes: int
    transactions: int
    proxies: int = 0
    """How many there were, one after another."""
    doors: int = 0
    """Different addresses that the processes connected to."""
    most_origin_connections: int = 0
    errors: int = 0
    """Transactions that failed and were run again."""
    committed_all_the_same: int = 0
    """Those of them that had been committed, although nobody was told."""
    rows: int = 0
    counted: int = 0
    seconds: float = 0.0
    slowest_process: float = 0.0
    seconds_until_nothing_was_left: float = 0.0


class Watch(threading.Thread):
    """Looks at the proxies and at their connections to the database, as long as it runs."""

    def __init__(self, database: str, runtime: Path) -> None:
        super().__init__(daemon=True)
        self._connection = psycopg.connect(database, autocommit=True)
        self._runtime = runtime
        self._is_over = threading.Event()
        self.most = 0
        self.proxies: set[int] = set()

    def run(self) -> None:
        while not self._is_over.wait(0.01):
            self.most = max(self.most, self.count())
            # There may be none, or one that ends at this moment.
            with contextlib.suppress(OSError, ValueError):
                self.proxies.add(proxy_id(self._runtime))

    def count(self) -> int:
        row = self._connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'Cloudflare Hyperdrive'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def stop(self) -> None:
        self._is_over.set()
        self.join()

    def close(self) -> None:
        self._connection.close()


def run(database: str, processes: int, transactions: int, *, kill: bool) -> Seen:
    """Start so many processes at once, each with so many transactions, and wait until all is over.

    With ``kill`` the proxy is killed when a third of them are done.
    """
    seen = Seen(processes, transactions)
    with psycopg.connect(database) as connection:
        connection.execute(TABLES)
        for process in range(processes):
            connection.execute("INSERT INTO account VALUES (%s, 0)", [process])
    runtime = Path(tempfile.mkdtemp(prefix="hd-"))
    watch = Watch(database, runtime)
    watch.start()
    try:
        _run(database, seen, runtime, kill=kill)
        watch.stop()
        seen.most_origin_connections = watch.most
        seen.proxies = len(watch.proxies)
        began = time.monotonic()
        _wait_until(lambda: not left(runtime) and not watch.count(), "nothing is left")
        seen.seconds_until_nothing_was_left = round(time.monotonic() - began, 2)
    finally:
        watch.stop()
        watch.close()
        shutil.rmtree(runtime)
    return seen


def _run(database: str, seen: Seen, runtime: Path, *, kill: bool) -> None:
    environment = {
        **os.environ,
        "HYPERDRIVE_URL_HYPERDRIVE": database,
        "HYPERDRIVE_PROXY": "shared",
        "HYPERDRIVE_PROXY_IDLE_TIMEOUT": str(IDLE_TIMEOUT),
        "HYPERDRIVE_ORIGIN_CONNECTION_LIMIT": str(LIMIT),
        "PYTHONPATH": str(Path(hyperdrive_client.__file__).parents[1]),
        "PYTHONWARNINGS": "error",
        "XDG_RUNTIME_DIR": str(runtime),
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(process), str(seen.transactions)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(seen.processes)
    ]
    began = time.monotonic()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.close()
        child.stdin = None
    try:
        with psycopg.connect(database, autocommit=True) as connection:
            some = seen.processes * seen.transactions // 3
            _wait_until(lambda: done(connection) >= some, "a third is done")
            if kill:
                os.kill(proxy_id(runtime), signal.SIGKILL)
            answers = [json.loads(child.communicate(timeout=600)[0]) for child in children]
            seen.seconds = round(time.monotonic() - began, 2)
            seen.rows = done(connection)
            [(seen.counted,)] = connection.execute("SELECT sum(count) FROM account").fetchall()
    finally:
        for child in children:
            child.kill()
            child.wait()
    seen.doors = len({door for answer in answers for door in answer["doors"]})
    seen.errors = sum(answer["errors"] for answer in answers)
    seen.committed_all_the_same = sum(answer["found"] for answer in answers)
    seen.slowest_process = round(max(answer["seconds"] for answer in answers), 2)


def done(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM done").fetchone()
    assert row is not None
    return int(row[0])


def proxy_id(runtime: Path) -> int:
    """The process id of the one proxy that runs."""
    [record] = runtime.glob("hyperdrive/*/proxy.json")
    return int(json.loads(record.read_text())["pid"])


def left(runtime: Path) -> list[str]:
    """Files in the runtime folder, and processes that were given it."""
    files = [str(path) for path in runtime.glob("hyperdrive/**/*")]
    mark = f"XDG_RUNTIME_DIR={runtime}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                files.append(process.name)
        except OSError:
            continue  # It has ended meanwhile.
    return files


def _wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--transactions", type=int, default=1000)
    parser.add_argument("--kill", action="store_true", help="kill the proxy when a third is done")
    arguments = parser.parse_args()
    from hyperdrive_client.origin import EmbeddedPostgres

    with EmbeddedPostgres() as server:
        database = server.create_database("many")
        seen = run(database, arguments.processes, arguments.transactions, kill=arguments.kill)
    for name, value in asdict(seen).items():
        print(f"{name.replace('_', ' '):32}{value:>10}")
    check(seen, kill=arguments.kill)


def check(seen: Seen, *, kill: bool) -> None:
    """Raise ``AssertionError`` for what must not be."""
    total = seen.processes * seen.transactions
    assert (seen.rows, seen.counted) == (total, total), "a transaction is lost or doubled"
    assert seen.doors == 1, "they did not all use the same proxy"
    assert seen.proxies == (2 if kill else 1)
    assert seen.most_origin_connections <= LIMIT
    assert seen.committed_all_the_same <= seen.errors
    if not kill:
        assert seen.errors == 0


if __name__ == "__main__":
    main()
