"""The suites: where their tests are, what they need of a database, how pytest runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import sources
from results import Results, read

HOST, USER = "127.0.0.1", "postgres"
# Nothing takes this long but a wait for what never comes.
TEST_TIMEOUT_SECONDS = 60
PROGRESS = re.compile(r"\[ *(\d+)%\]$")
PROGRESS_STEP = 20


@dataclass(frozen=True, slots=True)
class Suite:
    """One test suite, of the version of its driver that is installed (``distribution``).

    ``schema``: what its database must have. ``driver``: SQLAlchemy's name for it, if the suite
    wants a URL, and ``query`` what that ends with. ``hyperdrive_proxy``: ``HYPERDRIVE_PROXY``.
    """

    name: str
    project: str
    distribution: str
    tests: str
    database: str = "suite"
    schema: str = ""
    options: tuple[str, ...] = ()
    driver: str = ""
    query: str = ""
    hyperdrive_proxy: str = "off"

    def __str__(self) -> str:
        return f"{self.name} {version(self.distribution)}"

    def unpack(self, folder: Path) -> Path:
        """Get the sdist; the folder to run the suite in."""
        return sources.unpack(self.project, version(self.distribution), folder)

    def run(
        self, folder: Path, port: int, programs: Path, record: Path, only: Iterable[str] = ()
    ) -> Results:
        """Run it against whatever listens on ``port``; the tests ``only`` if any are given.

        ``programs``: a PostgreSQL's, for tests that start servers of their own. ``record`` gets
        what came of each test; pytest's own output goes beside it, with the suffix ``.log``.
        """
        environment = _environment(port, programs, self.database)
        environment["HYPERDRIVE_PROXY"] = self.hyperdrive_proxy
        environment["CONFORMANCE_RECORD"] = str(record)
        if only:
            list_of_tests = record.with_suffix(".only")
            list_of_tests.write_text("\n".join(only), encoding="utf-8")
            environment["CONFORMANCE_ONLY"] = str(list_of_tests)
        url = f"postgresql+{self.driver}://{USER}:any@{HOST}:{port}/{self.database}{self.query}"
        command = [sys.executable, "-P", "-m", "pytest", "-p", "pytest_timeout", "-p", "record"]
        command += ["-p", "no:cacheprovider", "-q", "-q", f"--timeout={TEST_TIMEOUT_SECONDS}"]
        command += [f"--dburi={url}"] if self.driver else ["-c", os.devnull, f"--rootdir={folder}"]
        command += [*self.options, self.tests]
        log = record.with_suffix(".log")
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
                stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, errors="replace",
            )  # fmt: skip
            assert process.stdout is not None
            shown = 0
            for line in process.stdout:
                file.write(line)
                progress = PROGRESS.search(line)
                if progress and int(progress[1]) >= shown + PROGRESS_STEP:
                    shown = int(progress[1])
                    print(f"    {shown} %", flush=True)
        # 0: all passed, 1: some failed; anything else says that pytest itself did not get through.
        if process.wait() not in (0, 1):
            raise SystemExit(f"pytest ended with status {process.returncode}: see {log}")
        return read(record)


ASYNCPG = Suite(
    "asyncpg",
    project="asyncpg",
    distribution="asyncpg",
    tests="tests",
    # Some tests connect to that one by name.
    database="postgres",
    # Its own. Without them the deep recursion in one test breaks pytest's tracebacks.
    options=("--tb=native", "--assert=plain", "--import-mode=importlib"),
)
PSYCOPG2 = Suite(
    "psycopg2",
    project="psycopg2",
    distribution="psycopg2-binary",
    tests="tests",
    schema="CREATE EXTENSION hstore",
    options=("--import-mode=importlib",),
)
_SQLALCHEMY_SCHEMA = (
    "CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; "
    "CREATE EXTENSION hstore; CREATE EXTENSION citext"
)
SQLALCHEMY = Suite(
    "sqlalchemy-suite",
    project="sqlalchemy",
    distribution="sqlalchemy",
    tests="test/dialect/test_suite.py",
    schema=_SQLALCHEMY_SCHEMA,
    driver="psycopg",
)
SQLALCHEMY_POSTGRESQL = Suite(
    "sqlalchemy-postgresql",
    project="sqlalchemy",
    distribution="sqlalchemy",
    tests="test/dialect/postgresql",
    schema=_SQLALCHEMY_SCHEMA,
    driver="psycopg",
)
SUITES = {suite.name: suite for suite in (ASYNCPG, PSYCOPG2, SQLALCHEMY, SQLALCHEMY_POSTGRESQL)}


def _environment(port: int, programs: Path, database: str) -> dict[str, str]:
    """The caller's, but for what could decide which server is tested, and how."""
    ours = ("PG", "PSYCOPG2_", "PYTEST_", "CONFORMANCE_", "HYPERDRIVE_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    return {
        **kept,
        "PGHOST": HOST,
        "PGPORT": str(port),
        "PGUSER": USER,
        "PGDATABASE": database,
        "PGINSTALLATION": str(programs),
        "PSYCOPG2_TESTDB": database,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).resolve().parent), *filter(None, [kept.get("PYTHONPATH")])]
        ),
    }
