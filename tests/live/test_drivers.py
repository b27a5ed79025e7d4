"""Unmodified drivers through the proxy: SCRAM, parameters, rollback, COPY."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import pytest

if TYPE_CHECKING:
    from .conftest import LiveProxy

ROWS = [(number, f"name {number}") for number in range(1000)]
CREATE = "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL)"


def copied(proxy: LiveProxy) -> int:
    with proxy.at_origin() as connection:
        row = connection.execute("SELECT count(*) FROM item").fetchone()
    assert row is not None
    return int(str(row[0]))


def test_psycopg(proxy: LiveProxy) -> None:
    with proxy.connect() as connection:
        assert connection.info.server_version >= 150000
        assert connection.execute("SELECT %s + 1, %s", (41, "é")).fetchone() == (42, "é")
        connection.execute(CREATE)
        connection.commit()
        connection.execute("INSERT INTO item VALUES (1, 'gone')")
        connection.rollback()
        with connection.cursor() as cursor:
            with cursor.copy("COPY item FROM STDIN") as copy:
                for row in ROWS:
                    copy.write_row(row)
            with cursor.copy("COPY item TO STDOUT") as copy:
                assert len(list(copy.rows())) == len(ROWS)
        connection.commit()
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO item VALUES (1, 'again')")
        connection.rollback()
    assert copied(proxy) == len(ROWS)


def test_psycopg_copy_that_fails_leaves_the_connection_usable(proxy: LiveProxy) -> None:
    with proxy.connect(autocommit=True) as connection:
        connection.execute(CREATE)
        cursor = connection.cursor()
        with (
            pytest.raises(psycopg.errors.UniqueViolation),
            cursor.copy("COPY item FROM STDIN") as copy,
        ):
            for _ in range(2):
                copy.write_row((1, "twice"))
        with pytest.raises(ZeroDivisionError), cursor.copy("COPY item FROM STDIN") as copy:
            copy.write_row((1, "not"))
            raise ZeroDivisionError
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (0,)


def test_psycopg_pipeline_mode(proxy: LiveProxy) -> None:
    with proxy.connect(autocommit=True) as connection, connection.pipeline() as pipeline:
        results = [connection.execute("SELECT %s::int", (number,)) for number in range(100)]
        pipeline.sync()
        assert [result.fetchone() for result in results] == [(n,) for n in range(100)]


def test_psycopg_pipeline_error_aborts_only_its_batch(proxy: LiveProxy) -> None:
    with proxy.connect(autocommit=True) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
            connection.execute("SELECT 1/0")
            connection.execute("SELECT 1")
        assert connection.execute("SELECT 2").fetchone() == (2,)


def test_psycopg_server_side_cursor(proxy: LiveProxy) -> None:
    with proxy.connect() as connection, connection.cursor("named") as cursor:
        cursor.itersize = 10
        cursor.execute("SELECT * FROM generate_series(1, 95)")
        assert [row[0] for row in cursor] == list(range(1, 96))


def test_psycopg_prepared_statements_follow_the_client(proxy: LiveProxy) -> None:
    connections = [proxy.connect(prepare_threshold=0) for _ in range(8)]
    try:
        # Eight clients in transactions of their own on five origin connections in turn.
        for turn in range(20):
            for number, connection in enumerate(connections):
                row = connection.execute("SELECT %s::int, 'same text'", (number,)).fetchone()
                assert row == (number, "same text")
                own = connection.execute(f"SELECT %s::int + {number}", (turn,)).fetchone()
                assert own == (turn + number,)
                connection.commit()
    finally:
        for connection in connections:
            connection.close()


def test_psycopg_stream_of_a_large_result(proxy: LiveProxy) -> None:
    with proxy.connect() as connection, connection.cursor() as cursor:
        rows = cursor.stream("SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) AS n")
        assert sum(len(str(row[1])) for row in rows) == 5_000_000


async def test_psycopg_async(proxy: LiveProxy) -> None:
    async with await psycopg.AsyncConnection.connect(proxy.url) as connection:
        cursor = await connection.execute("SELECT %s::text", ("x",))
        assert await cursor.fetchone() == ("x",)


async def test_asyncpg(proxy: LiveProxy) -> None:
    connection = await asyncpg.connect(proxy.url)
    try:
        assert await connection.fetchval("SELECT $1::int + 1", 41) == 42
        await connection.execute(CREATE)
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute("INSERT INTO item VALUES ($1, $2)", 1, "gone")
                raise ZeroDivisionError
        assert await connection.fetchval("SELECT count(*) FROM item") == 0
        await connection.copy_records_to_table("item", records=ROWS)
        out = io.BytesIO()
        await connection.copy_from_table("item", output=out)
        assert out.getvalue().count(b"\n") == len(ROWS)
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO item VALUES ($1, $2)", 1, "again")
        statement = await connection.prepare("SELECT name FROM item WHERE id = $1")
        for number in range(50):
            assert await statement.fetchval(number) == f"name {number}"
        assert await connection.fetchval("SELECT $1::int[]", [1, 2]) == [1, 2]
    finally:
        await connection.close()
    assert copied(proxy) == len(ROWS)


async def test_asyncpg_pool(proxy: LiveProxy) -> None:
    async with asyncpg.create_pool(proxy.url, min_size=1, max_size=8) as pool:
        for number in range(50):
            assert await pool.fetchval("SELECT $1::int", number) == number


def test_psycopg2(proxy: LiveProxy) -> None:
    connection = psycopg2.connect(proxy.url)
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT %s + 1, %s", (41, "é"))
        assert cursor.fetchone() == (42, "é")
        cursor.execute(CREATE)
        connection.commit()
        cursor.execute("INSERT INTO item VALUES (1, 'gone')")
        connection.rollback()
        text = io.StringIO("".join(f"{number}\t{name}\n" for number, name in ROWS))
        cursor.copy_expert("COPY item FROM STDIN", text)
        out = io.StringIO()
        cursor.copy_expert("COPY item TO STDOUT", out)
        assert out.getvalue().count("\n") == len(ROWS)
        connection.commit()
    finally:
        connection.close()
    assert copied(proxy) == len(ROWS)


def test_pg8000(proxy: LiveProxy) -> None:
    connection = pg8000.native.Connection(
        proxy.client.user,
        host="127.0.0.1",
        port=proxy.settings.port,
        database=proxy.client.database,
        password=proxy.client.password,
    )
    try:
        assert connection.run("SELECT :a + 1, :b", a=41, b="é") == [[42, "é"]]
        connection.run(CREATE)
        connection.run("START TRANSACTION")
        connection.run("INSERT INTO item VALUES (1, 'gone')")
        connection.run("ROLLBACK")
        text = io.StringIO("".join(f"{number}\t{name}\n" for number, name in ROWS))
        connection.run("COPY item FROM STDIN", stream=text)
        out = io.StringIO()
        connection.run("COPY item TO STDOUT", stream=out)
        assert out.getvalue().count("\n") == len(ROWS)
    finally:
        connection.close()
    assert copied(proxy) == len(ROWS)
