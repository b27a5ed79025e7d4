"""TPC-B's transactions while the origin is restarted again and again: nothing is lost or invented.

``FAULT_RESTARTS`` sets how many times; ``nox -s faults`` prints the figures.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg

from hyperdrive_client.origin import EmbeddedPostgres

if TYPE_CHECKING:
    from .conftest import Connection, Front, StartProxy

RESTARTS = int(os.environ.get("FAULT_RESTARTS", "10"))
WAYS = ("fast", "immediate", "kill")
CLIENTS = 8
TELLERS = 10
ACCOUNTS = 1000
# Between two restarts so many transactions are committed at least.
COMMITS = 200

TABLES = f"""
CREATE TABLE branch (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE teller (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE history (id uuid PRIMARY KEY, delta int NOT NULL);
INSERT INTO branch VALUES (1, 0);
INSERT INTO teller SELECT id, 0 FROM generate_series(1, {TELLERS}) AS id;
INSERT INTO account SELECT id, 0 FROM generate_series(1, {ACCOUNTS}) AS id;
"""
# The branch last: its lock is what the others wait for.
STATEMENTS = (
    "UPDATE account SET balance = balance + %(delta)s WHERE id = %(account)s",
    "SELECT balance FROM account WHERE id = %(account)s",
    "INSERT INTO history VALUES (%(id)s, %(delta)s)",
    "UPDATE teller SET balance = balance + %(delta)s WHERE id = %(teller)s",
    "UPDATE branch SET balance = balance + %(delta)s WHERE id = 1",
)


class Client:
    """One connection's transactions, and what became of each by its own knowledge."""

    def __init__(self, proxy: Front, seed: int) -> None:
        self.proxy = proxy
        self.random = random.Random(seed)
        self.committed: set[UUID] = set()
        self.failed: set[UUID] = set()
        """Failed before COMMIT was sent."""
        self.unknown: set[UUID] = set()
        """Failed in COMMIT."""
        self.reasons: Counter[tuple[str, str | None]] = Counter()
        """How many transactions failed where, with which SQLSTATE."""
        self.reconnected = 0
        self.last_words: str | None = None
        """SQLSTATE of a FATAL error that came between two statements."""
        self.connection: Connection | None = None

    def run(self, ends: threading.Event) -> None:
        while not ends.is_set():
            if self.connection is None or self.connection.closed:
                self._connect()
            if self.connection is not None:
                self._transact(self.connection)
        if self.connection is not None:
            self.connection.close()

    def _connect(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        try:
            self.connection = self.proxy.connect()
            self.connection.add_notice_handler(self._hear)
            self.last_words = None
            self.reconnected += 1
        except psycopg.OperationalError:
            self.reasons["connect", ""] += 1

    def _hear(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        # libpq takes for a notice what comes in the same read as the end of the answer before it.
        if diagnostic.severity_nonlocalized == "FATAL":
            self.last_words = diagnostic.sqlstate

    def _transact(self, connection: Connection) -> None:
        uid = uuid4()
        values: dict[str, Any] = {
            "id": uid,
            "delta": self.random.randint(-5000, 5000),
            "account": self.random.randint(1, ACCOUNTS),
            "teller": self.random.randint(1, TELLERS),
        }
        try:
            for statement in STATEMENTS:
                connection.execute(statement, values)
        except psycopg.Error as error:
            self.failed.add(uid)
            self.reasons["statement", error.sqlstate or self.last_words] += 1
            if not connection.closed:
                connection.rollback()
            return
        try:
            connection.commit()
        except psycopg.Error as error:
            self.unknown.add(uid)
            self.reasons["commit", error.sqlstate or self.last_words] += 1
            if not connection.closed:
                connection.rollback()
            return
        self.committed.add(uid)


def test_no_transaction_is_lost_or_invented(
    server: EmbeddedPostgres,
    start_proxy: StartProxy,
    break_down: Callable[[str], None],
    wait_until: Callable[..., float],
) -> None:
    proxy = start_proxy(origin_connection_limit=5)
    with proxy.at_origin() as admin:
        admin.execute("DROP TABLE IF EXISTS branch, teller, account, history")
        admin.execute(TABLES)
    clients = [Client(proxy, seed) for seed in range(CLIENTS)]
    ends = threading.Event()
    threads = [threading.Thread(target=client.run, args=(ends,), daemon=True) for client in clients]

    def committed() -> int:
        return sum(len(client.committed) for client in clients)

    began = time.monotonic()
    pauses: dict[str, list[float]] = {how: [] for how in WAYS}
    for thread in threads:
        thread.start()
    try:
        for turn in range(RESTARTS):
            before = committed()
            wait_until(lambda before=before: committed() >= before + COMMITS, 60)
            how = WAYS[turn % len(WAYS)]
            break_down(how)
            server.start()
            accepts, before = time.monotonic(), committed()
            first = wait_until(lambda before=before: committed() > before, 60)
            pauses[how].append(first - accepts)
    finally:
        ends.set()
        for thread in threads:
            thread.join(20)
    stuck = [c.connection for c, thread in zip(clients, threads, strict=True) if thread.is_alive()]
    assert not stuck, f"{stuck}: {proxy.core.clients} {proxy.pool.origins} {proxy.pool.waiting}"
    took = time.monotonic() - began

    with proxy.at_origin() as admin:
        sums = [
            admin.execute(f"SELECT coalesce(sum({column}), 0) FROM {table}").fetchone()  # type: ignore[arg-type]
            for table, column in (
                ("branch", "balance"),
                ("teller", "balance"),
                ("account", "balance"),
                ("history", "delta"),
            )
        ]
        there = {row[0] for row in admin.execute("SELECT id FROM history").fetchall()}
    done = set[UUID]().union(*(client.committed for client in clients))
    failed = set[UUID]().union(*(client.failed for client in clients))
    unknown = set[UUID]().union(*(client.unknown for client in clients))
    reasons = sum((client.reasons for client in clients), Counter[tuple[str, str | None]]())
    print(
        f"\n{RESTARTS} restarts in {took:.1f} s, {CLIENTS} clients, 5 origin connections\n"
        f"  committed {len(done)}, of which {len(done - there)} are not there\n"
        f"  failed before COMMIT {len(failed)}, of which {len(failed & there)} are there\n"
        f"  failed in COMMIT {len(unknown)}, of which {len(unknown & there)} are there\n"
        f"  sums {[int(total) for (total,) in sums]}\n"  # type: ignore[misc]
        f"  connections {sum(client.reconnected for client in clients)}, errors "
        + ", ".join(f"{stage} {state}: {count}" for (stage, state), count in reasons.items())
    )
    for how, seconds in pauses.items():
        figures = ", ".join(f"{pause:.2f}" for pause in seconds)
        print(f"  {how}: seconds from accepting to the first commit: {figures}")
    assert len(set(sums)) == 1
    assert not done - there
    assert not failed & there
    assert there == done | (unknown & there)
    assert all(state is not None for _, state in reasons)
    if "FAULT_RESTARTS" in os.environ:
        # A figure for a machine that does nothing else.
        assert all(pause <= 1.0 for seconds in pauses.values() for pause in seconds)
    assert len(done) >= RESTARTS * COMMITS
