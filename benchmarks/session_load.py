"""One process of sessions.py: ``python session_load.py KIND URL SECONDS``.

Says ``ready`` after its first transaction, begins at the next line on standard input, and prints
how many transactions it has done.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from hyperdrive_client import connect

KEYS = 1000
WARM_SECONDS = 30.0
_READ = text("SELECT abalance FROM pgbench_accounts WHERE aid = :aid")
_WRITE = text("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid")
# PgBouncer before 1.21 does not know whose prepared statements are where.
_UNPREPARED = {"prepare_threshold": None}


def of_psycopg(url: str) -> Callable[[], object]:
    connection: psycopg.Connection
    if url.startswith("hyperdrive"):
        connection = connect("postgresql" + url.removeprefix("hyperdrive"))
    else:
        connection = psycopg.connect(url.replace("+psycopg", ""), prepare_threshold=None)

    def transact() -> None:
        question = "SELECT abalance FROM pgbench_accounts WHERE aid = %s"
        connection.execute(question, (random.randint(1, KEYS),)).fetchone()
        connection.commit()

    return transact


def of_sqlalchemy(url: str, *, writes: bool) -> Callable[[], object]:
    is_ours = url.startswith("hyperdrive")
    engine = create_engine(url, connect_args={} if is_ours else _UNPREPARED)

    def transact() -> None:
        with Session(engine) as session:
            aid = {"aid": random.randint(1, KEYS)}
            session.execute(_READ, aid).scalar_one()
            if writes:
                session.execute(_WRITE, aid)
                session.commit()

    return transact


def warm(url: str) -> Callable[[], object]:
    """Start the proxy, and wait until a read comes from its cache if it is to have one."""
    connection = connect("postgresql" + url.removeprefix("hyperdrive"), autocommit=True)

    def wait() -> None:
        deadline = time.monotonic() + WARM_SECONDS
        while os.environ["HYPERDRIVE_CACHE"] != "off":
            connection.execute("SELECT abalance FROM pgbench_accounts WHERE aid = 1")
            status = connection.last_cache
            if status is not None and status.status == "hit":
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"FAILED: nothing is cached: {status}")
            time.sleep(0.05)

    return wait


def main() -> None:
    kind, url, seconds = sys.argv[1:]
    transact: Callable[[], object]
    if kind == "warm":
        transact = warm(url)
    elif kind == "psycopg":
        transact = of_psycopg(url)
    else:
        transact = of_sqlalchemy(url, writes=kind == "read and write")
    transact()
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + float(seconds)
    done = 0
    while time.monotonic() < end:
        transact()
        done += 1
    print(done)


if __name__ == "__main__":
    main()
