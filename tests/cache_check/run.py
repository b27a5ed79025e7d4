"""All actors at once, the faults between them, and what was found."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from .actor import Actor
from .faults import FAULTS
from .judge import Judge
from .stage import Stage
from .wire import Client, Lost

ENOUGH = 50
"""Findings after which a run ends early."""
EXAMPLES = 10
DDL_BOUND = 1.5
"""The catalogue is looked at once a second, and is then read."""
PREPARED_SECONDS = 5.0
WRITING_TRANSACTIONS = 0.12
"""Of all transactions, before one proxy."""
HURRY = 100
"""After so many reads of the clients an outsider does the next thing during a fault."""


class Run:
    """``clients`` of each proxy and as many outsiders as proxies plus one.

    ``writes``: how many of a client's operations are writes outside of transactions;
    ``kinds``: of faults, all if none is named; ``enough``: findings that end the run.
    ``pause``: clients' reads between two operations of an outsider, on average.
    """

    def __init__(
        self,
        stage: Stage,
        seed: int,
        reads: int,
        *,
        clients: int = 12,
        writes: float = 0.0025,
        pause: int = 1200,
        faults: int = 0,
        kinds: Sequence[str] = (),
        enough: int = ENOUGH,
        ddl_bound: float = DDL_BOUND,
    ) -> None:
        self.stage = stage
        self.seed = seed
        self.wanted = reads
        # Each proxy's answers are outdated by the writes of all.
        proxies = len(stage.addresses)
        self.writes = writes / proxies
        self.writing_transactions = WRITING_TRANSACTIONS / proxies
        self.pause = pause * proxies
        self.outsiders_write = stage.mode != "writes"
        bound = stage.staleness_bound if stage.mode == "wal" else 0.0
        self.judge = Judge(bound, ddl_bound if stage.mode == "wal" else 0.0)
        self.enough = enough
        self.reads = self.lost = 0
        self.statuses: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.by_table: Counter[tuple[str, str]] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.examples: list[str] = []
        self.faults: Counter[str] = Counter()
        self.is_disturbed = False
        self.history: list[tuple[Any, ...]] = []
        self._locks: dict[str, asyncio.Lock] = {}
        self._clients = clients
        self._fault_count = faults
        self._kinds = sorted(kinds or FAULTS)
        self._began = time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.reads >= self.wanted or self.found.total() >= self.enough

    @property
    def hit_ratio(self) -> float:
        return self.statuses["hit"] / max(self.reads, 1)

    def lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def is_from_origin(self, status: str) -> bool:
        """Whether an answer with this status can't be from the cache."""
        return self.stage.mode == "off" or status not in ("", "hit", "stale")

    def note(
        self,
        sent: float,
        who: str,
        what: str,
        status: str,
        versions: Mapping[str, int] = {},
        sums: Sequence[tuple[Collection[str], int]] = (),
        answered: float | None = None,
    ) -> None:
        totals = [total for _, total in sums]
        self.history.append((sent, answered, who, what, status, versions, totals))

    def add(self, wrong: str, story: str) -> None:
        self.found[wrong.partition(":")[0]] += 1
        self.note(time.monotonic(), "judge", wrong, "VIOLATION")
        if len(self.examples) < EXAMPLES:
            seconds = time.monotonic() - self._began
            self.examples.append(f"{wrong} ({story}; {seconds:.3f} s)")

    async def play(self) -> None:
        """Until enough was read, or enough was wrong."""
        stage = self.stage
        actors = [
            Actor(self, number * 1000 + each, address, number)
            for number, address in enumerate(stage.addresses)
            for each in range(self._clients)
        ]
        actors += [
            Actor(self, 100_000 + each, stage.direct, None)
            for each in range(len(stage.addresses) + 1)
        ]
        async with asyncio.TaskGroup() as group:
            disturbing = group.create_task(self._disturb())
            playing = [group.create_task(actor.play()) for actor in actors]
            await asyncio.wait(playing)
            disturbing.cancel()

    async def further(self, reads: int) -> None:
        """Wait until clients have read that often from now on; not as long during a fault."""
        began = self.reads
        while not self.is_over and self.reads < began + reads:
            if self.is_disturbed and self.reads >= began + HURRY:
                return
            await asyncio.sleep(0.005)

    async def _disturb(self) -> None:
        """The faults in an order of the seed's, at even steps of the reads."""
        random = Random(f"{self.seed} faults")
        order: list[str] = []
        for number in range(self._fault_count):
            at = self.wanted * (number + 1) // (self._fault_count + 1)
            while not self.is_over and self.reads < at:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            if self.is_over:
                return
            if not order:
                order = random.sample(self._kinds, len(self._kinds))
            name = order.pop()
            self.note(time.monotonic(), "fault", name, "begins")
            self.is_disturbed = True
            await FAULTS[name](self.stage, random)
            self.is_disturbed = False
            self.note(time.monotonic(), "fault", name, "is over")
            self.faults[name] += 1

    # Transactions prepared by clients that have lost their connection.

    async def roll_back_prepared(self, name: str) -> None:
        """One that may be prepared yet."""
        await self._finish(f"ROLLBACK PREPARED {name}", PREPARED_SECONDS)

    async def commit_prepared(self, name: str) -> None:
        """One that is prepared, or was committed before its answer was lost."""
        await self._finish(f"COMMIT PREPARED {name}", 0)

    async def _finish(self, text: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(Lost):
                client = await Client.connect(self.stage.direct)
                answer = await client.query(text)
                client.close()
                if not answer.sqlstate or time.monotonic() > deadline:
                    return
            await asyncio.sleep(0.1)

    # Reports.

    def __str__(self) -> str:
        seconds = time.monotonic() - self._began
        return (
            f"{self.reads} reads, {self.hit_ratio:.1%} hits, {self.outcomes.total()} writes "
            f"({', '.join(f'{count} {name}' for name, count in sorted(self.outcomes.items()))}), "
            f"{self.faults.total()} faults, {self.lost} connections lost, "
            f"{self.found.total()} violations; {seconds:.0f} s, {self.reads / seconds:.0f} reads/s"
        )

    def details(self) -> str:
        tables = sorted({table for table, _ in self.by_table})
        ratios = []
        for table in tables:
            every = sum(count for (name, _), count in self.by_table.items() if name == table)
            ratios.append(f"{table} {self.by_table[table, 'hit'] / every:.0%}")
        lines = [
            f"statuses: {_counts(self.statuses)}",
            f"hits: {', '.join(ratios)}",
            f"reasons: {_counts(self.reasons)}",
            f"faults: {_counts(self.faults)}",
            f"errors that clients got: {_counts(self.errors)}",
        ]
        if self.found:
            lines += [f"violations: {_counts(self.found)}", *self.examples]
        return "\n".join(lines)

    def write_history(self, path: Path) -> None:
        """One JSON array per line: sent, answered, who, what, status, versions, sums."""
        with path.open("w") as file:
            for entry in sorted(self.history, key=lambda entry: entry[0]):
                sent, answered, *rest = entry
                at = answered and round(answered - self._began, 6)
                file.write(json.dumps([round(sent - self._began, 6), at, *rest]) + "\n")


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name or 'no report'} {count}" for name, count in counter.most_common())
