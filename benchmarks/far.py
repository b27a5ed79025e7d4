"""Connect, read, close, with the origin far away: each answer of its takes so long to come."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg

from benchmarks import cache, contestants, process, rounds
from benchmarks.contestants import HOST, Contestant
from benchmarks.pgbench import Bench, find_pgbench
from benchmarks.relay import Reader, Relay, Writer
from benchmarks.rounds import Figures

QUESTION = "SELECT abalance FROM pgbench_accounts WHERE aid = 1"


def once(one: Contestant) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    with psycopg.connect(one.connection_string, autocommit=True) as connection:
        connection.execute(QUESTION).fetchone()
    return (time.perf_counter() - begun) * 1e3


def main() -> None:
    parser = rounds.parser(__doc__, number=20)
    parser.add_argument(
        "--milliseconds", nargs="+", type=int, default=[20, 50, 100], help="a round trip's"
    )
    options = parser.parse_args()
    process.end_in_order_when_told()
    results = {}
    for milliseconds in options.milliseconds:
        with ExitStack() as stack:
            server = stack.enter_context(contestants.origin())
            Bench(server, find_pgbench(server.binaries.directory)).initialise(
                contestants.direct(server), 1
            )
            with psycopg.connect(contestants.direct(server).connection_string) as origin:
                origin.execute(cache.PUBLICATION)

            async def reach(port: int = server.port) -> tuple[Reader, Writer]:
                return await asyncio.open_connection(HOST, port)

            relay = Relay(reach)
            stack.callback(relay.close)
            everyone = stack.enter_context(
                rounds.contest(server, options, caches=["wal"], origin_port=relay.port)
            )
            for one in everyone:
                if one.name.startswith("cache"):
                    cache.warm(one, QUESTION)
                once(one)  # so that all of them have a connection
            relay.latency = milliseconds / 1e3

            def measure(one: Contestant, milliseconds: int = milliseconds) -> Figures:
                taken = once(one)
                return {"ms": taken, "round trips": taken / milliseconds}

            runs = rounds.take_turns(everyone, options.rounds, measure)
            rounds.show(f"{milliseconds} ms to the origin and back", runs, ["ms"], 2)
            results[milliseconds] = runs
    rounds.write("far", everyone, results)


if __name__ == "__main__":
    main()
