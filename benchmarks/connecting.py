"""A new connection for every transaction: pgbench --connect with trust, SCRAM, and TLS."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contestants, process, rounds
from benchmarks.contestants import Contestant, Entrance
from benchmarks.pgbench import Bench, Scenario, find_pgbench
from benchmarks.rounds import Figures

WAYS = ("trust", "scram", "tls")


def main() -> None:
    parser = rounds.parser(__doc__)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--clients", type=int, default=8, help="default: 8")
    parser.add_argument("--seconds", type=int, default=5, help="of each run; default: 5")
    options = parser.parse_args()
    process.end_in_order_when_told()
    scenario = Scenario("connect", "simple", options.clients, options.seconds)
    results = {}
    for way in options.ways:
        with ExitStack() as stack:
            entrance = Entrance("trust" if way == "trust" else "scram")
            if way == "tls":
                entrance = Entrance("scram", stack.enter_context(contestants.certificate()))
            server = stack.enter_context(contestants.origin(entrance))
            everyone = stack.enter_context(rounds.contest(server, options, entrance))
            bench = Bench(server, find_pgbench(server.binaries.directory))
            bench.initialise(everyone[0], 1)

            def measure(one: Contestant, bench: Bench = bench) -> Figures:
                run = bench.run(one, scenario)
                if run.problems:
                    raise SystemExit(f"FAILED: {one.name}: {run.problems}")
                cpu = {} if run.cpu is None else {"proxy CPU, µs": run.cpu}
                return {"connections/s": run.tps, **cpu}

            runs = rounds.take_turns(everyone, options.rounds, measure)
            title = f"connect, SELECT, close; {entrance}; {options.clients} clients"
            rounds.show(title, runs, ["connections/s", "proxy CPU, µs"], 0)
            results[way] = runs
    rounds.write("connecting", everyone, results)


if __name__ == "__main__":
    main()
