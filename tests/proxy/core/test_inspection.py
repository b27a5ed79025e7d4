"""Asking an origin connection whether its reads are reads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.core.inspection import QUERY, Inspection


def row(name: str, value: str) -> bytes:
    columns = (name.encode(), value.encode())
    body = b"".join(m.INT32.pack(len(column)) + column for column in columns)
    return m.message(m.DATA_ROW, b"\x00\x02" + body)


def inspected(*rows: bytes) -> SimpleNamespace:
    origin = SimpleNamespace(reads_may_act=True, inspected_at=float("-inf"))
    inspection = Inspection(origin, 7.0)
    inspection.rows += b"".join(rows)
    inspection.confirm()
    return origin


@pytest.mark.parametrize("level", ["read committed", "read uncommitted"])
def test_reads_are_reads_where_each_has_a_snapshot_of_its_own(level):
    origin = inspected(row("isolation", level))
    assert (origin.reads_may_act, origin.inspected_at) == (False, 7.0)


@pytest.mark.parametrize("level", ["repeatable read", "serializable", ""])
def test_not_in_another_isolation_level(level):
    assert inspected(row("isolation", level)).reads_may_act


def test_not_where_a_foreign_table_or_a_volatile_function_may_be_behind_one():
    assert inspected(row("isolation", "read committed"), row("acts", "")).reads_may_act


def test_not_where_nothing_was_said():
    assert inspected().reads_may_act


def test_one_that_fails_changes_nothing():
    origin = SimpleNamespace(reads_may_act=True, inspected_at=3.0)
    Inspection(origin, 7.0).undo(origin, failed=True)
    assert (origin.reads_may_act, origin.inspected_at) == (True, 3.0)


def test_every_name_in_it_is_qualified():
    assert b" = " not in QUERY
    assert b" >= " not in QUERY
    assert b"FROM pg_foreign" not in QUERY
