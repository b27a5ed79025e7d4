from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.usefixtures("in_process")

# A server such as uWSGI forks in C, and Python's own handlers do not run.
FORKED_IN_C = """if True:
    import ctypes, os, sys
    from sqlalchemy import create_engine
    from hyperdrive_client import ConnectionPool, connect

    pool = ConnectionPool(sys.argv[1], min_size=1)
    engine = create_engine(sys.argv[1].replace("postgresql:", "hyperdrive:"))

    def sockets():
        connect(sys.argv[1]).close()
        with pool.connection(timeout=10) as pooled, engine.connect() as other:
            for connection in (pooled, other.connection):
                assert connection.cursor().execute("SELECT 1").fetchone() == (1,)
            return os.fstat(pooled.fileno()).st_ino, os.fstat(other.connection.fileno()).st_ino

    def in_child(use):
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            try:
                use()
            finally:
                sys.stdout.flush()
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    before = sockets()
"""


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "process")


def test_a_fork_that_python_does_not_know_of_shares_no_connection(
    run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    source = """
    def use():
        first, second = sockets(), sockets()
        print(first == second, {*first} & {*before} == set())
    in_child(use)
    print(sockets() == before)
    pool.close()
    engine.dispose()
    """
    assert run_python(FORKED_IN_C + source, postgres_dsn) == ["True", "True", "True"]


def test_what_the_child_has_made_itself_is_not_dropped(
    run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    source = """
    def use():
        own = ConnectionPool(sys.argv[1], min_size=1)
        with own.connection(timeout=10) as connection:
            sockets()
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with own.connection(timeout=10) as again:
            print(again is connection)
    in_child(use)
    pool.close()
    engine.dispose()
    """
    assert run_python(FORKED_IN_C + source, postgres_dsn) == ["True"]


def test_a_lock_that_a_thread_held_at_such_a_fork_does_not_stop_the_child(
    run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    source = """
    from hyperdrive_client.client import proxies
    with proxies._lock:
        in_child(lambda: print(len(sockets())))
    pool.close()
    engine.dispose()
    """
    assert run_python(FORKED_IN_C + source, postgres_dsn) == ["2"]
