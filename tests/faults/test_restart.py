"""The origin goes away and comes back: who waits is served at once, who is idle does not notice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from hyperdrive_client.origin import EmbeddedPostgres

if TYPE_CHECKING:
    from .conftest import Front, StartProxy

WAYS = ["fast", "immediate", "kill"]
BreakDown = Callable[[str], None]
WaitUntil = Callable[..., float]


def ask(client: psycopg.Connection[tuple[object, ...]]) -> float:
    """One query; when its answer came."""
    assert client.execute("SELECT 1").fetchone() == (1,)
    return time.monotonic()


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    with ThreadPoolExecutor(10) as pool:
        yield pool


def wait_for_the_longest_pause(front: Front, wait_until: WaitUntil) -> None:
    """Until the proxy has found the origin away so often that its pauses don't grow any more."""
    from hyperdrive_client.proxy.core.pool import LAST_RETRY

    wait_until(lambda: front.pool._retry_after == LAST_RETRY)


@pytest.mark.parametrize("how", WAYS)
def test_who_waits_is_served_within_a_second(
    server: EmbeddedPostgres,
    start_proxy: StartProxy,
    break_down: BreakDown,
    wait_until: WaitUntil,
    pool: ThreadPoolExecutor,
    how: str,
) -> None:
    proxy = start_proxy(origin_connection_limit=5)
    clients = [proxy.connect(autocommit=True) for _ in range(8)]
    for client in clients:
        ask(client)
    break_down(how)
    waiting = [pool.submit(ask, client) for client in clients]
    wait_until(lambda: len(proxy.pool.waiting) == len(clients))
    wait_for_the_longest_pause(proxy, wait_until)
    command = time.monotonic()
    server.start()
    accepts = time.monotonic()
    served = sorted(each.result(20) for each in waiting)
    first, last = served[0] - accepts, served[-1] - accepts
    print(
        f"\n{how}: the server took {accepts - command:.2f} s to accept; the first query was "
        f"answered {first:+.3f} s after, the last of {len(served)} {last:+.3f} s"
    )
    assert last <= 1.0
    for client in clients:
        client.close()


@pytest.mark.parametrize("how", WAYS)
def test_who_is_idle_meanwhile_does_not_notice(
    server: EmbeddedPostgres, start_proxy: StartProxy, break_down: BreakDown, how: str
) -> None:
    proxy = start_proxy()
    with proxy.connect(autocommit=True) as client:
        ask(client)
        break_down(how)
        server.start()
        ask(client)


@pytest.mark.parametrize("how", WAYS)
def test_who_comes_meanwhile_gets_in_and_is_served(
    server: EmbeddedPostgres,
    start_proxy: StartProxy,
    break_down: BreakDown,
    wait_until: WaitUntil,
    pool: ThreadPoolExecutor,
    how: str,
) -> None:
    proxy = start_proxy()
    proxy.connect().close()
    break_down(how)
    with proxy.connect(autocommit=True) as client:
        waiting = pool.submit(ask, client)
        wait_until(lambda: proxy.pool.last_failure)
        server.start()
        waiting.result(20)


def promote(server: EmbeddedPostgres) -> None:
    """As ``pg_ctl promote`` does."""
    (server.data_directory / "promote").touch()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGUSR1)


def recovering(
    server: EmbeddedPostgres, pool: ThreadPoolExecutor, wait_until: WaitUntil
) -> Future[float]:
    """Start the server in recovery, in which it lets nobody in; when that is over."""
    with psycopg.connect(server.connection_string, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET hot_standby = off")
        admin.execute("ALTER SYSTEM SET restore_command = 'false'")
    server.kill()
    signal_file = server.data_directory / "standby.signal"
    signal_file.touch()
    owner = server.data_directory.stat()
    os.chown(signal_file, owner.st_uid, owner.st_gid)

    def start() -> float:
        server.start()
        return time.monotonic()

    started = pool.submit(start)
    wait_until(lambda: refusal(server) == "57P03")
    return started


def refusal(server: EmbeddedPostgres) -> str | None:
    try:
        psycopg.connect(server.connection_string).close()
    except psycopg.OperationalError as error:
        # psycopg gives no SQLSTATE for a connection that was refused.
        texts = ("not accepting connections", "starting up", "not yet accepting connections")
        return "57P03" if any(text in str(error) for text in texts) else str(error)
    return None


def test_an_origin_in_recovery_is_waited_for(
    server: EmbeddedPostgres,
    start_proxy: StartProxy,
    wait_until: WaitUntil,
    pool: ThreadPoolExecutor,
) -> None:
    proxy = start_proxy()
    client = proxy.connect(autocommit=True)
    ask(client)
    started = recovering(server, pool, wait_until)
    waiting = pool.submit(ask, client)
    wait_for_the_longest_pause(proxy, wait_until)
    assert proxy.pool.last_failure is not None
    assert proxy.pool.last_failure.sqlstate == "57P03"
    # Who has never reached it is told at once, as PostgreSQL tells.
    with pytest.raises(psycopg.OperationalError, match="not accepting connections"):
        start_proxy().connect()
    promote(server)
    accepts = started.result(20)
    served = waiting.result(20)
    print(f"\nin recovery: answered {served - accepts:+.3f} s after it was over")
    assert served - accepts <= 1.0
    client.close()


def test_an_origin_that_is_out_of_connections_is_waited_for(
    server: EmbeddedPostgres,
    start_proxy: StartProxy,
    wait_until: WaitUntil,
    pool: ThreadPoolExecutor,
) -> None:
    proxy = start_proxy()
    client = proxy.connect(autocommit=True)
    ask(client)
    taken = []
    with pytest.raises(psycopg.OperationalError, match="too many clients"):
        while True:
            taken.append(psycopg.connect(server.connection_string, autocommit=True))
    taken[0].execute("SELECT pg_terminate_backend(%s, 10000)", (*proxy.process_ids,))
    taken.append(psycopg.connect(server.connection_string, autocommit=True))
    waiting = pool.submit(ask, client)
    wait_for_the_longest_pause(proxy, wait_until)
    assert proxy.pool.last_failure is not None
    assert proxy.pool.last_failure.sqlstate == "53300"
    assert not waiting.done()
    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    for each in taken[1:]:
        each.close()
    wait_until(lambda: taken[0].execute(query).fetchone() < (20,))
    free = time.monotonic()
    served = waiting.result(20)
    print(f"\nout of connections: answered {served - free:+.3f} s after there was one")
    assert served - free <= 1.0
    taken[0].close()
    client.close()


@pytest.mark.parametrize("how", WAYS)
def test_an_open_transaction_fails_once_with_an_sqlstate(
    server: EmbeddedPostgres, start_proxy: StartProxy, break_down: BreakDown, how: str
) -> None:
    proxy = start_proxy()
    with proxy.at_origin() as admin:
        admin.execute("CREATE TABLE IF NOT EXISTS item (how text)")
    client = proxy.connect()
    client.execute("INSERT INTO item VALUES (%s)", (how,))
    break_down(how)
    server.start()
    with pytest.raises(psycopg.OperationalError) as caught:
        client.execute("SELECT 1")
    assert caught.value.sqlstate in ("08006", "57P01", "57P02")
    if client.closed:
        client = proxy.connect()
    else:
        client.rollback()
    assert client.execute("SELECT count(*) FROM item WHERE how = %s", (how,)).fetchone() == (0,)
    client.close()


@pytest.mark.parametrize("how", WAYS)
def test_a_running_statement_fails_once_with_an_sqlstate(
    server: EmbeddedPostgres,
    start_proxy: StartProxy,
    break_down: BreakDown,
    pool: ThreadPoolExecutor,
    how: str,
) -> None:
    proxy = start_proxy()
    client = proxy.connect(autocommit=True)
    running = pool.submit(client.execute, "SELECT pg_sleep(60)")
    proxy.wait_until_active("pg_sleep(60)")
    break_down(how)
    with pytest.raises(psycopg.OperationalError) as caught:
        running.result(20)
    assert caught.value.sqlstate in ("08006", "57P01", "57P02")
    server.start()
    with proxy.connect(autocommit=True) as other:
        ask(other)
    client.close()


def test_many_proxies_do_not_knock_at_the_same_moments(
    server: EmbeddedPostgres, start_proxy: StartProxy, break_down: BreakDown, wait_until: WaitUntil
) -> None:
    proxies = [start_proxy() for _ in range(6)]
    clients = [proxy.connect(autocommit=True) for proxy in proxies]
    for client in clients:
        ask(client)
    break_down("kill")
    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for proxy in proxies:
        wait_for_the_longest_pause(proxy, wait_until)
    assert len({proxy.pool._retry_at for proxy in proxies}) == len(proxies)
    server.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
