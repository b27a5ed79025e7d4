"""Memory of clients that are connected and silent, each of which has asked for something before."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contestants, process, rounds
from benchmarks.contestants import Contestant
from benchmarks.rounds import Figures
from benchmarks.wire import Wire

SETTLE_SECONDS = 10.0


def main() -> None:
    parser = rounds.parser(__doc__, number=3)
    parser.add_argument("--clients", nargs="+", type=int, default=[1000, 10_000])
    options = parser.parse_args()
    process.end_in_order_when_told()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = {}
    for number in options.clients:
        runs: dict[str, list[Figures]] = {}
        for _ in range(options.rounds):
            # Each time proxies that have served nobody yet: memory is kept once it was used.
            with contestants.origin() as server, rounds.contest(server, options) as everyone:
                for one in everyone[1:]:
                    runs.setdefault(one.name, []).append(measure(one, number))
        rounds.show(f"{number:,} idle clients", runs, ["KiB each"], 1)
        results[number] = runs
    rounds.write("idle", everyone, results)


def measure(one: Contestant, number: int) -> Figures:
    """What ``number`` clients add to the memory of a proxy that has served one."""
    assert one.pid is not None
    clients = [Wire(one)]
    clients[0].query("SELECT 1")
    before = process.resident_bytes(one.pid)
    for _ in range(number):
        clients.append(Wire(one))
        clients[-1].query("SELECT 1")
    process.wait_until_settled(one.pid, SETTLE_SECONDS)
    added = process.resident_bytes(one.pid) - before
    for client in clients:
        client.close()
    return {"KiB each": added / number / 1024, "MiB in all": (before + added) / 1024**2}


if __name__ == "__main__":
    main()
