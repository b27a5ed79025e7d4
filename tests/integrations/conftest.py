"""Fixtures for the integrations' tests: a bare environment, and a binding."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

import hyperdrive_client


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours or of libpq, and no wrangler file in the working directory.

    The proxies that start by themselves are threads, which start sooner.
    """
    for name in os.environ:
        if name.startswith(("HYPERDRIVE_", "CLOUDFLARE_", "WRANGLER_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYPERDRIVE_PROXY", "thread")


@pytest.fixture
def binding(monkeypatch: pytest.MonkeyPatch, postgres_dsn: str) -> str:
    """The name of a binding, whose case matters."""
    monkeypatch.setenv("HYPERDRIVE_URL_MyDb", postgres_dsn)
    return "MyDb"


@pytest.fixture
def empty_binding(monkeypatch: pytest.MonkeyPatch, database: str) -> str:
    """The name of a binding that leads to an empty database."""
    monkeypatch.setenv("HYPERDRIVE_URL_Empty", database)
    return "Empty"


@pytest.fixture
def run_python(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a program with these arguments in a new process; it must end well and print nothing."""
    packages = (hyperdrive_client.__file__, psycopg.__file__)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(f).parent.parent) for f in packages))

    def run(source: str, *arguments: str) -> None:
        # From Python 3.12 on a fork beside threads is warned of.
        warnings = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
        command = [sys.executable, *warnings, "-c", source, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    return run
