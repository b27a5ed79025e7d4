"""Latency at a fixed rate: pgbench select-only at half of what PgBouncer can do at most."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contestants, process, rounds
from benchmarks.contestants import PGBOUNCER, Contestant
from benchmarks.pgbench import Bench, Scenario, find_pgbench
from benchmarks.rounds import Figures


class RateBench(Bench):
    """pgbench that keeps to ``rate`` transactions a second and writes down how long each took."""

    rate = 0
    log = ""

    def script(self, scenario: Scenario) -> list[str]:
        """pgbench's options for what it runs."""
        rate = [f"--rate={self.rate}", "--log", f"--log-prefix={self.log}"] if self.rate else []
        return [*super().script(scenario), *rate]


def percentiles(folder: Path) -> Figures:
    """Of the latencies in pgbench's logs, whose third column is in microseconds.

    From when a transaction was due, so that waiting for a slow one counts.
    """
    taken = [
        float(line.split()[2]) / 1e3
        for path in folder.iterdir()
        for line in path.read_text().splitlines()
    ]
    cuts = statistics.quantiles(taken, n=1000)
    return {"p50, ms": cuts[499], "p99, ms": cuts[989], "p99.9, ms": cuts[998]}


def main() -> None:
    parser = rounds.parser(__doc__)
    parser.add_argument("--clients", type=int, default=32, help="default: 32")
    parser.add_argument("--seconds", type=int, default=10, help="of each run; default: 10")
    parser.add_argument("--rate", type=int, default=0, help="in transactions a second")
    options = parser.parse_args()
    process.end_in_order_when_told()
    scenario = Scenario("select", "simple", options.clients, options.seconds)
    with contestants.origin() as server, rounds.contest(server, options) as everyone:
        bench = RateBench(server, find_pgbench(server.binaries.directory))
        bench.initialise(everyone[0], 10)
        rate = options.rate
        if not rate:
            others = [one for one in everyone if one.name == PGBOUNCER] or everyone[-1:]
            rate = int(bench.run(others[0], scenario).tps / 2)

        def measure(one: Contestant) -> Figures:
            with TemporaryDirectory(prefix="hyperdrive-bench-") as folder:
                bench.rate, bench.log = rate, f"{folder}/log"
                run = bench.run(one, scenario)
                if run.problems:
                    raise SystemExit(f"FAILED: {one.name}: {run.problems}")
                return {**percentiles(Path(folder)), "tps": run.tps}

        runs = rounds.take_turns(everyone, options.rounds, measure)
        title = f"{rate:,} transactions a second, {options.clients} clients, simple protocol"
        rounds.show(title, runs, ["p50, ms", "p99, ms"], 2)
        rounds.write("rate", everyone, {"rate": rate, "runs": runs})


if __name__ == "__main__":
    main()
