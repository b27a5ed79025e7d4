"""``hyperdrive status``, ``logs`` and ``stop``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from hyperdrive_client import Connection, Proxy, connect
from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.cli import main
from hyperdrive_client.client.shared_proxy import place_for
from hyperdrive_client.registry import Place, places

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch, end_process: Callable[..., None]) -> Iterator[None]:
    """No proxies but this test's."""
    with tempfile.TemporaryDirectory(prefix="hyperdrive-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield
        for file in Path(folder).glob("*/*/proxy.json"):
            if record := Place(file.parents[1], file.parent.name).running():
                end_process(record.pid)


def hyperdrive(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hyperdrive_client", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=60
    )


@pytest.fixture
def running(database: str) -> Iterator[tuple[Place, psycopg.Connection]]:
    """A shared proxy, and a connection to it that is in no transaction."""
    with connect(database, autocommit=True) as connection:
        yield place_for(parse_connection_string(database)), connection


def test_without_any_proxy_there_is_nothing_to_show_or_stop() -> None:
    status = hyperdrive("status")
    assert (status.returncode, status.stdout) == (0, "")
    assert "No proxy is running" in status.stderr
    assert json.loads(hyperdrive("status", "--json").stdout) == []
    assert hyperdrive("stop", "--all").returncode == 0
    for command in ("stop", "logs"):
        done = hyperdrive(command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no proxy is running" in done.stderr


def test_status_tells_what_runs_and_no_secret(
    running: tuple[Place, psycopg.Connection], database: str
) -> None:
    place, _ = running
    record = place.running()
    assert record is not None
    shown = hyperdrive("status").stdout
    origin = parse_connection_string(database)
    assert f"127.0.0.1:{origin.addresses[0].port}/{origin.database}" in shown
    assert place.id in shown
    (told,) = json.loads(text := hyperdrive("status", "--json").stdout)
    assert (told["id"], told["pid"], told["running"]) == (place.id, record.pid, True)
    assert (told["clients"], told["clients_connected"], told["pins"]) == (1, 1, {})
    for secret in (record.password, origin.password):
        assert secret
        assert secret not in shown + text


def test_stop_ends_it_and_leaves_nothing(running: tuple[Place, psycopg.Connection]) -> None:
    place, connection = running
    done = hyperdrive("stop")
    assert (done.returncode, done.stderr) == (0, f"{place.id} has ended\n")
    assert list(place.parent.iterdir()) == []
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")


@pytest.mark.parametrize("which", ["id", "beginning", "binding", "--all"])
def test_a_proxy_is_named_by_its_id_or_its_binding(
    which: str, running: tuple[Place, psycopg.Connection], database: str
) -> None:
    place, _ = running
    name = {"id": place.id, "beginning": place.id[:4], "binding": "APP"}.get(which, which)
    assert hyperdrive("stop", name, HYPERDRIVE_URL_APP=database).returncode == 0
    assert place.running() is None


def test_a_transaction_may_finish_unless_it_is_to_end_at_once(
    running: tuple[Place, psycopg.Connection],
) -> None:
    place, connection = running
    with connection.transaction():
        connection.execute("SELECT set_config('a.b', 'c', true)")
        record = place.running()
        assert record is not None
        is_there = place.watch()
        command = [sys.executable, "-m", "hyperdrive_client", "stop"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as stopping:
            assert stopping.stderr is not None
            assert "lets transactions finish" in stopping.stderr.readline()
            assert connection.execute("SELECT current_setting('a.b')").fetchone() == ("c",)
            assert is_there()
            stopping.kill()
        os.kill(record.pid, signal.SIGINT)
        while is_there():
            os.sched_yield()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_stop_at_once_waits_for_no_transaction(running: tuple[Place, psycopg.Connection]) -> None:
    place, connection = running
    with pytest.raises(psycopg.OperationalError), connection.transaction():
        connection.execute("SELECT set_config('a.b', 'c', true)")
        assert hyperdrive("stop", "--now").stderr == f"{place.id} has ended\n"
        connection.execute("SELECT 1")


def test_what_has_died_is_shown_with_its_log_until_it_is_stopped(
    running: tuple[Place, psycopg.Connection], end_process: Callable[..., None]
) -> None:
    place, _ = running
    record = place.running()
    assert record is not None
    assert f"port {record.port}" in hyperdrive("logs").stdout
    end_process(record.pid)
    status = hyperdrive("status")
    assert "died" in status.stdout
    assert "hyperdrive logs" in status.stderr
    assert f"port {record.port}" in hyperdrive("logs", place.id).stdout
    assert "had died" in hyperdrive("stop").stderr
    assert hyperdrive("status").stdout == ""
    assert list(place.parent.iterdir()) == []


def test_what_is_just_being_started_is_stopped_not_taken_for_dead(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_for(parse_connection_string(database))
    place.folder.mkdir(0o700)
    lock = Place.lock
    connections: list[psycopg.Connection] = []

    def lock_later(self: Place, timeout: float) -> AbstractContextManager[None]:
        monkeypatch.setattr(Place, "lock", lock)
        connections.append(connect(database))
        return lock(self, timeout)

    monkeypatch.setattr(Place, "lock", lock_later)
    done = CliRunner().invoke(main, ["stop", place.id])
    assert (done.exit_code, done.output) == (0, f"{place.id} has ended\n")
    with pytest.raises(psycopg.OperationalError):
        connections[0].execute("SELECT 1")


def test_several_proxies_have_to_be_told_apart(
    running: tuple[Place, psycopg.Connection], postgres_dsn: str
) -> None:
    place, _ = running
    connect(postgres_dsn).close()
    done = hyperdrive("logs")
    assert (done.returncode, done.stdout) == (1, "")
    assert "name one" in done.stderr
    assert place.id in done.stderr
    assert hyperdrive("stop", "NOSUCH").returncode == 1
    assert hyperdrive("stop", place.id, "--all").returncode == 2
    assert hyperdrive("stop", "--all").returncode == 0
    assert hyperdrive("status").stdout == ""


def test_a_log_is_followed_until_the_proxy_ends(running: tuple[Place, psycopg.Connection]) -> None:
    command = [sys.executable, "-m", "hyperdrive_client", "logs", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert "listening on" in following.stdout.readline()
        hyperdrive("stop")
        assert following.wait(30) == 0


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, database: str) -> Iterator[Connection]:
    """A connection through a shared proxy that has the answer to a query in its cache."""
    with psycopg.connect(database) as straight:
        straight.execute("CREATE TABLE t (n int PRIMARY KEY)")
    with monkeypatch.context() as patch:
        patch.setenv("HYPERDRIVE_CACHE", "writes")
        connection = connect(database, autocommit=True)
    with connection:
        while connection.last_cache is None or connection.last_cache.status != "hit":
            connection.execute("SELECT n FROM t")
        yield connection


@pytest.mark.parametrize("which", ["", "id", "binding", "--binding", "url", "-"])
def test_a_purge_finds_the_proxy_whatever_its_cache(
    kept: Connection, database: str, which: str
) -> None:
    (place,) = places()
    record = place.running()
    assert record is not None
    url = record.tcp_door.connection_string
    arguments = {
        "": [],
        "id": [place.id[:5]],
        "binding": ["APP"],
        "--binding": ["--binding", "APP"],
        "url": [url],
    }.get(which, [which])
    command = [sys.executable, "-m", "hyperdrive_client", "purge", *arguments]
    done = subprocess.run(
        command,
        input=f"{url}\n",
        capture_output=True,
        text=True,
        env={**os.environ, "HYPERDRIVE_URL_APP": database},
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "answers forgotten: 1\n"


def test_a_purge_finds_the_proxy_that_a_binding_leads_to(database: str) -> None:
    with Proxy(database) as proxy:
        done = hyperdrive("purge", "APP", HYPERDRIVE_URL_APP=proxy.connection_string)
    assert (done.returncode, done.stderr) == (0, "answers forgotten: 0\n")


def test_a_purge_is_of_the_tables_that_are_named(kept: Connection) -> None:
    done = hyperdrive("purge", "--table", "public.nosuch")
    assert done.returncode == 1
    assert "no table 'public.nosuch'" in done.stderr
    assert hyperdrive("purge", "--table", "public.t").stderr == "answers forgotten: 1\n"


def test_a_purge_without_a_proxy_is_an_error(database: str) -> None:
    done = hyperdrive("purge")
    assert (done.returncode, "no proxy is running" in done.stderr) == (1, True)
    done = hyperdrive("purge", "APP", HYPERDRIVE_URL_APP=database)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no proxy answers: ")
    assert hyperdrive("purge", "NOSUCH").returncode == 1
    assert hyperdrive("purge", "APP", "--binding", "APP").returncode == 2
