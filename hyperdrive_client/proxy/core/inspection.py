"""Asking an origin connection whether a read is a read there, and in which isolation level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .read_back import rows_of
from .statements import Change

if TYPE_CHECKING:
    from .origin_session import OriginSession

# In seconds: what others do to the catalogue counts from then on.
MAX_AGE = 1.0

# The default isolation level; and whether a read may do more than read: by a foreign table, or by a
# volatile function of the database's own behind a view, a policy, an operator or a cast.
QUERY = b"""
SELECT 'isolation', reset_val FROM pg_catalog.pg_settings
WHERE name OPERATOR(pg_catalog.=) 'default_transaction_isolation'
UNION ALL
SELECT 'acts', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_foreign_table) OR EXISTS (
SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p
ON p.oid OPERATOR(pg_catalog.=) d.refobjid
WHERE d.refclassid OPERATOR(pg_catalog.=) 1255::pg_catalog.oid
AND d.classid OPERATOR(pg_catalog.=) ANY (
  ARRAY[2618::pg_catalog.oid, 3256::pg_catalog.oid, 2617::pg_catalog.oid, 2605::pg_catalog.oid])
AND p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
AND p.provolatile OPERATOR(pg_catalog.=) 'v')"""


class Inspection(Change):
    """The query's rows, and what follows from them."""

    __slots__ = ("_now", "_origin", "rows")

    def __init__(self, origin: OriginSession, now: float) -> None:
        self._origin = origin
        self._now = now
        self.rows = bytearray()

    def confirm(self) -> None:
        found = dict(rows_of(self.rows))
        self._origin.inspected_at = self._now
        isolation = found.get(b"isolation", b"")
        self._origin.reads_may_act = b"acts" in found or isolation not in (
            b"read committed",
            b"read uncommitted",
        )

    def undo(self, origin: OriginSession, *, failed: bool) -> None:
        """Nothing is known then."""
