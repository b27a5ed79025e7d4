"""Each Worker in wrangler dev, straight to a PostgreSQL of its own and by ``hyperdrive env``.

``python -m wrangler NODE_MODULES``: where npm has installed package.json's packages.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from hyperdrive_client.origin import EmbeddedPostgres

from .activity import HYPERDRIVE, Activity
from .project import SECONDS, Project, Worker

SEEDS = ("node-postgres", "postgres-js")
NAME = "Cloudflare Hyperdrive"
LIMIT = 5
REQUESTS = 100
SERVER = {"wal_level": "logical", "max_connections": "200"}
TABLE = """
    CREATE TABLE product (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO product VALUES (1, 'tea')"""
CREATE = (
    *("create", "my-first-hyperdrive", "--connection-string", "-", "--binding", "HYPERDRIVE"),
    f"--origin-connection-limit={LIMIT}",
)

Rows = Counter[str]


class Run:
    def __init__(self, project: Project, origin: str) -> None:
        self.project = project
        self.origin = origin
        self.failed = False

    def play(self) -> None:
        with psycopg.connect(self.origin, autocommit=True) as connection:
            connection.execute(TABLE)
        print(self.project.hyperdrive(*CREATE, said=self.origin), end="")
        print(self.project.hyperdrive("doctor", "HYPERDRIVE", "--setup"))
        for worker in SEEDS:
            self.seed(worker)
        self.products()
        with psycopg.connect(self.origin) as connection:
            users = connection.execute(HYPERDRIVE).fetchall()
        print(f"\n{HYPERDRIVE}\n{users}")
        self.check("the connections have the origin's user", users == [("postgres", NAME)])

    def seed(self, name: str) -> None:
        """A Worker of the page answers by the proxy as it does without one."""
        print(f"\n{name}")
        with self.project.dev(name, self.origin) as worker:
            direct = tables(worker.get())
            _, activity = self.load(worker)
            print(f"  without a proxy    {activity.all} connections at the origin")
        with self.project.dev(name) as worker:
            first = tables(worker.get())
            answers, activity = self.load(worker)
        self.check(f"the {len(direct)} rows are those without a proxy", first == direct)
        self.check(f"so are {REQUESTS} answers", all(tables(each) == direct for each in answers))
        self.check_limit(activity)

    def products(self) -> None:
        """The Worker that writes: the cache knows."""
        print("\nproducts")
        with self.project.dev("products") as worker:
            self.await_cache()
            self.read(worker, "tea", "miss")
            self.read(worker, "tea", "hit")
            worker.put("/1", b"green tea")
            self.read(worker, "green tea", "miss")
            self.read(worker, "green tea", "hit")
            answers, activity = self.load(worker, "/1")
        expected = product("green tea")
        self.check(f"so do {REQUESTS} more", all(json.loads(each) == expected for each in answers))
        self.check_limit(activity)
        print(f"  the cache's counts: {dict(self.statuses())}")

    def read(self, worker: Worker, name: str, status: str) -> None:
        before = self.statuses()
        answer = json.loads(worker.get("/1"))
        seen = dict(self.statuses() - before)
        right = answer == product(name) and seen == {status: 1}
        self.check(f"{status}: {json.dumps(answer)}, counted as {seen}", right)

    def load(self, worker: Worker, path: str = "/") -> tuple[list[bytes], Activity]:
        """The answers to 100 parallel requests, and what was seen at the origin meanwhile."""
        with Activity(self.origin) as activity, ThreadPoolExecutor(REQUESTS) as threads:
            answers = list(threads.map(worker.get, [path] * REQUESTS))
        return answers, activity

    def statuses(self) -> Counter[str]:
        """How often the cache has given each status, by ``hyperdrive status``."""
        [proxy] = json.loads(self.project.hyperdrive("status", "--json"))
        return Counter(proxy["cache"])

    def await_cache(self) -> None:
        """Return when the proxy has found out what the cache can be at its origin."""
        proxy = self.project.hyperdrive("url").strip()
        with psycopg.connect(proxy, autocommit=True) as connection:
            connection.prepare_threshold = None
            deadline = time.monotonic() + SECONDS
            while ("mode", "wal") not in (said := show(connection)):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the proxy has no cache: {said}")

    def check_limit(self, activity: Activity) -> None:
        self.check(
            f"at most {activity.hyperdrive} connections of Cloudflare Hyperdrive under {REQUESTS} "
            f"parallel requests ({activity.looks} looks), where {LIMIT} are allowed",
            0 < activity.hyperdrive <= LIMIT,
        )

    def check(self, what: str, holds: bool) -> None:
        print(f"  {'ok    ' if holds else 'FAILED'} {what}", flush=True)
        self.failed |= not holds


def show(connection: psycopg.Connection) -> list[tuple[str, str]]:
    return connection.execute("SHOW hyperdrive.cache").fetchall()


def product(name: str) -> list[Mapping[str, object]]:
    return [{"id": 1, "name": name}]


def tables(answer: bytes) -> Rows:
    """The rows of pg_tables that a Worker of the page has answered, in no order."""
    said = json.loads(answer)
    assert said["success"] is True, said
    assert said["result"], "pg_tables has rows"
    return Counter(json.dumps(row, sort_keys=True) for row in said["result"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="wrangler", description=__doc__)
    parser.add_argument("node_modules", type=Path)
    options = parser.parse_args()
    with EmbeddedPostgres(settings=SERVER) as postgres:
        with Project(options.node_modules) as project:
            run = Run(project, postgres.connection_string)
            run.play()
        print("\nafterwards")
        left = project.processes()
        run.check(f"no process is left {left or ''}", not left)
    print("FAILED" if run.failed else "passed")
    sys.exit(run.failed)


if __name__ == "__main__":
    main()
