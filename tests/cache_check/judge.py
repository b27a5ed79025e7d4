"""Every write with the time it may have become visible, and what each answer may then be.

All times are this process's own, in seconds. A register's versions rise; all registers that one
transaction writes get the same new version, so a version names its write.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

NEVER = float("inf")


class Outcome(Enum):
    OPEN = "open"
    COMMITTED = "committed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The connection was lost before the answer: it may be committed, or may be later."""


@dataclass(slots=True, eq=False)
class Write:
    """``proxy``: whose client made it, None without one; ``sent``: when its COMMIT was."""

    version: int
    registers: frozenset[str]
    proxy: int | None
    is_ddl: bool = False
    sent: float = NEVER
    answered: float = NEVER
    outcome: Outcome = Outcome.OPEN
    seen: float = NEVER
    """When somebody else first saw it."""


BEFORE_ALL = Write(0, frozenset(), None, False, -NEVER, -NEVER, Outcome.COMMITTED)


@dataclass(slots=True)
class Transaction:
    """What its answers so far demand of the next."""

    snapshot: bool
    """REPEATABLE READ or SERIALIZABLE: all answers are of one moment."""
    first_sent: float = NEVER
    """Its first statement, from when a snapshot may be."""
    low: float = -NEVER
    """Its answers are of this moment or later."""
    least: dict[str, int] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict)
    """What it has written itself."""
    seen: dict[str, int] = field(default_factory=dict)


class Reading(NamedTuple):
    """One answer: the version of each register in it, and sums over several.

    ``from_origin``: it is known not to have come from the cache.
    """

    proxy: int | None
    sent: float
    received: float
    seen: Mapping[str, int]
    sums: Sequence[tuple[Collection[str], int]] = ()
    from_origin: bool = False
    after: Mapping[str, int] = {}
    """Of writes that were sent before it on the same connection and not answered by then."""


class Judge:
    """``bound``: seconds by which an answer may be older than a commit that did not come through
    the same proxy; ``ddl_bound``: the same for DDL."""

    def __init__(self, bound: float = 0.0, ddl_bound: float = 0.0) -> None:
        self._bound = bound
        self._ddl_bound = ddl_bound
        self.writes: dict[int, Write] = {0: BEFORE_ALL}
        self._committed: dict[str, list[int]] = {}
        self._newest: dict[str, int] = {}

    def begin(self, registers: Iterable[str], proxy: int | None, *, is_ddl: bool = False) -> Write:
        """A transaction is about to write; its version is newer than all others."""
        write = Write(len(self.writes), frozenset(registers), proxy, is_ddl)
        self.writes[write.version] = write
        for register in write.registers:
            self._newest[register] = write.version
        return write

    def commits(self, write: Write, at: float) -> None:
        """Its COMMIT is about to be sent."""
        write.sent = at

    def committed(self, write: Write, at: float) -> None:
        write.outcome, write.answered = Outcome.COMMITTED, at
        for register in write.registers:
            insort(self._committed.setdefault(register, []), write.version)

    def failed(self, write: Write) -> str:
        """It is rolled back; what is wrong if somebody has seen it."""
        write.outcome = Outcome.FAILED
        return f"rolled back: {write.version} was seen" if write.seen < NEVER else ""

    def lost(self, write: Write, at: float) -> None:
        write.outcome = Outcome.UNKNOWN
        if write.seen < NEVER:
            self._turns_out_committed(write, at)

    def _turns_out_committed(self, write: Write, at: float) -> None:
        write.proxy = None  # nobody has its answer
        self.committed(write, at)

    # What an answer may be.

    def read(self, reading: Reading, transaction: Transaction | None = None) -> list[str]:
        """What is wrong with an answer, kind first; it counts as seen from now on."""
        own = transaction.own if transaction is not None else {}
        since = reading.sent
        if transaction is not None:
            transaction.first_sent = min(transaction.first_sent, reading.sent)
            since = transaction.first_sent if transaction.snapshot else since
        foreign = {name: version for name, version in reading.seen.items() if name not in own}
        wrong = [*self._own(reading, own), *self._unheard(reading, foreign)]
        if not wrong:
            wrong += self._stale(reading, foreign, since)
            wrong += self._torn(foreign, "torn")
            wrong += self._sums(reading, own, since)
            if transaction is not None:
                wrong += self._in_transaction(reading, foreign, transaction)
        return wrong

    def _own(self, reading: Reading, own: Mapping[str, int]) -> Iterator[str]:
        for name, version in reading.seen.items():
            if name in own and version != own[name]:
                yield f"own write not seen: {name} is {version} where {own[name]} was written"
            if version < reading.after.get(name, 0):
                yield f"own write not seen: {name} is {version}, before {reading.after[name]}"

    def _unheard(self, reading: Reading, seen: Mapping[str, int]) -> Iterator[str]:
        for name, version in seen.items():
            write = self.writes.get(version)
            if write is None or (version and name not in write.registers):
                yield f"never written: {name} is {version}"
            elif write.outcome is Outcome.FAILED:
                yield f"rolled back: {name} is {version}"
            elif write.sent > reading.received:
                yield f"not committed: {name} is {version}"
            else:
                write.seen = min(write.seen, reading.received)
                if write.outcome is Outcome.UNKNOWN:
                    self._turns_out_committed(write, reading.received)

    def _stale(self, reading: Reading, seen: Mapping[str, int], since: float) -> Iterator[str]:
        for name, version in seen.items():
            for write in self._after(name, version):
                late = since - self._known_from(write, reading.proxy)
                if late > 0:
                    kind = "stale" if write.proxy == reading.proxy else "stale beyond the bound"
                    yield (
                        f"{kind}: {name} is {version}, {late * 1000:.1f} ms after {write.version} "
                        "had to be seen"
                    )
                    break

    def _known_from(self, write: Write, proxy: int | None) -> float:
        """Since when whoever asks through ``proxy`` must see it."""
        if proxy is None or write.proxy == proxy:
            return write.answered
        return write.answered + (self._ddl_bound if write.is_ddl else self._bound)

    def _after(self, name: str, version: int) -> Iterator[Write]:
        """Commits to a register after a version of it, the newest first."""
        for newer in reversed(self._committed.get(name, ())):
            if newer <= version:
                return
            yield self.writes[newer]

    def _torn(self, seen: Mapping[str, int], kind: str) -> Iterator[str]:
        """Whether there was no moment at which all these were the newest."""
        if len(seen) < 2:
            return
        writes = self.writes
        moment = max(writes[version].sent for version in seen.values())
        for name, version in seen.items():
            for write in self._after(name, version):
                if write.answered < moment:
                    yield f"{kind}: {name} is {version}, {write.version} was before the others"
                    break
        for version in seen.values():
            for name in writes[version].registers:
                if seen.get(name, version) < version:
                    yield f"{kind}: {name} is {seen[name]} in an answer with all else of {version}"

    def _sums(self, reading: Reading, own: Mapping[str, int], since: float) -> Iterator[str]:
        for names, total in reading.sums:
            least = sum(own.get(name) or self._floor(name, since, reading.proxy) for name in names)
            most = sum(own.get(name) or self._newest.get(name, 0) for name in names)
            if total < least:
                yield f"stale: a sum is {total}, which was {least} before"
            if total > most:
                yield f"never written: a sum is {total}, over {most}"

    def _floor(self, name: str, since: float, proxy: int | None) -> int:
        for write in self._after(name, 0):
            if self._known_from(write, proxy) < since:
                return write.version
        return 0

    def _in_transaction(
        self, reading: Reading, seen: Mapping[str, int], transaction: Transaction
    ) -> Iterator[str]:
        if transaction.snapshot:
            for name, version in seen.items():
                before = transaction.seen.setdefault(name, version)
                if before != version:
                    yield f"two snapshots: {name} is {version}, was {before}"
            yield from self._torn(transaction.seen, "two snapshots")
            return
        for name, version in seen.items():
            if version < transaction.least.get(name, 0):
                least = transaction.least[name]
                yield f"older than an earlier answer: {name} is {version}, was {least}"
            for write in self._after(name, version):
                if write.answered < transaction.low:
                    early = (transaction.low - write.answered) * 1000
                    yield (
                        f"older than an earlier answer: {name} is {version}, {write.version} was "
                        f"committed {early:.1f} ms before the moment of that answer"
                    )
                    break
        for version in seen.values():
            write = self.writes[version]
            transaction.low = max(transaction.low, write.sent)
            for name in write.registers:
                transaction.least[name] = max(transaction.least.get(name, 0), version)
        if reading.from_origin:
            transaction.low = max(transaction.low, reading.sent)
