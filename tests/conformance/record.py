"""A pytest plugin for the suites: what came of each test, and when it ran.

``CONFORMANCE_RECORD`` names the file that gets a line of JSON per test; ``CONFORMANCE_ONLY``, if
set, a file with the ids of the tests to run, one a line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest

# The worst of set-up, call and tear-down is what came of a test.
OUTCOMES = ("passed", "skipped", "failed")


class Recorder:
    """Writes a test down as soon as it is over, so that a crash loses none before it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._outcome, self._reason = "passed", ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._outcome, self._reason = "passed", ""
        start = time.monotonic()
        try:
            return (yield)
        finally:
            line = {
                "test": item.nodeid,
                "outcome": self._outcome,
                "reason": self._reason,
                "start": start,
                "end": time.monotonic(),
            }
            self._file.write(json.dumps(line) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if OUTCOMES.index(report.outcome) > OUTCOMES.index(self._outcome):
            self._outcome = report.outcome
            self._reason = _reason(report)


def _reason(report: pytest.TestReport) -> str:
    """The error's first line, or why a test was skipped."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr) if crash is None else crash.message
    return text.partition("\n")[0]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(Path(os.environ["CONFORMANCE_RECORD"])))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    path = os.environ.get("CONFORMANCE_ONLY")
    if path is None:
        return
    only = set(Path(path).read_text(encoding="utf-8").splitlines())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in only])
    items[:] = [item for item in items if item.nodeid in only]
