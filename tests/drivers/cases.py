"""One driver's program, started once for each case."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from hyperdrive_client import Proxy

from .building import NotInstalledError
from .catalogue import Driver
from .stage import MODES, ORIGIN_CONNECTIONS, Mode, OriginWatch, proxy

CASES = (
    "connect",
    "types",
    "prepared",
    "transactions",
    "errors",
    "copy",
    "cancel",
    "fifty",
    "cache",
)
CASE_SECONDS = 60.0
REASON = 1000  # Characters of what a program says.
HAS_NO_SUCH_THING = 77


@dataclass
class Result:
    """What one driver has shown. An outcome is "" if the case passed, None if it has no such thing,
    else what is wrong.
    """

    driver: Driver
    version: str = ""
    not_installed: str = ""
    outcomes: dict[tuple[Mode, str], str | None] = field(default_factory=dict)
    most_connections: int = 0
    reads: str = ""
    """What the cache said of three reads of one row."""

    def passed(self, mode: Mode) -> str:
        """How many cases of those that the driver has."""
        outcomes = [what for (each, _), what in self.outcomes.items() if each == mode]
        return f"{outcomes.count('')} of {len(outcomes) - outcomes.count(None)}"

    def has_not(self) -> list[str]:
        return [case for case in CASES if self.outcomes.get((MODES[0], case), "") is None]

    def failures(self) -> list[str]:
        name = self.driver.name
        return [
            f"{name}, {mode}, {case}: {why}" for (mode, case), why in self.outcomes.items() if why
        ]


def run_driver(driver: Driver, folder: Path, origin: str) -> Result:
    """Every case in every mode; ``folder``: of its programs, ``origin``: a connection string."""
    result = Result(driver)
    for mode in MODES:
        with proxy(origin, mode) as started, OriginWatch(origin) as watch:
            for case in CASES:
                run = _cache if case == "cache" else _case
                result.outcomes[mode, case] = run(result, folder, started, mode, case)
        result.most_connections = max(result.most_connections, watch.most)
        if watch.most > ORIGIN_CONNECTIONS:
            result.outcomes[mode, "fifty"] = f"{watch.most} origin connections"
    return result


def version_of(driver: Driver, folder: Path) -> str:
    done = _program(driver, folder, "version", "")
    if done.returncode:
        raise NotInstalledError(done.stderr[-REASON:])
    return done.stdout.strip()


def _case(result: Result, folder: Path, proxy: Proxy, mode: Mode, case: str) -> str | None:
    try:
        done = _program(result.driver, folder, case, proxy.connection_string)
    except subprocess.TimeoutExpired:
        return f"not finished after {CASE_SECONDS:.0f} s"
    if done.returncode == HAS_NO_SUCH_THING:
        return None
    if done.returncode:
        return done.stderr.strip()[-REASON:] or f"exit code {done.returncode}"
    return ""


def _cache(result: Result, folder: Path, proxy: Proxy, mode: Mode, case: str) -> str | None:
    """Without a cache there are no statuses, with it those of the catalogue."""
    before = proxy.stats().cache
    outcome = _case(result, folder, proxy, mode, case)
    after = proxy.stats().cache
    changes = {name: after[name] - before.get(name, 0) for name in after}
    statuses = {name: times for name, times in changes.items() if times}
    if outcome != "":
        return outcome
    reads = {name: statuses.get(name, 0) for name in ("miss", "hit")}
    expected = {"miss": 0, "hit": 0}
    if mode == "cached":
        result.reads = ", ".join(f"{times} {name}" for name, times in statuses.items())
        expected |= {"miss": result.driver.misses, "hit": result.driver.hits}
    return "" if reads == expected else f"expected {expected}, statuses are {statuses}"


def _program(driver: Driver, folder: Path, case: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*driver.command, case),
        cwd=folder,
        env=os.environ | {"DATABASE_URL": url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CASE_SECONDS,
    )
