"""The process ids that clients are given stand for their sessions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from psycopg import errors

from .test_cancel import wait_until_running

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy

Connection = psycopg.Connection[tuple[Any, ...]]

LARGEST_OF_A_SYSTEM = 1 << 22


@pytest.fixture
def proxy(start_proxy: StartProxy) -> LiveProxy:
    return start_proxy(origin_connection_limit=2)


@pytest.fixture
def first(proxy: LiveProxy) -> Iterator[Connection]:
    with proxy.connect(autocommit=True) as connection:
        yield connection


@pytest.fixture
def second(proxy: LiveProxy) -> Iterator[Connection]:
    with proxy.connect(autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("SELECT pg_backend_pid()", "pg_backend_pid"),
        ("select pg_catalog.pg_backend_pid() AS pid;", "pid"),
    ],
)
def test_ones_own_is_the_one_that_was_given(
    first: Connection, second: Connection, text: str, column: str, *, prepare: bool
) -> None:
    for client in (first, second, first):
        cursor = client.execute(text, prepare=prepare)
        assert cursor.description is not None
        assert cursor.description[0].name == column
        assert cursor.description[0].type_code == psycopg.adapters.types["int4"].oid
        assert cursor.fetchone() == (client.info.backend_pid,)


async def test_asyncpg_agrees(proxy: LiveProxy) -> None:
    client = await asyncpg.connect(proxy.url, ssl=False)
    try:
        assert await client.fetchval("SELECT pg_backend_pid()") == client.get_server_pid()
    finally:
        await client.close()


def test_none_is_that_of_a_process(first: Connection, second: Connection) -> None:
    given = {first.info.backend_pid, second.info.backend_pid}
    assert len(given) == 2
    assert min(given) > LARGEST_OF_A_SYSTEM
    rows = first.execute("SELECT pid FROM pg_stat_activity").fetchall()
    assert max(row[0] for row in rows) <= LARGEST_OF_A_SYSTEM


class TestSignals:
    @pytest.mark.parametrize(
        ("text", "parameters", "prepare"),
        [
            ("SELECT pg_cancel_backend({pid})", (), False),
            ("SELECT pg_catalog.pg_cancel_backend('{pid}') AS done", (), True),
            ("SELECT pg_cancel_backend(%s)", ("{pid}",), False),
            ("SELECT pg_cancel_backend(%s::int)", ("{pid}",), True),
            ("SELECT pg_cancel_backend(%b)", ("{pid}",), False),
        ],
    )
    def test_cancel_ends_the_statement_of_that_session(
        self,
        proxy: LiveProxy,
        first: Connection,
        second: Connection,
        text: str,
        parameters: tuple[str, ...],
        *,
        prepare: bool,
    ) -> None:
        pid = second.info.backend_pid
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(second.execute, "SELECT 'of the second', pg_sleep(60)")
            wait_until_running(proxy, "of the second")
            cursor = first.execute(
                text.format(pid=pid), [pid for _ in parameters] or None, prepare=prepare
            )
            assert cursor.fetchone() == (True,)
            with pytest.raises(errors.QueryCanceled):
                running.result(10)
        assert second.execute("SELECT 1").fetchone() == (1,)

    @pytest.mark.parametrize("by_parameter", [False, True])
    def test_terminate_ends_that_session(
        self, first: Connection, second: Connection, *, by_parameter: bool
    ) -> None:
        pid = second.info.backend_pid
        if by_parameter:
            cursor = first.execute("SELECT pg_terminate_backend(%s)", (pid,))
        else:
            cursor = first.execute(f"SELECT pg_terminate_backend({pid})")
        assert cursor.fetchone() == (True,)
        with pytest.raises(psycopg.OperationalError):
            second.execute("SELECT 1")
        assert second.closed
        assert first.execute("SELECT 1").fetchone() == (1,)

    def test_terminate_rolls_back_a_transaction(
        self, first: Connection, second: Connection
    ) -> None:
        first.execute("CREATE TABLE item (id int)")
        second.execute("BEGIN")
        second.execute("INSERT INTO item VALUES (1)")
        first.execute(f"SELECT pg_terminate_backend({second.info.backend_pid})")
        with pytest.raises(psycopg.errors.AdminShutdown):
            second.execute("COMMIT")
        assert first.execute("SELECT count(*) FROM item").fetchone() == (0,)

    def test_a_cancel_of_who_is_idle_does_nothing(
        self, first: Connection, second: Connection
    ) -> None:
        first.execute(f"SELECT pg_cancel_backend({second.info.backend_pid})")
        assert second.execute("SELECT 1").fetchone() == (1,)

    def test_cancel_of_oneself(self, first: Connection) -> None:
        with pytest.raises(errors.QueryCanceled):
            first.execute("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(60)")
        assert first.execute("SELECT 1").fetchone() == (1,)

    @pytest.mark.parametrize("own", ["pg_backend_pid()", "{pid}"])
    def test_terminate_of_oneself(self, first: Connection, second: Connection, own: str) -> None:
        text = f"SELECT pg_terminate_backend({own.format(pid=first.info.backend_pid)})"
        with pytest.raises(errors.AdminShutdown):
            first.execute(text)
        assert first.closed
        assert second.execute("SELECT 1").fetchone() == (1,)

    @pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
    def test_of_nobody_it_is_postgresqls_warning(self, first: Connection, function: str) -> None:
        notices: list[str | None] = []
        first.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        nobody = first.info.backend_pid + 1000
        assert first.execute(f"SELECT {function}({nobody})").fetchone() == (False,)
        assert notices == [f"PID {nobody} is not a PostgreSQL backend process"]

    def test_a_process_of_the_origin_is_signalled_there(
        self, proxy: LiveProxy, first: Connection
    ) -> None:
        with proxy.at_origin() as direct:
            pid = direct.info.backend_pid
            assert first.execute(f"SELECT pg_terminate_backend({pid}, 10000)").fetchone() == (True,)
            with pytest.raises(psycopg.OperationalError):
                direct.execute("SELECT 1")
