"""What following the WAL costs the origin: pgbench's TPC-B straight to PostgreSQL, with a proxy
that follows beside it and without, in turns.

CPU time is microseconds per transaction: of the walsender, which decodes, and of the proxy.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contestants, process, report
from benchmarks.pgbench import Bench, Run, Scenario, find_pgbench
from hyperdrive_client.origin import EmbeddedPostgres

PATIENCE_SECONDS = 30.0
# pgbench's history has no key; whoever publishes its updates as well makes them fail.
PUBLISH = (
    "CREATE PUBLICATION hyperdrive_cache "
    "FOR TABLE pgbench_accounts, pgbench_branches, pgbench_tellers"
)
FOLLOWS = (
    "SELECT active_pid FROM pg_replication_slots WHERE active AND slot_name LIKE 'hyperdrive%'"
)


def follow(server: EmbeddedPostgres, admin: psycopg.Connection, stack: ExitStack) -> dict[str, int]:
    """Start a proxy that follows; the process ids whose CPU time counts."""
    proxy = stack.enter_context(contestants.hyperdrive(server, cache="wal"))
    assert proxy.pid is not None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (row := admin.execute(FOLLOWS).fetchone()) is None:
        if time.monotonic() > deadline:
            raise SystemExit("the proxy does not follow the WAL")
        time.sleep(0.01)
    return {"walsender": row[0], "proxy": proxy.pid}


def measure(
    bench: Bench,
    server: EmbeddedPostgres,
    admin: psycopg.Connection,
    scenario: Scenario,
    number: int,
) -> dict[str, tuple[Run, dict[str, float]]]:
    """One round: a run with a reader and one without, each first in turn."""
    results = {}
    for name in ("without", "with") if number % 2 else ("with", "without"):
        with ExitStack() as stack:
            pids = follow(server, admin, stack) if name == "with" else {}
            before = {who: process.cpu_seconds(pid) for who, pid in pids.items()}
            run = bench.run(contestants.direct(server), scenario)
            used = {
                who: (process.cpu_seconds(pid) - before[who]) / max(run.transactions, 1) * 1e6
                for who, pid in pids.items()
            }
        results[name] = run, used
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--seconds", type=int, default=15, help="of a run; default: 15")
    parser.add_argument("--clients", type=int, default=8, help="default: 8")
    parser.add_argument("--scale", type=int, default=10, help="in 100,000 accounts; default: 10")
    options = parser.parse_args()
    process.end_in_order_when_told()
    scenario = Scenario("tpcb", "simple", options.clients, options.seconds)
    with contestants.origin() as server:
        bench = Bench(server, find_pgbench(server.binaries.directory))
        direct = contestants.direct(server)
        bench.initialise(direct, options.scale)
        with psycopg.connect(direct.connection_string, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET synchronous_commit = on")
            admin.execute("SELECT pg_reload_conf()")
            admin.execute(PUBLISH)
            rounds = [
                measure(bench, server, admin, scenario, number) for number in range(options.rounds)
            ]
    show(scenario, rounds)
    results = [{name: asdict(run) for name, (run, _) in each.items()} for each in rounds]
    print(f"results: {report.write('wal_cost', {'rounds': results})}")
    return int(any(run.problems for each in rounds for run, _ in each.values()))


def show(scenario: Scenario, rounds: list[dict[str, tuple[Run, dict[str, float]]]]) -> None:
    without = [each["without"][0].tps for each in rounds]
    rows = [["", "tps", "of without", "walsender CPU", "proxy CPU"]]
    for name in ("without", "with"):
        tps = [each[name][0].tps for each in rounds]
        cpu = {
            who: report.spread([each[name][1].get(who) for each in rounds], digits=1)
            for who in ("walsender", "proxy")
        }
        rows.append([name, report.spread(tps), report.ratio(tps, without), *cpu.values()])
    report.print_table(f"{scenario}, straight to PostgreSQL", rows)
    for number, each in enumerate(rounds, 1):
        for name, (run, _) in each.items():
            for problem in run.problems:
                print(f"FAILED: {name}, round {number}: {problem}")


if __name__ == "__main__":
    sys.exit(main())
