"""``hyperdrive demo``: many clients over few origin connections, proved at the origin itself."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
import sqlalchemy
from psycopg import AsyncConnection
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from . import Proxy, connect
from .bindings import DEFAULT_BINDING
from .errors import HyperdriveError
from .origin import EmbeddedPostgres

BRANCHES, TELLERS, ACCOUNTS = 5, 50, 500_000
SAMPLE_SECONDS = 0.05
LATENCY_ROUNDS = 50

# From Hyperdrive's page "Connect to PostgreSQL": the configuration, the query of the examples, and
# the one that shows Hyperdrive's connections at the origin.
WRANGLER_FILE = """\
{
  "compatibility_flags": [
    "nodejs_compat"
  ],
  "compatibility_date": "2024-09-23",
  "hyperdrive": [
    {
      "binding": "HYPERDRIVE",
      "id": "demo",
      "localConnectionString": %s
    }
  ]
}
"""
PREFIXES = (
    "HYPERDRIVE_URL",
    "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING",
    "WRANGLER_HYPERDRIVE_LOCAL_CONNECTION_STRING",
)
TABLES = "SELECT * FROM pg_tables"
IDENTIFY = (
    "SELECT DISTINCT usename, application_name FROM pg_stat_activity "
    "WHERE application_name = 'Cloudflare Hyperdrive'"
)
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'Cloudflare Hyperdrive'"

# pgbench's tables and its transaction (PostgreSQL, "pgbench").
FILL: tuple[LiteralString, ...] = (
    "CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88))",
    "CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84))",
    "CREATE TABLE pgbench_accounts (aid int, bid int, abalance int, filler char(84))",
    "CREATE TABLE pgbench_history"
    " (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))",
    "INSERT INTO pgbench_branches SELECT n, 0 FROM generate_series(1, 5) AS n",
    "INSERT INTO pgbench_tellers SELECT n, (n - 1) / 10 + 1, 0 FROM generate_series(1, 50) AS n",
    "INSERT INTO pgbench_accounts"
    " SELECT n, (n - 1) / 100000 + 1, 0, '' FROM generate_series(1, 500000) AS n",
    "ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid)",
    "ANALYZE",
)
TRANSACTION: tuple[LiteralString, ...] = (
    "UPDATE pgbench_accounts SET abalance = abalance + %(delta)s WHERE aid = %(aid)s",
    "SELECT abalance FROM pgbench_accounts WHERE aid = %(aid)s",
    "UPDATE pgbench_tellers SET tbalance = tbalance + %(delta)s WHERE tid = %(tid)s",
    "UPDATE pgbench_branches SET bbalance = bbalance + %(delta)s WHERE bid = %(bid)s",
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)"
    " VALUES (%(tid)s, %(bid)s, %(aid)s, %(delta)s, CURRENT_TIMESTAMP)",
)
BALANCES = """
    SELECT (SELECT count(*) FROM pgbench_history),
        (SELECT sum(abalance) FROM pgbench_accounts),
        (SELECT sum(tbalance) FROM pgbench_tellers),
        (SELECT sum(bbalance) FROM pgbench_branches),
        (SELECT sum(delta) FROM pgbench_history)"""


@dataclass
class Load:
    """What the clients have done together, and the origin connections seen meanwhile."""

    clients: int
    seconds: float
    """How long it is to last, and at the end how long it has lasted."""
    transactions: int = 0
    samples: int = 0
    most_connections: int = 0


def run(clients: int, limit: int, seconds: float) -> None:
    """Show ``clients`` at work for ``seconds`` over at most ``limit`` origin connections.

    Raises ``OriginStartError``, ``ProxyStartError`` and, if what it shows is not so,
    ``HyperdriveError``. However it ends, no process and no file is left.
    """
    # By way of SIGINT, for which asyncio has a handler; a shell's background jobs ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console(highlight=False)
    with ExitStack() as stack:
        with _step(console, "Start a PostgreSQL server in a temporary folder"):
            server = stack.enter_context(EmbeddedPostgres())
        with _step(console, f"Fill pgbench's tables: {ACCOUNTS:,} accounts"):
            _fill(server.connection_string)
        path = _write_wrangler_file(server)
        console.print(f"Write {path}")
        with _step(console, "Resolve its binding HYPERDRIVE, start the proxy"):
            proxy = stack.enter_context(_proxy(path, limit))
        # Now the name leads to this one: a proxy's own address needs no other in front of it.
        os.environ[f"HYPERDRIVE_URL_{DEFAULT_BINDING}"] = proxy.connection_string
        origin = f"{server.connection_string}?sslmode=disable"
        _show_tables(console)
        _show_load(console, origin, proxy.connection_string, Load(clients, seconds), limit)
        _show_connections(console, origin)
        _show_latencies(console, origin, proxy.connection_string)
        with _step(console, "Stop it all, remove the temporary folder"):
            stack.close()


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    started = time.perf_counter()
    with console.status(text, spinner="line"):
        yield
    console.print(f"{text} ... [green]{time.perf_counter() - started:.1f} s[/]")


def _fill(url: str) -> None:
    with psycopg.connect(url) as connection:
        for statement in FILL:
            connection.execute(statement)


def _write_wrangler_file(server: EmbeddedPostgres) -> Path:
    """In the server's folder, which goes with it even if this process is killed."""
    folder = server.socket_directory / "worker"
    folder.mkdir(mode=0o700)
    path = folder / "wrangler.jsonc"
    path.write_text(WRANGLER_FILE % json.dumps(server.connection_string))
    return path


def _proxy(path: Path, limit: int) -> Proxy:
    for prefix in PREFIXES:  # they would win over the file
        os.environ.pop(f"{prefix}_{DEFAULT_BINDING}", None)
    return Proxy(DEFAULT_BINDING, config=path, env="", origin_connection_limit=limit)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise HyperdriveError(f"the demo has failed: {what}")


# The query of the page's examples, with both ways of connecting.


def _show_tables(console: Console) -> None:
    with connect("HYPERDRIVE") as connection:
        rows = connection.execute(TABLES).fetchall()
    engine = sqlalchemy.create_engine("hyperdrive://HYPERDRIVE")
    with engine.connect() as alchemy:
        result = alchemy.execute(sqlalchemy.text(TABLES))
        names = list(result.keys())
        same = [tuple(row) for row in result]
    engine.dispose()
    _check(rows == same, "psycopg and SQLAlchemy got different rows")
    table = Table(*names[:3], title=TABLES)
    for row in rows:
        if row[0] == "public":
            table.add_row(*row[:3])
    console.print()
    console.print(table)
    console.print(
        f"and {len(rows) - table.row_count} of PostgreSQL's own; the same through\n"
        'psycopg      hyperdrive_client.connect("HYPERDRIVE")\n'
        'SQLAlchemy   sqlalchemy.create_engine("hyperdrive://HYPERDRIVE")\n',
        markup=False,
    )


# Many clients.


@contextmanager
def event_loop() -> Iterator[asyncio.Runner]:
    """An event loop, whole: one that Ctrl-C leaves half made complains when it is given up."""
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: told.append(number))
    try:
        runner = asyncio.Runner()
        runner.get_loop()
    finally:
        signal.signal(signal.SIGINT, before)
    with runner:
        if told:
            raise KeyboardInterrupt
        yield runner


def _show_load(console: Console, origin: str, url: str, load: Load, limit: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        try:
            with event_loop() as runner:
                runner.run(_run(origin, url, load, bar))
        except* (psycopg.Error, OSError) as failures:
            raise HyperdriveError(f"the demo has failed: {failures.exceptions[0]}") from failures
    with psycopg.connect(origin) as connection:
        ((committed, *balances),) = connection.execute(BALANCES)
        ((server_limit,),) = connection.execute("SHOW max_connections")
    _check(load.most_connections <= limit, f"{load.most_connections} origin connections")
    _check(committed == load.transactions, f"{committed} of {load.transactions} transactions")
    _check(len(set(balances)) == 1, f"the sums of the balances are {balances}")
    table = Table(title="Many clients, few origin connections", show_header=False)
    table.add_row("clients at once", f"{load.clients}")
    table.add_row("their transactions", f"{load.transactions:,} of TPC-B's kind, as in pgbench")
    table.add_row("per second", f"{load.transactions / load.seconds:,.0f}")
    table.add_row("failed", "0, and the sums of all balances agree")
    table.add_row("max_connections of the origin", server_limit)
    table.add_row("the proxy's limit", f"{limit}")
    table.add_row(
        "origin connections at most",
        f"{load.most_connections}, in {load.samples} looks at pg_stat_activity",
    )
    console.print(table)


async def _run(origin: str, url: str, load: Load, bar: Progress) -> None:
    ready = asyncio.Barrier(load.clients + 1)
    async with asyncio.TaskGroup() as group:
        for _ in range(load.clients):
            group.create_task(_client(url, ready, load))
        watch = group.create_task(_watch(origin, ready, load, bar))
    load.seconds = time.monotonic() - watch.result()


async def _client(url: str, ready: asyncio.Barrier, load: Load) -> None:
    """An unmodified psycopg, one transaction after the other."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await ready.wait()
        end = time.monotonic() + load.seconds
        while time.monotonic() < end:
            values = {
                "aid": random.randint(1, ACCOUNTS),
                "tid": random.randint(1, TELLERS),
                "bid": random.randint(1, BRANCHES),
                "delta": random.randint(-5000, 5000),
            }
            async with connection.transaction():
                for statement in TRANSACTION:
                    await connection.execute(statement, values)
            load.transactions += 1


async def _watch(origin: str, ready: asyncio.Barrier, load: Load, bar: Progress) -> float:
    """Look at the origin, past the proxy, while the clients are at work; when they began."""
    task = bar.add_task(f"{load.clients} clients connect", total=load.seconds)
    async with await AsyncConnection.connect(origin, autocommit=True) as connection:
        await ready.wait()
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < load.seconds:
            ((count,),) = await (await connection.execute(COUNT)).fetchall()
            load.samples += 1
            load.most_connections = max(load.most_connections, count)
            text = f"{load.clients} clients, {count} origin connections, {load.transactions} done"
            bar.update(task, completed=elapsed, description=text)
            await asyncio.sleep(SAMPLE_SECONDS)
        return started


def _show_connections(console: Console, origin: str) -> None:
    with psycopg.connect(origin) as connection:
        cursor = connection.execute(IDENTIFY)
        table = Table(*(column.name for column in cursor.description or ()), title="At the origin")
        for row in cursor:
            table.add_row(*row)
    _check(table.row_count == 1, "the origin does not know its connections as Hyperdrive's")
    console.print()
    console.print(IDENTIFY, style="dim", soft_wrap=True)
    console.print(table)


# Latency.


def _show_latencies(console: Console, origin: str, url: str) -> None:
    urls = {"direct": origin, "through the proxy": url}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
    for _ in range(LATENCY_ROUNDS):
        for name, each in urls.items():
            times[name].append(_connect_and_query(each))
    table = Table(
        "milliseconds, median",
        "connect",
        "connect + query",
        title=f"{LATENCY_ROUNDS} new connections each, taking turns",
    )
    for name, pairs in times.items():
        connects, totals = (statistics.median(column) for column in zip(*pairs, strict=True))
        table.add_row(name, f"{connects:.2f}", f"{totals:.2f}")
    console.print()
    console.print(table)
    console.print(
        "All over loopback, where a round trip costs next to nothing: the difference\n"
        "is what PostgreSQL does for a new connection, less what the proxy does.\n"
        "A network's round trips, which the proxy saves, do not show here.\n"
    )


def _connect_and_query(url: str) -> tuple[float, float]:
    """Milliseconds until connected, and until the first answer."""
    started = time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        connected = time.perf_counter()
        connection.execute("SELECT 1").fetchone()
        answered = time.perf_counter()
    return 1000 * (connected - started), 1000 * (answered - started)
