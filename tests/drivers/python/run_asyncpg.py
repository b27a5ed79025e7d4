"""asyncpg, whose every query is a named prepared statement."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import program
from program import COLUMNS, ID, URL, VALUES, same

Connection = Any


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(URL)
    try:
        yield connection
    finally:
        await connection.close()


async def version() -> None:
    print(asyncpg.__version__)


async def connect() -> None:
    async with opened() as connection:
        rows = await connection.fetch("SELECT * FROM pg_tables")
        same(any(row["tablename"] == "driver_rows" for row in rows), True)


async def types() -> None:
    marks = ", ".join(f"${number + 1}" for number in range(len(VALUES)))
    async with opened() as connection:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=json.dumps, decoder=json.loads
            )
        insert = f"INSERT INTO driver_types ({COLUMNS}) VALUES ({marks})"
        await connection.execute(insert, *VALUES.values())
        row = await connection.fetchrow(f"SELECT {COLUMNS} FROM driver_types WHERE id = $1", ID)
        await connection.execute("DELETE FROM driver_types WHERE id = $1", ID)
        same(tuple(row), tuple(VALUES.values()))
        names = ("labels", "bytes", "moment", "exact", "nothing", "documents")
        values = [VALUES[name] for name in names]
        row = await connection.fetchrow(
            "SELECT $1::text[], $2::bytea, $3::timestamptz, $4::numeric, $5::text, $6::jsonb",
            *values,
        )
        same(list(row), values)


async def prepared() -> None:
    async with opened() as one, opened() as two:
        query = "SELECT $1::int + 1"
        statements = [await connection.prepare(query) for connection in (one, two)]
        for number in range(3):
            for statement in statements:
                same(await statement.fetchval(number), number + 1)


async def transactions() -> None:
    async with opened() as one, opened() as two:
        async with one.transaction():
            await one.execute("INSERT INTO driver_rows VALUES ($1, 'committed')", ID)
            same(await _names(two), [])
        same(await _names(two), ["committed"])
        lost = one.transaction()
        await lost.start()
        await one.execute("UPDATE driver_rows SET name = 'lost' WHERE id = $1", ID)
        same(await _names(one), ["lost"])
        await lost.rollback()
        same(await _names(two), ["committed"])
        with contextlib.suppress(asyncpg.DivisionByZeroError):
            async with one.transaction():
                await one.execute("DELETE FROM driver_rows WHERE id = $1", ID)
                await one.execute("SELECT 1 / 0")
        same(await _names(one), ["committed"])
        await two.execute("DELETE FROM driver_rows WHERE id = $1", ID)


async def _names(connection: Connection) -> list[str]:
    rows = await connection.fetch("SELECT name FROM driver_rows WHERE id = $1", ID)
    return [row["name"] for row in rows]


async def wrong() -> None:
    async with opened() as connection:
        for code, statement in program.WRONG.items():
            for run in (connection.execute, connection.fetch):
                try:
                    await run(statement)
                except asyncpg.PostgresError as error:
                    same(error.sqlstate, code)
                else:
                    raise AssertionError(f"{code}: nothing was raised")
        same(await connection.fetchval("SELECT 1"), 1)


async def copy() -> None:
    records = [(ID + number, f"row\t{number}") for number in range(500)]
    async with opened() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.copy_records_to_table("driver_rows", records=records)
        out = io.BytesIO()
        query = f"SELECT id, name FROM driver_rows WHERE id >= {ID} ORDER BY id"
        await connection.copy_from_query(query, output=out)
        lines = "".join(f"{number}\trow\\t{index}\n" for index, (number, _) in enumerate(records))
        same(out.getvalue().decode(), lines)
        await transaction.rollback()


async def cancel() -> None:
    """A time-out is its means: it sends CancelRequest and waits for the connection."""
    async with opened() as connection:
        began = time.monotonic()
        sleep = asyncio.create_task(connection.execute("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.3)
        async with opened() as other:
            same(await other.fetchval("SELECT 1"), 1)
        sleep.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sleep
        same(await connection.fetchval("SELECT 1"), 1)
        try:
            await connection.execute("SELECT pg_sleep(30)", timeout=0.3)
        except TimeoutError:
            same(await connection.fetchval("SELECT 1"), 1)
        else:
            raise AssertionError("nothing was raised")
        same(time.monotonic() - began < program.CANCELLED_SECONDS, True)


async def fifty() -> None:
    together = asyncio.Barrier(50)
    answers = await asyncio.gather(*(_sleep_twice(together) for _ in range(50)))
    program.same_process_ids([pid for pids in answers for pid in pids])


async def _sleep_twice(together: asyncio.Barrier) -> list[int]:
    async with opened() as connection:
        await together.wait()
        return [await connection.fetchval(program.SLEEP) for _ in range(2)]


async def cache() -> None:
    query = "SELECT id, name FROM driver_cached WHERE id = $1"
    async with opened() as one, opened() as two:
        for connection in (one, one, two):
            same([tuple(row) for row in await connection.fetch(query, 1)], [(1, "one")])


if __name__ == "__main__":
    program.run_async(
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
