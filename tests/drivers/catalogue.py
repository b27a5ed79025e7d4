"""The drivers that are run; a new one is one line here and one program in its language's folder."""

from __future__ import annotations

import sys
from typing import NamedTuple


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

DRIVERS = (
    Driver("node-postgres Client", NODE, ("node", "node_postgres.mjs", "client")),
    Driver("node-postgres Pool", NODE, ("node", "node_postgres.mjs", "pool")),
    Driver("Postgres.js", NODE, ("node", "postgres_js.mjs", "prepare")),
    Driver("Postgres.js unprepared", NODE, ("node", "postgres_js.mjs", "unprepared")),
    Driver("Drizzle over pg", NODE, ("node", "drizzle_pg.mjs")),
    Driver("Drizzle over Postgres.js", NODE, ("node", "drizzle_postgres_js.mjs")),
    Driver("Kysely", NODE, ("node", "kysely.mjs")),
    Driver("Prisma", NODE, ("node", "prisma.mjs")),
    Driver("psycopg", PYTHON, (sys.executable, "run_psycopg.py")),
    Driver("psycopg2", PYTHON, (sys.executable, "run_psycopg2.py")),
    Driver("asyncpg", PYTHON, (sys.executable, "run_asyncpg.py")),
    Driver("pg8000", PYTHON, (sys.executable, "run_pg8000.py")),
)
