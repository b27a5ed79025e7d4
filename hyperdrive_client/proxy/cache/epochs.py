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

Vector = tuple[int, ...]


class Epochs:
    """``memory`` holds ``(SLOTS + 1) * workers`` counters; without it, they are this worker's own.

    ``worker`` is the column that is written to.
    """

    def __init__(self, memory: mmap | None = None, worker: int = 0, workers: int = 1) -> None:
        if not 0 <= worker < workers:
            raise ValueError(f"worker {worker} of {workers}")
        size = (SLOTS + 1) * workers * 8
        held = memoryview(bytearray(size)) if memory is None else memoryview(memory)[:size]
        self._counters = held.cast("Q")
        self._worker = worker
        self._workers = workers

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
