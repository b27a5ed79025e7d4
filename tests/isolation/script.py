"""One client's random conversations: the same for the same seed, whatever the network does."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from random import Random

from hyperdrive_client.protocol import messages as m

from . import statements as sql
from .conversation import Batch, Exchange
from .model import Maker, Session, Statement

NAMES = ("one", "two", "three")
QUOTE_LITERAL = 1283
"""OID of ``quote_literal(text)``."""
# With few origin connections, who keeps one keeps others waiting.
LONGEST_HOLD = 5
LONGEST_TRANSACTION = 6


class Script:
    """Makes session after session of one client, exchange by exchange.

    ``session`` is the model of the current one; it is ahead of the network by what was made last.
    """

    session: Session

    def __init__(
        self, seed: int, client: int, defaults: Mapping[str, str], without: Collection[str] = ()
    ) -> None:
        self.client = client
        self._seed = seed
        self._defaults = defaults
        self._makers = [
            maker
            for name, makers in sql.FAMILIES.items()
            if name not in without
            for maker in makers
        ]
        self._without = without
        self._count = 0
        self._number = 0
        self._held_for = self._open_for = 0

    def start(self, number: int, rows: frozenset[str]) -> dict[bytes, bytes]:
        """Begin session ``number`` of a client that has ``rows``; its start-up settings."""
        self.random = Random(f"{self._seed} {self.client} {number}")
        self._number = number
        self._count = self._held_for = self._open_for = 0
        asked = {}
        if self.random.random() < 0.3:
            for name in self.random.sample(("TimeZone", "DateStyle", "work_mem", "search_path"), 2):
                asked[name] = self.random.choice(sql.SETTINGS[name])
        self.session = Session({**self._defaults, **asked}, rows)
        if "work_mem" not in asked:
            return {name.encode(): value.encode() for name, value in asked.items()}
        options = b"-c work_mem=" + asked.pop("work_mem").encode()
        return {b"options": options} | {k.encode(): v.encode() for k, v in asked.items()}

    def exchanges(self) -> Iterator[Exchange]:
        for _ in range(self.random.randint(3, 40)):
            yield from self._next()

    def goodbye(self) -> bytes:
        """What is sent last: Terminate, nothing, half a message, or what nobody waits for."""
        insert = m.parse(b"", b"INSERT INTO public.work VALUES ($1::text)")
        insert += m.bind(b"", b"", [self.tag().encode()]) + m.execute()
        query = m.query(f"INSERT INTO public.work VALUES ('{self.tag()}')".encode())
        cut = self.random.randrange(1, len(query))
        # Nobody waits for its end: who vanishes has it cancelled.
        sleep = m.query(b"SELECT pg_sleep(1000)")
        copy = m.query(b"COPY public.work FROM STDIN")
        copy += m.message(m.COPY_DATA, self.tag().encode() + b"\n")
        choices = [m.TERMINATE_MESSAGE, b"", insert, query[:cut], insert[:cut], copy]
        if "vanish" not in self._without:
            choices.append(sleep)
        return self.random.choice(choices)

    def tag(self) -> str:
        self._count += 1
        return f"c{self.client}.{self._number}.{self._count}"

    # What comes next.

    def _next(self) -> Iterator[Exchange]:
        session, random = self.session, self.random
        self._held_for = self._held_for + 1 if session.holds else 0
        self._open_for = self._open_for + 1 if session.status != "I" else 0
        if session.status == "E" and random.random() < 0.6:
            yield self._one(self._one_of(sql.end, sql.end, sql.roll_back_to))
        elif self._open_for > LONGEST_TRANSACTION or self._held_for > LONGEST_HOLD:
            if session.status != "I":
                yield self._one(self._one_of(sql.end))
            if self._held_for > LONGEST_HOLD:
                yield from self._let_go()
        elif session.status == "I" and random.random() < 0.25:
            yield self._one(self._one_of(sql.begin))
        elif session.status == "T" and random.random() < 0.2:
            yield self._one(self._one_of(sql.end))
        else:
            yield from self._something()

    def _something(self) -> Iterator[Exchange]:
        shapes = [self._single] * 6 + [self._several, self._pipeline, self._named] * 2
        shapes += [self._flushed, self._portal, self._call, self._copy, self._transaction]
        if "cancel" not in self._without:
            shapes.append(self._cancelled)
        if "discard" not in self._without and self.random.random() < 0.1:
            shapes = [self._discard]
        yield from self.random.choice(shapes)()

    def _statement(self, *, alone: bool = False) -> Statement:
        while True:
            statement = self.random.choice(self._makers)(self.random, self.session, self.tag())
            if statement is not None and (alone or not statement.alone):
                return statement

    def _one_of(self, *makers: Maker) -> Statement:
        while True:
            statement = self.random.choice(makers)(self.random, self.session, self.tag())
            if statement is not None:
                return statement

    def _one(self, statement: Statement) -> Exchange:
        batch = Batch(self.session)
        if statement.simple or self.random.random() < 0.5:
            batch.query([statement])
        else:
            self._extended(batch, statement)
            batch.sync()
        return batch.exchange()

    def _extended(self, batch: Batch, statement: Statement) -> None:
        if statement.simple:
            statement = sql.read(self.random, self.session, self.tag())
        batch.parse(statement)
        batch.bind(statement)
        if not statement.copy and (statement.columns or self.random.random() < 0.5):
            batch.describe()
        batch.execute()

    def _let_go(self) -> Iterator[Exchange]:
        """End all that is held; outside a transaction, by the user who made it."""
        if self.session.show("role") != "none":
            batch = Batch(self.session)
            batch.query([Statement("RESET ROLE", lambda s: sql.set_to(s, "role", "none", "RESET"))])
            yield batch.exchange()
        for statement in list(sql.let_go(self.session, self.tag())):
            yield self._one(statement)

    # Shapes.

    def _single(self) -> Iterator[Exchange]:
        yield self._one(self._statement(alone=True))

    def _several(self) -> Iterator[Exchange]:
        """Several statements in one Query, or in one Sync batch."""
        count = self.random.randint(2, 4)
        batch = Batch(self.session)
        if self.random.random() < 0.5:
            batch.query(self._statement() for _ in range(count))
        else:
            for _ in range(count):
                self._extended(batch, self._statement())
            batch.sync()
        yield batch.exchange()

    def _pipeline(self) -> Iterator[Exchange]:
        """Several Queries and batches in one write."""
        batch = Batch(self.session)
        for _ in range(self.random.randint(2, 4)):
            match self.random.randrange(4):
                case 0:
                    batch.query([self._statement(alone=True)])
                case 1:
                    self._use_name(batch)
                    batch.sync()
                case _:
                    for _ in range(self.random.randint(1, 2)):
                        self._extended(batch, self._statement())
                    batch.sync()
        if self.random.random() < 0.02:
            batch.query([sql.large_read(self.random, self.session, self.tag())])
        yield batch.exchange()

    def _transaction(self) -> Iterator[Exchange]:
        """A whole transaction in one write: one Query, or three."""
        if self.session.status != "I":
            return
        batch = Batch(self.session)
        begin = self._one_of(sql.begin)
        if self.random.random() < 0.5:
            batch.query(self._begin_to_end(begin))
        else:
            batch.query([begin])
            self._extended(batch, self._statement())
            batch.sync()
            batch.query([self._one_of(sql.end)])
        yield batch.exchange()

    def _begin_to_end(self, begin: Statement) -> Iterator[Statement]:
        yield begin
        for _ in range(2):
            yield self._statement()
        if self.session.status == "T":
            yield self._one_of(sql.end)

    def _named(self) -> Iterator[Exchange]:
        batch = Batch(self.session)
        self._use_name(batch)
        batch.sync()
        yield batch.exchange()

    def _use_name(self, batch: Batch) -> None:
        """Parse, use or close a named statement; not always one that there is, or is not, yet."""
        random, session = self.random, self.session
        name = random.choice(NAMES)
        maker = session.statements.get(name)
        if maker is None or random.random() < 0.1:
            maker = random.choice(sql.PREPARABLE)
            batch.parse(self._made(maker), name, maker)
            if random.random() < 0.3:
                batch.describe_statement(self._made(maker), name)
        for _ in range(random.randint(0, 3)):
            statement = self._made(session.statements.get(name, maker))
            batch.bind(statement, name)
            batch.execute()
        if random.random() < 0.2:
            batch.close_statement(name)
            if random.random() < 0.3:
                batch.bind(self._made(maker), name)

    def _made(self, maker: Maker) -> Statement:
        statement = maker(self.random, self.session, self.tag())
        assert statement is not None
        return statement

    def _flushed(self) -> Iterator[Exchange]:
        """A batch in two halves, the second after the first's answers."""
        batch = Batch(self.session)
        self._extended(batch, self._statement())
        batch.flush()
        self._extended(batch, self._statement())
        batch.sync()
        yield batch.exchange()

    def _portal(self) -> Iterator[Exchange]:
        batch = Batch(self.session)
        statement = sql.read_five(self.random, self.session, self.tag())
        name = f"portal{self._count}"
        batch.parse(statement)
        batch.bind(statement, portal=name)
        if self.random.random() < 0.3:
            batch.flush()
        batch.execute_in_two(statement, name)
        batch.sync()
        yield batch.exchange()

    def _call(self) -> Iterator[Exchange]:
        tag = self.tag()
        batch = Batch(self.session)
        batch.call(QUOTE_LITERAL, tag, f"'{tag}'")
        yield batch.exchange()

    def _copy(self) -> Iterator[Exchange]:
        yield self._one(self._one_of(sql.copy_out, sql.copy_in, sql.copy_in, sql.copy_in_badly))

    def _cancelled(self) -> Iterator[Exchange]:
        """A statement that a cancel may meet, or not; what follows is sure to be met by none."""
        if self.session.status == "E":
            return
        batch = Batch(self.session)
        statement = sql.sleep(self.random, self.session, self.tag())
        if self.random.random() < 0.5:
            batch.query([statement])
        else:
            self._extended(batch, statement)
            batch.sync()
        exchange = batch.exchange(cancelled=True)
        if self.session.status == "T":
            self.session.fail()
        yield exchange
        if self.session.status == "E":
            yield self._one(sql.roll_back(self.random, self.session, self.tag()))

    def _discard(self) -> Iterator[Exchange]:
        statement = sql.discard_all(self.random, self.session, self.tag())
        if statement is not None:
            yield self._one(statement)
