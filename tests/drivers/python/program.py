"""What the programs have in common: the values, the case on the command line, the exit code."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

URL = os.environ.get("DATABASE_URL", "")
ID = os.getpid() * 1000
HAS_NO_SUCH_THING = 77
ORIGIN_CONNECTIONS = 5
CANCELLED_SECONDS = 5.0

COLUMNS = (
    "id, small, medium, large, exact, single, double, truth, words, bytes, document, documents, "
    "numbers, labels, moment, nothing"
)
DOCUMENT = {"key": [1, 2.5, None, True, "ä"], "empty": {}}
VALUES: dict[str, Any] = {
    "id": ID,
    "small": -32768,
    "medium": 2147483647,
    "large": -9223372036854775808,
    "exact": decimal.Decimal("12345678901234567890.123456789"),
    "single": 1.5,
    "double": 2.718281828459045,
    "truth": True,
    "words": "Grüße, \\ ' \" 猫 \U0001f418\n",
    "bytes": bytes(range(256)),
    "document": DOCUMENT,
    "documents": DOCUMENT,
    "numbers": [1, None, -3],
    "labels": ["a", 'b "c", {d}', "ü", None],
    "moment": datetime.datetime(2024, 2, 29, 23, 59, 59, 123456, datetime.UTC),
    "nothing": None,
}
WRONG = {
    "23505": "INSERT INTO driver_cached VALUES (1, 'again')",
    "42P01": "SELECT * FROM driver_absent",
    "22012": "SELECT 1 / 0",
}
SLEEP = "SELECT pg_backend_pid(), pg_sleep(0.05)"


def same(got: object, expected: object) -> None:
    if got != expected:
        raise AssertionError(f"got {got!r}, expected {expected!r}")


def same_process_ids(pids: list[int]) -> None:
    """Of 50 connections' two answers each."""
    same(len(pids), 100)
    if len(set(pids)) > ORIGIN_CONNECTIONS:
        raise AssertionError(f"{len(set(pids))} origin connections answered")


def run(cases: Mapping[str, Callable[[], None]]) -> None:
    name = sys.argv[1]
    if name not in cases:
        sys.exit(HAS_NO_SUCH_THING)
    cases[name]()


def run_async(cases: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]) -> None:
    def awaited(case: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        return lambda: asyncio.run(case())

    run({name: awaited(case) for name, case in cases.items()})
