from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import psycopg
import pytest

from hyperdrive_client import AsyncConnection, ProxyStartError, binding, connect
from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.client import connection as connection_module
from hyperdrive_client.client import shared_proxy
from hyperdrive_client.client.local_proxy import LocalProxy
from hyperdrive_client.client.proxies import proxy_for
from hyperdrive_client.client.route import Route, resolution_of, route
from hyperdrive_client.client.shared_proxy import place_for
from hyperdrive_client.registry import Place, Record, runtime_folder

EndProcess = Callable[..., None]


@pytest.fixture
def place(database: str) -> Place:
    """Where the proxy of this test's database is."""
    return place_for(parse_connection_string(database))


def running(place: Place) -> Record:
    record = place.running()
    assert record is not None
    return record


def wait_for_the_end(process: int) -> None:
    descriptor = os.pidfd_open(process)
    assert select.select([descriptor], [], [], 30)[0]
    os.close(descriptor)


def test_it_is_started_once_and_found_by_other_programs(
    database: str, place: Place, run_python: Callable[..., list[str]]
) -> None:
    source = """if True:
        import sys
        from hyperdrive_client import connect
        with connect(sys.argv[1]) as connection:
            print(connection.execute("SELECT 1").fetchone()[0], connection.info.host)
    """
    for _ in range(2):
        assert run_python(source, database) == ["1", str(place.folder)]
        pid = running(place).pid
    with connect(database) as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("Cloudflare Hyperdrive",)
    assert running(place).pid == pid


def test_the_system_vouches_for_its_own_user_so_no_password_is_asked(database: str) -> None:
    with connect(database) as connection:
        assert not connection.pgconn.used_password


def test_whoever_comes_by_the_port_is_asked_for_the_password(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_DB", database)
    with psycopg.connect(binding("DB").connection_string) as connection:
        assert connection.pgconn.used_password
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(binding("DB").connection_string, password="wrong")


def test_other_settings_another_origin_or_another_version_have_a_proxy_of_their_own(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = parse_connection_string(database)
    found = [place_for(origin).id, place_for(parse_connection_string(f"{database}?options=-cx")).id]
    monkeypatch.setenv("HYPERDRIVE_ORIGIN_CONNECTION_LIMIT", "7")
    found.append(place_for(origin).id)
    monkeypatch.setenv("HYPERDRIVE_PROXY_IDLE_TIMEOUT", "7")
    found.append(place_for(origin).id)
    monkeypatch.setattr(shared_proxy, "_installation", lambda: ("other",))
    found.append(place_for(origin).id)
    assert len(set(found)) == len(found)


def test_a_relative_path_means_the_same_proxy_only_in_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(url: str) -> str:
        return place_for(parse_connection_string(url)).id

    here = found("postgres://u@h/d?sslrootcert=ca.pem")
    assert here == found(f"postgres://u@h/d?sslrootcert={tmp_path}/ca.pem")
    monkeypatch.chdir("/")
    assert here != found("postgres://u@h/d?sslrootcert=ca.pem")


def test_the_limit_of_origin_connections_comes_from_the_environment(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_ORIGIN_CONNECTION_LIMIT", "2")
    with connect(database) as connection:
        rows = connection.execute("SHOW hyperdrive.pool").fetchall()
    assert ("origin_connection_limit", "2") in rows


@pytest.mark.parametrize("name", ["ORIGIN_CONNECTION_LIMIT", "PROXY_IDLE_TIMEOUT"])
@pytest.mark.parametrize("value", ["-1", "many", "nan"])
def test_a_wrong_number_in_the_environment_is_named(
    name: str, value: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"HYPERDRIVE_{name}", value)
    with pytest.raises(psycopg.InterfaceError, match=f"HYPERDRIVE_{name} is '{value}'"):
        connect(database)


def test_threads_that_connect_at_once_start_one(database: str) -> None:
    together = Barrier(8)

    def connect_together(_: int) -> object:
        together.wait()
        with connect(database) as connection:
            return connection.execute("SHOW hyperdrive.pool").fetchall() and connection.info.host

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(connect_together, range(8)))) == 1


def test_ten_nested_connections_in_one_thread(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_ORIGIN_CONNECTION_LIMIT", "20")
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(database)) for _ in range(10)]
        for number, connection in enumerate(connections):
            assert connection.execute("SELECT %s::int", [number]).fetchone() == (number,)


def test_a_killed_proxy_is_replaced_and_what_programs_know_of_it_stays_right(
    database: str, place: Place, monkeypatch: pytest.MonkeyPatch, end_process: EndProcess
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_DB", database)
    saved = binding("DB").connection_string
    before = running(place)
    with connect("DB") as connection:
        end_process(before.pid)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with connect("DB") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert running(place).pid != before.pid
    with psycopg.connect(saved) as other:
        assert other.execute("SELECT 1").fetchone() == (1,)


def dies_after_route(place: Place, end_process: EndProcess) -> Callable[..., Route]:
    killed = False

    def route_and_kill(*arguments: Any) -> Route:
        nonlocal killed
        way = route(*arguments)
        if not killed:
            killed = True
            end_process(running(place).pid)
        return way

    return route_and_kill


def test_a_proxy_that_dies_while_a_program_connects_is_replaced(
    database: str, place: Place, monkeypatch: pytest.MonkeyPatch, end_process: EndProcess
) -> None:
    monkeypatch.setattr(connection_module, "route", dies_after_route(place, end_process))
    with connect(database) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


async def test_a_proxy_that_dies_while_a_program_connects_is_replaced_with_asyncio(
    database: str, place: Place, monkeypatch: pytest.MonkeyPatch, end_process: EndProcess
) -> None:
    module = sys.modules["hyperdrive_client.client.async_connection"]
    monkeypatch.setattr(module, "route", dies_after_route(place, end_process))
    async with await AsyncConnection.connect(database) as connection:
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)


def test_an_error_of_the_origin_is_no_reason_to_try_again(database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connect(f"{database}x")


def test_it_ends_after_its_last_client_and_leaves_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY_IDLE_TIMEOUT", "0.3")
    place = place_for(parse_connection_string(database))
    with connect(database) as connection:
        process = running(place).pid
        connection.execute("SELECT pg_sleep(1)")  # longer than it may be idle
    wait_for_the_end(process)
    assert [path for path in runtime_folder().iterdir() if place.id in path.name] == []
    with connect(database) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert running(place).pid != process


def test_a_program_that_has_read_the_fields_keeps_it(
    database: str, monkeypatch: pytest.MonkeyPatch, run_python: Callable[..., list[str]]
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY_IDLE_TIMEOUT", "0.1")
    source = """if True:
        import os, sys, time, psycopg
        from hyperdrive_client import binding
        url = binding().connection_string
        time.sleep(1)
        with psycopg.connect(url) as connection:
            print(connection.execute("SELECT 1").fetchone()[0])
    """
    monkeypatch.setenv("HYPERDRIVE_URL_HYPERDRIVE", database)
    place = place_for(parse_connection_string(database))
    assert run_python(source) == ["1"]
    if record := place.running():
        wait_for_the_end(record.pid)
    assert not place.folder.exists()


def test_what_a_program_has_read_stays_right_when_it_replaces_a_killed_proxy(
    database: str, place: Place, monkeypatch: pytest.MonkeyPatch, end_process: EndProcess
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_DB", database)
    assert binding("DB").port == running(place).port
    end_process(running(place).pid)
    connect(database).close()
    assert place.is_leased


def test_a_proxy_that_ends_before_it_is_leased_is_replaced(
    database: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_DB", database)
    connect(database).close()
    first = running(place).pid
    lock = Place.lock

    def lock_later(self: Place, timeout: float) -> Any:
        monkeypatch.setattr(Place, "lock", lock)
        os.kill(first, signal.SIGTERM)
        wait_for_the_end(first)
        return lock(self, timeout)

    monkeypatch.setattr(Place, "lock", lock_later)
    port = binding("DB").port
    assert (running(place).pid != first, running(place).port) == (True, port)


def test_fields_that_cannot_be_read_are_an_error_of_psycopgs(
    database: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_DB", database)
    monkeypatch.setattr(shared_proxy, "_LOCK_TIMEOUT", 0.05)
    connect(database).close()
    with place.lock(1), pytest.raises(ProxyStartError, match=r"another process.*lock"):
        _ = binding("DB").port


def test_whoever_has_a_proxy_does_not_wait_for_another_to_start(
    database: str, place: Place
) -> None:
    connect(database).close()
    other = f"{database}?application_name=other"
    with place_for(parse_connection_string(other)).lock(1):
        starting = Thread(target=lambda: connect(other).close())
        starting.start()
        found = Thread(target=lambda: connect(database).close())
        found.start()
        found.join(10)
        assert (found.is_alive(), starting.is_alive()) == (False, True)
    starting.join()


def test_a_proxy_that_has_lost_its_record_is_replaced(
    database: str, place: Place, monkeypatch: pytest.MonkeyPatch, end_process: EndProcess
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "shared")
    with connect(database) as old:
        first = running(place).pid
        (place.folder / "proxy.json").unlink()
        connect(database).close()
        assert running(place).pid != first
        assert old.execute("SELECT 1").fetchone() == (1,)
    end_process(first)


def test_a_proxy_whose_starter_was_killed_does_not_take_anothers_place(
    database: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """if True:
        import os, sys
        from hyperdrive_client import connect
        from hyperdrive_client.proxy import detached
        detached._line = lambda *_: os.kill(os.getpid(), 9)
        connect(sys.argv[1])
    """
    monkeypatch.setenv("HYPERDRIVE_PROXY", "shared")
    done = subprocess.run([sys.executable, "-c", source, database], timeout=60)
    assert done.returncode == -signal.SIGKILL
    while "the program that has started the proxy is gone" not in place.log.read_text():
        os.sched_yield()
    assert place.read() is None
    connect(database).close()
    assert place.running()


def test_transactions_finish_although_the_files_cannot_be_removed(
    database: str, place: Place
) -> None:
    with connect(database) as connection:
        connection.execute("SELECT 1")
        process = running(place).pid
        in_the_way = place.parent / f"{place.id}.lock"
        in_the_way.unlink(missing_ok=True)
        in_the_way.mkdir()
        os.kill(process, signal.SIGTERM)
        door = running(place).door.connection_string
        with pytest.raises(psycopg.OperationalError, match="shutting down"):
            while True:
                psycopg.connect(door).close()
        assert connection.execute("SELECT 2, pg_sleep(0.5)").fetchone() == (2, "")
    wait_for_the_end(process)
    in_the_way.rmdir()


def test_a_proxy_that_is_told_to_end_finishes_while_new_clients_get_another(
    database: str, place: Place
) -> None:
    with connect(database) as old:
        old.execute("CREATE TABLE t (n int)")
        first = running(place).pid
        os.kill(first, signal.SIGTERM)
        while (record := place.running()) is not None and record.pid == first:
            os.sched_yield()
        with connect(database) as new:
            assert new.execute("SELECT 1").fetchone() == (1,)
            assert running(place).pid != first
        old.execute("INSERT INTO t VALUES (1)")
        old.commit()
    wait_for_the_end(first)
    with connect(database) as new:
        assert new.execute("SELECT n FROM t").fetchone() == (1,)


def test_the_url_of_a_running_proxy_gets_no_other_in_front_of_it(
    database: str, place: Place
) -> None:
    connect(database).close()
    for door in (running(place).door, running(place).tcp_door):
        url = door.connection_string
        assert proxy_for(resolution_of(url, None, None)) is None
        with connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_nothing_of_the_applications_environment_is_in_the_proxys(
    database: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_DB", database)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "easily-searched")
    monkeypatch.setenv("COVERALLS_REPO_TOKEN", "easily-searched")
    connect("DB").close()
    folder = Path("/proc", str(running(place).pid))
    environment = (folder / "environ").read_text()
    assert "PATH=" in environment
    assert "easily-searched" not in environment
    password = parse_connection_string(database).password
    assert password
    for file in ("environ", "cmdline"):
        assert password not in (folder / file).read_text()


@pytest.fixture
def unusable_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("hyperdrive_client.registry._MAX_PARENT_BYTES", 1000)
    path = tmp_path / f"hyperdrive-{os.geteuid()}"
    path.write_text("in the way")
    return path


def test_where_none_can_be_shared_the_program_gets_its_own_and_the_log_says_why(
    database: str, unusable_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), connect(database) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert f"{unusable_folder} is not a folder" in caplog.text
    proxy = proxy_for(resolution_of(database, None, None))
    assert isinstance(proxy, LocalProxy)
    proxy.close()


def test_where_a_shared_one_is_demanded_it_is_an_error(
    database: str, unusable_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "shared")
    with pytest.raises(ProxyStartError, match=r"is not a folder.*HYPERDRIVE_PROXY=off"):
        connect(database)


@pytest.mark.parametrize(
    ("python", "message"),
    [("/bin/false", "ended before it was ready"), ("/no/such/python", "HYPERDRIVE_PYTHON")],
)
def test_a_proxy_that_cannot_start_is_an_error_that_says_what_to_do(
    python: str, message: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PYTHON", python)
    with pytest.raises(ProxyStartError, match=message) as caught:
        connect(database)
    assert "HYPERDRIVE_PROXY=off" in str(caught.value)


def test_what_a_process_says_as_it_dies_is_in_the_error(
    database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module named x' >&2\n")
    python.chmod(0o700)
    monkeypatch.setenv("HYPERDRIVE_PYTHON", str(python))
    monkeypatch.setenv("HYPERDRIVE_PROXY", "shared")
    with pytest.raises(ProxyStartError, match="no module named x"):
        connect(database)
