"""How several workers share the limit of origin connections to one database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Member(Protocol):
    """A worker; only its identity counts."""

    def __hash__(self) -> int: ...


Word = tuple[Member, str, int]
"""Whom to tell, what (``grant``, ``yield`` or ``spare``), and how many."""


class Leases:
    """Who may have how many, of ``limit`` in all.

    Whoever wants more gets what is free. Who has less than an equal part of the limit then gets it
    from those who have more, as soon as they have ended the transactions on it; beyond that, one
    gets what others have not used for a while.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: dict[Member, int] = {}
        self.wanted: dict[Member, int] = {}
        self._demanded: dict[Member, int] = {}
        """What each was told to yield and has not returned yet."""

    @property
    def free(self) -> int:
        return self.limit - sum(self.held.values())

    def want(self, member: Member, count: int) -> None:
        """So many more would be of use to it now."""
        self.wanted[member] = count

    def returned(self, member: Member, count: int) -> None:
        """It has so many less."""
        self.held[member] -= count
        self._demanded[member] = max(0, self._demanded.get(member, 0) - count)

    def gone(self, member: Member) -> None:
        """It has ended, and its connections with it."""
        for what in (self.held, self.wanted, self._demanded):
            what.pop(member, None)

    def settle(self, workers: int) -> Iterator[Word]:
        """What to tell whom now; ``workers`` is into how many parts the limit goes."""
        yield from self._grant()
        part = self.limit // workers
        lacking = sum(
            max(0, min(count, part - self.held.get(member, 0)))
            for member, count in self.wanted.items()
        ) - sum(self._demanded.values())
        for member in sorted(self.held, key=lambda member: -self.held[member]):
            surplus = self.held[member] - part - self._demanded.get(member, 0)
            if (count := min(lacking, surplus)) > 0:
                self._demanded[member] = self._demanded.get(member, 0) + count
                lacking -= count
                yield member, "yield", count
        yield from self._look_for_spare()

    def _grant(self) -> Iterator[Word]:
        granted: dict[Member, int] = {}
        free = self.free
        while free and (hungry := [member for member, count in self.wanted.items() if count]):
            least = min(hungry, key=lambda member: self.held.get(member, 0))
            self.held[least] = self.held.get(least, 0) + 1
            self.wanted[least] -= 1
            granted[least] = granted.get(least, 0) + 1
            free -= 1
        for member, count in granted.items():
            yield member, "grant", count

    def _look_for_spare(self) -> Iterator[Word]:
        for member, count in self.held.items():
            missing = sum(more for other, more in self.wanted.items() if other is not member)
            if count and missing:
                yield member, "spare", missing
