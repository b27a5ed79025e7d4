"""The drivers that are run; a new one is one line here and one program in its language's folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

# Misses and hits of a driver that asks for a statement's types before it binds them: Parse,
# Describe and Flush (PostgreSQL documentation, "Extended Query"). Who is the first goes to the
# origin for it, and stays there for the rows; all others are told by the proxy.
TYPES_FIRST = (1, 1)
# Of one that sends each step of a statement with a Sync of its own.
NEVER_WHOLE = (0, 0)


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
    misses: int = 1
    hits: int = 2
    """Of two reads of a row on one connection and one more on another; else ``cache`` fails."""


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
    Driver("Postgres.js", NODE, ("node", "postgres_js.mjs", "prepare"), *TYPES_FIRST),
    Driver("Postgres.js unprepared", NODE, ("node", "postgres_js.mjs", "unprepared"), *TYPES_FIRST),
    Driver("Drizzle over pg", NODE, ("node", "drizzle_pg.mjs")),
    Driver("Drizzle over Postgres.js", NODE, ("node", "drizzle_postgres_js.mjs"), *TYPES_FIRST),
    Driver("Kysely", NODE, ("node", "kysely.mjs")),
    Driver("Prisma", NODE, ("node", "prisma.mjs")),
    Driver("psycopg", PYTHON, (sys.executable, "run_psycopg.py")),
    Driver("psycopg2", PYTHON, (sys.executable, "run_psycopg2.py")),
    Driver("asyncpg", PYTHON, (sys.executable, "run_asyncpg.py"), *TYPES_FIRST),
    Driver("pg8000", PYTHON, (sys.executable, "run_pg8000.py"), *NEVER_WHOLE),
    Driver("rust-postgres", RUST, ("target/debug/driver", "query")),
    Driver("rust-postgres query_typed", RUST, ("target/debug/driver", "query_typed")),
    Driver("pgjdbc", JAVA, PGJDBC),
    # A first answer is in text, which tells it the types to ask for in binary: another answer.
    Driver("pgjdbc binary", JAVA, (*PGJDBC, "prepareThreshold=1", "binaryTransfer=true"), 2, 1),
    Driver("pgx", GO, ("./pgx",)),
    Driver("pgx exec", GO, ("./pgx", "exec")),
    Driver("pgx simple_protocol", GO, ("./pgx", "simple_protocol")),
)
