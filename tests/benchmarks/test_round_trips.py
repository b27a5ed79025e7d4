"""The rows of the table of round trips that are promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "round_trips.py"

Rows = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    done = subprocess.run(
        [sys.executable, PROGRAM, "--json"], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return {row.pop("what"): row for row in json.loads(done.stdout)["rows"]}


def test_connecting_takes_one_and_none_at_the_origin(rows: Rows) -> None:
    assert rows["psycopg: connect"] == {"stock": 3, "client": 1, "waited": 0, "origin": 0}


@pytest.mark.parametrize(
    "what",
    [
        "psycopg: `SELECT`, commit",
        "psycopg: `SELECT`, rollback, while anything is prepared",
        "psycopg: `TypeInfo.fetch`",
        "psycopg_pool: `connection()`, `SELECT`",
        "psycopg_pool: with `check=check_connection`",
        "SQLAlchemy: later checkout, `SELECT`, commit",
        "SQLAlchemy: later checkout with asyncio",
        "SQLAlchemy: with `pool_pre_ping=True`",
    ],
)
def test_a_read_transaction_waits_for_one_at_the_origin(rows: Rows, what: str) -> None:
    assert rows[what]["waited"] == 1
    assert rows[what]["origin"] == 2


@pytest.mark.parametrize(
    "what",
    [
        "SQLAlchemy: first connect of an engine",
        'SQLAlchemy: with `isolation_level="AUTOCOMMIT"`',
        "SQLAlchemy: with `use_native_hstore=True`",
        "SQLAlchemy: first connect with asyncio",
    ],
)
def test_the_first_connect_of_an_engine_takes_two(rows: Rows, what: str) -> None:
    assert rows[what]["client"] == 2
    assert rows[what]["waited"] == 1
    assert rows[what]["stock"] >= 10


def test_a_later_checkout_adds_nothing_to_the_statements(rows: Rows) -> None:
    assert rows['SQLAlchemy: with `isolation_level="AUTOCOMMIT"`, later']["client"] == 1
    assert rows["SQLAlchemy: later checkout, `SELECT`, commit"]["client"] == 3


def test_the_client_never_has_more_than_without_the_proxy(rows: Rows) -> None:
    assert [what for what, row in rows.items() if row["client"] > row["stock"]] == []
