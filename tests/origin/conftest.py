"""Fixtures for the embedded server's tests: other processes, and their ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import hyperdrive_client


@pytest.fixture(scope="session")
def python_path() -> str:
    """The PYTHONPATH that finds this package and psycopg, installed or not."""
    packages = (hyperdrive_client.__file__, psycopg.__file__)
    return os.pathsep.join(str(Path(file).parent.parent) for file in packages)


@pytest.fixture
def run_script(python_path: str) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a Python process with this source; it is killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def run(source: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": python_path},
            process_group=0,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def is_alive() -> Callable[[int], bool]:
    """Whether a process id is that of a running process; a zombie is not one."""

    def alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
            return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
        except ProcessLookupError:
            return False
        except FileNotFoundError:  # it ended in between, or this system has no /proc
            return not Path("/proc/self").exists()

    return alive


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a state of another process; fail after 30 s."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "waited 30 s in vain"
            time.sleep(0.01)

    return wait


@pytest.fixture
def fake_binaries(tmp_path: Path) -> Callable[..., Path]:
    """Make a bin directory whose programs are shell scripts: name -> lines of the script."""

    def make(folder: str = "bin", **scripts: str) -> Path:
        directory = tmp_path / folder
        directory.mkdir(parents=True)
        for name, script in scripts.items():
            (directory / name).write_text(f"#!/bin/sh\n{script}\n")
            (directory / name).chmod(0o755)
        return directory

    return make
