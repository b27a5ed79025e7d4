"""Run drivers' own test suites directly and through the proxy, and say what differs.

Exit code 1 if a test fails only through the proxy, or if an ordinary load pins.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import loads
from exceptions import EXCEPTIONS, wants_native_hstore
from results import GOOD, Difference, Results, counts, differences, most_links
from servers import find_pgbouncer, origin, rotating_proxy, session_pooler
from suites import SQLALCHEMY, SQLALCHEMY_POSTGRESQL, SUITES, Suite

LIMIT = 5
# How often, at most, what failed only through the proxy is run directly, to see if it fails there.
REPEATS = 30


class Runner:
    """Runs one suite, unpacked in ``folder``; files of each run go to ``output``."""

    def __init__(self, suite: Suite, folder: Path, output: Path) -> None:
        self.suite, self.folder, self.output = suite, folder, output

    def direct(self, name: str = "direct", only: Collection[str] = ()) -> Results:
        """Without a proxy."""
        with (
            origin(self.suite.database, self.suite.schema) as server,
            self._announced(name, only) as show,
        ):
            return show(
                self.suite.run(
                    self.folder, server.port, server.binaries.directory, self._path(name), only
                )
            )

    def proxied(self, limit: int, only: Collection[str] = ()) -> tuple[Results, dict[str, Any]]:
        """Through the proxy; with its report."""
        name = f"limit-{limit}"
        with (
            origin(self.suite.database, self.suite.schema) as server,
            self._announced(f"through the proxy, limit {limit}", only) as show,
        ):
            report = self._path(name).with_suffix(".report")
            with rotating_proxy(server, self.suite.database, limit, report) as proxy:
                results = self.suite.run(
                    self.folder, proxy.port, server.binaries.directory, self._path(name), only
                )
            return show(results), proxy.report

    def pooled(self, program: Path, test: str) -> Results:
        """One test through a session pooler that is not ours."""
        with (
            origin(self.suite.database, self.suite.schema) as server,
            self._announced("through PgBouncer, pool_mode = session", [test]) as show,
            session_pooler(server, program) as port,
        ):
            return show(
                self.suite.run(
                    self.folder, port, server.binaries.directory, self._path("pooled"), [test]
                )
            )

    def _path(self, name: str) -> Path:
        parts = (self.suite.name, self.suite.driver, name.replace(" ", "-"))
        return self.output / ("-".join(filter(None, parts)) + ".jsonl")

    @contextmanager
    def _announced(
        self, name: str, only: Collection[str]
    ) -> Iterator[Callable[[Results], Results]]:
        started = time.monotonic()
        print(f"  {name}{f', {len(only)} tests' if len(only) > 1 else ''}", flush=True)

        def show(results: Results) -> Results:
            print(f"  {name}: {counts(results)}, {time.monotonic() - started:.0f} s", flush=True)
            return results

        yield show


def compare(runner: Runner) -> list[Difference]:
    """Run a suite in all ways, print what differs, and return what fails only through us."""
    print(f"\n{runner.suite}", flush=True)
    direct = runner.direct()
    five, report = runner.proxied(LIMIT)
    links = most_links(five, report["links"])
    print(f"    {len(links)} of {len(five)} tests had a link to the origin")
    show_pins(report)
    exceptions = EXCEPTIONS.get(runner.suite.name, {})
    found = judge(runner, list(differences(direct, five)), exceptions)
    alone = [test for test, most in links.items() if most < 2 and test in direct]
    rest = len(links) - len(alone)
    print(f"  {rest} tests had two links at once, and are left out with a limit of 1")
    one, report = runner.proxied(1, alone)
    show_pins(report)
    expected = {test: direct[test] for test in alone}
    found += judge(runner, list(differences(expected, one)), exceptions)
    return found


def compare_dialects(suite: Suite, folder: Path, output: Path) -> list[Difference]:
    """Run a suite on SQLAlchemy's own dialect and on the library's, by threads and by asyncio.

    The library's first starts a proxy of its own, then its URL leads to one that is running.
    """
    found = []
    for kind in ("", "_async"):
        print(f"\n{suite}, psycopg{kind} and hyperdrive{kind}", flush=True)
        stock = Runner(replace(suite, driver=f"psycopg{kind}"), folder, output)
        ours = replace(suite, driver=f"hyperdrive{kind}")
        expected = stock.direct()
        spawning = Runner(replace(ours, hyperdrive_proxy="process"), folder, output)
        spawned = spawning.direct("with its own proxy")
        running, report = Runner(ours, folder, output).proxied(LIMIT)
        show_pins(report)
        worse = [*differences(expected, spawned), *differences(expected, running)]
        why = "native hstore is off by default"
        exceptions = {one.test: why for one in worse if wants_native_hstore(one.test)}
        found += judge(stock, worse, exceptions)
        found += with_native_hstore(spawning, {test: expected[test] for test in exceptions})
    return found


def with_native_hstore(runner: Runner, expected: Results) -> list[Difference]:
    """Run tests with it; those that fail all the same."""
    if not expected:
        return []
    options = (*runner.suite.options, "-p", "native_hstore")
    suite = replace(runner.suite, query="?plugin=native_hstore", options=options)
    results = Runner(suite, runner.folder, runner.output).direct("with native hstore", expected)
    return judge(runner, list(differences(expected, results)), {})


def judge(
    runner: Runner, found: list[Difference], exceptions: Mapping[str, str]
) -> list[Difference]:
    """Print differences, and return those that count."""
    suspects = {one.test for one in found if one.is_worse} - exceptions.keys()
    unsteady = set[str]()
    for number in range(REPEATS):
        if suspects == unsteady:
            break
        again = runner.direct(f"directly again, {number + 1}", suspects - unsteady)
        unsteady |= {test for test, result in again.items() if result.outcome == "failed"}
    for one in found:
        why = exceptions.get(one.test, "")
        note = f"exception: {why}" if why else "fails directly too, now and then"
        print(f"    {one}" + (f"\n        {note}" if why or one.test in unsteady else ""))
    return [one for one in found if one.test in suspects - unsteady]


def show_pins(report: dict[str, Any]) -> float:
    """Print and return the share of link time spent pinned, in percent."""
    pinned, linked = float(report["pinned_seconds"]), float(report["link_seconds"])
    share = 100 * pinned / linked if linked else 0.0
    reasons = report["pins"] or "none"
    print(f"    pinned: {share:.2f} % of {linked:.2f} s of links; reasons: {reasons}", flush=True)
    return share


def check_exceptions(runner: Runner) -> list[str]:
    """The exceptions of a suite that pass through a session pooler, and so are none."""
    tests = EXCEPTIONS.get(runner.suite.name, {})
    program = find_pgbouncer()
    if not tests:
        return []
    if program is None:
        print("  PgBouncer is not installed: nothing shows that the exceptions fail behind it")
        return []
    passed = []
    for test in tests:
        # By itself, since what its class tears down counts for the last test of it.
        for _ in range(REPEATS):
            # It may depend on how fast the machine is at the moment.
            (result,) = runner.pooled(program, test).values()
            if result.outcome not in GOOD:
                break
        print(f"    {result.outcome}: {test}\n        {result.reason}")
        if result.outcome in GOOD:
            passed.append(test)
    return passed


def run_loads(output: Path) -> list[str]:
    """Run the loads that must not pin; the names of those that did."""
    pinned = []
    for load in loads.LOADS:
        print(f"\n{load.__name__}", flush=True)
        with origin("loads") as server:
            report = output / f"{load.__name__}.report"
            with rotating_proxy(server, "loads", LIMIT, report) as proxy:
                load(proxy.port, "loads", server.binaries.directory)
        if show_pins(proxy.report) > 0:
            pinned.append(load.__name__)
    return pinned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="+", choices=[*SUITES, "loads", "dialects"])
    parser.add_argument("--folder", type=Path, required=True, help="for sdists and results")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    problems = []
    for name in options.suites:
        if name == "dialects":
            for suite in (SQLALCHEMY, SQLALCHEMY_POSTGRESQL):
                folder = suite.unpack(options.folder)
                found = compare_dialects(suite, folder, options.folder)
                problems += [f"fails only on the library's dialect: {one.test}" for one in found]
            continue
        if name == "loads":
            problems += [f"{load} pins" for load in run_loads(options.folder)]
            continue
        runner = Runner(SUITES[name], SUITES[name].unpack(options.folder), options.folder)
        problems += [f"fails only through the proxy: {one.test}" for one in compare(runner)]
        problems += [f"passes behind a pooler: {one}" for one in check_exceptions(runner)]
    problems = list(dict.fromkeys(problems))  # most fail with either limit
    print(f"\n{len(problems)} problems; logs and results are in {options.folder}")
    for problem in problems:
        print(f"  {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
