"""A proxy that is told to end: cancels still get through, and nothing is left running."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from .conftest import StartProxy

WaitUntil = Callable[..., float]


def test_a_query_can_be_cancelled_while_the_proxy_drains(
    start_proxy: StartProxy, wait_until: WaitUntil
) -> None:
    proxy = start_proxy()
    client = proxy.connect(autocommit=True)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.execute, "SELECT pg_sleep(60)")
        proxy.wait_until_active("pg_sleep(60)")
        proxy.running._app.drain()
        wait_until(lambda: proxy.core.draining)
        with pytest.raises(psycopg.OperationalError, match="database system is shutting down"):
            proxy.connect()
        client.cancel_safe(timeout=10)
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(10)
    wait_until(lambda: not proxy.running.is_running)
    client.close()


def test_nothing_runs_on_at_the_origin_when_the_proxy_is_stopped(start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    clients = [proxy.connect(autocommit=True) for _ in range(5)]
    for number, client in enumerate(clients):
        client.pgconn.send_query(f"SELECT {number}, pg_sleep(60)".encode())
        client.pgconn.flush()
    for number in range(len(clients)):
        proxy.wait_until_active(f"SELECT {number}, pg_sleep(60)")
    proxy.running.close()
    deadline = time.monotonic() + 5
    # The cancels are delivered; a backend takes a moment to act.
    while proxy.backends():
        assert time.monotonic() < deadline
    for client in clients:
        client.pgconn.finish()
