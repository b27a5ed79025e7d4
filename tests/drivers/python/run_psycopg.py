"""psycopg 3; its own threshold of five runs prepares a statement, ``prepare=True`` at once."""

from __future__ import annotations

import concurrent.futures
import threading
import time

import program
import psycopg
from program import COLUMNS, ID, URL, VALUES, same
from psycopg import errors
from psycopg.types.json import Json, Jsonb


def version() -> None:
    print(psycopg.__version__)


def connect() -> None:
    with psycopg.connect(URL) as connection:
        rows = connection.execute("SELECT * FROM pg_tables").fetchall()
        same(any(row[1] == "driver_rows" for row in rows), True)


def types() -> None:
    given = VALUES | {"document": Json(VALUES["document"]), "documents": Jsonb(VALUES["documents"])}
    marks = ", ".join(f"%({name})s" for name in VALUES)
    with psycopg.connect(URL) as connection:
        connection.execute(f"INSERT INTO driver_types ({COLUMNS}) VALUES ({marks})", given)
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            row = cursor.execute(
                f"SELECT {COLUMNS} FROM driver_types WHERE id = %s", (ID,)
            ).fetchone()
            same(row, tuple(VALUES.values()))
            row = cursor.execute(
                "SELECT %s::bigint, %s::text[], %s::bytea, %s::timestamptz, %s::numeric, %s::text",
                [
                    VALUES[name]
                    for name in ("large", "labels", "bytes", "moment", "exact", "nothing")
                ],
            ).fetchone()
            same(row and row[1], VALUES["labels"])
            same(row and row[3], VALUES["moment"])
        connection.rollback()


def prepared() -> None:
    query = "SELECT %s::int + 1"
    with psycopg.connect(URL, autocommit=True) as one, psycopg.connect(URL, autocommit=True) as two:
        for number in range(3):
            for connection in (one, two):
                row = connection.execute(query, (number,), prepare=True).fetchone()
                same(row, (number + 1,))


def transactions() -> None:
    with psycopg.connect(URL) as one, psycopg.connect(URL, autocommit=True) as two:
        with one.transaction():
            one.execute("INSERT INTO driver_rows VALUES (%s, 'committed')", (ID,))
        same(_names(two), ["committed"])
        with one.transaction(force_rollback=True):
            one.execute("UPDATE driver_rows SET name = 'lost' WHERE id = %s", (ID,))
        same(_names(two), ["committed"])
        try:
            with one.transaction():
                one.execute("DELETE FROM driver_rows WHERE id = %s", (ID,))
                one.execute("SELECT 1 / 0")
        except errors.DivisionByZero:
            pass
        same(_names(one), ["committed"])
        one.commit()
        two.execute("DELETE FROM driver_rows WHERE id = %s", (ID,))


def _names(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM driver_rows WHERE id = %s", (ID,))
    return [name for (name,) in rows]


def wrong() -> None:
    with psycopg.connect(URL, autocommit=True) as connection:
        for code, statement in program.WRONG.items():
            try:
                connection.execute(statement)
            except errors.lookup(code) as error:
                same(error.sqlstate, code)
            else:
                raise AssertionError(f"{code}: nothing was raised")
        same(connection.execute("SELECT 1").fetchone(), (1,))


def copy() -> None:
    with psycopg.connect(URL) as connection:
        cursor = connection.cursor()
        with cursor.copy("COPY driver_rows (id, name) FROM STDIN") as into:
            for number in range(500):
                into.write_row((ID + number, f"row\t{number}"))
        query = f"COPY (SELECT id, name FROM driver_rows WHERE id >= {ID} ORDER BY id) TO STDOUT"
        with cursor.copy(query) as out:
            rows = list(out.rows())
        same(rows, [(str(ID + number), f"row\t{number}") for number in range(500)])
        connection.rollback()


def cancel() -> None:
    with psycopg.connect(URL, autocommit=True) as connection:
        timer = threading.Timer(0.3, connection.cancel_safe)
        began = time.monotonic()
        timer.start()
        try:
            connection.execute("SELECT pg_sleep(30)")
        except errors.QueryCanceled as error:
            same(error.sqlstate, "57014")
        same(time.monotonic() - began < program.CANCELLED_SECONDS, True)
        timer.join()
        same(connection.execute("SELECT 1").fetchone(), (1,))


def fifty() -> None:
    together = threading.Barrier(50)
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = threads.map(_sleep_twice, [together] * 50)
    program.same_process_ids([pid for pids in answers for pid in pids])


def _sleep_twice(together: threading.Barrier) -> list[int]:
    with psycopg.connect(URL, autocommit=True) as connection:
        together.wait(30)
        rows = [connection.execute(program.SLEEP).fetchone() for _ in range(2)]
        return [row[0] for row in rows if row]


def cache() -> None:
    query = "SELECT id, name FROM driver_cached WHERE id = %s"
    with psycopg.connect(URL, autocommit=True) as one, psycopg.connect(URL, autocommit=True) as two:
        for connection in (one, one, two):
            same(connection.execute(query, (1,)).fetchone(), (1, "one"))


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
            "cancel": cancel,
            "fifty": fifty,
            "cache": cache,
        }
    )
