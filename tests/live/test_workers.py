"""Several workers behind one port are one proxy."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from hyperdrive_client.client.console import console, purge
from hyperdrive_client.client.stats import stats_of
from hyperdrive_client.errors import ProxyStartError
from hyperdrive_client.proxy.core.core import FIRST_PROCESS_ID
from hyperdrive_client.proxy.settings import Caching

from .test_cancel import wait_until_running

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy

Connection = psycopg.Connection[tuple[Any, ...]]

WORKERS = 2
# While one is replaced there are two of it.
COLUMNS = 2 * WORKERS
PATIENCE = 30.0


@pytest.fixture
def proxy(start_proxy: StartProxy) -> LiveProxy:
    return start_proxy(workers=WORKERS, origin_connection_limit=6)


@pytest.fixture
def clients(proxy: LiveProxy) -> Iterator[list[Connection]]:
    """Two of the first worker, two of the second."""
    with ExitStack() as open_:
        connections = [
            open_.enter_context(proxy.connect(autocommit=True)) for _ in range(2 * WORKERS)
        ]
        yield sorted(connections, key=worker_of)


def worker_of(connection: Connection) -> int:
    return (connection.info.backend_pid - FIRST_PROCESS_ID) % COLUMNS


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline


def processes(proxy: LiveProxy) -> list[int]:
    """The workers' process ids."""
    pid = proxy.running.pid  # type: ignore[union-attr]
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_each_has_as_many_clients(clients: list[Connection]) -> None:
    assert Counter(map(worker_of, clients)) == {0: 2, 1: 2}


def test_a_client_goes_where_the_fewest_are(proxy: LiveProxy, clients: list[Connection]) -> None:
    for _ in range(2):
        clients.pop().close()
    until(lambda: stats_of(proxy.client).clients == 2)
    with proxy.connect() as connection:
        assert worker_of(connection) == 1


def test_all_origin_connections_can_be_one_workers(
    proxy: LiveProxy, clients: list[Connection]
) -> None:
    with ExitStack() as open_:
        while len(clients) < 14:
            clients.append(open_.enter_context(proxy.connect(autocommit=True)))
        busy = [each for each in clients if worker_of(each) == 0][:6]
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda each: each.execute("SELECT pg_sleep(0.5)"), busy))
        assert len(proxy.origin_connections()) == 6
        # The other gets its part of them, although nobody has to wait for the first to end.
        others = [each for each in clients if worker_of(each) == 1][:3]
        for each in others:
            each.execute("BEGIN; SELECT 1")
        assert len(proxy.origin_connections()) == 6


def test_a_busy_worker_gives_up_what_is_anothers_part(
    proxy: LiveProxy, clients: list[Connection]
) -> None:
    with ExitStack() as open_:
        while len(clients) < 16:
            clients.append(open_.enter_context(proxy.connect(autocommit=True)))
        busy = [each for each in clients if worker_of(each) == 0]
        other = next(each for each in clients if worker_of(each) == 1)
        stopped = False

        def keep_busy(connection: Connection) -> None:
            while not stopped:
                connection.execute("SELECT pg_sleep(0.02)")

        with ThreadPoolExecutor(len(busy)) as pool:
            for each in busy:
                pool.submit(keep_busy, each)
            until(lambda: len(proxy.origin_connections()) == 6)
            other.execute("SELECT 1")
            stopped = True


def test_there_are_never_more_origin_connections_than_allowed(
    proxy: LiveProxy, clients: list[Connection]
) -> None:
    most = 0
    with ExitStack() as open_, ThreadPoolExecutor(24) as pool:
        while len(clients) < 24:
            clients.append(open_.enter_context(proxy.connect(autocommit=True)))

        def work(connection: Connection) -> None:
            for _ in range(30):
                connection.execute("SELECT pg_sleep(0.005)")

        running = [pool.submit(work, each) for each in clients]
        with proxy.at_origin() as direct:
            while not all(each.done() for each in running):
                row = direct.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name = 'Cloudflare Hyperdrive'"
                ).fetchone()
                assert row is not None
                most = max(most, row[0])
        for each in running:
            each.result()
    assert 4 <= most <= 6


def test_a_cancel_request_finds_its_worker(proxy: LiveProxy, clients: list[Connection]) -> None:
    """A request comes in at whichever worker has the fewest clients."""
    with ThreadPoolExecutor(1) as pool:
        for number, each in enumerate(clients):
            running = pool.submit(each.execute, f"SELECT pg_sleep(6{number})")
            wait_until_running(proxy, f"pg_sleep(6{number})")
            each.cancel_safe(timeout=10)
            with pytest.raises(psycopg.errors.QueryCanceled):
                running.result(10)
            assert each.execute("SELECT 1").fetchone() == (1,)


def test_a_cancel_request_with_a_wrong_key_is_answered_by_the_end_alone(
    proxy: LiveProxy, clients: list[Connection]
) -> None:
    async def ask(process_id: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.settings.port)
        writer.write(b"\0\0\0\x10\x04\xd2\x16\x2e" + process_id.to_bytes(4) + b"\0\0\0\0")
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            await writer.wait_closed()

    for process_id in (*(each.info.backend_pid for each in clients), FIRST_PROCESS_ID + 3):
        assert asyncio.run(ask(process_id)) == b""
    assert [each.execute("SELECT 1").fetchone() for each in clients] == [(1,)] * 4


def test_sessions_of_another_worker_can_be_cancelled_and_terminated(
    proxy: LiveProxy, clients: list[Connection]
) -> None:
    one, another = clients[0], clients[2]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(another.execute, "SELECT pg_sleep(71)")
        wait_until_running(proxy, "pg_sleep(71)")
        pid = another.info.backend_pid
        assert one.execute(f"SELECT pg_cancel_backend({pid})").fetchone() == (True,)
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(10)
        one.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(psycopg.errors.AdminShutdown):
            until(lambda: another.execute("SELECT 1") is None)


def test_a_notification_names_the_client_that_has_sent_it(clients: list[Connection]) -> None:
    one, another = clients[0], clients[2]
    another.execute("LISTEN news")
    one.execute("NOTIFY news, 'hello'")
    for notification in another.notifies(timeout=PATIENCE, stop_after=1):
        assert (notification.pid, notification.payload) == (one.info.backend_pid, "hello")
        break
    else:
        pytest.fail("no notification came")


def test_locks_of_a_read_that_ended_early_are_gone_when_another_worker_asks_for_them(
    proxy: LiveProxy, clients: list[Connection]
) -> None:
    one, another = clients[0], clients[2]
    another.execute("CREATE TABLE locked (id integer)")
    for _ in range(50):
        with one.transaction():
            one.execute("SELECT * FROM locked")
        with another.transaction():
            another.execute("LOCK TABLE locked NOWAIT")


def test_figures_and_sessions_are_those_of_all_workers(
    proxy: LiveProxy, clients: list[Connection]
) -> None:
    for each in clients:
        each.execute("SELECT 1")
    stats = stats_of(proxy.client)
    assert (stats.clients, stats.clients_connected, stats.origin_round_trips) == (4, 4, 4)
    assert stats.origin_connections == len(proxy.origin_connections())
    with console(proxy.client) as connection:
        sessions = [int(row[0]) for row in connection.execute("SHOW SESSIONS")]
        pool = dict(connection.execute("SHOW POOL").fetchall())
        # One answer after the other, and none is lost.
        both = connection.execute("SHOW HELP; ").fetchall(), connection.execute("SHOW CACHE")
    assert sessions == sorted(each.info.backend_pid for each in clients)
    assert (pool["origin_connection_limit"], pool["clients"]) == ("6", "4")
    assert dict(both[1].fetchall())["mode"] == "off"


async def test_questions_to_the_console_in_one_write_are_answered_in_order(
    proxy: LiveProxy,
) -> None:
    connection = await asyncpg.connect(
        replace(proxy.client, database="hyperdrive.console").connection_string
    )
    for _ in range(3):
        await connection.execute("SHOW STATS")
        await connection.execute("RECONNECT")
    await connection.close()


class TestTheCache:
    @pytest.fixture
    def proxy(self, start_proxy: StartProxy) -> LiveProxy:
        return start_proxy(
            workers=WORKERS, origin_connection_limit=6, caching=Caching(mode="writes")
        )

    @pytest.fixture
    def clients(self, clients: list[Connection]) -> list[Connection]:
        """As above; what they read is in both workers' caches."""
        clients[0].execute(
            "CREATE TABLE goods (id integer PRIMARY KEY, name text);"
            "CREATE TABLE copies (id integer, name text);"
            "INSERT INTO goods VALUES (1, 'tea'); INSERT INTO copies VALUES (1, 'tea')"
        )
        for each in (clients[0], clients[2]):
            until(lambda each=each: was_hit(each, "goods"))  # type: ignore[misc]
            until(lambda each=each: was_hit(each, "copies"))  # type: ignore[misc]
        return clients

    def test_a_write_by_one_worker_outdates_what_the_other_has(
        self, clients: list[Connection]
    ) -> None:
        one, another = clients[0], clients[2]
        for name in ("green tea", "black tea", "coffee"):
            one.execute("UPDATE goods SET name = %s", (name,))
            assert read(another, "goods") == name
            assert read(one, "goods") == name
            until(lambda: was_hit(another, "goods"))

    def test_what_a_trigger_made_by_one_worker_writes_is_known_to_the_other(
        self, clients: list[Connection]
    ) -> None:
        one, another = clients[0], clients[2]
        one.execute(
            "CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN UPDATE copies SET name = NEW.name; RETURN NEW; END';"
            "CREATE TRIGGER copies AFTER UPDATE ON goods FOR EACH ROW EXECUTE FUNCTION copy()"
        )
        until(lambda: was_hit(one, "copies"))
        another.execute("UPDATE goods SET name = 'milk'")
        assert read(one, "copies") == "milk"

    def test_a_purge_is_of_all_workers(self, proxy: LiveProxy, clients: list[Connection]) -> None:
        assert purge(proxy.client, ("public.goods",)) >= WORKERS
        assert not was_hit(clients[0], "goods")
        assert not was_hit(clients[2], "goods")
        until(lambda: was_hit(clients[0], "goods"))
        until(lambda: was_hit(clients[2], "goods"))
        assert purge(proxy.client) >= 2 * WORKERS
        assert stats_of(proxy.client).cache_entries == 0

    def test_nothing_is_kept_while_a_killed_workers_writes_are_uncertain(
        self, proxy: LiveProxy, clients: list[Connection]
    ) -> None:
        one, another = clients[0], clients[2]
        victims = processes(proxy)
        with proxy.at_origin() as direct, ThreadPoolExecutor(1) as pool:
            one.execute("BEGIN; UPDATE goods SET name = 'lost'")
            running = pool.submit(one.execute, "SELECT pg_sleep(1); COMMIT")
            wait_until_running(proxy, "pg_sleep(1)")
            os.kill(victims[0], signal.SIGKILL)
            survivor = one if running.exception(10) is None else another
            assert survivor is another
            until(lambda: set(processes(proxy)) - set(victims))
            # The backend goes on, and commits.
            until(lambda: ("lost",) in direct.execute("SELECT name FROM goods").fetchall())
            until(lambda: read(another, "goods") == "lost")
            until(lambda: was_hit(another, "goods"))


def read(connection: Connection, table: str) -> object:
    row = connection.execute(f"SELECT name FROM {table} WHERE id = 1", prepare=False).fetchone()  # type: ignore[arg-type]
    return row and row[0]


def was_hit(connection: Connection, table: str) -> bool:
    """Whether a read needs no origin."""
    before = own_hits(connection)
    read(connection, table)
    return own_hits(connection) == before + 1


def own_hits(connection: Connection) -> int:
    """Of the worker that serves the connection."""
    rows = dict(connection.execute("SHOW hyperdrive.cache", prepare=False).fetchall())
    return int(rows.get("hit", 0))


class TestEnds:
    def test_a_worker_that_dies_is_replaced_and_the_other_serves_on(
        self, proxy: LiveProxy, clients: list[Connection]
    ) -> None:
        for each in clients:
            each.execute("SELECT 1")
        first, second = processes(proxy)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(processes(proxy)) == 2 and first not in processes(proxy))
        assert second in processes(proxy)
        served = 0
        for each in clients:
            try:
                served += each.execute("SELECT 1").fetchone() == (1,)
            except psycopg.OperationalError:
                continue
        assert served == 2
        # All connections can be had again.
        with ExitStack() as open_:
            more = [open_.enter_context(proxy.connect(autocommit=True)) for _ in range(12)]
            with ThreadPoolExecutor(12) as pool:
                list(pool.map(lambda each: each.execute("SELECT pg_sleep(0.3)"), more))
            assert {worker_of(each) for each in more} != {0, 1}
        assert len(proxy.origin_connections()) == 6

    def test_no_connection_is_refused_while_workers_are_replaced(
        self, proxy: LiveProxy, clients: list[Connection]
    ) -> None:
        before = set(processes(proxy))
        os.kill(proxy.running.pid, signal.SIGHUP)  # type: ignore[union-attr]
        seen: set[int] = set()
        while len(seen) < COLUMNS:
            with proxy.connect() as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
                seen.add(worker_of(connection))
            seen |= set(map(worker_of, clients))
        # The old ones serve those whom they have, and end with the last of them.
        assert [each.execute("SELECT 1").fetchone() for each in clients] == [(1,)] * 4
        for each in clients:
            each.close()
        until(lambda: len(processes(proxy)) == 2)
        assert before.isdisjoint(processes(proxy))

    def test_a_second_replacement_ends_what_the_first_has_left(
        self, proxy: LiveProxy, clients: list[Connection]
    ) -> None:
        for _ in range(2):
            before = set(processes(proxy))
            os.kill(proxy.running.pid, signal.SIGHUP)  # type: ignore[union-attr]
            until(lambda before=before: len(set(processes(proxy)) - before) == 2)  # type: ignore[misc]
        for each in clients:
            with pytest.raises(psycopg.errors.AdminShutdown):
                until(lambda each=each: each.execute("SELECT 1") is None)  # type: ignore[misc]
        until(lambda: len(processes(proxy)) == 2)

    def test_transactions_finish_when_it_is_told_to_end(
        self, proxy: LiveProxy, clients: list[Connection]
    ) -> None:
        for each in clients[:3]:
            each.execute("CREATE TEMPORARY TABLE mine (id integer)" if each is clients[1] else "")
        clients[0].execute("BEGIN; SELECT 1")
        clients[2].execute("BEGIN; SELECT 1")
        os.kill(proxy.running.pid, signal.SIGTERM)  # type: ignore[union-attr]
        with pytest.raises(psycopg.errors.AdminShutdown):
            until(lambda: clients[3].execute("SELECT 1") is None)
        for each in (clients[0], clients[2]):
            assert each.execute("SELECT 2").fetchone() == (2,)
            each.execute("COMMIT")
        until(lambda: not proxy.running.is_running)
        assert not proxy.origin_connections()

    def test_its_workers_end_with_whoever_has_started_it(self, proxy: LiveProxy) -> None:
        workers = processes(proxy)
        os.kill(proxy.running.pid, signal.SIGKILL)  # type: ignore[union-attr]
        until(lambda: not any(Path(f"/proc/{each}").exists() for each in workers))


class TestStart:
    def test_a_port_that_is_taken(self, proxy: LiveProxy, start_proxy: StartProxy) -> None:
        with pytest.raises(
            ProxyStartError, match=f"can't listen on 127.0.0.1:{proxy.settings.port}"
        ):
            start_proxy(workers=WORKERS, port=proxy.settings.port)

    def test_a_certificate_that_is_none(self, start_proxy: StartProxy, tmp_path: Path) -> None:
        certificate = tmp_path / "server.pem"
        certificate.write_text("nothing")
        with pytest.raises(ProxyStartError, match=r"ssl_cert_file .*server.pem"):
            start_proxy(workers=WORKERS, ssl="require", ssl_cert_file=str(certificate))

    def test_a_unix_socket_is_shared_as_well(
        self, start_proxy: StartProxy, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("socket")
        path = folder / ".s.PGSQL.6000"
        proxy = start_proxy(workers=WORKERS, host=None, unix_socket=str(path))
        with ExitStack() as open_:
            connections = [
                open_.enter_context(proxy.connect(host=str(folder), port=6000)) for _ in range(4)
            ]
            assert Counter(map(worker_of, connections)) == {0: 2, 1: 2}
        proxy.running.close()
        assert not path.exists()
