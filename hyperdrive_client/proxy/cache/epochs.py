"""One counter per table, raised by every write to it that is known of.

The counters may lie in memory that several workers share: each table has one 64-bit counter per
worker, which only that worker writes, so none waits for another. A table's epoch is all of them.
Tables share a slot where their hashes meet; then a write to one counts for the other as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from mmap import mmap

SLOTS = 4096
"""Slots for tables; slot 0 is for what concerns them all."""

# Rows behind those of the tables.
_CATALOGUE_CHANGES = SLOTS + 1
_UNCERTAIN = SLOTS + 2
_ROWS = SLOTS + 3

Vector = tuple[int, ...]


class Epochs:
    """``memory`` has :meth:`size` bytes for them; without it, they are this worker's own.

    ``worker`` is the column that is written to.
    """

    @staticmethod
    def size(workers: int) -> int:
        """Of the memory that ``workers`` share for them, in bytes."""
        return _ROWS * workers * 8

    def __init__(self, memory: mmap | None = None, worker: int = 0, workers: int = 1) -> None:
        if not 0 <= worker < workers:
            raise ValueError(f"worker {worker} of {workers}")
        size = self.size(workers)
        held = memoryview(bytearray(size)) if memory is None else memoryview(memory)[:size]
        self._counters = held.cast("Q")
        self._worker = worker
        self._workers = workers
        self._others = [column for column in range(workers) if column != worker]
        self.are_shared = workers > 1

    def slots(self, tables: Iterable[int]) -> tuple[int, ...]:
        """Where the counters of these tables (OIDs) are, and the one for all tables."""
        workers = self._workers
        rows = {0, *(table % SLOTS + 1 for table in tables)}
        return tuple(row * workers + column for row in sorted(rows) for column in range(workers))

    def vector(self, slots: tuple[int, ...]) -> Vector:
        """What the counters in ``slots`` are now."""
        counters = self._counters
        return tuple([counters[slot] for slot in slots])

    def advance(self, tables: Iterable[int]) -> None:
        """Something was written to these tables (OIDs)."""
        for table in tables:
            self._counters[(table % SLOTS + 1) * self._workers + self._worker] += 1

    def advance_all(self) -> None:
        """Any table may have been written to."""
        self._counters[self._worker] += 1

    def catalogue_changed(self) -> None:
        """DDL has been done through this worker, or perhaps."""
        self._counters[_CATALOGUE_CHANGES * self._workers + self._worker] += 1

    @property
    def others_catalogue_changes(self) -> int:
        """How often the other workers have said so."""
        first = _CATALOGUE_CHANGES * self._workers
        return sum([self._counters[first + column] for column in self._others])

    def is_uncertain(self, backends: int) -> None:
        """So many of this worker's backends may still commit although nobody waits for them."""
        self._counters[_UNCERTAIN * self._workers + self._worker] = backends

    @property
    def is_anything_uncertain(self) -> bool:
        """Whether this column says so."""
        return bool(self._counters[_UNCERTAIN * self._workers + self._worker])

    @property
    def others_are_uncertain(self) -> bool:
        """Whether that is so with any other worker."""
        first = _UNCERTAIN * self._workers
        return any(self._counters[first + column] for column in self._others)
