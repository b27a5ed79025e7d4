"""Whom the server runs as: never root, and any ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from hyperdrive_client.errors import OriginStartError
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.origin.account import Account, server_account

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops its privileges")
NOBODY = 65534

SCRIPT = """
import os, psycopg
from hyperdrive_client.origin import EmbeddedPostgres
with EmbeddedPostgres() as server:
    with psycopg.connect(server.connection_string) as connection:
        owner = os.stat(server.data_directory).st_uid
        print(owner, connection.execute("SELECT 'hello'").fetchone()[0], server.socket_directory)
"""


@pytest.fixture
def run_as_nobody(
    python_path: str, tmp_path: Path
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run source as user nobody, whose home is closed to it."""
    environment = {"PYTHONPATH": python_path, "HOME": str(tmp_path), "PATH": os.environ["PATH"]}

    def run(python: str, source: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-c", source],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
        )

    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if run(python, "import hyperdrive_client.origin").returncode == 0:
                return lambda source: run(python, source)
        except OSError:
            continue
    pytest.skip("user nobody may run no Python that imports this package")


@as_root
def test_root_hands_the_server_to_an_ordinary_user(postgres: EmbeddedPostgres) -> None:
    owner = postgres.data_directory.stat().st_uid
    assert owner == server_account().uid
    status = Path(f"/proc/{postgres.pid}/status")
    if status.exists():
        lines = dict(
            line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
        )
        assert set(lines["Uid"].split()) == {str(owner)}
        assert lines["Groups"].split() == []


@as_root
def test_an_ordinary_user_without_a_home_starts_one(
    run_as_nobody: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    done = run_as_nobody(SCRIPT)
    assert done.stderr == ""
    owner, hello, folder = done.stdout.split()
    assert (int(owner), hello) == (NOBODY, "hello")
    assert not Path(folder).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="for ordinary users")
def test_an_ordinary_user_runs_the_server_as_itself(postgres: EmbeddedPostgres) -> None:
    assert server_account() == Account()
    assert postgres.data_directory.stat().st_uid == os.geteuid()


@as_root
def test_root_without_an_ordinary_user_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_there(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("pwd.getpwnam", nobody_there)
    with pytest.raises(OriginStartError, match="refuses to run as root"):
        server_account()


@as_root
def test_root_takes_nobody_where_there_is_no_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    nobody = pwd.getpwnam("nobody")

    def only_nobody(name: str) -> pwd.struct_passwd:
        if name != "nobody":
            raise KeyError(name)
        return nobody

    monkeypatch.setattr("pwd.getpwnam", only_nobody)
    with EmbeddedPostgres() as own, psycopg.connect(own.connection_string) as connection:
        assert own.data_directory.stat().st_uid == nobody.pw_uid
        assert connection.execute("SELECT 1").fetchone() == (1,)


@as_root
def test_a_temporary_directory_closed_to_the_server_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert server_account().temporary_directory() == Path("/tmp")


def test_a_temporary_directory_too_long_for_a_socket_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 60)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert Account().temporary_directory() == Path("/tmp")
