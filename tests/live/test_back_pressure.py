"""Who does not read is not buffered for."""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from hyperdrive_client.proxy.spawn import ProcessProxy

if TYPE_CHECKING:
    from .conftest import LiveProxy

RESULT = "SELECT n, repeat('x', 1000) FROM generate_series(1, 200000) AS n"
RESULT_ROWS = 200_000
# The result is 200 MB; two transports' buffers and a few reads are far less than this.
ALLOWED_KIB = 16 * 1024


def memory(process: int, what: str) -> int:
    """``VmRSS`` or ``VmHWM`` of a process, in KiB."""
    with open(f"/proc/{process}/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines[what].split()[0])


@pytest.fixture
def process(proxy: LiveProxy) -> Iterator[ProcessProxy]:
    running = ProcessProxy(replace(proxy.settings, port=0))
    yield running
    running.close()


def connect(proxy: LiveProxy, process: ProcessProxy) -> psycopg.Connection[tuple[object, ...]]:
    return proxy.connect(port=process.settings.port)


def wait_until_blocked(proxy: LiveProxy, event: str) -> None:
    """Until the origin waits for the proxy."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'Cloudflare Hyperdrive' AND wait_event = %s"
    )
    with proxy.at_origin() as connection:
        while connection.execute(query, (event,)).fetchone() != (1,):
            pass


@pytest.mark.parametrize("query", [RESULT, f"COPY ({RESULT}) TO STDOUT"], ids=["SELECT", "COPY"])
def test_a_client_that_does_not_read_stops_the_origin(
    proxy: LiveProxy, process: ProcessProxy, query: str
) -> None:
    with connect(proxy, process) as connection, connect(proxy, process) as other:
        connection.execute("SELECT 1")
        other.execute("SELECT 1")
        before = memory(process.pid, "VmRSS")
        connection.pgconn.send_query(query.encode())
        connection.pgconn.flush()
        wait_until_blocked(proxy, "ClientWrite")
        assert other.execute("SELECT 2").fetchone() == (2,)
        assert memory(process.pid, "VmHWM") - before < ALLOWED_KIB
        read = 0
        connection.pgconn.set_single_row_mode()
        while (result := connection.pgconn.get_result()) is not None:
            if result.status == psycopg.pq.ExecStatus.COPY_OUT:
                while connection.pgconn.get_copy_data(0)[0] > 0:
                    read += 1
            read += result.ntuples
        assert read == RESULT_ROWS
        assert memory(process.pid, "VmHWM") - before < ALLOWED_KIB


def test_an_origin_that_does_not_read_stops_the_client(
    proxy: LiveProxy, process: ProcessProxy
) -> None:
    row = b"x" * 1000 + b"\n"
    with (
        proxy.at_origin() as admin,
        proxy.at_origin() as lock,
        connect(proxy, process) as connection,
        connection.cursor() as cursor,
    ):
        # The first row's trigger waits for a lock, so the origin stops reading.
        admin.execute("CREATE TABLE item (text text)")
        admin.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END'"
        )
        admin.execute(
            "CREATE TRIGGER wait BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION wait()"
        )
        lock.execute("SELECT pg_advisory_lock(1)")
        before = memory(process.pid, "VmRSS")
        sent = 0
        with cursor.copy("COPY item FROM STDIN") as copy:
            libpq = connection.pgconn
            # libpq buffers without a limit of its own: stop when the socket takes no more.
            while not libpq.flush():
                libpq.put_copy_data(row * 100)
                sent += 100
            assert memory(process.pid, "VmHWM") - before < ALLOWED_KIB
            assert sent * len(row) < 64 * 1024 * 1024
            lock.execute("SELECT pg_advisory_unlock(1)")
            for _ in range(1000):
                copy.write(row * 100)
                sent += 100
        connection.commit()
        assert admin.execute("SELECT count(*) FROM item").fetchone() == (sent,)
        assert memory(process.pid, "VmHWM") - before < ALLOWED_KIB


def flush(libpq: psycopg.pq.PGconn) -> None:
    while libpq.flush():
        assert select.select([], [libpq.socket], [], 5)[1], "the proxy does not read"


def test_a_client_is_read_again_if_its_copy_fails_while_the_origin_does_not_read(
    proxy: LiveProxy, process: ProcessProxy
) -> None:
    # A message of 1 KiB divides libpq's writes and the proxy's reads, so no message is cut.
    row = b"x" * 1018 + b"\n"
    with (
        proxy.at_origin() as admin,
        proxy.at_origin() as lock,
        connect(proxy, process) as connection,
    ):
        admin.execute("CREATE TABLE item (text text)")
        admin.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM pg_advisory_xact_lock(2); RAISE division_by_zero; END $$"
        )
        admin.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        lock.execute("SELECT pg_advisory_lock(2)")
        libpq = connection.pgconn
        started = libpq.exec_(b"COPY item FROM STDIN")
        assert started.status == psycopg.pq.ExecStatus.COPY_IN
        libpq.nonblocking = 1
        while not libpq.flush() or select.select([], [libpq.socket], [], 0.2)[1]:
            libpq.put_copy_data(row)
        lock.execute("SELECT pg_advisory_unlock(2)")
        flush(libpq)
        libpq.put_copy_end()
        flush(libpq)
        failed = libpq.get_result()
        assert failed is not None
        assert failed.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"22012"
        assert libpq.get_result() is None
        libpq.nonblocking = 0
        assert connection.execute("SELECT 1").fetchone() == (1,)
