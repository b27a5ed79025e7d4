"""Connect, one query, close: with psycopg and SCRAM, straight to PostgreSQL and through the proxy.

And with the library's own ``connect``, through its shared proxy. They take turns. On one machine a
round trip costs next to nothing, so this shows what PostgreSQL itself spends on a new connection;
each millisecond between the client and the origin adds as many as there are round trips.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contestants, process, report
from hyperdrive_client import connect
from hyperdrive_client.registry import places

Connect = Callable[[], psycopg.Connection]

WARM_UP = 5
SCRAM = contestants.Entrance("scram")
STEPS = ("connect", "query", "close", "all")


def by_psycopg(connection_string: str) -> Connect:
    return lambda: psycopg.connect(connection_string, autocommit=True)


@contextmanager
def by_the_library(connection_string: str) -> Iterator[Connect]:
    with tempfile.TemporaryDirectory(prefix="h") as folder:
        os.environ |= {"XDG_RUNTIME_DIR": folder, "HYPERDRIVE_PROXY": "shared"}
        yield lambda: connect(connection_string, autocommit=True)
        for place in places():
            if record := place.running():
                is_there = place.watch()
                os.kill(record.pid, signal.SIGTERM)
                while is_there():
                    time.sleep(0.01)


def once(connect: Connect) -> list[float]:
    """Milliseconds of each of ``STEPS``."""
    times = [time.perf_counter()]
    connection = connect()
    times.append(time.perf_counter())
    connection.execute("SELECT 1").fetchone()
    times.append(time.perf_counter())
    connection.close()
    times.append(time.perf_counter())
    steps = [(after - before) * 1e3 for before, after in pairwise(times)]
    return [*steps, sum(steps)]


def measure(everyone: dict[str, Connect], number: int) -> dict[str, list[list[float]]]:
    """For each contestant, each step's milliseconds."""
    samples: dict[str, list[list[float]]] = {name: [] for name in everyone}
    for turn in range(WARM_UP + number):
        for name in everyone if turn % 2 else reversed(everyone):
            sample = once(everyone[name])
            if turn >= WARM_UP:
                samples[name].append(sample)
    return {name: [list(step) for step in zip(*own, strict=True)] for name, own in samples.items()}


def figure(values: list[float]) -> str:
    """``median (10th..90th percentile)``: the extremes are the machine's."""
    deciles = statistics.quantiles(values, n=10)
    return f"{statistics.median(values):.2f} ({deciles[0]:.2f}..{deciles[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=300, help="of connections; default: 300")
    options = parser.parse_args()
    process.end_in_order_when_told()
    with (
        contestants.origin(SCRAM) as server,
        contestants.hyperdrive(server, SCRAM) as proxy,
        by_the_library(server.connection_string) as library,
    ):
        everyone = {
            each.name: by_psycopg(each.connection_string)
            for each in (contestants.direct(server), proxy)
        }
        samples = measure({**everyone, "library": library}, options.number)
    title = f"milliseconds, median (10th..90th percentile) of {options.number}"
    rows = [[name, *map(figure, steps)] for name, steps in samples.items()]
    report.print_table(title, [["", *STEPS], *rows])
    results = {name: dict(zip(STEPS, steps, strict=True)) for name, steps in samples.items()}
    print(f"results: {report.write('latency', {'milliseconds': results})}")


if __name__ == "__main__":
    main()
