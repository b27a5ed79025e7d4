"""Starting a proxy, and that it ends: with its owner, or when it is told to."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import parse_connection_string
from hyperdrive_client.errors import ProxyStartError
from hyperdrive_client.proxy.settings import Limits, Settings
from hyperdrive_client.proxy.spawn import (
    ProcessProxy,
    RunningProxy,
    ThreadProxy,
    fresh_credentials,
    from_json,
    to_json,
)

ORIGIN_PASSWORD = "the origin's ünique p@ssword/1"
Start = Callable[[Settings], RunningProxy]


@pytest.fixture
def settings(database: str) -> Settings:
    user, password = fresh_credentials()
    return Settings(origin=parse_connection_string(database), user=user, password=password)


@pytest.fixture(params=[ThreadProxy, ProcessProxy], ids=["thread", "process"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    started: list[RunningProxy] = []

    def start(settings: Settings) -> RunningProxy:
        started.append(request.param(settings))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()


def connect(settings: Settings) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=str(Path(settings.unix_socket).parent) if settings.unix_socket else "127.0.0.1",
        port=settings.port or 5432,
        user=settings.user,
        password=settings.password,
        dbname=settings.origin.database,
        sslmode="disable",
    )


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_it_is_ready_when_it_returns_and_gone_when_closed(start: Start, settings: Settings) -> None:
    proxy = start(settings)
    assert proxy.is_running
    with connect(proxy.settings) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    proxy.close()
    assert not proxy.is_running
    assert refuses_connections(proxy.settings.port)
    proxy.close()


def test_a_client_in_the_middle_of_something_does_not_keep_it(
    start: Start, settings: Settings
) -> None:
    proxy = start(settings)
    with ThreadPoolExecutor(1) as pool, connect(proxy.settings) as connection:
        connection.execute("SELECT 1")
        running = pool.submit(connection.execute, "SELECT pg_sleep(60)")
        proxy.close()
        with pytest.raises(psycopg.OperationalError):
            running.result(10)


def test_a_unix_socket_is_private_and_removed(
    start: Start, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / ".s.PGSQL.5432"
    proxy = start(replace(settings, host=None, unix_socket=str(path)))
    assert path.stat().st_mode & 0o777 == 0o600
    with connect(proxy.settings) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    proxy.close()
    assert not path.exists()


def test_the_socket_of_a_dead_process_is_replaced(
    start: Start, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / ".s.PGSQL.5432"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    proxy = start(replace(settings, host=None, unix_socket=str(path)))
    with connect(proxy.settings) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_port_in_use_is_named(start: Start, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ProxyStartError, match=f"can't listen on 127.0.0.1:{port}"):
            start(replace(settings, port=port))


@pytest.mark.parametrize("what", ["alive", "a file", "too long", "no folder"])
def test_a_socket_that_cannot_be_is_named(
    start: Start, settings: Settings, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        if what == "alive":
            other.bind(str(path))
            other.listen()
        elif what == "a file":
            path.write_text("precious")
        elif what == "too long":
            path = tmp_path / ("x" * 120)
        else:
            path = tmp_path / "no" / "socket"
        with pytest.raises(ProxyStartError, match="can't listen on"):
            start(replace(settings, host=None, unix_socket=str(path)))
    assert what != "a file" or path.read_text() == "precious"


def test_a_process_that_ends_before_it_is_ready_is_an_error_that_says_what_to_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PYTHON", "/bin/false")
    with pytest.raises(ProxyStartError, match="HYPERDRIVE_PROXY=off"):
        ProcessProxy(settings)
    monkeypatch.setenv("HYPERDRIVE_PYTHON", "/no/such/python")
    with pytest.raises(ProxyStartError, match="/no/such/python"):
        ProcessProxy(settings)


def test_the_settings_survive_the_pipe(settings: Settings) -> None:
    settings = replace(
        settings,
        origin=replace(settings.origin, password=ORIGIN_PASSWORD),
        limits=Limits(origin_connection_limit=7, statement_timeout=1.5),
        ssl="require",
        ssl_cert_file="server.pem",
        ssl_key_file="server.key",
        ssl_ca_file="ca.pem",
        clientcert="verify-full",
    )
    assert from_json(to_json(settings)) == settings
    assert ORIGIN_PASSWORD not in repr(settings)
    assert settings.password not in repr(settings)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_proxy_of_its_own_process_does_without_psycopg(settings: Settings) -> None:
    proxy = ProcessProxy(settings)
    try:
        assert "psycopg" not in Path(f"/proc/{proxy.pid}/maps").read_text()
    finally:
        proxy.close()


def test_no_secret_is_in_the_arguments_or_the_environment_of_the_process(
    settings: Settings,
) -> None:
    settings = replace(settings, origin=replace(settings.origin, password="easily-searched"))
    proxy = ProcessProxy(settings)
    try:
        for what in ("cmdline", "environ"):
            seen = Path(f"/proc/{proxy.pid}/{what}").read_bytes()
            assert b"easily-searched" not in seen
            assert settings.password.encode() not in seen
    finally:
        proxy.close()


def test_the_process_is_gone_when_its_parent_is_killed(settings: Settings) -> None:
    program = (
        "import sys, time\n"
        "from hyperdrive_client.proxy.spawn import ProcessProxy, from_json\n"
        "proxy = ProcessProxy(from_json(sys.stdin.readline()))\n"
        "print(proxy.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(to_json(settings).encode() + b"\n")
        parent.stdin.flush()
        child = int(parent.stdout.readline())
        descriptor = os.pidfd_open(child)
        parent.send_signal(signal.SIGKILL)
        # Readable when the process has ended.
        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)


def test_a_forked_child_leaves_its_parents_proxy_alone(settings: Settings) -> None:
    program = (
        "import os, sys\n"
        "from hyperdrive_client.proxy.spawn import ProcessProxy, from_json\n"
        "proxy = ProcessProxy(from_json(sys.stdin.readline()))\n"
        "if not os.fork():\n"
        "    proxy.close()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(proxy.is_running, flush=True)\n"
        "proxy.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=to_json(settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_the_process_may_have_as_many_sockets_as_the_system_allows(settings: Settings) -> None:
    proxy = ProcessProxy(settings)
    try:
        soft, hard = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
        assert soft == hard
    finally:
        proxy.close()
