"""pgbench against PostgreSQL itself, through PgBouncer, and through this package's proxy.

The contestants take turns within each round, and every round begins with another one, so that a
machine that is busy for a while is busy for all of them. CPU time is that of the proxy's process
alone: on few cores the load generator and the server saturate first, and transactions per second
then say little about the proxy.

Needs pgbench, beside the server's programs or in PATH. PGBOUNCER names another PgBouncer than the
one in PATH; without any it is left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contestants, process, report
from benchmarks.contestants import DATABASE, DIRECT, HOST, ORIGIN_CONNECTIONS, PGBOUNCER, Contestant
from benchmarks.rounds import take_turns
from hyperdrive_client.origin import EmbeddedPostgres

MODES = ("simple", "extended", "prepared")
SCRIPTS = {
    "select": ["--builtin=select-only"],
    "tpcb": ["--builtin=tpcb-like"],
    "connect": ["--builtin=select-only", "--connect"],
    "pipeline": [f"--file={Path(__file__).parent / 'pipeline.sql'}"],
}
NAMES = {
    "select": "select-only",
    "tpcb": "tpcb-like",
    "connect": "select-only, each on a new connection",
    "pipeline": "pipelines of ten SELECTs",
}
POLL_SECONDS = 0.05
# What a run may take beyond its time, to connect and to end.
PATIENCE_SECONDS = 60.0
SUMS = """
    SELECT (SELECT sum(abalance) FROM pgbench_accounts),
        (SELECT sum(tbalance) FROM pgbench_tellers),
        (SELECT sum(bbalance) FROM pgbench_branches),
        (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"""
# A connection has no user until it is authenticated.
BACKENDS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
        AND (usename = %s OR usename IS NULL)"""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to call pgbench; ``script`` is a key of ``SCRIPTS``, or a name for one's own."""

    script: str
    mode: str
    clients: int
    seconds: int

    def __str__(self) -> str:
        return (
            f"{NAMES.get(self.script, self.script)}, {self.mode} protocol, "
            f"{self.clients} clients, "
            f"{self.seconds} s a run"
        )


@dataclass(slots=True)
class Run:
    """What one run gave; ``problems`` is empty if all was as it must be.

    ``cpu``: microseconds of the proxy's process per transaction, None without a proxy.
    ``backends``: the most connections the contestant had at the origin, None if not looked at.
    ``cached``: the share of transactions that the origin did not see, None if not looked at.
    """

    transactions: int = 0
    tps: float = 0.0
    cpu: float | None = None
    backends: int | None = None
    cached: float | None = None
    problems: list[str] = field(default_factory=list)


class Bench:
    """pgbench with its tables at one origin."""

    def __init__(self, server: EmbeddedPostgres, program: Path) -> None:
        self._program = program
        self._origin = server.connection_string.rpartition("/")[0] + f"/{DATABASE}"
        # Settings of the caller's libpq are not to decide anything here.
        kept = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
        self._environment = {**kept, "PGGSSENCMODE": "disable"}

    def initialise(self, contestant: Contestant, scale: int) -> None:
        """Make and fill the tables."""
        done = self._pgbench(contestant, "--initialize", "--quiet", f"--scale={scale}")
        if done.returncode != 0:
            raise SystemExit(f"pgbench --initialize failed: {done.stderr}")

    def run(self, contestant: Contestant, scenario: Scenario) -> Run:
        """Run a scenario once and look at what it did."""
        if scenario.script != "tpcb":
            return self._measure(contestant, scenario)
        with psycopg.connect(self._origin, autocommit=True) as connection:
            connection.execute("VACUUM pgbench_branches, pgbench_tellers")
            with watch_backends(self._origin, contestant.name) as most:
                run = self._measure(contestant, scenario)
            sums = connection.execute(SUMS).fetchone()
        run.backends = most[0]
        if contestant.pid is not None and run.backends > ORIGIN_CONNECTIONS:
            run.problems.append(f"{run.backends} origin connections of {ORIGIN_CONNECTIONS}")
        if sums is None or len(set(sums)) != 1:
            run.problems.append(f"accounts, tellers, branches and history differ: {sums}")
        return run

    def _measure(self, contestant: Contestant, scenario: Scenario) -> Run:
        before = 0.0 if contestant.pid is None else process.cpu_seconds(contestant.pid)
        try:
            done = self._pgbench(
                contestant,
                "--no-vacuum",
                *self.script(scenario),
                f"--protocol={scenario.mode}",
                f"--client={scenario.clients}",
                f"--jobs={min(scenario.clients, os.cpu_count() or 1)}",
                f"--time={scenario.seconds}",
                timeout=scenario.seconds + PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Run(problems=["pgbench did not end"])
        run = parse(done)
        if contestant.pid is not None and run.transactions:
            used = process.cpu_seconds(contestant.pid) - before
            run.cpu = used / run.transactions * 1e6
        return run

    def script(self, scenario: Scenario) -> list[str]:
        """pgbench's options for what it runs."""
        return SCRIPTS[scenario.script]

    def _pgbench(
        self, contestant: Contestant, *arguments: str, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        where = (f"--host={HOST}", f"--port={contestant.port}", f"--username={contestant.name}")
        return subprocess.run(
            [self._program, *where, *arguments, DATABASE],
            env={
                **self._environment,
                "PGSSLMODE": "require" if contestant.has_tls else "disable",
                "PGPASSWORD": contestant.password,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def parse(done: subprocess.CompletedProcess[str]) -> Run:
    """What pgbench says about itself; the line on failures is there from version 15 on."""
    run = Run()
    processed = re.search(r"actually processed: (\d+)", done.stdout)
    tps = re.search(r"^tps = ([\d.]+) \((?:without|including)", done.stdout, re.MULTILINE)
    if processed and tps:
        run.transactions, run.tps = int(processed[1]), float(tps[1])
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    if failed and failed[1] != "0":
        run.problems.append(f"{failed[1]} transactions failed")
    if done.returncode != 0 or not run.transactions:
        run.problems.append(f"pgbench ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return run


@contextmanager
def watch_backends(origin: str, user: str) -> Iterator[list[int]]:
    """Poll the origin; the one item of the list is the most connections ``user`` had."""
    most = [0]
    ended = threading.Event()

    def poll(connection: psycopg.Connection) -> None:
        while not ended.wait(POLL_SECONDS):
            row = connection.execute(BACKENDS, (user,)).fetchone()
            most[0] = max(most[0], row[0] if row else 0)

    with psycopg.connect(origin, autocommit=True) as connection:
        thread = threading.Thread(target=poll, args=(connection,))
        thread.start()
        try:
            yield most
        finally:
            ended.set()
            thread.join()


def compare(
    bench: Bench, everyone: list[Contestant], scenario: Scenario, rounds: int
) -> dict[str, list[Run]]:
    """Each contestant's runs, by its name; those that can't take part are missing."""
    takers = [
        one for one in everyone if scenario.mode != "prepared" or one.keeps_prepared_statements
    ]
    return take_turns(takers, rounds, lambda one: bench.run(one, scenario))


def show(scenario: Scenario, runs: dict[str, list[Run]]) -> None:
    """Print the table of one scenario, and what went wrong below it."""
    headings = ["", "tps", "of direct", "of PgBouncer", "proxy CPU, µs/transaction"]
    headings += ["of PgBouncer", "origin connections", "from the cache"]
    rows = [headings, *([name, *_columns(name, runs)] for name in runs)]
    report.print_table(str(scenario), rows)
    for name, number, problem in problems(runs):
        print(f"FAILED: {name}, round {number}: {problem}")


def problems(runs: dict[str, list[Run]]) -> list[tuple[str, int, str]]:
    """Name, round and text of all that went wrong."""
    return [
        (name, number, problem)
        for name, own in runs.items()
        for number, run in enumerate(own, 1)
        for problem in run.problems
    ]


def _columns(name: str, runs: dict[str, list[Run]]) -> list[str]:
    tps = {name: [run.tps for run in own] for name, own in runs.items()}
    cpu = {name: [run.cpu for run in own] for name, own in runs.items()}
    backends = [run.backends for run in runs[name] if run.backends is not None]
    cached = [run.cached for run in runs[name] if run.cached is not None]
    return [
        report.spread(tps[name]),
        report.ratio(tps[name], tps.get(DIRECT)),
        report.ratio(tps[name], tps.get(PGBOUNCER)),
        report.spread(cpu[name], digits=1),
        report.ratio(cpu[name], cpu.get(PGBOUNCER)),
        str(max(backends, default="")),
        f"{min(cached):.1%}" if cached else "",
    ]


def find_pgbench(beside: Path) -> Path:
    """pgbench among the server's programs, else the one in PATH."""
    found = shutil.which("pgbench", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise SystemExit(f"no pgbench in {beside} or PATH: install PostgreSQL's client programs")
    return Path(found)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    scenarios = ["select", "pipeline", "tpcb"]
    add("--scenarios", nargs="+", choices=scenarios, default=scenarios, help="default: all")
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="of select; default: all")
    add("--clients", nargs="+", type=int, default=[1, 8, 32, 128], help="default: 1 8 32 128")
    add("--seconds", type=int, default=10, help="of each run of select; default: 10")
    add("--tpcb-modes", nargs="+", choices=MODES, default=["simple"], help="default: simple")
    add("--tpcb-clients", nargs="+", type=int, default=[32], help="default: 32")
    add("--tpcb-seconds", type=int, default=20, help="default: 20")
    add("--rounds", type=int, default=5, help="runs of each contestant; default: 5")
    add("--scale", type=int, default=10, help="in 100,000 accounts; default: 10")
    add("--postgres-bin", metavar="DIR", help="the server's programs; default: as for the tests")
    add("--without-pgbouncer", action="store_true", help="leave PgBouncer out")
    return parser.parse_args()


def scenarios(options: argparse.Namespace) -> list[Scenario]:
    """What the options ask for."""
    asked = {
        "select": (options.modes, options.clients, options.seconds),
        "pipeline": (["extended"], options.clients, options.seconds),
        "tpcb": (options.tpcb_modes, options.tpcb_clients, options.tpcb_seconds),
    }
    return [
        Scenario(script, mode, clients, asked[script][2])
        for script in options.scenarios
        for mode in asked[script][0]
        for clients in asked[script][1]
    ]


def start(server: EmbeddedPostgres, stack: ExitStack, *, with_pgbouncer: bool) -> list[Contestant]:
    """Start the contestants, and say which version and configuration each has."""
    everyone = [contestants.direct(server)]
    program = contestants.find_pgbouncer() if with_pgbouncer else None
    if program is not None:
        everyone.append(stack.enter_context(contestants.pgbouncer(server, program)))
    everyone.append(stack.enter_context(contestants.hyperdrive(server)))
    for one in everyone:
        print(f"{one.name}: {one.about}")
        if not one.keeps_prepared_statements:
            print(f"{one.name}: left out of the prepared protocol, which needs 1.21 or newer")
    if program is None:
        print(f"{PGBOUNCER}: {'not found' if with_pgbouncer else 'left out'}", flush=True)
    return everyone


def main() -> int:
    """Run what is asked for; 1 if anything was not as it must be."""
    options = arguments()
    process.end_in_order_when_told()
    if options.postgres_bin:
        os.environ["HYPERDRIVE_POSTGRES_BIN"] = options.postgres_bin
    with ExitStack() as stack:
        server = stack.enter_context(contestants.origin())
        everyone = start(server, stack, with_pgbouncer=not options.without_pgbouncer)
        bench = Bench(server, find_pgbench(server.binaries.directory))
        bench.initialise(everyone[0], options.scale)
        results, failed = [], False
        for scenario in scenarios(options):
            runs = compare(bench, everyone, scenario, options.rounds)
            show(scenario, runs)
            failed = failed or bool(problems(runs))
            rounds = {name: [asdict(run) for run in own] for name, own in runs.items()}
            results.append({**asdict(scenario), "runs": rounds})
        about = {one.name: one.about for one in everyone}
        path = report.write("pgbench", {"contestants": about, "results": results})
        print(f"\nmedian (min..max) of {options.rounds} rounds; ratios are medians of each round's")
        print(f"all runs: {path}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
