"""Fixtures for the client's tests: a bare environment, and other Python processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import hyperdrive_client
from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.proxy.settings import Settings
from hyperdrive_client.proxy.spawn import RunningProxy, ThreadProxy


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours or of libpq, and no wrangler file in the working directory."""
    for name in os.environ:
        ours = name.startswith(("HYPERDRIVE_", "CLOUDFLARE_", "WRANGLER_", "PG"))
        if ours and name != "HYPERDRIVE_PROXY_IDLE_TIMEOUT":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["process", "thread"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to run a proxy, also for the proxies that start by themselves."""
    monkeypatch.setenv("HYPERDRIVE_PROXY", request.param)
    return str(request.param)


@pytest.fixture
def in_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies that start by themselves are threads, which start sooner."""
    monkeypatch.setenv("HYPERDRIVE_PROXY", "thread")


@pytest.fixture
def run_python(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run a program with these arguments in a new process; the words that it prints.

    Everything there is an error that is one here. It must end well and print no error.
    """
    packages = (hyperdrive_client.__file__, psycopg.__file__)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(f).parent.parent) for f in packages))

    def run(source: str, *arguments: str) -> list[str]:
        # From Python 3.12 on a fork beside threads is warned of.
        warnings = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
        command = [sys.executable, *warnings, "-c", source, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return run


@pytest.fixture
def foreign_proxy(database: str) -> Iterator[RunningProxy]:
    """A proxy that this process does not know to be one, as on another host."""
    origin = parse_connection_string(database)
    proxy = ThreadProxy(Settings(origin, "visitor", "entry"))
    yield proxy
    proxy.close()


@pytest.fixture
def foreign_url(foreign_proxy: RunningProxy) -> str:
    """What ``hyperdrive serve`` would print there."""
    settings = foreign_proxy.settings
    database = settings.origin.database
    return f"postgresql://visitor:entry@127.0.0.1:{settings.port}/{database}?sslmode=disable"
