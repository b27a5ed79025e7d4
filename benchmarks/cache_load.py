"""How many queries the origin sees, with a cache before it and without.

The same load is offered to all: so many transactions per second, 95 % reads of one of 10,000 keys
that Zipf's law chooses (s = 1), 5 % updates of one. A write outdates every answer from its table,
so what counts is how the writes are spread over the tables:

one table
    reads and writes of the same one: the worst case
20 tables
    each with 500 of the keys, written as often as they are read
writes elsewhere
    20 tables, of which one gets all the writes and a twentieth of the reads
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cache, contestants, pgbench, process, report
from benchmarks.contestants import Contestant
from hyperdrive_client.origin import EmbeddedPostgres

KEYS = 10_000
TABLES = 20
WRITES_PERCENT = 5
# pgbench wants more than 1.
ZIPF = 1.001

_KEY = f"\\set key random_zipfian(1, {KEYS}, {ZIPF}) - 1\n"
_READ = "SELECT value FROM item_:table WHERE id = :key;\n"
_WRITE = "UPDATE item_:table SET value = value + 1 WHERE id = :key;\n"
_SPREAD = f"\\set table :key % {TABLES}\n"
LAYOUTS = {
    "one table": (_KEY + "\\set table 0\n" + _READ, _KEY + "\\set table 0\n" + _WRITE),
    f"{TABLES} tables": (_KEY + _SPREAD + _READ, _KEY + _SPREAD + _WRITE),
    "writes elsewhere": (
        _KEY + _SPREAD + _READ,
        _KEY + f"\\set key (:key / {TABLES}) * {TABLES}\n\\set table 0\n" + _WRITE,
    ),
}
MODES = ("off", "ttl", "wal")


@dataclass(frozen=True, slots=True)
class Load:
    """Transactions per second, by pgbench and by the origin; the latter's share; milliseconds."""

    tps: float
    at_origin: float
    latency: float

    @property
    def hits(self) -> float:
        """The share of the reads that the origin did not see."""
        reads = self.tps * (1 - WRITES_PERCENT / 100)
        return max(0.0, (self.tps - self.at_origin) / reads)


class LoadBench(pgbench.Bench):
    """pgbench with tables of its own."""

    def prepare(self) -> None:
        """The tables, each with all keys, and what mode ``wal`` needs."""
        names = [f"item_{number}" for number in range(TABLES)]
        with psycopg.connect(self._origin, autocommit=True) as connection:
            for name in names:
                connection.execute(
                    f"CREATE TABLE {name} (id int PRIMARY KEY, value bigint NOT NULL DEFAULT 0);"  # type: ignore[call-overload]
                    f"INSERT INTO {name} SELECT generate_series(0, {KEYS - 1})"
                )
            connection.execute(
                f"CREATE PUBLICATION hyperdrive_cache FOR TABLE {', '.join(names)}"  # type: ignore[call-overload]
            )

    def load(self, one: Contestant, layout: str, folder: Path, rate: int, seconds: int) -> Load:
        """Offer the load once."""
        paths = []
        weights = (100 - WRITES_PERCENT, WRITES_PERCENT)
        for number, (text, weight) in enumerate(zip(LAYOUTS[layout], weights, strict=True)):
            path = folder / f"{number}.sql"
            path.write_text(text)
            paths.append(f"--file={path}@{weight}")
        with psycopg.connect(self._origin, autocommit=True) as connection:
            before = cache.committed(connection)
            done = self._pgbench(
                one,
                "--no-vacuum",
                *paths,
                "--client=16",
                "--jobs=2",
                f"--rate={rate}",
                f"--time={seconds}",
                timeout=seconds + pgbench.PATIENCE_SECONDS,
            )
            seen = cache.committed(connection) - before
        run = pgbench.parse(done)
        if run.problems:
            raise SystemExit(f"{one.name}, {layout}: {run.problems}")
        latency = re.search(r"latency average = ([\d.]+) ms", done.stdout)
        return Load(run.tps, seen / seconds, float(latency[1]) if latency else 0.0)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rate", type=int, default=2000, help="transactions per second; default: 2000")
    add("--seconds", type=int, default=10, help="of each run; default: 10")
    add("--rounds", type=int, default=3, help="default: 3")
    add("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="default: all")
    return parser.parse_args()


def main() -> int:
    """Run what is asked for."""
    options = arguments()
    process.end_in_order_when_told()
    with ExitStack() as stack:
        server = stack.enter_context(contestants.origin())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hyperdrive-bench-")))
        bench = LoadBench(server, pgbench.find_pgbench(server.binaries.directory))
        bench.prepare()
        everyone = start(server, stack)
        results = {}
        for layout in options.layouts:
            loads: dict[str, list[Load]] = {one.name: [] for one in everyone}
            for number in range(options.rounds):
                first = number % len(everyone)
                for one in everyone[first:] + everyone[:first]:
                    loads[one.name].append(
                        bench.load(one, layout, folder, options.rate, options.seconds)
                    )
            show(layout, loads)
            results[layout] = {
                name: [[each.tps, each.at_origin, each.latency] for each in own]
                for name, own in loads.items()
            }
        about = {one.name: one.about for one in everyone}
        path = report.write("cache_load", {"contestants": about, "results": results})
        print(f"\nmedian (min..max) of {options.rounds} rounds; all runs: {path}")
    return 0


def start(server: EmbeddedPostgres, stack: ExitStack) -> list[Contestant]:
    """A proxy for each mode, those with a cache warm."""
    everyone = [contestants.direct(server)]
    for mode in MODES:
        one = stack.enter_context(contestants.hyperdrive(server, cache=mode))
        if mode != "off":
            cache.warm(one, "SELECT value FROM item_0 WHERE id = 0")
        everyone.append(one)
    for one in everyone:
        print(f"{one.name}: {one.about}", flush=True)
    return everyone


def show(layout: str, loads: dict[str, list[Load]]) -> None:
    """Print the table of one layout."""
    headings = ["", "offered and done, /s", "at the origin, /s", "reads from the cache"]
    headings.append("latency, ms")
    rows = [
        [
            name,
            report.spread([each.tps for each in own]),
            report.spread([each.at_origin for each in own]),
            report.spread([each.hits * 100 for each in own], digits=1) + " %",
            report.spread([each.latency for each in own], digits=2),
        ]
        for name, own in loads.items()
    ]
    report.print_table(layout, [headings, *rows])


if __name__ == "__main__":
    sys.exit(main())
