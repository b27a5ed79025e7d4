"""Prepared statements through real drivers: what a session of its own would see, and no other.

Scripts run once at the origin itself and once through the proxy, where after each step another
client uses the origin connections, with the same names for other statements.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import psycopg2
import pytest
from psycopg import errors, pq

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy

Connection = psycopg.Connection[tuple[Any, ...]]
Step = tuple[Any, ...]


@pytest.fixture
def narrow(start_proxy: StartProxy) -> LiveProxy:
    """A proxy with one origin connection."""
    return start_proxy(origin_connection_limit=1)


def run(connection: Connection, name: str, *arguments: object) -> list[tuple[object, ...]]:
    """Call a function of libpq; of each result the status, the error's code and the rows."""
    libpq = connection.pgconn
    libpq.nonblocking = 1
    getattr(libpq, name)(*arguments)
    answers = []
    while (result := next_result(libpq)) is not None:
        rows = [
            tuple(result.get_value(row, column) for column in range(result.nfields))
            for row in range(result.ntuples)
        ]
        types = [result.param_type(number) for number in range(result.nparams)]
        code = result.error_field(pq.DiagnosticField.SQLSTATE)
        status = pq.ExecStatus(result.status).name
        answers.append((status, code, result.command_status, types, rows))
    return answers


def next_result(libpq: pq.abc.PGconn) -> pq.abc.PGresult | None:
    unsent = libpq.flush()
    while unsent or libpq.is_busy():
        readable, *_ = select.select([libpq.socket], [libpq.socket] if unsent else [], [], 10)
        if readable:
            libpq.consume_input()
        unsent = libpq.flush()
    return libpq.get_result()


KNOWN_FAILURES = {
    "a driver's Parse of a name that SQL's PREPARE has taken": "the two have different names there",
    "two deallocates in one text": "only one alone in its text is understood",
}
LISTED = "SELECT name, statement, parameter_types, from_sql FROM pg_prepared_statements ORDER BY 1"
SCRIPTS: dict[str, list[Step]] = {
    "an unknown statement": [
        ("send_query_prepared", b"s", []),
        ("send_describe_prepared", b"s"),
        ("send_query", b"DEALLOCATE s"),
        ("send_query", b"EXECUTE s"),
    ],
    "describe": [
        ("send_prepare", b"s", b"SELECT $1::int + $2::bigint"),
        ("send_describe_prepared", b"s"),
        ("send_query_prepared", b"s", [b"40", b"1"]),
    ],
    "a name that exists": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_prepare", b"s", b"SELECT 2"),
        ("send_query_prepared", b"s", []),
    ],
    "a failed parse and then the same name": [
        ("send_prepare", b"s", b"SELECT nonsense"),
        ("send_query_prepared", b"s", []),
        ("send_prepare", b"s", b"SELECT 2"),
        ("send_query_prepared", b"s", []),
    ],
    "a parse in a failed transaction and then the same name": [
        ("send_query", b"BEGIN"),
        ("send_query", b"SELECT 1/0"),
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query", b"ROLLBACK"),
        ("send_query_prepared", b"s", []),
        ("send_prepare", b"s", b"SELECT 2"),
        ("send_query_prepared", b"s", []),
    ],
    "a name longer than a read": [
        ("send_prepare", b"s" * 100_000, b"SELECT 1"),
        ("send_query_prepared", b"s" * 100_000, []),
        ("send_query_prepared", b"t" * 100_000, []),
    ],
    "a text and a value longer than a read": [
        ("send_prepare", b"s", b"SELECT $1::text, '" + b"x" * 200_000 + b"'"),
        ("send_query_prepared", b"s", [b"y" * 400_000]),
    ],
    "deallocate of one by the simple protocol": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_prepare", b"t", b"SELECT 2"),
        ("send_query", b"DEALLOCATE s"),
        ("send_query_prepared", b"s", []),
        ("send_query_prepared", b"t", []),
        ("send_prepare", b"s", b"SELECT 3"),
        ("send_query_prepared", b"s", []),
    ],
    "deallocate of one by the extended protocol": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query_params", b"DEALLOCATE PREPARE s", []),
        ("send_query_prepared", b"s", []),
        ("send_prepare", b"s", b"SELECT 3"),
        ("send_query_prepared", b"s", []),
    ],
    "deallocate of a quoted name": [
        ("send_prepare", b'S "1"', b"SELECT 1"),
        ("send_query", b'DEALLOCATE "S ""1"""'),
        ("send_query_prepared", b'S "1"', []),
    ],
    "deallocate in a transaction that is rolled back": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query", b"BEGIN"),
        ("send_query", b"DEALLOCATE s"),
        ("send_query", b"ROLLBACK"),
        ("send_query_prepared", b"s", []),
    ],
    "a second deallocate": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query", b"DEALLOCATE s"),
        ("send_query", b"DEALLOCATE s"),
    ],
    "deallocate all by the simple protocol": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query", b"DEALLOCATE ALL"),
        ("send_query_prepared", b"s", []),
        ("send_prepare", b"s", b"SELECT 2"),
        ("send_query_prepared", b"s", []),
    ],
    "deallocate all by the extended protocol": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query_params", b"DEALLOCATE ALL", []),
        ("send_query_prepared", b"s", []),
    ],
    "deallocate all in a failed transaction": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query", b"BEGIN"),
        ("send_query", b"SELECT 1/0"),
        ("send_query", b"DEALLOCATE ALL"),
        ("send_query", b"ROLLBACK"),
        ("send_query_prepared", b"s", []),
    ],
    "discard all by the simple protocol": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query", b"DISCARD ALL"),
        ("send_query_prepared", b"s", []),
    ],
    "discard all by the extended protocol": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query_params", b"DISCARD ALL", []),
        ("send_query_prepared", b"s", []),
    ],
    "discard plans leaves them": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_query", b"DISCARD PLANS"),
        ("send_query_prepared", b"s", []),
    ],
    "SQL's EXECUTE of a driver's statement": [
        ("send_prepare", b"s", b"SELECT $1::int + 1"),
        ("send_query", b"EXECUTE s(41)"),
        ("send_query_params", b"EXECUTE s(42)", []),
        ("send_query_prepared", b"s", [b"43"]),
        ("send_query", b"DEALLOCATE s"),
        ("send_query", b"EXECUTE s(41)"),
    ],
    "a driver's use of what SQL's PREPARE made": [
        ("send_query", b"PREPARE s (int) AS SELECT $1 + 1"),
        ("send_query_prepared", b"s", [b"41"]),
        ("send_describe_prepared", b"s"),
        ("send_query", b"DEALLOCATE s"),
        ("send_query_prepared", b"s", [b"41"]),
    ],
    "a driver's Parse of a name that SQL's PREPARE has taken": [
        ("send_query", b"PREPARE s (int) AS SELECT $1 + 1"),
        ("send_prepare", b"s", b"SELECT 1"),
    ],
    "EXPLAIN of SQL's EXECUTE of a driver's statement": [
        ("send_prepare", b"s", b"SELECT $1::int + 1"),
        ("send_query", b"EXPLAIN (COSTS OFF) EXECUTE s(42)"),
    ],
    "two deallocates in one text": [
        ("send_prepare", b"s", b"SELECT 1"),
        ("send_prepare", b"t", b"SELECT 2"),
        ("send_query", b"DEALLOCATE s; DEALLOCATE t"),
        ("send_query_prepared", b"s", []),
        ("send_query_prepared", b"t", []),
    ],
    "the list of them": [
        ("send_prepare", b"s", b"SELECT $1::int + 1"),
        ("send_prepare", b"t", b"SELECT 2"),
        ("send_query", LISTED.encode()),
        ("send_query", b"PREPARE u AS SELECT 3"),
        ("send_query", LISTED.encode()),
        ("send_query", b"DEALLOCATE ALL"),
        ("send_query", LISTED.encode()),
    ],
    "another search_path": [
        ("send_query", b"CREATE SCHEMA a CREATE TABLE item (name text)"),
        ("send_query", b"CREATE SCHEMA b CREATE TABLE item (name text)"),
        ("send_query", b"INSERT INTO a.item VALUES ('of a'); INSERT INTO b.item VALUES ('of b')"),
        ("send_query", b"SET search_path TO a"),
        ("send_prepare", b"s", b"SELECT name FROM item"),
        ("send_query_prepared", b"s", []),
        ("send_query", b"SET search_path TO b"),
        ("send_query_prepared", b"s", []),
        ("send_query", b"BEGIN; SET LOCAL search_path TO a"),
        ("send_query_prepared", b"s", []),
        ("send_query", b"COMMIT"),
        ("send_query_prepared", b"s", []),
    ],
}


@pytest.fixture
def disturber(start_proxy: StartProxy) -> Iterator[tuple[LiveProxy, Callable[[], None]]]:
    """A proxy with two origin connections, and a use of the one that is free by another client."""
    proxy = start_proxy(origin_connection_limit=2)
    with proxy.connect(autocommit=True) as other:

        def disturb() -> None:
            for name in (b"s", b"t", b"u"):
                run(other, "send_prepare", name, b"SELECT 'of another'")
                ((_, _, _, _, rows),) = run(other, "send_query_prepared", name, [])
                assert rows == [(b"of another",)]
            for text in (b"DEALLOCATE s", b"DEALLOCATE ALL"):
                ((_, error, _, _, _),) = run(other, "send_query", text)
                assert error is None

        yield proxy, disturb


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            script,
            id=name,
            marks=[pytest.mark.xfail(strict=True, reason=KNOWN_FAILURES[name])]
            if name in KNOWN_FAILURES
            else [],
        )
        for name, script in SCRIPTS.items()
    ],
)
def test_every_step_is_answered_as_by_postgresql(
    disturber: tuple[LiveProxy, Callable[[], None]], script: list[Step]
) -> None:
    proxy, disturb = disturber
    with proxy.at_origin() as direct:
        expected = [run(direct, *step) for step in script]
        direct.execute("DROP SCHEMA IF EXISTS a, b CASCADE")
    with proxy.connect(autocommit=True) as client:
        for step, answer in zip(script, expected, strict=True):
            assert run(client, *step) == answer, step
            disturb()


class TestChangedTables:
    """PostgreSQL refuses a prepared statement whose columns have changed: 0A000."""

    @pytest.fixture(autouse=True)
    def _table(self, narrow: LiveProxy) -> None:
        with narrow.at_origin() as direct:
            direct.execute("CREATE TABLE item (id int)")
            direct.execute("INSERT INTO item VALUES (1)")

    def test_psycopg_does_not_notice(self, narrow: LiveProxy) -> None:
        text = "SELECT * FROM item"
        with narrow.connect(autocommit=True) as client, narrow.at_origin() as direct:
            assert client.execute(text, prepare=True).fetchall() == [(1,)]
            assert direct.execute(text, prepare=True).fetchall() == [(1,)]
            with narrow.at_origin() as another:
                another.execute("ALTER TABLE item ADD name text DEFAULT 'a'")
            with pytest.raises(errors.FeatureNotSupported, match="cached plan"):
                direct.execute(text, prepare=True)
            assert client.execute(text, prepare=True).fetchall() == [(1, "a")]

    def test_no_client_of_the_same_statement_notices(self, narrow: LiveProxy) -> None:
        text = "SELECT * FROM item"
        with (
            narrow.connect(autocommit=True) as first,
            narrow.connect(autocommit=True) as second,
        ):
            for client in (first, second):
                assert client.execute(text, prepare=True).fetchall() == [(1,)]
            first.execute("ALTER TABLE item ALTER id TYPE text")
            for client in (second, first, second):
                assert client.execute(text, prepare=True).fetchall() == [("1",)]

    def test_in_a_transaction_it_is_an_error_and_works_afterwards(self, narrow: LiveProxy) -> None:
        text = "SELECT * FROM item"
        with narrow.connect(autocommit=True) as client, narrow.at_origin() as direct:
            client.execute(text, prepare=True)
            direct.execute("ALTER TABLE item ADD name text")
            with (
                pytest.raises(errors.FeatureNotSupported, match="cached plan"),
                client.transaction(),
            ):
                client.execute("INSERT INTO item VALUES (2)")
                client.execute(text, prepare=True)
            assert client.execute(text, prepare=True).fetchall() == [(1, None)]

    def test_a_write_is_not_done_twice(self, narrow: LiveProxy) -> None:
        text = "INSERT INTO item VALUES (2) RETURNING *"
        with narrow.connect(autocommit=True) as client, narrow.at_origin() as direct:
            client.execute(text, prepare=True)
            direct.execute("ALTER TABLE item ADD name text")
            assert client.execute(text, prepare=True).fetchall() == [(2, None)]
            assert direct.execute("SELECT count(*) FROM item WHERE id = 2").fetchone() == (2,)

    async def test_who_was_told_of_its_columns_is_told_as_by_postgresql(
        self, narrow: LiveProxy
    ) -> None:
        client = await asyncpg.connect(narrow.url, ssl=False)
        try:
            statement = await client.prepare("SELECT * FROM item")
            assert [tuple(row) for row in await statement.fetch()] == [(1,)]
            with narrow.at_origin() as direct:
                direct.execute("ALTER TABLE item ADD name text")
            with pytest.raises(asyncpg.InvalidCachedStatementError):
                await statement.fetch()
            again = await client.prepare("SELECT * FROM item")
            assert [tuple(row) for row in await again.fetch()] == [(1, None)]
        finally:
            await client.close()

    async def test_asyncpg_prepares_anew_by_itself(self, narrow: LiveProxy) -> None:
        client = await asyncpg.connect(narrow.url, ssl=False)
        try:
            assert [tuple(row) for row in await client.fetch("SELECT * FROM item")] == [(1,)]
            with narrow.at_origin() as direct:
                direct.execute("ALTER TABLE item ADD name text")
            rows = await client.fetch("SELECT * FROM item")
            assert [tuple(row) for row in rows] == [(1, None)]
        finally:
            await client.close()


class TestSharedStatements:
    """One text of several clients is one statement at the origin, where it means the same."""

    def test_two_search_paths_are_two_statements(self, narrow: LiveProxy) -> None:
        with narrow.at_origin() as direct:
            direct.execute("CREATE SCHEMA a CREATE TABLE item (id int)")
            direct.execute("CREATE SCHEMA b CREATE TABLE item (name text, more text)")
            direct.execute("INSERT INTO a.item VALUES (1); INSERT INTO b.item VALUES ('b', 'c')")
        with (
            narrow.connect(autocommit=True, options="-c search_path=a") as first,
            narrow.connect(autocommit=True) as second,
        ):
            second.execute("SET search_path TO b")
            for _ in range(3):
                for client, row in ((first, (1,)), (second, ("b", "c"))):
                    rows = client.execute("SELECT * FROM item", prepare=True).fetchall()
                    assert rows == [row]

    def test_two_parameter_types_are_two_statements(self, narrow: LiveProxy) -> None:
        with (
            narrow.connect(autocommit=True) as first,
            narrow.connect(autocommit=True) as second,
        ):
            for _ in range(3):
                for client, value, kind in (
                    (first, 1, "smallint"),
                    (second, 1.5, "double precision"),
                ):
                    text = "SELECT pg_typeof(%s)::text"
                    assert client.execute(text, (value,), prepare=True).fetchone() == (kind,)

    def test_the_settings_of_who_runs_it_count(self, narrow: LiveProxy) -> None:
        with (
            narrow.connect(autocommit=True) as first,
            narrow.connect(autocommit=True) as second,
        ):
            first.execute("SET TimeZone TO 'Asia/Tokyo'; SET DateStyle TO 'German'")
            second.execute("SET TimeZone TO 'UTC'; SET DateStyle TO 'ISO'")
            text = "SELECT (%s::text::timestamptz)::text"
            moment = "2026-01-02 00:00:00+00"
            for _ in range(3):
                rows = [
                    client.execute(text, (moment,), prepare=True).fetchone()
                    for client in (first, second)
                ]
                assert rows == [("02.01.2026 09:00:00 JST",), ("2026-01-02 00:00:00+00",)]

    def test_what_may_be_at_an_origin_connection_at_once_is_bounded(
        self, start_proxy: StartProxy
    ) -> None:
        for size in (1, 2, 5):
            proxy = start_proxy(origin_connection_limit=1, prepared_statements=size)
            with proxy.connect(autocommit=True, prepared_max=None) as client:
                for turn in range(2):
                    for number in range(7):
                        row = client.execute(f"SELECT %s::int + {number}", (turn,), prepare=True)
                        assert row.fetchone() == (turn + number,)
                    with client.pipeline():
                        cursors = [
                            client.execute(f"SELECT %s::int + {number}", (turn,), prepare=True)
                            for number in range(7)
                        ]
                    assert [cursor.fetchone() for cursor in cursors] == [
                        (turn + number,) for number in range(7)
                    ]


class TestPortals:
    async def test_a_part_of_the_rows_and_then_the_whole_query(self, narrow: LiveProxy) -> None:
        text = "SELECT generate_series(1, 10)"
        client = await asyncpg.connect(narrow.url, ssl=False)
        try:
            async with client.transaction():
                cursor = await client.cursor(text)
                assert [row[0] for row in await cursor.fetch(1)] == [1]
                assert [row[0] for row in await client.fetch(text)] == list(range(1, 11))
                assert [row[0] for row in await cursor.fetch(2)] == [2, 3]
            assert await client.fetchrow(text) == (1,)
            assert [row[0] for row in await client.fetch(text)] == list(range(1, 11))
            with narrow.connect(autocommit=True) as other:
                assert len(other.execute(text).fetchall()) == 10
        finally:
            await client.close()


def test_function_calls_of_the_protocol(narrow: LiveProxy) -> None:
    """libpq's functions for large objects use them."""
    parameters = narrow.client.libpq_parameters()
    client = psycopg2.connect(**parameters)
    try:
        with client:
            large = client.lobject(0, "wb")
            large.write(b"some bytes")
            number = large.oid
            large.close()
        with narrow.connect(autocommit=True) as other:
            other.execute("SELECT 1")
        with client:
            large = client.lobject(number, "rb")
            large.seek(5)
            assert large.read() == b"bytes"
            large.close()
    finally:
        client.close()


def test_a_copy_that_fails_in_the_middle_and_the_next_statement(narrow: LiveProxy) -> None:
    with narrow.connect(autocommit=True) as client:
        client.execute("CREATE TABLE item (id int)")
        with (
            pytest.raises(errors.InvalidTextRepresentation),
            client.cursor().copy("COPY item FROM STDIN") as copy,
        ):
            for _ in range(1000):
                copy.write("not a number\n")
        assert client.execute("SELECT count(*) FROM item", prepare=True).fetchone() == (0,)


def test_many_clients_with_tagged_pipelines_get_their_own_answers(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=2, prepared_statements=3)

    def work(number: int) -> int:
        right = 0
        with proxy.connect(autocommit=True) as client:
            for turn in range(20):
                tags = [f"{number}/{turn}/{place}" for place in range(4)]
                with client.pipeline():
                    cursors = [
                        client.execute(
                            f"SELECT %s::text || '{'' if place % 2 else number}'",
                            (tag,),
                            prepare=True,
                        )
                        for place, tag in enumerate(tags)
                    ]
                for place, (cursor, tag) in enumerate(zip(cursors, tags, strict=True)):
                    right += cursor.fetchone() == (tag + ("" if place % 2 else str(number)),)
        return right

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(work, range(10))) == [80] * 10
