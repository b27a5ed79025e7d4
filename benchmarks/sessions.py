"""Transactions as applications have them: psycopg, and SQLAlchemy's Session, in several processes.

Each process has one connection, which stays. PostgreSQL itself and PgBouncer are reached with
SQLAlchemy's own dialect for psycopg, this package's proxy with its own, as a program would: it is
the shared one that the first connection starts, without a cache and with one in mode wal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg

from benchmarks import contestants, process, rounds
from benchmarks.cache import PUBLICATION
from benchmarks.contestants import DATABASE, HOST, HYPERDRIVE, Contestant
from benchmarks.pgbench import Bench, find_pgbench
from benchmarks.rounds import Figures
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.registry import places

KINDS = ("psycopg", "one read", "read and write")
_LOAD = Path(__file__).with_name("session_load.py")


@contextmanager
def library(server: EmbeddedPostgres, cache: str) -> Iterator[tuple[Contestant, dict[str, str]]]:
    """The shared proxy as programs start it, and the environment that leads to it."""
    name = HYPERDRIVE if cache == "off" else f"cache {cache}"
    with tempfile.TemporaryDirectory(prefix="h") as folder:
        environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": folder,
            "HYPERDRIVE_PROXY": "shared",
            "HYPERDRIVE_CACHE": cache,
        }
        one = Contestant(name, server.port, server.password, f"shared proxy, cache {cache}")
        run(one, environment, "warm", 1, 0)
        os.environ["XDG_RUNTIME_DIR"] = folder
        (found,) = (place for place in places() if place.running())
        record = found.running()
        assert record is not None
        about = f"{one.about}, {contestants.ORIGIN_CONNECTIONS} origin connections"
        yield Contestant(name, server.port, server.password, about, record.pid), environment
        is_there = found.watch()
        os.kill(record.pid, signal.SIGTERM)
        while is_there():
            time.sleep(0.01)


def url(one: Contestant) -> str:
    """For SQLAlchemy."""
    is_ours = one.name not in (contestants.DIRECT, contestants.PGBOUNCER)
    scheme, user = ("hyperdrive", HYPERDRIVE) if is_ours else ("postgresql+psycopg", one.name)
    return f"{scheme}://{user}:{one.password}@{HOST}:{one.port}/{DATABASE}?sslmode=disable"


def run(one: Contestant, environment: dict[str, str], kind: str, number: int, seconds: int) -> int:
    """How many transactions ``number`` processes did together."""
    started = [
        subprocess.Popen(
            [sys.executable, _LOAD, kind, url(one), str(seconds)],
            env={**environment, "PYTHONPATH": str(contestants.REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]
    for each in started:
        assert each.stdout is not None
        if each.stdout.readline() != "ready\n":
            raise SystemExit(f"FAILED: {one.name}: a process has ended")
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    return sum(int(each.communicate()[0]) for each in started)


def main() -> None:
    parser = rounds.parser(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 8], help="default: 1 8")
    parser.add_argument("--seconds", type=int, default=5, help="of each run; default: 5")
    options = parser.parse_args()
    process.end_in_order_when_told()
    results = {}
    with contestants.origin() as server:
        bench = Bench(server, find_pgbench(server.binaries.directory))
        bench.initialise(contestants.direct(server), 1)
        with psycopg.connect(contestants.direct(server).connection_string) as origin:
            origin.execute(PUBLICATION)
        with (
            rounds.others(server, options) as others,
            library(server, "off") as (plain, without),
            library(server, "wal") as (cached, with_cache),
        ):
            environments = {plain.name: without, cached.name: with_cache}
            everyone = [*others, plain, cached]
            for kind in options.kinds:
                for number in options.processes:

                    def measure(one: Contestant, kind: str = kind, number: int = number) -> Figures:
                        environment = environments.get(one.name, dict(os.environ))
                        done, cpu = rounds.cpu_of(
                            one,
                            lambda: run(one, environment, kind, number, options.seconds),
                            "proxy CPU, µs",
                        )
                        return {"tps": done / options.seconds, **cpu}

                    runs = rounds.take_turns(everyone, options.rounds, measure)
                    name = "psycopg, one read" if kind == "psycopg" else f"SQLAlchemy, {kind}"
                    title = f"{name}, {number} processes"
                    rounds.show(title, runs, ["tps", "proxy CPU, µs"], 0)
                    results[title] = runs
            rounds.write("sessions", everyone, results)


if __name__ == "__main__":
    main()
