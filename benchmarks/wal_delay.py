"""How soon the proxy knows of a commit that did not come through it, on one machine.

Another process commits one after the other; from the moment it has its answer it is counted until
the reader of the WAL has outdated what depends on the table, and until the commit was seen by the
side connection, from when on answers are kept again. Below zero is before the answer.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import process, report
from hyperdrive_client.bindings.connection_string import parse_connection_string
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.proxy.cache.guard import Guard
from hyperdrive_client.proxy.settings import Caching, Settings
from hyperdrive_client.proxy.spawn import ThreadProxy

WARM_UP = 50
LONGEST_PAUSE = 0.004
PATIENCE_SECONDS = 30.0


class Clock:
    """When the guard was told of each commit, by the system's monotonic clock."""

    def __init__(self, guard: Guard) -> None:
        self.decoded: list[float] = []
        self.settled: dict[int, float] = {}
        self._transactions: list[int] = []
        self._guard_decoded, self._guard_settled = guard.decoded, guard.settled
        guard.decoded, guard.settled = self._decoded, self._settled  # type: ignore[method-assign]

    def _decoded(self, transaction: int, tables: Iterable[int]) -> None:
        self._guard_decoded(transaction, tables)
        self.decoded.append(time.monotonic())
        self._transactions.append(transaction)

    def _settled(self, transactions: Iterable[int]) -> None:
        ended = list(transactions)
        self._guard_settled(ended)
        self.settled.update(dict.fromkeys(ended, time.monotonic()))

    def in_order(self) -> list[float]:
        return [self.settled[transaction] for transaction in self._transactions]


def write(connection_string: str, number: int) -> None:
    """In a process of its own: when each commit was answered, as JSON."""
    answered = []
    with psycopg.connect(connection_string, autocommit=True) as connection:
        for value in range(number):
            connection.execute("UPDATE a SET v = %s WHERE id = 1", (value,))
            answered.append(time.monotonic())
            time.sleep(random.uniform(0, LONGEST_PAUSE))
    print(json.dumps(answered))


def measure(connection_string: str, number: int) -> dict[str, list[float]]:
    """Milliseconds from each answer."""
    settings = Settings(
        parse_connection_string(connection_string), "app", "secret", caching=Caching(mode="wal")
    )
    proxy = ThreadProxy(settings)
    try:
        worker = proxy._app._worker
        assert worker is not None
        guard = worker.core.cache.guard
        clock = Clock(guard)
        wait_until(lambda: not guard.broken)
        command = [sys.executable, __file__, "--write", str(WARM_UP + number)]
        done = subprocess.run(
            command, input=connection_string, stdout=subprocess.PIPE, text=True, check=True
        )
        answered = json.loads(done.stdout)
        wait_until(lambda: len(clock.settled) == len(answered))
    finally:
        proxy.close()
    return {
        name: [(at - since) * 1e3 for at, since in zip(times, answered, strict=True)][WARM_UP:]
        for name, times in (("outdated", clock.decoded), ("settled", clock.in_order()))
    }


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_SECONDS:g} s")
        time.sleep(0.01)


def figures(values: list[float]) -> list[str]:
    percentiles = statistics.quantiles(values, n=100, method="inclusive")
    shown = (percentiles[49], percentiles[98], max(values))
    return [f"{value:.2f}" for value in shown]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=2000, help="of commits; default: 2000")
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(sys.stdin.read(), options.write)
        return
    process.end_in_order_when_told()
    rows, results = [["", "p50", "p99", "max"]], {}
    with EmbeddedPostgres(settings={"fsync": "on"}) as server:
        with psycopg.connect(server.connection_string, autocommit=True) as admin:
            admin.execute("CREATE TABLE a (id int PRIMARY KEY, v int); INSERT INTO a VALUES (1, 0)")
            admin.execute("CREATE PUBLICATION hyperdrive_cache FOR TABLE a")
        for commit in ("on", "off"):
            with psycopg.connect(server.connection_string, autocommit=True) as admin:
                admin.execute(f"ALTER SYSTEM SET synchronous_commit = {commit}")
                admin.execute("SELECT pg_reload_conf()")
            for name, values in measure(server.connection_string, options.number).items():
                rows.append([f"{name}, synchronous_commit={commit}", *figures(values)])
                results[f"{name} {commit}"] = values
    report.print_table(f"milliseconds from a commit's answer, {options.number} commits", rows)
    print(f"results: {report.write('wal_delay', {'milliseconds': results})}")


if __name__ == "__main__":
    main()
