"""One session: reads, writes and transactions, the same ones for the same seed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING

from hyperdrive_client.protocol import messages as m

from . import wire
from .judge import Outcome, Reading, Transaction, Write
from .registers import TENANTS, ZONES, Change, Place, Question, change, contents, noise, question
from .wire import Address, Answer, Client, Column, Lost, Unasked

if TYPE_CHECKING:
    from .run import Run

REPORTS = {"options": "-c hyperdrive.report=on"}
# After these nobody knows what became of a COMMIT (PostgreSQL, appendix A).
UNKNOWN = ("08", "57P", "58", "XX")
# A snapshot is not of the catalogue, and not of what TRUNCATE has emptied (PostgreSQL, 13.6).
NOT_IN_SNAPSHOTS = frozenset(("wide", "shape", "swap", "log"))
ISOLATIONS = ("", "", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


class Failed(Exception):
    """A statement of a transaction has failed."""


class Actor:
    """``proxy``: the number of the proxy at ``address``, None if that is the origin itself."""

    def __init__(self, run: Run, number: int, address: Address, proxy: int | None) -> None:
        self.name = f"{'outsider' if proxy is None else f'client of {proxy},'} {number}"
        self._run = run
        self._judge = run.judge
        self._random = Random(f"{run.seed} {number}")
        self._address = address
        self._proxy = proxy
        self._client: Client | None = None
        self._named: dict[str, str] = {}
        self._names = 0
        self._place = Place()

    async def play(self) -> None:
        """Until the run is over; a lost connection is replaced."""
        while not self._run.is_over:
            try:
                await self._operation()()
            except (Lost, Failed):
                await self._start_again()
            except Unasked as error:
                self._run.add(f"an answer that nobody asked for: {error}", self.name)
                await self._start_again()
            if self._proxy is None:
                await self._run.further(self._random.randint(0, 2 * self._run.pause))
        self.close()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    def _operation(self) -> Callable[[], Awaitable[None]]:
        luck = self._random.random()
        run = self._run
        if self._proxy is None:
            if run.outsiders_write and luck < 0.6:
                return self._transaction if luck < 0.15 else self._write
            return self._read_once
        if luck < run.writes:
            return self._write
        if luck < run.writes + 0.04:
            return self._transaction
        if luck < run.writes + 0.042 or (self._place != Place() and luck < run.writes + 0.08):
            return self._move
        if luck > 0.99999:
            return self._noise
        if luck > 0.9:
            return self._read_twice if luck > 0.97 else self._read_described
        return self._read_once

    async def _start_again(self) -> None:
        self.close()
        self._named, self._place = {}, Place()
        self._run.lost += 1
        await asyncio.sleep(0.05)

    async def _ask(
        self, data: bytes, count: int = 1, columns: Sequence[Column] = ()
    ) -> list[Answer]:
        if self._client is None:
            self._client = await Client.connect(
                self._address, REPORTS if self._proxy is not None else None
            )
        return await self._client.ask(data, count, columns)

    # Reads.

    async def _read_once(self) -> None:
        asked = question(self._random, self._place)
        await self._read([asked], None)

    async def _read_described(self) -> None:
        """The columns are asked for first, and count for the rows."""
        asked = question(self._random, self._place)
        self._names += 1
        name = self._random.choice(("", f"s{self._names}"))
        (told,) = await self._ask(wire.described(asked.text, asked.parameters, name))
        if told.sqlstate:
            self._run.errors[f"{told.sqlstate} {told.error}"[:80]] += 1
            return
        sent = time.monotonic()
        data = wire.bound(asked.parameters, binary=False, name=name, describe=False)
        (answer,) = await self._ask(data, 1, told.columns)
        self._heard(asked, answer, sent, None, self._place)

    async def _read_twice(self) -> None:
        """Two questions in one segment."""
        await self._read([question(self._random, self._place) for _ in "ab"], None)

    async def _read(
        self, asked: Sequence[Question], transaction: Transaction | None, place: Place | None = None
    ) -> None:
        data = b"".join(map(self._spell, asked))
        sent = time.monotonic()
        answers = await self._ask(data, len(asked))
        for each, answer in zip(asked, answers, strict=True):
            self._heard(each, answer, sent, transaction, place or self._place)
        if transaction is not None and any(answer.sqlstate for answer in answers):
            raise Failed

    def _spell(self, asked: Question) -> bytes:
        """A question as messages of one of the protocols."""
        style = self._random.randrange(4)
        binary = asked.table != "zoned" and self._random.random() < 0.1
        if style < 2 or self._random.random() < 0.3:
            return m.query(asked.literal.encode())
        if style == 2 or asked.table in NOT_IN_SNAPSHOTS:
            return wire.extended(asked.text, asked.parameters, binary=binary)
        name = self._named.get(asked.text)
        if name is not None:
            return wire.bound(asked.parameters, binary=binary, name=name)
        self._names += 1
        self._named[asked.text] = name = f"s{self._names}"
        return wire.extended(asked.text, asked.parameters, binary=binary, name=name)

    def _heard(
        self,
        asked: Question,
        answer: Answer,
        sent: float,
        transaction: Transaction | None,
        place: Place,
        after: Write | None = None,
    ) -> None:
        run = self._run
        if answer.sqlstate:
            run.errors[f"{answer.sqlstate} {answer.error}"[:80]] += 1
            self._named.pop(asked.text, None)
            run.note(sent, self.name, asked.literal, answer.sqlstate)
            return
        run.reads += self._proxy is not None
        run.statuses[answer.cache] += self._proxy is not None
        if answer.reason and answer.cache != "hit":
            run.reasons[f"{answer.cache}: {answer.reason}"[:100]] += 1
        run.by_table[asked.table, answer.cache] += self._proxy is not None
        seen, sums, wrong = contents(asked, answer, place)
        due = dict.fromkeys(after.registers, after.version) if after is not None else {}
        reading = Reading(
            self._proxy, sent, answer.at, seen, sums, run.is_from_origin(answer.cache), due
        )
        inside = " in a transaction" if transaction is not None else ""
        run.note(sent, self.name, asked.literal + inside, answer.cache, seen, sums, answer.at)
        found = [wrong] if wrong else self._judge.read(reading, transaction)
        for each in found:
            run.add(each, f"{self.name}, {asked.literal!r}{inside}, {answer.cache or 'no report'}")

    # Writes.

    async def _write(self) -> None:
        made = change(self._random, self._place)
        if made.in_transaction and (made.is_ddl or self._random.random() < 0.7):
            await self._in_transaction(made, self._place)
            return
        async with self._locked(made):
            if self._random.random() < 0.4 and not made.copied:
                await self._write_and_read(made)
            else:
                write = self._begin(made)
                await self._committing(write, self._spell_write(made, write))

    async def _write_and_read(self, made: Change) -> None:
        """Both in one segment, each with a Sync of its own."""
        asked = question(self._random, self._place)
        write = self._begin(made)
        data = self._spell_write(made, write) + self._spell(asked)
        sent = time.monotonic()
        _, answer = await self._committing(write, data, 2)
        done = write if write.outcome is Outcome.COMMITTED else None
        self._heard(asked, answer, sent, None, self._place, done)

    def _begin(self, made: Change) -> Write:
        return self._judge.begin(made.registers, self._proxy, is_ddl=made.is_ddl)

    def _spell_write(self, made: Change, write: Write) -> bytes:
        texts = made.statements(write.version)
        if made.copied:
            row = m.message(m.COPY_DATA, b"%d\n" % write.version)
            return m.query(texts[0].encode()) + row + m.message(m.COPY_DONE, b"")
        if self._random.random() < 0.5 and not (made.in_transaction and len(texts) > 2):
            return m.query("; ".join(texts).encode())
        data = b"".join(
            wire.extended(text, (), binary=False)[: -len(m.SYNC_MESSAGE)] for text in texts
        )
        return data + m.SYNC_MESSAGE

    async def _committing(self, write: Write, data: bytes, count: int = 1) -> list[Answer]:
        """Send what commits ``write`` with the first answer."""
        judge = self._judge
        sent = time.monotonic()
        judge.commits(write, sent)
        try:
            answers = await self._ask(data, count)
        except Lost:
            judge.lost(write, time.monotonic())
            self._end(write, sent, "", "lost")
            raise
        first = answers[0]
        wrong = ""
        if not first.sqlstate and not first.tag.startswith("ROLLBACK"):
            judge.committed(write, first.at)
        elif first.sqlstate.startswith(UNKNOWN):
            judge.lost(write, first.at)
        else:
            wrong = judge.failed(write)
        self._end(write, sent, wrong, first.sqlstate, first)
        return answers

    def _end(
        self, write: Write, sent: float, wrong: str, sqlstate: str, answer: Answer | None = None
    ) -> None:
        run = self._run
        at = answer.at if answer is not None else None
        versions = dict.fromkeys(sorted(write.registers), write.version)
        run.note(sent, self.name, f"write {write.outcome.value}", sqlstate, versions, (), at)
        run.outcomes[write.outcome.value] += 1
        if sqlstate and answer is not None:
            run.errors[f"write: {sqlstate} {answer.error}"[:80]] += 1
        if wrong:
            run.add(wrong, self.name)

    # Transactions.

    async def _transaction(self) -> None:
        place, move = self._place, ""
        if self._random.random() < 0.1:
            place, move = self._moved_within()
        writes = self._random.random() < self._run.writing_transactions
        made = change(self._random, place) if writes else None
        await self._in_transaction(made, place, move, reads=self._random.randint(1, 4))

    async def _in_transaction(
        self, made: Change | None, place: Place, move: str = "", reads: int = 0
    ) -> None:
        """``move``: a SET LOCAL that makes it ``place``."""
        random = self._random
        isolation = random.choice(ISOLATIONS) if reads else ""
        undone = change(random, place) if made is not None and random.random() < 0.2 else None
        if undone is not None and (undone.is_ddl or undone.copied or undone.in_transaction):
            undone = None
        transaction = Transaction(isolation.startswith(("REP", "SER")))
        changes = [each for each in (made, undone) if each is not None]
        async with self._locked(*changes):
            write = self._begin(made) if made is not None else None
            try:
                await self._do(
                    "BEGIN"
                    + (f" ISOLATION LEVEL {isolation}" if isolation else "")
                    + (" READ ONLY" if made is None and random.random() < 0.3 else "")
                )
                if move:
                    await self._do(move)
                await self._some_reads(transaction, place, reads)
                if undone is not None:
                    await self._undo(undone, transaction, place)
                if made is not None and write is not None:
                    await self._run_statements(made, write, transaction)
                await self._some_reads(transaction, place, reads)
            except (Failed, Lost, Unasked) as error:
                if write is not None:
                    self._end(write, time.monotonic(), self._judge.failed(write), "in it")
                if not isinstance(error, Failed):
                    raise
                await self._do("ROLLBACK")
                return
            if write is None:
                await self._do("COMMIT")
            else:
                await self._end_transaction(write)

    async def _some_reads(self, transaction: Transaction, place: Place, most: int) -> None:
        for _ in range(self._random.randint(min(most, 1), most)):
            asked = question(self._random, place)
            if not (transaction.snapshot and asked.table in NOT_IN_SNAPSHOTS):
                await self._read([asked], transaction, place)

    async def _undo(self, made: Change, transaction: Transaction, place: Place) -> None:
        """A write behind a savepoint that is rolled back."""
        write = self._begin(made)
        own = dict(transaction.own)
        try:
            await self._do("SAVEPOINT undone")
            await self._run_statements(made, write, transaction)
            await self._some_reads(transaction, place, 1)
            await self._do("ROLLBACK TO undone")
        finally:
            transaction.own = own
            wrong = self._judge.failed(write)
            if wrong:
                self._run.add(wrong, self.name)

    async def _run_statements(self, made: Change, write: Write, transaction: Transaction) -> None:
        texts = made.statements(write.version)
        transaction.first_sent = min(transaction.first_sent, time.monotonic())
        if made.copied:
            await self._checked(self._spell_write(made, write))
        else:
            for text in texts:
                simple = self._random.random() < 0.5
                await self._checked(
                    m.query(text.encode()) if simple else wire.extended(text, (), binary=False)
                )
        transaction.own |= dict.fromkeys(write.registers, write.version)

    async def _end_transaction(self, write: Write) -> None:
        luck = self._random.random()
        if luck < 0.2:
            await self._do("ROLLBACK")
            self._end(write, time.monotonic(), self._judge.failed(write), "")
        elif luck < 0.25:
            await self._two_phases(write)
        else:
            await self._committing(write, m.query(b"COMMIT"))

    async def _two_phases(self, write: Write) -> None:
        """PREPARE TRANSACTION; whatever is lost, it is committed or rolled back in the end."""
        name = f"'v{write.version}'"
        try:
            await self._checked(m.query(f"PREPARE TRANSACTION {name}".encode()))
        except (Failed, Lost):
            self._end(write, time.monotonic(), self._judge.failed(write), "PREPARE")
            await self._run.roll_back_prepared(name)
            raise
        sent = time.monotonic()
        self._judge.commits(write, sent)
        try:
            answer = (await self._ask(m.query(f"COMMIT PREPARED {name}".encode())))[0]
            if not answer.sqlstate:
                self._judge.committed(write, answer.at)
                self._end(write, sent, "", "", answer)
                return
        except Lost:
            pass
        self._judge.lost(write, time.monotonic())
        await self._run.commit_prepared(name)
        self._end(write, sent, "", "COMMIT PREPARED")
        raise Lost

    async def _do(self, text: str) -> None:
        await self._checked(m.query(text.encode()))

    async def _checked(self, data: bytes) -> None:
        answer = (await self._ask(data))[0]
        if answer.sqlstate:
            self._run.errors[f"{answer.sqlstate} {answer.error}"[:80]] += 1
            raise Failed

    def _locked(self, *changes: Change) -> AsyncExitStack[None]:
        """Nobody else writes these registers meanwhile, so that their versions rise."""
        return _Locks(
            [
                self._run.lock(name)
                for name in sorted(set().union(*(each.registers for each in changes)))
            ]
        )

    # What decides what a text means.

    async def _move(self) -> None:
        """Become another tenant's session, or live in another time zone; then come home again."""
        place = self._place
        luck = self._random.random()
        home = place != Place()
        if luck < 0.3 or place.zone != "UTC":
            place.zone = "UTC" if home else self._random.choice(list(ZONES))
            await self._do(f"SET TimeZone = '{place.zone}'")
            return
        tenant = "" if home else self._random.choice(TENANTS)
        await self._do("RESET ROLE")
        await self._do("RESET search_path")
        if tenant and luck < 0.65:
            await self._do(f"SET search_path = {tenant}, public")
        elif tenant:
            await self._do(f"SET ROLE {tenant}")
        place.tenant = tenant

    def _moved_within(self) -> tuple[Place, str]:
        """Another place for one transaction, and the statement that leads there."""
        place = Place(self._place.tenant, self._place.zone)
        if self._random.random() < 0.5:
            place.zone = self._random.choice(list(ZONES))
            return place, f"SET LOCAL TimeZone = '{place.zone}'"
        place.tenant = self._random.choice(TENANTS)
        return place, f"SET LOCAL search_path = {place.tenant}, public"

    async def _noise(self) -> None:
        async with _Locks([self._run.lock("noise")]):
            for text in noise(self._random):
                answer = (await self._ask(m.query(text.encode())))[0]
                if answer.sqlstate:
                    self._run.errors[f"{answer.sqlstate} {answer.error}"[:80]] += 1


class _Locks(AsyncExitStack):
    def __init__(self, locks: Sequence[asyncio.Lock]) -> None:
        super().__init__()
        self._locks = locks

    async def __aenter__(self) -> _Locks:
        for lock in self._locks:
            await self.enter_async_context(lock)
        return self
