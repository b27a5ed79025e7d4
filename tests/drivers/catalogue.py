"""The drivers that are run; a new one is one line here and one program in its language's folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# How the cache sees two reads on one connection and one more on another.
MISS_THEN_HITS = {"miss": 1, "hit": 2}
# A read's first run on a connection is two requests, of which none is a whole read: Parse, Describe
# and Flush, whose answer the driver waits for, then Bind, Execute and Sync (PostgreSQL
# documentation, "Extended Query"). Later runs of the prepared statement are whole.
FIRST_IN_TWO = {"uncacheable": 2, "miss": 1}
ALWAYS_IN_TWO = {"uncacheable": 3}
# Parse, Describe, Bind and Execute each with a Sync or an answer of its own.
ALWAYS_IN_THREE = {"uncacheable": 9}


class Language(NamedTuple):
    """A folder beside this file, copied to where it may be built, and built there."""

    folder: str
    tools: tuple[str, ...] = ()
    """Programs that must be there to build and to run it."""
    debian: tuple[str, ...] = ()
    """Packages that are installed first if they are not there and the user is root."""
    build: tuple[tuple[str, ...], ...] = ()
    """Commands, run in the copy, whose folder is ``drivers`` of nox's cache or a temporary one."""


class Driver(NamedTuple):
    name: str
    language: Language
    command: tuple[str, ...]
    """Run in the copy, with the case as one more argument."""
    statuses: Mapping[str, int] = MISS_THEN_HITS
    """Of the case ``cache``; others are a failure, better ones too."""


PYTHON = Language("python")
NODE = Language(
    "node",
    tools=("node", "npm"),
    debian=("nodejs", "npm"),
    build=(
        ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"),
        ("npm", "run", "--silent", "generate"),
    ),
)
# Relative to the copy, in which debian.py leaves them.
JAR = "root/usr/share/java/postgresql.jar"
DEBIAN = (sys.executable, str(Path(__file__).with_name("debian.py")))
RUST = Language(
    "rust",
    tools=("cargo", "cc"),
    debian=("cargo", "gcc", "libc6-dev"),
    build=((*DEBIAN, "librust-.*", "librust-postgres-dev"), ("cargo", "build", "--quiet")),
)
JAVA = Language(
    "java",
    tools=("java", "javac"),
    debian=("default-jdk-headless",),
    build=(
        (*DEBIAN, "libpostgresql-jdbc-java", "libpostgresql-jdbc-java"),
        ("javac", "-Xlint:all", "-Werror", "-cp", JAR, "Pgjdbc.java"),
    ),
)
PGJDBC = ("java", "-cp", f"{JAR}:.", "Pgjdbc")
GO = Language(
    "go",
    build=(
        (*DEBIAN, "golang-.*", "golang-github-jackc-pgx-v5-dev", "golang-go"),
        ("sh", "build.sh"),
    ),
)

DRIVERS = (
    Driver("node-postgres Client", NODE, ("node", "node_postgres.mjs", "client")),
    Driver("node-postgres Pool", NODE, ("node", "node_postgres.mjs", "pool")),
    Driver("Postgres.js", NODE, ("node", "postgres_js.mjs", "prepare"), FIRST_IN_TWO),
    Driver(
        "Postgres.js unprepared", NODE, ("node", "postgres_js.mjs", "unprepared"), ALWAYS_IN_TWO
    ),
    Driver("Drizzle over pg", NODE, ("node", "drizzle_pg.mjs")),
    Driver("Drizzle over Postgres.js", NODE, ("node", "drizzle_postgres_js.mjs"), ALWAYS_IN_TWO),
    Driver("Kysely", NODE, ("node", "kysely.mjs")),
    Driver("Prisma", NODE, ("node", "prisma.mjs")),
    Driver("psycopg", PYTHON, (sys.executable, "run_psycopg.py")),
    Driver("psycopg2", PYTHON, (sys.executable, "run_psycopg2.py")),
    Driver("asyncpg", PYTHON, (sys.executable, "run_asyncpg.py"), FIRST_IN_TWO),
    Driver("pg8000", PYTHON, (sys.executable, "run_pg8000.py"), ALWAYS_IN_THREE),
    Driver("rust-postgres", RUST, ("target/debug/driver", "query")),
    Driver("rust-postgres query_typed", RUST, ("target/debug/driver", "query_typed")),
    Driver("pgjdbc", JAVA, PGJDBC),
    # A first answer is in text, which tells it the types to ask for in binary: another answer.
    Driver(
        "pgjdbc binary",
        JAVA,
        (*PGJDBC, "prepareThreshold=1", "binaryTransfer=true"),
        {"miss": 2, "hit": 1},
    ),
    Driver("pgx", GO, ("./pgx",)),
    Driver("pgx exec", GO, ("./pgx", "exec")),
    Driver("pgx simple_protocol", GO, ("./pgx", "simple_protocol")),
)
