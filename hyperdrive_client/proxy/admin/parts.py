"""What one worker has to say at the console, and what all of them say together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..core.snapshots import Table


class Purged(NamedTuple):
    """How many answers were forgotten."""

    answers: int


class Reconnected(NamedTuple):
    """Origin connections end when nobody uses them."""


Part = Table | Purged | Reconnected

# What is the same for all workers, or for people to compare.
_NOT_ADDED = frozenset(
    ("origin_connection_limit", "max_age", "stale_while_revalidate", "mode", "mode_reason")
)


def to_json(part: Part) -> Any:
    """In terms of JSON: its kind, and its fields."""
    return [type(part).__name__, *part]


def from_json(values: Any) -> Part:
    """The inverse of :func:`to_json`."""
    match values:
        case ["Table", columns, rows]:
            return Table(tuple(columns), [tuple(row) for row in rows])
        case ["Purged", answers]:
            return Purged(answers)
    return Reconnected()


def merged(parts: Sequence[Part]) -> Part:
    """All workers' parts of one answer as one."""
    first = parts[0]
    if isinstance(first, Purged):
        return Purged(sum(part.answers for part in parts if isinstance(part, Purged)))
    if isinstance(first, Table):
        return _together([part for part in parts if isinstance(part, Table)])
    return first


def _together(tables: Sequence[Table]) -> Table:
    columns = tables[0].columns
    rows = [row for table in tables for row in table.rows]
    if columns[0] == "pid":
        return Table(columns, sorted(rows, key=lambda row: int(str(row[0]))))
    found: dict[object, list[tuple[object, ...]]] = {}
    for name, *values in rows:
        found.setdefault(name, []).append(tuple(values))
    return Table(
        columns,
        [
            (name, *(_one(name, values) for values in zip(*each, strict=True)))
            for name, each in found.items()
        ],
    )


def _one(name: object, values: tuple[object, ...]) -> object:
    if name in _NOT_ADDED:
        return ", ".join(dict.fromkeys(str(value) for value in values if value != ""))
    if all(isinstance(value, int) for value in values):
        return sum(int(str(value)) for value in values)
    return f"{sum(float(str(value)) for value in values):.3f}"
