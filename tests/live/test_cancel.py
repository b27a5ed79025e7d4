"""Cancel requests reach the query they mean, or none."""

from __future__ import annotations

import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy


def wait_until_running(proxy: LiveProxy, text: str) -> None:
    while not any(
        state == "active" and text in str(query) for state, query in proxy.origin_connections()
    ):
        pass


def test_a_running_query_is_cancelled_and_its_connection_serves_on(proxy: LiveProxy) -> None:
    with proxy.connect(autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
        running = pool.submit(connection.execute, "SELECT pg_sleep(60)")
        wait_until_running(proxy, "pg_sleep(60)")
        connection.cancel_safe(timeout=10)
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(10)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_both_lengths_of_an_origins_key_cancel(proxy: LiveProxy) -> None:
    """The first origin connection has 4 bytes, the second 32: protocol 3.0 and 3.2."""
    with proxy.connect() as first, proxy.connect() as second, ThreadPoolExecutor(1) as pool:
        first.execute("SELECT 1")
        second.execute("SELECT 1")
        for connection, number in ((first, 61), (second, 62)):
            running = pool.submit(connection.execute, f"SELECT pg_sleep({number})")
            wait_until_running(proxy, f"pg_sleep({number})")
            connection.cancel_safe(timeout=10)
            with pytest.raises(psycopg.errors.QueryCanceled):
                running.result(10)
        core = proxy.running._app._worker.core  # type: ignore[union-attr]
        assert sorted(len(origin.secret_key) for origin in core.pool.origins) == [4, 32]


def test_a_late_cancel_does_not_hit_the_next_occupant(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    with proxy.connect(autocommit=True) as first, proxy.connect(autocommit=True) as second:
        first.execute("SELECT 1")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(second.execute, "SELECT 'unharmed', pg_sleep(0.5)")
            wait_until_running(proxy, "unharmed")
            for _ in range(5):
                first.cancel_safe(timeout=10)
            row = running.result(10).fetchone()
            assert row is not None
            assert row[0] == "unharmed"


def test_many_cancels_never_hit_another_client(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)

    def harmless(turns: int) -> int:
        with proxy.connect(autocommit=True) as connection:
            for turn in range(turns):
                assert connection.execute("SELECT %s::int", (turn,)).fetchone() == (turn,)
        return turns

    with proxy.connect(autocommit=True) as victim, ThreadPoolExecutor(2) as pool:
        others = pool.submit(harmless, 200)
        while not others.done():
            running = pool.submit(victim.execute, "SELECT pg_sleep(0.002)")
            victim.cancel_safe(timeout=10)
            with suppress(psycopg.errors.QueryCanceled):
                running.result(10)
        assert others.result() == 200


def test_cancel_while_waiting_for_an_origin_connection(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    with (
        proxy.connect() as first,
        proxy.connect(autocommit=True) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        first.execute("SELECT 1")
        waiting = pool.submit(second.execute, "SELECT 2")
        while not waiting.done():
            second.cancel_safe(timeout=10)
        with pytest.raises(psycopg.errors.QueryCanceled):
            waiting.result(10)
        first.commit()
        assert second.execute("SELECT 2").fetchone() == (2,)


def test_a_wrong_key_cancels_nothing(proxy: LiveProxy) -> None:
    with proxy.connect(autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
        running = pool.submit(connection.execute, "SELECT 'kept', pg_sleep(0.5)")
        wait_until_running(proxy, "kept")
        pid = connection.info.backend_pid
        send_cancel(proxy, pid, b"\x00\x00\x00\x00")
        send_cancel(proxy, 1, b"\x00\x00\x00\x00")
        assert running.result(10).fetchone() is not None


def send_cancel(proxy: LiveProxy, pid: int, key: bytes) -> None:
    with socket.create_connection(("127.0.0.1", proxy.settings.port), 10) as connection:
        connection.sendall(struct.pack(">iii", 12 + len(key), 80877102, pid) + key)
        assert connection.recv(1) == b""


def test_a_client_that_vanishes_has_its_query_cancelled(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    client = proxy.connect(autocommit=True)
    client.pgconn.send_query(b"SELECT pg_sleep(60)")
    wait_until_running(proxy, "pg_sleep(60)")
    with socket.socket(fileno=client.fileno()) as connection:
        connection.shutdown(socket.SHUT_RDWR)
        connection.detach()
    with proxy.connect() as other:
        assert other.execute("SELECT 1").fetchone() == (1,)
    client.close()
