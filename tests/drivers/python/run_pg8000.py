"""pg8000, its native interface, which prepares statements by name; it has no cancel."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.metadata
import io
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import program
from pg8000.exceptions import DatabaseError
from pg8000.native import Connection
from program import COLUMNS, ID, URL, VALUES, same


@contextlib.contextmanager
def opened() -> Iterator[Connection]:
    url = urlsplit(URL)
    connection = Connection(
        user=unquote(url.username or ""),
        password=unquote(url.password or ""),
        host=url.hostname,
        port=url.port,
        database=url.path[1:],
    )
    try:
        yield connection
    finally:
        connection.close()


def version() -> None:
    print(importlib.metadata.version("pg8000"))


def connect() -> None:
    with opened() as connection:
        rows = connection.run("SELECT * FROM pg_tables")
        same(any(row[1] == "driver_rows" for row in rows), True)


def types() -> None:
    marks = ", ".join(f":{name}" for name in VALUES)
    with opened() as connection:
        connection.run("BEGIN")
        connection.run(f"INSERT INTO driver_types ({COLUMNS}) VALUES ({marks})", **VALUES)
        (row,) = connection.run(f"SELECT {COLUMNS} FROM driver_types WHERE id = :id", id=ID)
        same(row, list(VALUES.values()))
        connection.run("ROLLBACK")
        names = ("labels", "bytes", "moment", "exact", "nothing")
        values = {name: VALUES[name] for name in names}
        (row,) = connection.run(
            "SELECT CAST(:labels AS text[]), CAST(:bytes AS bytea), CAST(:moment AS timestamptz), "
            "CAST(:exact AS numeric), CAST(:nothing AS text)",
            **values,
        )
        same(row, list(values.values()))


def prepared() -> None:
    with opened() as one, opened() as two:
        query = "SELECT CAST(:number AS int) + 1"
        statements = [connection.prepare(query) for connection in (one, two)]
        for number in range(3):
            for statement in statements:
                same(statement.run(number=number), [[number + 1]])
        for statement in statements:
            statement.close()


def transactions() -> None:
    with opened() as one, opened() as two:
        one.run("BEGIN")
        one.run("INSERT INTO driver_rows VALUES (:id, 'committed')", id=ID)
        same(_names(two), [])
        one.run("COMMIT")
        same(_names(two), ["committed"])
        one.run("BEGIN")
        one.run("UPDATE driver_rows SET name = 'lost' WHERE id = :id", id=ID)
        same(_names(one), ["lost"])
        one.run("ROLLBACK")
        same(_names(two), ["committed"])
        one.run("BEGIN")
        one.run("DELETE FROM driver_rows WHERE id = :id", id=ID)
        _fails(one, "22012", "SELECT 1 / 0")
        _fails(one, "25P02", "SELECT 1")
        one.run("ROLLBACK")
        same(_names(one), ["committed"])
        two.run("DELETE FROM driver_rows WHERE id = :id", id=ID)


def _names(connection: Connection) -> list[str]:
    rows = connection.run("SELECT name FROM driver_rows WHERE id = :id", id=ID)
    return [name for (name,) in rows]


def _fails(connection: Connection, code: str, statement: str) -> None:
    try:
        connection.run(statement)
    except DatabaseError as error:
        same(error.args[0]["C"], code)
    else:
        raise AssertionError(f"{code}: nothing was raised")


def wrong() -> None:
    with opened() as connection:
        for code, statement in program.WRONG.items():
            _fails(connection, code, statement)
        same(connection.run("SELECT 1"), [[1]])


def copy() -> None:
    text = "".join(f"{ID + number}\trow {number}\n" for number in range(500))
    with opened() as connection:
        connection.run("BEGIN")
        connection.run("COPY driver_rows (id, name) FROM STDIN", stream=io.StringIO(text))
        out = io.StringIO()
        query = f"SELECT id, name FROM driver_rows WHERE id >= {ID} ORDER BY id"
        connection.run(f"COPY ({query}) TO STDOUT", stream=out)
        same(out.getvalue(), text)
        connection.run("ROLLBACK")


def fifty() -> None:
    together = threading.Barrier(50)
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = threads.map(_sleep_twice, [together] * 50)
    program.same_process_ids([pid for pids in answers for pid in pids])


def _sleep_twice(together: threading.Barrier) -> list[int]:
    with opened() as connection:
        together.wait(30)
        rows: list[Any] = [connection.run(program.SLEEP) for _ in range(2)]
        return [row[0][0] for row in rows]


def cache() -> None:
    query = "SELECT id, name FROM driver_cached WHERE id = :id"
    with opened() as one, opened() as two:
        for connection in (one, one, two):
            same(connection.run(query, id=1), [[1, "one"]])


if __name__ == "__main__":
    program.run(
        {
            "version": version,
            "connect": connect,
            "types": types,
            "prepared": prepared,
            "transactions": transactions,
            "errors": wrong,
            "copy": copy,
            "fifty": fifty,
            "cache": cache,
        }
    )
