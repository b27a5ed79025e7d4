"""Peers that vanish without a FIN, are slow to answer, or stop reading."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import Origin
from hyperdrive_client.proxy.spawn import ProcessProxy

if TYPE_CHECKING:
    from .conftest import Relay, StartProxy

RelayTo = Callable[[int], "Relay"]
WaitUntil = Callable[..., float]

SILENCE = 2.0
# It is looked for once a second, and begins with the first packet that is sent again.
NOTICED = SILENCE + 3


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def relay(relay_to: RelayTo, origin: Origin) -> Relay:
    """Between the proxy and its origin."""
    return relay_to(origin.addresses[0].port)


def ask(client: psycopg.Connection[Any]) -> float:
    assert client.execute("SELECT 1").fetchone() == (1,)
    return time.monotonic()


def test_an_origin_that_vanishes_while_a_query_runs(
    relay: Relay, start_proxy: StartProxy, pool: ThreadPoolExecutor
) -> None:
    proxy = start_proxy(port=relay.port, silence_timeout=SILENCE)
    client = proxy.connect(autocommit=True)
    running = pool.submit(client.execute, "SELECT pg_sleep(60)")
    proxy.wait_until_active("pg_sleep(60)")
    relay.cut()
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError) as caught:
        running.result(20)
    took = time.monotonic() - began
    print(f"\nnoticed after {took:.1f} s of {SILENCE:.0f}")
    assert caught.value.sqlstate == "08006"
    assert took < NOTICED
    with proxy.connect(autocommit=True) as other:
        ask(other)
    client.close()


def test_an_origin_that_has_vanished_when_a_query_is_sent(
    relay: Relay, start_proxy: StartProxy, pool: ThreadPoolExecutor
) -> None:
    proxy = start_proxy(port=relay.port, silence_timeout=SILENCE)
    client = proxy.connect(autocommit=True)
    ask(client)
    relay.cut()
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError) as caught:
        client.execute("SELECT 2")
    assert caught.value.sqlstate == "08006"
    assert time.monotonic() - began < NOTICED
    with proxy.connect(autocommit=True) as other:
        ask(other)
    client.close()


def test_an_idle_origin_connection_that_has_vanished_is_not_lent(
    relay: Relay, start_proxy: StartProxy, wait_until: WaitUntil
) -> None:
    proxy = start_proxy(port=relay.port, silence_timeout=SILENCE)
    with proxy.connect(autocommit=True) as client:
        ask(client)
        relay.cut()
        wait_until(lambda: not proxy.pool.origins, NOTICED)
        ask(client)


@pytest.mark.parametrize("state", ["idle in transaction", "running", "in COPY"])
def test_the_transaction_of_a_client_that_has_vanished_is_rolled_back(
    relay_to: RelayTo, start_proxy: StartProxy, wait_until: WaitUntil, state: str
) -> None:
    proxy = start_proxy(origin_connection_limit=1, silence_timeout=SILENCE)
    relay = relay_to(proxy.port)
    with proxy.at_origin() as admin:
        admin.execute("CREATE TABLE IF NOT EXISTS item (text text)")
        admin.execute("TRUNCATE item")
    client = proxy.connect(port=relay.port)
    client.execute("INSERT INTO item VALUES ('half')")
    if state == "running":
        client.pgconn.send_query(b"SELECT pg_sleep(60)")
        proxy.wait_until_active("pg_sleep(60)")
    elif state == "in COPY":
        client.pgconn.exec_(b"COPY item FROM STDIN")
    before = proxy.process_ids
    relay.cut()
    with proxy.connect(autocommit=True) as other:
        began = time.monotonic()
        assert other.execute("SELECT count(*) FROM item").fetchone() == (0,)
        assert time.monotonic() - began < NOTICED
        if state != "in COPY":
            # Cleaned, not thrown away.
            assert proxy.process_ids == before
    client.pgconn.finish()


def test_a_client_that_stops_reading_is_not_silent(
    start_proxy: StartProxy, start_process: Callable[..., ProcessProxy]
) -> None:
    # Not in this process: libpq blocks with the interpreter's lock held.
    process = start_process(silence_timeout=SILENCE)
    rows = 100_000
    client = start_proxy().connect(port=process.settings.port, autocommit=True)
    libpq = client.pgconn
    query = f"SELECT n, repeat('x', 1000) FROM generate_series(1, {rows}) AS n"
    libpq.send_query(query.encode())
    libpq.flush()
    time.sleep(3 * SILENCE)
    libpq.set_single_row_mode()
    read = 0
    while (result := libpq.get_result()) is not None:
        assert result.status != psycopg.pq.ExecStatus.FATAL_ERROR, result.error_message
        read += result.ntuples
    assert read == rows
    ask(client)
    client.close()


def test_an_origin_that_stops_reading_is_not_silent(
    start_proxy: StartProxy, wait_until: WaitUntil, pool: ThreadPoolExecutor
) -> None:
    proxy = start_proxy(silence_timeout=SILENCE)
    with proxy.at_origin() as admin, proxy.connect() as client, proxy.at_origin() as lock:
        admin.execute("DROP TABLE IF EXISTS item")
        admin.execute("CREATE TABLE item (text text)")
        admin.execute(
            "CREATE OR REPLACE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END'"
        )
        admin.execute(
            "CREATE TRIGGER wait BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION wait()"
        )
        lock.execute("SELECT pg_advisory_lock(1)")

        def copy() -> None:
            with client.cursor() as cursor, cursor.copy("COPY item FROM STDIN") as copy:
                for _ in range(100):
                    copy.write(b"x" * 999_999 + b"\n")

        copying = pool.submit(copy)
        proxy.wait_until_active("COPY item")
        time.sleep(3 * SILENCE)
        assert not copying.done()
        lock.execute("SELECT pg_advisory_unlock(1)")
        copying.result(20)
        client.commit()
        assert admin.execute("SELECT count(*) FROM item").fetchone() == (100,)


def test_an_origin_that_is_slow_to_authenticate_is_waited_for(
    relay: Relay, start_proxy: StartProxy, wait_until: WaitUntil, pool: ThreadPoolExecutor
) -> None:
    proxy = start_proxy(port=relay.port)
    relay.hold()
    coming = pool.submit(proxy.connect, autocommit=True)
    wait_until(lambda: any(each.startup for each in proxy.pool.origins))
    relay.release()
    with coming.result(20) as client:
        ask(client)


def test_an_origin_that_never_authenticates_is_told_of_in_time(
    relay: Relay, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(port=relay.port, connect_timeout=0.5)
    relay.hold()
    with pytest.raises(psycopg.OperationalError, match="attempt failed: timeout"):
        proxy.connect()
    relay.release()
    with proxy.connect(autocommit=True) as client:
        ask(client)


def test_an_attempt_that_got_stuck_does_not_keep_others_from_being_served(
    relay: Relay, start_proxy: StartProxy, wait_until: WaitUntil, pool: ThreadPoolExecutor
) -> None:
    proxy = start_proxy(port=relay.port)
    with proxy.at_origin() as admin, proxy.connect(autocommit=True) as client:
        ask(client)
        relay.hold()
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", (*proxy.process_ids,))
        wait_until(lambda: not proxy.pool.origins)
        waiting = pool.submit(ask, client)
        wait_until(lambda: any(each.startup for each in proxy.pool.origins))
        relay.forget()
        free = time.monotonic()
        served = waiting.result(20)
        print(f"\na stuck attempt: answered {served - free:+.3f} s after the way was free")
        assert served - free <= 1.0


def test_an_origin_that_is_slow_to_accept_is_waited_for(
    start_proxy: StartProxy,
    relay_to: RelayTo,
    origin: Origin,
    wait_until: WaitUntil,
    pool: ThreadPoolExecutor,
) -> None:
    # A listener that accepts nobody, and more connections than its queue takes.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        queued = [socket.socket() for _ in range(4)]
        for each in queued:
            each.setblocking(False)
            each.connect_ex(address)
        proxy = start_proxy(port=address[1])
        coming = pool.submit(proxy.connect, autocommit=True)
        wait_until(lambda: proxy.pool.origins)
        with socket.socket() as probe:
            probe.settimeout(0.5)
            with pytest.raises(TimeoutError):
                probe.connect(address)
        for each in queued:
            each.close()
        assert not coming.done()
        # Now it accepts: each connection is passed on by hand.
        accepts = time.monotonic()
        relay = relay_to(origin.addresses[0].port)
        relay.take_over(full)
        with coming.result(20) as client:
            served = ask(client)
        print(f"\nslow to accept: answered {served - accepts:+.3f} s after it did")
        assert served - accepts <= 1.5
