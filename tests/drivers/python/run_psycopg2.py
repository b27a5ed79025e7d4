"""psycopg2, which sends simple queries only: it has no prepared statements of the protocol."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import program
import psycopg2
from program import COLUMNS, ID, URL, VALUES, same
from psycopg2 import errors
from psycopg2.extras import Json

Connection = Any


@contextlib.contextmanager
def opened(*, autocommit: bool = False) -> Iterator[Connection]:
    connection = psycopg2.connect(URL)
    connection.autocommit = autocommit
    try:
        yield connection
    finally:
        connection.close()


def rows(connection: Connection, query: str, values: object = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall()) if cursor.description else []


def version() -> None:
    print(psycopg2.__version__.split()[0])


def connect() -> None:
    with opened() as connection:
        found = rows(connection, "SELECT * FROM pg_tables")
        same(any(row[1] == "driver_rows" for row in found), True)


def types() -> None:
    given = VALUES | {name: Json(VALUES[name]) for name in ("document", "documents")}
    marks = ", ".join(f"%({name})s" for name in VALUES)
    with opened() as connection:
        rows(connection, f"INSERT INTO driver_types ({COLUMNS}) VALUES ({marks})", given)
        query = f"SELECT {COLUMNS} FROM driver_types WHERE id = %s"
        (row,) = rows(connection, query, (ID,))
        same(_plain(row), tuple(VALUES.values()))
        echo = "SELECT %s::text[], %s::bytea, %s::timestamptz, %s::numeric, %s::text"
        names = ("labels", "bytes", "moment", "exact", "nothing")
        values = tuple(VALUES[name] for name in names)
        (row,) = rows(connection, echo, values)
        same(_plain(row), values)
        connection.rollback()


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)


def transactions() -> None:
    with opened() as one, opened(autocommit=True) as two:
        rows(one, "INSERT INTO driver_rows VALUES (%s, 'committed')", (ID,))
        same(_names(two), [])
        one.commit()
        same(_names(two), ["committed"])
        rows(one, "UPDATE driver_rows SET name = 'lost' WHERE id = %s", (ID,))
        same(_names(one), ["lost"])
        one.rollback()
        same(_names(two), ["committed"])
        rows(one, "DELETE FROM driver_rows WHERE id = %s", (ID,))
        _fails(one, "22012", "SELECT 1 / 0")
        _fails(one, "25P02", "SELECT 1")
        one.rollback()
        same(_names(one), ["committed"])
        one.commit()
        rows(two, "DELETE FROM driver_rows WHERE id = %s", (ID,))


def _names(connection: Connection) -> list[str]:
    query = "SELECT name FROM driver_rows WHERE id = %s"
    return [name for (name,) in rows(connection, query, (ID,))]


def _fails(connection: Connection, code: str, statement: str) -> None:
    try:
        rows(connection, statement)
    except errors.lookup(code) as error:
        same(error.pgcode, code)
    else:
        raise AssertionError(f"{code}: nothing was raised")


def wrong() -> None:
    with opened(autocommit=True) as connection:
        for code, statement in program.WRONG.items():
            _fails(connection, code, statement)
        same(rows(connection, "SELECT 1"), [(1,)])


def copy() -> None:
    text = "".join(f"{ID + number}\trow {number}\n" for number in range(500))
    with opened() as connection, connection.cursor() as cursor:
        cursor.copy_expert("COPY driver_rows (id, name) FROM STDIN", io.StringIO(text))
        out = io.StringIO()
        query = f"SELECT id, name FROM driver_rows WHERE id >= {ID} ORDER BY id"
        cursor.copy_expert(f"COPY ({query}) TO STDOUT", out)
        same(out.getvalue(), text)
        connection.rollback()


def cancel() -> None:
    with opened(autocommit=True) as connection:
        timer = threading.Timer(0.3, connection.cancel)
        began = time.monotonic()
        timer.start()
        _fails(connection, "57014", "SELECT pg_sleep(30)")
        same(time.monotonic() - began < program.CANCELLED_SECONDS, True)
        timer.join()
        same(rows(connection, "SELECT 1"), [(1,)])


def fifty() -> None:
    together = threading.Barrier(50)
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = threads.map(_sleep_twice, [together] * 50)
    program.same_process_ids([pid for pids in answers for pid in pids])


def _sleep_twice(together: threading.Barrier) -> list[int]:
    with opened(autocommit=True) as connection:
        together.wait(30)
        return [rows(connection, program.SLEEP)[0][0] for _ in range(2)]


def cache() -> None:
    query = "SELECT id, name FROM driver_cached WHERE id = %s"
    with opened(autocommit=True) as one, opened(autocommit=True) as two:
        for connection in (one, one, two):
            same(rows(connection, query, (1,)), [(1, "one")])


if __name__ == "__main__":
    program.run(
        {
            "version": version,
            "connect": connect,
            "types": types,
            "transactions": transactions,
            "errors": wrong,
            "copy": copy,
            "cancel": cancel,
            "fifty": fifty,
            "cache": cache,
        }
    )
