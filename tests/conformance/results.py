"""What came of each test of a run, and how two runs differ."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """One test; ``start`` and ``end`` by the monotonic clock, in seconds."""

    test: str
    outcome: str
    reason: str
    start: float
    end: float


Results = dict[str, Result]
MISSING = Result("", "missing", "the run had no such test", 0.0, 0.0)
GOOD = ("passed", "skipped")


@dataclass(frozen=True, slots=True)
class Difference:
    """A test with different outcomes."""

    test: str
    direct: str
    proxied: str
    reason: str

    @property
    def is_worse(self) -> bool:
        """A test that is skipped only through the proxy shows nothing either."""
        return self.direct == "passed" or (self.direct == "skipped" and self.proxied == "failed")

    def __str__(self) -> str:
        return f"{self.direct} -> {self.proxied}: {self.test}\n        {self.reason}"


def read(path: Path) -> Results:
    """What ``record`` wrote; the worst outcome of a test that ran more than once."""
    results: Results = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        result = Result(**json.loads(line))
        if result.test not in results or result.outcome == "failed":
            results[result.test] = result
    return results


def counts(results: Results) -> str:
    """How many of each outcome."""
    counter = Counter(result.outcome for result in results.values())
    return ", ".join(f"{counter[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))


def differences(direct: Results, proxied: Results) -> Iterator[Difference]:
    """The tests of ``direct`` that came out otherwise, in the order of their names."""
    for test in sorted(direct):
        before, after = direct[test].outcome, proxied.get(test, MISSING)
        if before != after.outcome:
            yield Difference(test, before, after.outcome, after.reason[:300])


def most_links(results: Results, links: Sequence[tuple[float, int]]) -> dict[str, int]:
    """For each test that had a link, the most that it had at once."""
    times = [time for time, _ in links]
    found = {}
    for test, result in results.items():
        during = links[bisect_left(times, result.start) : bisect_left(times, result.end)]
        if during:
            found[test] = max(number for _, number in during)
    return found
