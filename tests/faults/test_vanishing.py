"""Clients that vanish, or whose time is over: their work is undone before anyone else is served."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors

if TYPE_CHECKING:
    from .conftest import Connection, Front, StartProxy

WaitUntil = Callable[..., float]


@pytest.fixture
def item(start_proxy: StartProxy) -> None:
    with start_proxy().at_origin() as admin:
        admin.execute("DROP TABLE IF EXISTS item")
        admin.execute("CREATE TABLE item (n int)")


def hang_up(client: Connection) -> None:
    """Close the socket without a word, as the end of a process does."""
    with socket.socket(fileno=socket.dup(client.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)
    client.pgconn.finish()


def items(client: Connection) -> Any:
    return client.execute("SELECT array_agg(n ORDER BY n) FROM item").fetchone()


@pytest.mark.usefixtures("item")
def test_who_vanishes_while_a_query_runs_leaves_nothing_behind(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    client = proxy.connect()
    client.execute("INSERT INTO item VALUES (1)")
    client.execute("SELECT pg_advisory_lock(7)")
    client.pgconn.send_query(b"INSERT INTO item SELECT 2 FROM pg_sleep(60)")
    proxy.wait_until_active("pg_sleep(60)")
    before = proxy.process_ids
    hang_up(client)
    with proxy.connect(autocommit=True) as other, proxy.at_origin() as admin:
        assert items(other) == (None,)
        assert proxy.process_ids == before
        assert admin.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (True,)


@pytest.mark.usefixtures("item")
def test_the_link_is_not_lent_before_the_query_has_ended(start_proxy: StartProxy) -> None:
    # It swallows what cancels it, so only its end is certain.
    proxy = start_proxy(origin_connection_limit=1)
    stubborn = (
        "DO $$ BEGIN FOR i IN 1..3 LOOP BEGIN PERFORM pg_sleep(0.3); "
        "EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; "
        "INSERT INTO item VALUES (3); END $$"
    )
    client = proxy.connect()
    client.execute("INSERT INTO item VALUES (1)")
    client.pgconn.send_query(stubborn.encode())
    proxy.wait_until_active("query_canceled")
    hang_up(client)
    with proxy.connect(autocommit=True) as other, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(items, other)
        while any("query_canceled" in query for _, state, query in proxy.backends()):
            assert not waiting.done()
        assert waiting.result(20) == (None,)


@pytest.mark.usefixtures("item")
def test_many_vanish_at_once_and_no_link_is_lost(
    start_proxy: StartProxy, wait_until: WaitUntil
) -> None:
    proxy = start_proxy(origin_connection_limit=3)
    clients = [proxy.connect(autocommit=True) for _ in range(30)]
    for number, client in enumerate(clients):
        text = f"INSERT INTO item SELECT {number} FROM pg_sleep(60)"
        client.pgconn.send_query(text.encode())
        client.pgconn.flush()
    wait_until(lambda: len(proxy.pool.waiting) == 27)
    for client in reversed(clients):
        hang_up(client)
    with proxy.connect(autocommit=True) as other:
        assert items(other) == (None,)
    wait_until(lambda: len(proxy.pool.idle) == len(proxy.pool.origins))


def ends_with(client: Connection, sqlstate: str, statement: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        client.execute(statement)
    assert caught.value.sqlstate == sqlstate
    assert client.closed


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_statement_beyond_the_transaction_timeout_is_undone(
    start_proxy: StartProxy, autocommit: bool
) -> None:
    proxy = start_proxy(origin_connection_limit=1, transaction_timeout=0.5)
    client = proxy.connect(autocommit=autocommit)
    client.execute("SELECT 1")
    before = proxy.process_ids
    ends_with(client, "25P04", "INSERT INTO item SELECT 1 FROM pg_sleep(60)")
    with proxy.connect(autocommit=True) as other:
        assert items(other) == (None,)
        assert proxy.process_ids == before


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize(
    ("limit", "sqlstate"), [("transaction_timeout", "25P04"), ("idle_transaction_timeout", "25P03")]
)
def test_a_transaction_left_open_is_rolled_back(
    start_proxy: StartProxy, limit: str, sqlstate: str
) -> None:
    proxy = start_proxy(origin_connection_limit=1, **{limit: 0.5})
    client = proxy.connect()
    client.execute("INSERT INTO item VALUES (1)")
    with proxy.connect(autocommit=True) as other:
        assert items(other) == (None,)
    ends_with(client, sqlstate, "SELECT 1")


def test_each_transaction_of_a_pinned_session_has_its_own_time(start_proxy: StartProxy) -> None:
    proxy = start_proxy(transaction_timeout=0.5)
    with proxy.connect(autocommit=True) as client:
        client.execute("CREATE TEMP TABLE mine (n int)")
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            client.execute("BEGIN")
            client.execute("INSERT INTO mine VALUES (1)")
            client.execute("COMMIT")


def test_a_client_that_is_idle_too_long_is_ended(
    start_proxy: StartProxy, wait_until: WaitUntil
) -> None:
    proxy = start_proxy(client_idle_timeout=0.5)
    client = proxy.connect(autocommit=True)
    client.execute("SELECT pg_sleep(1)")
    client.execute("SELECT 1")
    wait_until(lambda: not proxy.core.clients)
    ends_with(client, "57P05", "SELECT 1")


def test_an_origin_connection_is_replaced_at_the_end_of_its_lifetime(
    start_proxy: StartProxy, wait_until: WaitUntil
) -> None:
    proxy = start_proxy(max_lifetime=0.5)
    with proxy.connect(autocommit=True) as client:
        client.execute("SELECT 1")
        before = proxy.process_ids

        def is_replaced() -> bool:
            client.execute("SELECT 1")
            return not proxy.process_ids & before

        wait_until(is_replaced)


def test_a_statement_timeout_is_the_origins(start_proxy: StartProxy) -> None:
    proxy = start_proxy(statement_timeout=0.2)
    with proxy.connect(autocommit=True) as client:
        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            client.execute("SELECT pg_sleep(60)")
        client.execute("SELECT 1")


def test_who_waits_too_long_for_a_link_is_told(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1, pool_timeout=0.3)
    with proxy.connect() as first, proxy.connect(autocommit=True) as second:
        first.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError) as caught:
            second.execute("SELECT 1")
        assert caught.value.sqlstate == "58000"
        first.commit()
        second.execute("SELECT 1")


def test_first_come_first_served(start_proxy: StartProxy, wait_until: WaitUntil) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    with proxy.at_origin() as admin:
        admin.execute("DROP TABLE IF EXISTS served")
        admin.execute("CREATE TABLE served (turn serial, client int)")
    clients = [proxy.connect(autocommit=True) for _ in range(20)]
    holder = proxy.connect()
    holder.execute("SELECT 1")

    def serve(number: int) -> None:
        clients[number].execute("INSERT INTO served (client) VALUES (%s)", (number,))

    with ThreadPoolExecutor(len(clients)) as pool:
        waiting = []
        for number in range(len(clients)):
            waiting.append(pool.submit(serve, number))
            wait_until(lambda: len(proxy.pool.waiting) == len(waiting))
        holder.commit()
        for each in waiting:
            each.result(20)
    served = holder.execute("SELECT array_agg(client ORDER BY turn) FROM served").fetchone()
    assert served == (list(range(len(clients))),)
    for client in (holder, *clients):
        client.close()


def test_who_asks_again_and_again_does_not_keep_others_waiting(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    turns = {"greedy": 0}

    def greedy(front: Front) -> None:
        with front.connect(autocommit=True) as client:
            while turns["greedy"] >= 0:
                client.execute("SELECT 1")
                turns["greedy"] += 1

    with ThreadPoolExecutor(4) as pool, proxy.connect(autocommit=True) as modest:
        workers = [pool.submit(greedy, proxy) for _ in range(4)]
        try:
            modest.execute("SELECT 1")
            before = turns["greedy"]
            for _ in range(20):
                modest.execute("SELECT 1")
            # Each of its turns waits for one of each of the others, or two.
            assert turns["greedy"] - before <= 20 * 4 * 3
        finally:
            turns["greedy"] = -(10**9)
        for worker in workers:
            worker.result(20)
