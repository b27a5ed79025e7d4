"""Reads that come from the cache, beside PgBouncer, the same proxy without a cache, and neither.

pgbench with one SELECT by primary key over a small range of keys, and with one that takes about
5 ms at the origin. Everything is asked for once before the clock runs, so that this measures a
warm cache; the column "from the cache" says which share of the transactions the origin did not
see. Rounds and contestants take turns as in pgbench.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contestants, pgbench, process, report
from benchmarks.contestants import DATABASE, Contestant
from benchmarks.pgbench import MODES, Bench, Run, Scenario
from hyperdrive_client.origin import EmbeddedPostgres

KEYS = 100
"""Different questions of each kind."""
SLOW_SECONDS = 0.005
SLOW = "about 5 ms at the origin"
FAST = "by primary key"
FAST_SQL = "SELECT abalance FROM pgbench_accounts WHERE aid = {aid}"
SLOW_SQL = "SELECT sum(abalance) FROM pgbench_accounts WHERE aid BETWEEN {aid} AND {aid} + {rows}"
CACHES = ("ttl", "wal")
PUBLICATION = "CREATE PUBLICATION hyperdrive_cache FOR TABLE pgbench_accounts"
# Until the proxy has looked at the origin and follows its WAL.
WARM_SECONDS = 30.0
# Backends say what they have done with delay, or when they end (PostgreSQL, "The Cumulative
# Statistics System"); a pool opens others.
END_BACKENDS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND (query ILIKE '%pgbench%' OR query ILIKE '%item%')"""


class CacheBench(Bench):
    """``rows``: how many the slow question reads."""

    def __init__(self, server: EmbeddedPostgres, program: Path, folder: Path) -> None:
        super().__init__(server, program)
        self._folder = folder
        self.rows = 0

    def write_scripts(self, rows: int) -> None:
        """pgbench's scripts for both questions."""
        self.rows = rows
        for name, text in ((FAST, FAST_SQL), (SLOW, SLOW_SQL)):
            question = text.format(aid=":aid", rows=rows)
            self._path(name).write_text(f"\\set aid random(1, {KEYS})\n{question};\n")

    def _path(self, name: str) -> Path:
        return self._folder / name.replace(" ", "_")

    def script(self, scenario: Scenario) -> list[str]:
        """pgbench's options for what it runs."""
        return [f"--file={self._path(scenario.script)}"]

    def run(self, contestant: Contestant, scenario: Scenario) -> Run:
        """Run a scenario once, and count what the origin has seen of it."""
        with psycopg.connect(self._origin, autocommit=True) as connection:
            before = committed(connection)
            run = self._measure(contestant, scenario)
            seen = committed(connection) - before
        run.cached = max(0.0, 1 - seen / max(run.transactions, 1))
        return run

    def publish(self) -> None:
        """What mode ``wal`` needs at the origin."""
        with psycopg.connect(self._origin, autocommit=True) as connection:
            connection.execute(PUBLICATION)

    def slow_rows(self) -> int:
        """How many rows the origin sums up in 5 ms."""
        rows = 1000
        with psycopg.connect(self._origin, autocommit=True) as connection:
            while True:
                text = SLOW_SQL.format(aid=1, rows=rows)
                began = time.perf_counter()
                for _ in range(10):
                    connection.execute(text)
                seconds = (time.perf_counter() - began) / 10
                if seconds > SLOW_SECONDS / 2:
                    return int(rows * SLOW_SECONDS / seconds)
                rows *= 2


def warm(contestant: Contestant, question: str) -> None:
    """Ask until an answer comes from the cache; SystemExit if none does."""
    deadline = time.monotonic() + WARM_SECONDS
    with psycopg.connect(
        contestant.connection_string, autocommit=True, options="-c hyperdrive.report=on"
    ) as connection:
        while True:
            connection.execute(question)  # type: ignore[call-overload]
            said = connection.pgconn.parameter_status(b"hyperdrive.cache") or b"nothing"
            if said.startswith(b"hit"):
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"{contestant.name}: nothing is cached: {said.decode()}")
            time.sleep(0.05)


def committed(connection: psycopg.Connection) -> int:
    """Transactions that the origin has seen so far in this database."""
    connection.execute(END_BACKENDS)
    row = connection.execute(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s", (DATABASE,)
    ).fetchone()
    return int(row[0]) if row else 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: all")
    add("--caches", nargs="+", choices=CACHES, default=list(CACHES), help="default: all")
    add("--questions", nargs="+", choices=("fast", "slow"), default=["fast", "slow"])
    add("--clients", nargs="+", type=int, default=[8, 32], help="default: 8 32")
    add("--seconds", type=int, default=5, help="of each run; default: 5")
    add("--rounds", type=int, default=3, help="runs of each contestant; default: 3")
    add("--without-pgbouncer", action="store_true", help="leave PgBouncer out")
    return parser.parse_args()


def main() -> int:
    """Run what is asked for; 1 if anything was not as it must be."""
    options = arguments()
    process.end_in_order_when_told()
    with ExitStack() as stack:
        server = stack.enter_context(contestants.origin())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hyperdrive-bench-"))
        bench = CacheBench(server, pgbench.find_pgbench(server.binaries.directory), Path(folder))
        bench.initialise(contestants.direct(server), 1)
        bench.publish()
        bench.write_scripts(bench.slow_rows())
        everyone = [contestants.direct(server)]
        program = None if options.without_pgbouncer else contestants.find_pgbouncer()
        if program is not None:
            everyone.append(stack.enter_context(contestants.pgbouncer(server, program)))
        for mode in ("off", *options.caches):
            everyone.append(stack.enter_context(contestants.hyperdrive(server, cache=mode)))
            if mode != "off":
                warm(everyone[-1], FAST_SQL.format(aid=1))
        for one in everyone:
            print(f"{one.name}: {one.about}", flush=True)
        print(f"the slow question sums up {bench.rows} rows; {KEYS} different questions of each")
        results, failed = [], False
        for question in options.questions:
            for mode in options.modes:
                for clients in options.clients:
                    name = {"fast": FAST, "slow": SLOW}[question]
                    scenario = Scenario(name, mode, clients, options.seconds)
                    runs = pgbench.compare(bench, everyone, scenario, options.rounds)
                    pgbench.show(scenario, runs)
                    failed = failed or bool(pgbench.problems(runs))
                    rounds = {one: [asdict(run) for run in own] for one, own in runs.items()}
                    results.append({**asdict(scenario), "runs": rounds})
        about = {one.name: one.about for one in everyone}
        path = report.write("cache", {"contestants": about, "results": results})
        print(f"\nmedian (min..max) of {options.rounds} rounds; ratios are medians of each round's")
        print(f"all runs: {path}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
