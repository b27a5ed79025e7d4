from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest

from hyperdrive_client import connect
from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.client import proxies

# The beginning of a program that forks. The child ends as programs do, with handlers at the exit.
FORK = """if True:
    import os, sys
    from hyperdrive_client import connect

    def port():
        with connect(sys.argv[1]) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            return connection.info.port

    def in_child(function):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            print(function())
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
"""


def port_of(dsn: str) -> int:
    with connect(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        return connection.info.port


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "process")


def kill_proxy(dsn: str) -> None:
    """Kill the child process that is the proxy of this origin, and wait until it is dead."""
    proxy = proxies._proxies["process", parse_connection_string(dsn), None]
    child = vars(proxy._running)["_child"]
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def test_connections_to_an_origin_share_a_proxy(mode: str, postgres_dsn: str) -> None:
    assert port_of(postgres_dsn) == port_of(f"{postgres_dsn}?sslmode=prefer")


def test_another_database_has_another_proxy(
    in_thread: None, postgres_dsn: str, database: str
) -> None:
    assert port_of(postgres_dsn) != port_of(database)


def test_threads_that_connect_at_once_share_a_proxy(in_thread: None, database: str) -> None:
    together = Barrier(8)

    def connect_together(_: int) -> int:
        together.wait()
        return port_of(database)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(connect_together, range(8)))) == 1


def test_a_dead_proxy_is_replaced_at_the_next_connect(database: str) -> None:
    connection = connect(database)
    before = connection.info.port
    kill_proxy(database)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    after = port_of(database)
    assert before != after
    assert port_of(database) == after


def test_a_forked_child_uses_its_parents_proxy(
    run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    source = """
    print(port())
    in_child(port)
    print(port())
    """
    ports = run_python(FORK + source, postgres_dsn)
    assert len(ports) == 3
    assert len(set(ports)) == 1


def test_a_forked_child_starts_a_proxy_if_its_parents_is_gone(
    run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    source = """
    from hyperdrive_client.client import proxies

    def after_the_parents():
        first, second = port(), port()
        assert first == second
        return first

    print(port())
    (proxy,) = proxies._proxies.values()
    proxy.close()
    in_child(after_the_parents)
    """
    parents, childs = run_python(FORK + source, postgres_dsn)
    assert parents != childs


def test_a_forked_child_does_not_use_a_thread_of_its_parent(
    run_python: Callable[..., list[str]], postgres_dsn: str, in_thread: None
) -> None:
    source = """
    print(port())
    in_child(port)
    print(port())
    """
    before, child, after = run_python(FORK + source, postgres_dsn)
    assert before == after != child


def test_a_lock_that_a_thread_held_at_the_fork_does_not_stop_the_child(
    run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    source = """
    from hyperdrive_client.client import proxies
    print(port())
    with proxies._lock:
        in_child(port)
    """
    parents, childs = run_python(FORK + source, postgres_dsn)
    assert parents == childs


def test_a_proxy_ends_with_its_program(
    run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    source = """if True:
        import atexit, sys

        def too_late():
            (proxy,) = proxies._proxies.values()
            print(proxy.is_running)
            try:
                connect(sys.argv[1])
            except ProxyStartError as error:
                print("shutting" in str(error))

        atexit.register(too_late)  # before ours, so it runs after it
        from hyperdrive_client import ProxyStartError, connect
        connect(sys.argv[1]).close()
        from hyperdrive_client.client import proxies
    """
    assert run_python(source, postgres_dsn) == ["False", "True"]
