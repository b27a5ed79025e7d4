"""Reads that are answered from the cache, what is kept for it, and what outdates what is there."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import pytest

from hyperdrive_client.proxy.cache.catalogue import Verdict, Written
from hyperdrive_client.proxy.settings import Caching
from hyperdrive_client.sql.facts import facts_of
from hyperdrive_client.sql.folded import folded

ASK = "-c hyperdrive.report=on"
TABLES = {b"a": 1, b"b": 2}
A, B = "select x from a", "select x from b"
WHERE = "select x from a where y = $1"

whole = pytest.mark.parametrize("feeding", ["whole"])


class Catalogue:
    """Of a database with the tables ``a`` and ``b``."""

    def __init__(self) -> None:
        self.default_isolation = b"read committed"
        self.unguarded: dict[int, str] = {}
        self.session: dict[str, str] = {}
        self.also_written: frozenset[int] = frozenset()
        """What triggers write to, whichever table is written."""

    def verdict(self, text, settings):
        text = folded(text)
        tables = re.findall(rb"\bfrom (\w)\b", text)
        if b"random()" in text:
            return Verdict("volatile", "it calls random()", ())
        if b";" in text or not tables or b"for update" in text or not text.startswith(b"select"):
            return Verdict("uncacheable", "it is none of ours", ())
        return Verdict("", "", tuple(sorted({TABLES[name] for name in tables})))

    def written(self, text, settings):
        text = folded(text)
        if facts_of(text).command or re.match(rb"select|set |savepoint|lock|listen", text):
            return Written(frozenset(), False)
        if text.startswith((b"create", b"alter", b"drop")):
            return Written(None, True)
        tables = re.findall(rb"(?:insert into|update|delete from|copy) (\w)\b", text)
        if not tables:
            return Written(None, False)
        return Written(frozenset(TABLES[name] for name in tables) | self.also_written, False)

    def has_no_rows(self, oid):
        return False

    def name_of(self, oid):
        return f"public.{'?ab'[oid]}"


@pytest.fixture
def cached(start):
    """Makes a proxy with a cache: ``cached(mode, reports=, <limits>, <caching>)``."""

    def make(mode="writes", options="", limits=(), **caching):
        proxy = start(caching=Caching(mode=mode, **caching), **dict(limits))
        cache = proxy.core.cache
        catalogue = Catalogue()
        cache.catalogue_loaded(catalogue, float("inf"))
        client, server = proxy.pair(options=options)
        if mode == "wal":
            cache.guard.started(TABLES.values(), proxy.now)
        return SimpleNamespace(
            proxy=proxy,
            client=client,
            server=server,
            cache=cache,
            catalogue=catalogue,
            counts=proxy.core.counters.cache,
        )

    return make


@pytest.fixture
def world(cached):
    return cached()


def answer(value="1", status="I"):
    return ("T x", f"D {value}", "C SELECT 1", f"Z {status}")


def extended(text=WHERE, value="7", name="", describe="D P "):
    lines = (f"P {name}: {text}", f"B <-{name} {value}", describe, "E ", "S")
    return [line for line in lines if line]


def misses(client, server, text=A, value="1", status="I"):
    """It is asked at the origin, and answered."""
    client.sends(f"Q {text}")
    server.receives(f"Q {text}")
    server.sends(*answer(value, status))
    client.receives(*answer(value, status))


def hits(client, server, text=A, value="1", status="I"):
    """It is answered without the origin."""
    client.sends(f"Q {text}")
    client.receives(*answer(value, status))
    server.receives()


def does(client, server, text, tag, status="I"):
    client.sends(f"Q {text}")
    server.receives(f"Q {text}")
    server.sends(f"C {tag}", f"Z {status}")
    client.receives(f"C {tag}", f"Z {status}")


def begins(client, text="begin"):
    client.sends(f"Q {text}")
    client.receives("C BEGIN", "Z T")


def begins_with(client, server, text, *answers):
    """It is the first statement of its transaction at the origin."""
    client.sends(f"Q {text}")
    executed = iter((["C BEGIN"], ["D isolation\tread committed", "C SELECT 1"]))
    asked = False
    for line in server.hears():
        asked = asked or line == f"Q {text}"
        if line[0] == "E":
            server.sends(*next(executed))
        elif line[0] == "Q":
            server.sends(*answers)
        else:
            server.sends({"P": "1", "B": "2", "S": "Z T"}[line[0]])
    assert asked
    client.receives(*answers)


def goes_to_the_origin(client, server, text=A, value="1"):
    """In a transaction, of which it is the first statement there."""
    begins_with(client, server, text, *answer(value, "T"))


class TestHits:
    def test_the_second_read_needs_no_origin(self, world):
        misses(world.client, world.server)
        hits(world.client, world.server)
        assert world.counts == {"miss": 1, "hit": 1}

    def test_not_even_a_connection(self, world):
        misses(world.client, world.server)
        world.server.closes()
        world.client.sends(f"Q {A}")
        world.client.receives(*answer())
        assert len(world.proxy.servers) == 1

    def test_another_client_gets_the_same(self, world):
        misses(world.client, world.server)
        hits(world.proxy.client(), world.server)

    @pytest.mark.parametrize(
        "text", [f"  {A}", f"{A};", f"{A} -- why", "select /* what */ x\n\tfrom a"]
    )
    def test_in_other_words(self, world, text):
        misses(world.client, world.server)
        hits(world.client, world.server, text.strip())

    def test_not_for_another_text(self, world):
        misses(world.client, world.server)
        misses(world.client, world.server, "select x from a where y = 1", "2")
        hits(world.client, world.server, "select x from a where y = 1", "2")
        misses(world.client, world.server, "select x from a where y = '1'", "3")

    def test_until_it_is_too_old(self, cached):
        world = cached(max_age=60, stale_while_revalidate=0)
        misses(world.client, world.server)
        world.proxy.now += 59.9
        hits(world.client, world.server)
        world.proxy.now += 0.1
        misses(world.client, world.server, value="2")

    def test_no_catalogue_no_hits(self, world):
        misses(world.client, world.server)
        world.cache.catalogue_lost("it was closed")
        misses(world.client, world.server)

    def test_a_large_answer_in_many_parts(self, world):
        value = "x" * 40_000
        misses(world.client, world.server, value=value)
        hits(world.client, world.server, value=value)

    def test_the_unnamed_statement_is_gone_after_a_query(self, world):
        client, server = world.client, world.server
        misses(client, server)
        client.sends(f"P : {WHERE}", "S")
        server.hears()
        server.sends("1", "Z I")
        client.hears()
        hits(client, server)
        client.sends("B <- 1", "E ", "S")
        assert server.hears()[-3:] == ["B <- 1", "E", "S"]
        assert world.proxy.core.clients

    @whole
    def test_many_in_one_write(self, world):
        misses(world.client, world.server)
        world.client.sends(f"Q {A}", f"Q {A}", "Q ", f"Q {A}")
        world.client.receives(*answer(), *answer(), "I", "Z I", *answer())
        world.server.receives()

    @whole
    def test_with_others_behind_it(self, world):
        misses(world.client, world.server)
        world.client.sends(f"Q {A}", f"Q {B}", f"Q {A}")
        world.client.receives(*answer())
        world.server.receives(f"Q {B}", f"Q {A}")
        world.server.sends(*answer("2"), *answer("3"))
        world.client.receives(*answer("2"), *answer("3"))

    def test_not_the_failed_batch(self, world):
        misses(world.client, world.server)
        client, server = world.client, world.server
        client.sends("P : select wrong")
        server.receives("P : select wrong")
        server.sends("E 42703 wrong")
        client.receives("E 42703")
        client.sends(*extended(A, describe=""), "S")
        server.hears()
        server.sends("Z I")


class TestExtended:
    REST = ("2", "T x", "D 1", "C SELECT 1", "Z I")

    def fill(self, world, *lines, answers=("1", *REST)):
        world.client.sends(*lines)
        asked = world.server.hears()
        world.server.sends(*answers)
        return asked, world.client.hears()

    def hit(self, client, world, *lines, answers=("1", *REST)):
        client.sends(*lines)
        client.receives(*answers)
        world.server.receives()

    def test_parse_to_sync(self, world):
        self.fill(world, *extended())
        for client in (world.client, world.proxy.client()):
            self.hit(client, world, *extended())
            self.hit(client, world, *extended())

    def test_the_parameters_decide(self, world):
        self.fill(world, *extended(value="7"))
        asked, _ = self.fill(world, *extended(value="8"))
        assert asked
        self.hit(world.client, world, *extended(value="7"))

    def test_the_parameters_types_decide(self, world):
        self.fill(world, *extended())
        lines = extended()
        lines[0] += " [25]"
        asked, _ = self.fill(world, *lines)
        assert asked == [each.rstrip() for each in lines]

    def test_the_formats_decide(self, world, wire):
        self.fill(world, *extended())
        bind = wire.encode("B <- 7")
        binary = bind[:1] + (len(bind) + 1).to_bytes(4) + bind[5:-2] + b"\x00\x01\x00\x01"
        lines = extended()
        data = wire.encode(lines[0]) + binary + b"".join(map(wire.encode, lines[2:]))
        world.client.sends_bytes(data)
        assert world.server.hears_bytes() == data

    @pytest.mark.parametrize(
        ("describe", "answers"),
        [
            ("", ("1", "2", "D 1", "C SELECT 1", "Z I")),
            ("D P ", ("1", *REST)),
        ],
    )
    def test_described_or_not(self, world, describe, answers):
        lines = extended(describe=describe)
        self.fill(world, *lines, answers=answers)
        self.hit(world.client, world, *lines, answers=answers)
        other = extended(describe="" if describe else "D P ")
        asked, _ = self.fill(world, *other)
        assert asked

    def test_the_statement_described_before_it_is_bound(self, world):
        lines = (f"P : {WHERE}", "D S ", "B <- 7", "E ", "S")
        answers = ("1", "t 23", "T x", "2", "D 1", "C SELECT 1", "Z I")
        self.fill(world, *lines, answers=answers)
        self.hit(world.client, world, *lines, answers=answers)

    def test_the_statement_described_after_it_is_bound(self, world):
        # As the query_typed of rust-postgres does.
        lines = (f"P : {WHERE}", "B <- 7", "D S ", "E ", "S")
        answers = ("1", "2", "t 23", "T x", "D 1", "C SELECT 1", "Z I")
        self.fill(world, *lines, answers=answers)
        self.hit(world.client, world, *lines, answers=answers)
        self.hit(world.proxy.client(), world, *lines, answers=answers)

    def test_the_unnamed_statement_described_is_not_the_named_one_bound(self, world):
        lines = ("B <- 7", "D S ", "E ", "S")
        answers = ("2", "t 23", "T x", "D 1", "C SELECT 1", "Z I")
        self.fill(world, *extended())
        self.fill(world, *lines, answers=answers)
        self.hit(world.client, world, *lines, answers=answers)
        self.hit(world.client, world, *extended(name="s"))
        self.fill(world, "P : select 1", "S", answers=("1", "Z I"))
        world.client.sends("B <-s 7", *lines[1:])
        assert world.server.hears()

    def test_a_named_statement_is_there_afterwards(self, world):
        self.fill(world, *extended(name="s"))
        other = world.proxy.client()
        self.hit(other, world, *extended(name="t"))
        # Its Bind alone, with the same values and others.
        lines = ("B <-t 7", "D P ", "E ", "S")
        self.hit(other, world, *lines, answers=self.REST)
        self.hit(other, world, *lines, answers=self.REST)
        other.sends("B <-t 8", "D P ", "E ", "S")
        assert [line[0] for line in world.server.hears()] == [*"BDES"]
        world.server.sends("2", "T x", "D 2", "C SELECT 1", "Z I")
        other.receives("2", "T x", "D 2", "C SELECT 1", "Z I")

    def test_an_unnamed_statement_is_there_afterwards(self, world):
        self.fill(world, *extended())
        other = world.proxy.client()
        self.hit(other, world, *extended())
        self.hit(other, world, *extended())
        self.hit(other, world, "B <- 7", "D P ", "E ", "S", answers=self.REST)
        other.sends("B <- 8", "D P ", "E ", "S")
        assert world.server.hears()[-4:] == ["B <- 8", "D P", "E", "S"]
        # Where another's unnamed statement is, it is made again.
        world.server.sends("2", "T x", "D 2", "C SELECT 1", "Z I")
        other.hears()
        misses(world.client, world.server, B)
        other.sends("B <- 9", "D P ", "E ", "S")
        assert world.server.hears() == [f"P : {WHERE}", "B <- 9", "D P", "E", "S"]

    def test_a_name_that_exists_is_the_origins_error(self, world):
        self.fill(world, *extended(name="s"))
        world.client.sends(*extended(name="s"))
        assert world.server.hears()

    def test_an_unknown_name_is_the_origins_error(self, world):
        self.fill(world, *extended(name="s"))
        world.client.sends("B <-unknown 7", "D P ", "E ", "S")
        assert world.server.hears() == ["B <-unknown 7", "D P", "E", "S"]

    @pytest.mark.parametrize(
        ("lines", "answers"),
        [
            # Not all rows.
            (
                (f"P : {WHERE}", "B <- 7", "E /1", "S"),
                ("1", "2", "D 1", "s", "Z I"),
            ),
            # A portal of its own.
            (
                (f"P : {WHERE}", "B p<- 7", "E p", "S"),
                ("1", "2", "D 1", "C SELECT 1", "Z I"),
            ),
            # Two answers.
            (
                (f"P : {WHERE}", "B <- 7", "E ", "B <- 8", "E ", "S"),
                ("1", "2", "D 1", "C SELECT 1", "2", "D 1", "C SELECT 1", "Z I"),
            ),
            # Flush, and the Sync later.
            (
                (f"P : {WHERE}", "B <- 7", "E ", "H", "S"),
                ("1", "2", "D 1", "C SELECT 1", "Z I"),
            ),
            # Closed again.
            (
                (f"P : {WHERE}", "B <- 7", "E ", "C P ", "S"),
                ("1", "2", "D 1", "C SELECT 1", "3", "Z I"),
            ),
        ],
    )
    def test_what_is_no_whole_answer(self, world, lines, answers):
        for _ in range(2):
            world.client.sends(*lines)
            assert world.server.hears()[-1] == "S"
            world.server.sends(*answers)
            world.client.receives(*answers)
        assert not len(world.cache.store)

    def test_the_rest_of_a_batch_is_waited_for(self, world):
        lines = extended()
        self.fill(world, *lines)
        for count in range(1, len(lines)):
            world.client.sends(*lines[:count])
            world.client.receives()
            self.hit(world.client, world, *lines[count:])
        assert world.counts == {"miss": 1, "hit": len(lines) - 1}

    def test_nothing_waits_for_more_than_what_may_be_answered(self, world):
        lines = (f"P : {WHERE} for update", "B <- 7", "E ")
        world.client.sends(*lines)
        world.server.receives(*map(str.rstrip, lines))

    def test_what_a_client_flushes_is_for_the_origin(self, world):
        self.fill(world, *extended())
        world.client.sends(*extended()[:-1])
        world.client.sends("H")
        assert world.server.hears() == [f"P : {WHERE}", "B <- 7", "D P", "E", "H"]
        world.server.sends("1", "2", "T x", "D 1", "C SELECT 1")
        world.client.receives("1", *self.REST[:-1])
        world.client.sends("S")
        world.server.receives("S")
        world.server.sends("Z I")
        world.client.receives("Z I")

    def test_no_hit_before_the_answer_to_a_write_in_the_same_segment(self, world):
        self.fill(world, *extended())
        write = ("P : insert into a values (1)", "B <-", "E ", "S")
        world.client.sends(*write, *extended())
        world.client.receives()
        world.server.sends("1", "2", "C INSERT 0 1", "Z I")
        world.client.receives("1", "2", "C INSERT 0 1", "Z I")
        assert world.server.hears()[-5:] == [each.rstrip() for each in extended()]

    @pytest.mark.parametrize("oid", [1266, 1270, 16384])
    def test_a_parameter_of_a_type_that_depends_on_more(self, world, oid):
        lines = extended()
        lines[0] += f" [{oid}]"
        for _ in range(2):
            asked, _ = self.fill(world, *lines)
            assert asked
        assert world.counts == {"uncacheable": 2}

    @whole
    def test_what_an_unknown_name_or_portal_means_is_no_answer_to_the_unnamed_one(self, world):
        """It was described by bytes that do not say which statement is meant."""
        client, server = world.client, world.server
        self.fill(world, *extended())
        lines = ("D S ", "B <- 7", "E ", "S")
        answers = ("t 23", "T x", "2", "D 1", "C SELECT 1", "Z I")
        self.fill(world, *lines, answers=answers)
        self.hit(client, world, *lines, answers=answers)
        for line in ("B <-unknown 9", "B p<- 9"):
            other = world.proxy.client()
            other.sends(line, "E ", "S")
            other.receives()
            assert server.hears()
            server.sends("E 26000 no such statement", "Z I")
            other.hears()

    def test_a_clock_word_as_a_parameter(self, world):
        for _ in range(2):
            asked, _ = self.fill(world, *extended(value="today"))
            assert asked
        assert world.counts == {"volatile": 2}

    def test_who_was_told_of_other_columns_gets_no_hit(self, world):
        client, server = world.client, world.server
        described = (f"P s: {WHERE}", "D S s", "S")
        client.sends(*described)
        server.hears()
        server.sends("1", "t 23", "T old", "Z I")
        client.hears()
        other = world.proxy.client()
        client.sends("Q begin read write")
        server.hears()
        server.sends("C BEGIN", "Z T")
        client.hears()
        # Filled at another origin connection, where the columns have other names by now.
        world.cache.catalogue_loaded(world.catalogue, float("inf"))
        other.sends(f"P t: {WHERE}", "D S t", "S")
        second = world.proxy.servers[1]
        second.starts()
        second.hears()
        second.sends("1", "t 23", "T new", "Z I")
        other.hears()
        other.sends("B <-t 7", "E ", "S")
        second.hears()
        second.sends("2", "D 1", "C SELECT 1", "Z I")
        other.hears()
        other.sends("B <-t 7", "E ", "S")
        other.receives("2", "D 1", "C SELECT 1", "Z I")
        client.sends("Q rollback")
        server.hears()
        server.sends("C ROLLBACK", "Z I")
        client.hears()
        client.sends("B <-s 7", "E ", "S")
        assert server.hears() or second.hears()


class TestDescribed:
    """Some drivers ask for the types of a statement's parameters before they bind them."""

    TOLD = ("t 23", "T x")
    ROWS = ("2", "D 1", "C SELECT 1", "Z I")
    values = itertools.count()

    @pytest.fixture(params=["", "s"])
    def name(self, request):
        return request.param

    @pytest.fixture(params=["H", "S"])
    def end(self, request):
        return request.param

    def asks(self, name, end="S", text=WHERE):
        return (f"P {name}: {text}", f"D S {name}", end)

    def answers(self, end="S"):
        return ("1", *self.TOLD, *(["Z I"] if end == "S" else []))

    def runs(self, name, value="7"):
        return (f"B <-{name} {value}", "E ", "S")

    def learns(self, world, name="", text=WHERE):
        """An origin is asked."""
        client = world.proxy.client()
        client.sends(*self.asks(name, text=text))
        assert [line[0] for line in world.server.hears()] == [*"PDS"]
        world.server.sends(*self.answers())
        client.receives(*self.answers())
        return client

    def is_told(self, world, client, name, end="S"):
        client.sends(*self.asks(name, end))
        client.receives(*self.answers(end))
        world.server.receives()

    def verifies(self, world, columns="T x"):
        """The origin is asked for the columns before the statement runs there."""
        lines = world.server.hears()
        assert [line[0] for line in lines] == [*"PDH"]
        world.server.sends("1", "t 23", columns)
        return lines[0].split(":")[0].removeprefix("P ")

    def test_another_is_told_the_same_without_the_origin(self, world, name, end):
        self.learns(world)
        self.is_told(world, world.proxy.client(), name, end)
        self.is_told(world, world.proxy.client(), name, end)

    def test_message_by_message(self, world, name, end):
        self.learns(world)
        client = world.proxy.client()
        for line in self.asks(name, end):
            client.sends(line)
        client.receives(*self.answers(end))
        world.server.receives()

    def test_a_miss_and_then_hits(self, world, name, end):
        self.learns(world)
        client = world.proxy.client()
        self.is_told(world, client, name, end)
        client.sends(*self.runs(name))
        own_name = self.verifies(world)
        world.server.receives(f"B <-{own_name} 7", "E", "S")
        world.server.sends(*self.ROWS)
        client.receives(*self.ROWS)
        for other in (client, world.proxy.client(), world.proxy.client()):
            if other is not client:
                self.is_told(world, other, name, end)
            for _ in range(2):
                other.sends(*self.runs(name))
                other.receives(*self.ROWS)
                world.server.receives()
        # The columns are known there by now.
        client.sends(*self.runs(name, "8"))
        world.server.receives(f"B <-{own_name} 8", "E", "S")
        world.server.sends(*self.ROWS)
        world.proxy.later(0.5)
        last = world.proxy.client()
        self.is_told(world, last, name, end)
        last.sends(*self.runs(name, "9"))
        world.server.receives(f"B <-{own_name} 9", "E", "S")
        assert world.counts == {"uncacheable": 1, "miss": 3, "hit": 6}

    def test_one_batch_for_both(self, world):
        """As Postgres.js does: Flush, and Bind when the types are there."""
        client = world.proxy.client()
        client.sends(*self.asks("", "H"))
        world.server.receives(f"P : {WHERE}", "D S", "H")
        world.server.sends(*self.answers("H"))
        client.receives(*self.answers("H"))
        client.sends(*self.runs(""))
        world.server.receives("B <- 7", "E", "S")
        world.server.sends(*self.ROWS)
        client.receives(*self.ROWS)
        self.is_told(world, client, "", "H")

    def test_other_columns_at_the_origin_are_an_error_and_not_its_rows(self, world, name):
        self.learns(world)
        client = world.proxy.client()
        self.is_told(world, client, name)
        client.sends(*self.runs(name))
        self.verifies(world, "T y")
        refused, *rest = world.server.hears()
        assert refused[0] == "B"
        assert not refused.endswith("7")
        assert rest == ["E", "S"]
        world.server.sends("E 26000 no such statement", "Z I")
        error, ready = client.hears()
        assert "cached plan must not change result type" in error
        assert ready == "Z I"
        assert not len(world.cache.store)

    def test_the_unnamed_statement_that_is_there_may_be_anothers_by_now(self, world):
        self.learns(world).sends(*self.runs(""))
        self.verifies(world)

    def test_what_runs_only_where_it_was_described_is_not_asked_again(self, cached):
        world = cached("off")
        client = world.proxy.client()
        client.sends(*self.asks(""))
        world.server.hears()
        world.server.sends(*self.answers())
        client.sends(*self.runs(""))
        assert world.server.hears() == ["B <- 7", "E", "S"]

    def test_a_parse_ends_what_it_was_told_before(self, world):
        self.learns(world)
        client = world.proxy.client()
        self.is_told(world, client, "")
        client.sends(*extended(value="9"))
        world.server.receives(*map(str.rstrip, extended(value="9")))
        world.server.sends("1", "2", "T x", "D 1", "C SELECT 1", "Z I")
        client.hears()
        client.sends("B <- 8", "D P ", "E ", "S")
        world.server.receives("B <- 8", "D P", "E", "S")

    def is_asked(self, world, client, lines):
        client.sends(*lines)
        assert [line[0] for line in world.server.hears()][-len(lines) :] == [
            line[0] for line in lines
        ]

    def test_under_another_catalogue_the_origin_is_asked(self, world, name):
        self.learns(world)
        world.cache.catalogue_loaded(world.catalogue, float("inf"))
        self.is_asked(world, world.proxy.client(), self.asks(name))

    def test_while_nothing_is_served_the_origin_is_asked(self, world, name):
        self.learns(world)
        world.cache.changes_catalogue()
        self.is_asked(world, world.proxy.client(), self.asks(name))

    def test_with_other_parameter_types_the_origin_is_asked(self, world, name):
        self.learns(world)
        lines = (f"P {name}: {WHERE} [20]", f"D S {name}", "S")
        self.is_asked(world, world.proxy.client(), lines)

    def test_what_is_no_read_is_the_origins(self, world, name):
        text = "insert into a values ($1) returning y"
        self.learns(world, text=text)
        self.is_asked(world, world.proxy.client(), self.asks(name, text=text))

    def test_a_name_that_exists_is_the_origins_error(self, world):
        self.learns(world)
        client = world.proxy.client()
        self.is_told(world, client, "s")
        client.sends(*self.asks("s"))
        assert world.server.hears()

    def test_what_a_transaction_sees_after_its_own_ddl_is_told_to_nobody_else(self, world, name):
        client = world.proxy.client()
        begins(client)
        begins_with(client, world.server, "alter table a add z int", "C ALTER TABLE", "Z T")
        client.sends(*self.asks(""))
        world.server.hears()
        world.server.sends(*self.answers()[:-1], "Z T")
        client.hears()
        does(client, world.server, "rollback", "ROLLBACK")
        world.server.is_read_back()
        self.is_asked(world, world.proxy.client(), self.asks(name))

    def test_what_a_temporary_table_hides_is_told_to_nobody_else(self, world, name):
        client = world.client
        client.sends("Q create temp table a (x int)")
        world.server.hears()
        world.server.sends("C CREATE TABLE", "Z I")
        world.server.is_read_back("2")
        client.hears()
        world.cache.catalogue_loaded(world.catalogue, float("inf"))
        client.sends(*self.asks(""))
        world.server.hears()
        world.server.sends(*self.answers())
        client.hears()
        other = world.proxy.client()
        other.sends(*self.asks(name))
        other.receives()

    def test_a_portal_is_the_origins(self, world):
        self.learns(world)
        self.is_asked(world, world.proxy.client(), (f"P : {WHERE}", "D P ", "S"))

    def test_another_statement_than_the_one_parsed_is_the_origins(self, world):
        self.learns(world)
        client = world.proxy.client()
        self.is_asked(world, client, (f"P : {WHERE}", "D S unknown", "S"))

    def changes(self, world, name):
        """DDL, and somebody hears of it."""
        world.cache.catalogue_loaded(world.catalogue, float("inf"))
        world.proxy.later(0.5)
        other = world.proxy.client()
        other.sends(*self.asks(name))
        kinds = [line[0] for line in world.server.hears()]
        assert kinds == ([*"CPDS"] if name else [*"PDS"])
        world.server.sends(*(["3"] if name else []), "1", "t 23", "T y", "Z I")
        other.hears()

    def test_what_it_is_told_later_counts(self, world):
        client = self.learns(world, "s")
        self.changes(world, "t")
        client.sends("D S s", "S")
        client.receives("t 23", "T y", "Z I")
        client.sends(*self.runs("s"))
        assert [line[0] for line in world.server.hears()] == [*"BES"]

    def test_an_older_statement_at_the_origin_is_made_anew(self, world, name):
        self.learns(world, "s")
        self.changes(world, "")
        client = world.proxy.client()
        client.sends(*self.asks(name))
        client.receives("1", "t 23", "T y", "Z I")
        client.sends(*self.runs(name))
        assert [line[0] for line in world.server.hears()] == [*"CPDH"]
        world.server.sends("3", "1", "t 23", "T y")
        assert [line[0] for line in world.server.hears()] == [*"BES"]

    def test_what_was_described_is_not_what_was_parsed_behind_it(self, world):
        client = world.proxy.client()
        text = f"{WHERE} limit 1"
        client.sends(f"P : {WHERE}", "D S ", f"P : {text}", "S")
        world.server.hears()
        world.server.sends("1", *self.TOLD, "1", "Z I")
        client.hears()
        misses(world.proxy.client(), world.server)
        client.sends("B <- 8", "E ", "S")
        world.server.receives(f"P : {text}", "B <- 8", "E", "S")

    def test_what_is_parsed_again_is_not_what_it_was_told_of(self, world):
        """Nor if its answer comes from the cache, be it known by its bytes."""
        TestExtended().fill(world, *extended())
        client = self.learns(world)
        for _ in range(3):
            self.is_told(world, client, "")
            TestExtended().hit(client, world, *extended())
            misses(world.proxy.client(), world.server, f"{A} where y = {next(self.values)}")
            client.sends("B <- 8", "D P ", "E ", "S")
            world.server.receives(f"P : {WHERE}", "B <- 8", "D P", "E", "S")
            world.server.sends("1", "E 22012 division by zero", "Z I")
            client.hears()

    def test_what_fails_to_parse_tells_nothing(self, world, name):
        client = world.proxy.client()
        client.sends(*self.asks(""))
        world.server.hears()
        world.server.sends("E 42703 no such column", "Z I")
        client.hears()
        self.is_asked(world, world.proxy.client(), self.asks(name))

    def test_what_a_transaction_has_not_committed_is_told_to_nobody_else(self, world, name):
        client = world.proxy.client()
        begins(client)
        begins_with(client, world.server, "alter table a add z int", "C ALTER TABLE", "Z T")
        client.sends(*self.asks(""))
        world.server.hears()
        world.server.sends(*self.answers()[:-1], "Z T")
        client.hears()
        other = world.proxy.client()
        other.sends(*self.asks(name))
        other.receives()

    def changes_beside(self, world):
        """DDL; another has prepared the same since, as the unnamed statement of the origin."""
        other = world.proxy.client()
        other.sends(f"P : {WHERE}", "D S ", "S")
        world.server.hears()
        world.server.sends("1", "t 23", "T y", "Z I")
        other.hears()

    @pytest.mark.parametrize("first", ["C P c", "C S c", "P c: select 1"])
    def test_nor_is_it_what_was_told_behind_another_message(self, world, first):
        self.learns(world)
        client = world.proxy.client()
        self.is_told(world, client, "")
        world.cache.catalogue_loaded(world.catalogue, float("inf"))
        self.changes_beside(world)
        client.sends(first, *self.runs(""))
        assert world.server.hears()[-1] == "H"

    def test_what_it_is_told_later_of_its_unnamed_statement_counts(self, world):
        self.learns(world)
        client = world.proxy.client()
        self.is_told(world, client, "")
        self.changes(world, "")
        client.sends("D S ", "S")
        assert [line[0] for line in world.server.hears()] == [*"PDS"]
        world.server.sends("1", "t 23", "T y", "Z I")
        client.receives("t 23", "T y", "Z I")
        client.sends(*self.runs(""))
        assert [line[0] for line in world.server.hears()] == [*"BES"]

    def test_what_it_was_told_counts_if_what_followed_was_ignored(self, world):
        self.learns(world)
        client = world.proxy.client()
        self.is_told(world, client, "")
        client.sends("B <-nobody ", f"P : {A}", "S")
        world.server.hears()
        world.server.sends("E 26000 no such statement", "Z I")
        client.hears()
        client.sends(*self.runs(""))
        self.verifies(world)

    def test_who_prepared_it_at_the_origin_has_it_anew(self, world):
        """Where an older one is in its place."""
        self.learns(world)
        older = world.proxy.client()
        self.is_told(world, older, "s")
        older.sends(*self.runs("s"))
        self.verifies(world)
        world.server.hears()
        world.server.sends(*self.ROWS)
        older.hears()
        world.cache.catalogue_loaded(world.catalogue, float("inf"))
        world.proxy.later(0.5)
        client = world.proxy.client()
        client.sends(*self.asks(""))
        world.server.hears()
        world.server.sends("1", "t 23", "T y", "Z I")
        client.hears()
        client.sends(*self.runs("", "8"))
        assert [line[0] for line in world.server.hears()] == [*"CPDH"]

    def test_a_show_of_ours_has_the_columns_it_had(self, world, monkeypatch, name):
        """Its rows stand in its text, so to the catalogue it is a read like others."""
        monkeypatch.setattr(world.catalogue, "verdict", lambda *_: Verdict("", "", ()))
        client = world.proxy.client()
        client.sends(*self.asks(name, text="show hyperdrive.stats"))
        world.server.hears()
        world.server.sends("1", "t", "T x", "Z I")
        client.hears()
        client.sends(f"B <-{name} ", "E ", "S")
        assert [line[0] for line in world.server.hears()][-3:] == [*"BES"]


class TestSettings:
    def test_each_has_answers_of_its_own(self, world):
        misses(world.client, world.server)
        other = world.proxy.connect()
        other.asks_in(options="-c timezone=Asia/Tokyo")
        world.server.is_set("timezone=Asia/Tokyo")
        other.hears()
        misses(other, world.server, value="2")
        hits(other, world.server, value="2")
        hits(world.client, world.server)

    def test_one_that_is_set_later(self, world):
        client, server = world.client, world.server
        misses(client, server)
        client.sends("Q set timezone to 'Asia/Tokyo'")
        server.hears()
        server.sends("C SET", "S TimeZone=Asia/Tokyo", "Z I")
        server.is_read_back("TimeZone=Asia/Tokyo")
        client.hears()
        misses(client, server, value="2")
        hits(client, server, value="2")

    def test_nothing_while_it_is_set_for_a_transaction(self, world):
        client, server = world.client, world.server
        misses(client, server)
        begins(client)
        begins_with(client, server, "set local timezone to 'Asia/Tokyo'", "C SET", "Z T")
        misses(client, server, value="2", status="T")
        misses(client, server, value="2", status="T")
        assert world.counts["transaction"] == 2


class TestWhatIsKept:
    @pytest.mark.parametrize(
        "answers",
        [
            ("E 42P01 no table", "Z I"),
            ("T x", "D 1", "E 22012 division by zero", "Z I"),
            ("N 01000 beware", "T x", "C SELECT 0", "Z I"),
            ("T x", "N 01000 beware", "C SELECT 0", "Z I"),
            ("T x", "C SELECT 0", "N 01000 beware", "Z I"),
            ("S TimeZone=UTC", "T x", "C SELECT 0", "Z I"),
            ("T x", "A 5 here there", "C SELECT 0", "Z I"),
            ("I", "Z I"),
            ("T x", "C SELECT 0", "T x", "C SELECT 0", "Z I"),
            ("H", "d 1", "c", "C COPY 1", "Z I"),
        ],
    )
    def test_no_answer_with_more_in_it_than_rows(self, world, answers):
        world.client.sends(f"Q {A}")
        world.server.receives(f"Q {A}")
        world.server.sends(*answers)
        assert world.client.hears() == [*answers]
        assert not len(world.cache.store)

    def test_a_notice_right_behind_it_is_no_part_of_it(self, world):
        world.client.sends(f"Q {A}")
        world.server.hears()
        world.server.sends(*answer(), "N 01000 beware")
        world.client.hears()
        for entry in world.cache.store:
            assert b"beware" not in entry.answer

    def test_no_oversized_answer(self, cached):
        world = cached(result_limit=100)
        for _ in range(2):
            misses(world.client, world.server, value="x" * 101)
        misses(world.client, world.server, B)
        hits(world.client, world.server, B)
        assert world.counts == {"miss": 3, "oversizedresult": 2, "hit": 1}

    def test_nothing_larger_than_the_memory(self, cached):
        world = cached(memory=3000)
        for _ in range(2):
            misses(world.client, world.server, value="x" * 2500)
        misses(world.client, world.server, B)
        hits(world.client, world.server, B)

    @pytest.mark.parametrize("text", ["select random() from a", "select 1", f"{A} for update"])
    def test_nothing_that_the_catalogue_refuses(self, world, text):
        misses(world.client, world.server, text)
        misses(world.client, world.server, text)
        assert not world.counts.keys() & {"hit", "miss"}

    @whole
    def test_no_answer_with_another_request_behind_it(self, world):
        client, server = world.client, world.server
        client.sends(f"Q {A}", f"Q {B}")
        server.receives(f"Q {A}", f"Q {B}")
        server.sends(*answer("1"), *answer("2"))
        client.receives(*answer("1"), *answer("2"))
        for entry in world.cache.store:
            assert entry.answer.count(b"SELECT 1\x00") == 1

    def test_nothing_of_a_client_that_has_vanished(self, world):
        world.client.sends(f"Q {A}")
        world.server.hears()
        world.client.vanishes()
        assert world.server.cancels == 1
        world.server.cancel_is_done()
        world.server.sends(*answer())
        assert not len(world.cache.store)
        misses(world.proxy.client(), world.server)

    def test_nothing_of_a_pinned_session(self, world):
        client, server = world.client, world.server
        misses(client, server)
        client.sends("Q listen here")
        server.hears()
        server.sends("C LISTEN", "Z I")
        server.is_read_back("8")
        client.hears()
        misses(client, server)
        misses(client, server, B)
        assert world.counts["transaction"] == 2
        other = world.proxy.client()
        hits(other, server)


class TestWrites:
    """A read, then something that outdates it, or doesn't."""

    @pytest.fixture
    def filled(self, world):
        misses(world.client, world.server, A)
        misses(world.client, world.server, B)
        world.other = world.proxy.client()
        return world

    def outdates_a_alone(self, world):
        misses(world.other, world.server, A, "2")
        hits(world.other, world.server, B)

    def test_by_a_query(self, filled):
        does(filled.client, filled.server, "update a set x = 2", "UPDATE 1")
        self.outdates_a_alone(filled)

    def test_that_failed(self, filled):
        filled.client.sends("Q update a set x = 2")
        filled.server.hears()
        filled.server.sends("E 23505 wrong", "Z I")
        self.outdates_a_alone(filled)

    def test_by_the_extended_protocol(self, filled):
        client, server = filled.client, filled.server
        client.sends("P : update a set x = 2", "B <-", "E ", "S")
        server.hears()
        server.sends("1", "2", "C UPDATE 1")
        server.sends("Z I")
        client.hears()
        self.outdates_a_alone(filled)

    def test_by_a_named_statement_prepared_long_ago(self, filled):
        client, server = filled.client, filled.server
        client.sends("P s: update a set x = 2", "S")
        server.hears()
        server.sends("1", "Z I")
        hits(filled.other, server, A)
        client.sends("B <-s", "E ", "S")
        server.hears()
        server.sends("2", "C UPDATE 1", "Z I")
        self.outdates_a_alone(filled)

    def test_by_copy(self, filled):
        client, server = filled.client, filled.server
        client.sends("Q copy a from stdin")
        server.hears()
        server.sends("G")
        client.sends("d 1", "c")
        server.hears()
        server.sends("C COPY 1", "Z I")
        self.outdates_a_alone(filled)

    @pytest.mark.parametrize("line", ["F 5", "Q do 'x'", "Q call x()"])
    def test_of_which_nothing_is_known(self, filled, line):
        filled.client.sends(line)
        assert filled.server.hears()
        filled.server.sends(*(["V 1"] if line[0] == "F" else ["C DO"]), "Z I")
        if filled.server.hears():
            filled.server.sends("1", "2", "C SELECT", "Z I")
        misses(filled.other, filled.proxy.servers[-1], A, "2")
        misses(filled.other, filled.proxy.servers[-1], B, "2")

    def test_in_a_transaction_count_when_it_commits(self, filled):
        client, server = filled.client, filled.server
        does(client, server, "begin read write", "BEGIN", "T")
        does(client, server, "update a set x = 2", "UPDATE 1", "T")
        hits(filled.other, server, A)
        misses(client, server, A, "2", "T")
        client.sends("Q commit")
        server.receives("Q commit")
        hits(filled.other, server, A)
        server.sends("C COMMIT", "Z I")
        self.outdates_a_alone(filled)

    def test_rolled_back_outdate_nothing(self, filled):
        client, server = filled.client, filled.server
        does(client, server, "begin read write", "BEGIN", "T")
        does(client, server, "update a set x = 2", "UPDATE 1", "T")
        does(client, server, "rollback", "ROLLBACK")
        hits(filled.other, server, A)
        # What comes next is known by itself.
        does(client, server, "update a set x = 2", "UPDATE 1")
        self.outdates_a_alone(filled)

    def test_behind_a_rollback_that_nothing_was_written_before(self, filled):
        client, server = filled.client, filled.server
        does(client, server, "begin read write", "BEGIN", "T")
        does(client, server, "rollback", "ROLLBACK")
        client.sends("F 5")
        server.hears()
        server.sends("V 1", "Z I")
        server.is_read_back()
        misses(filled.other, server, A, "2")

    @whole
    def test_rollback_and_a_write_in_one_segment(self, filled):
        client, server = filled.client, filled.server
        does(client, server, "begin read write", "BEGIN", "T")
        client.sends("Q rollback", "Q update a set x = 2")
        server.hears()
        server.sends("C ROLLBACK", "Z I")
        server.sends("C UPDATE 1", "Z I")
        self.outdates_a_alone(filled)

    @whole
    def test_a_rollback_that_is_bound_only_takes_nothing_back(self, filled):
        client, server = filled.client, filled.server
        client.sends("P : insert into a values (1)", "B <-", "E ", "P r: rollback", "H")
        server.hears()
        server.sends("1", "2", "C INSERT 0 1", "1")
        client.hears()
        client.sends("B <-r", "S")
        server.hears()
        server.sends("2", "Z I")
        client.hears()
        misses(client, server, value="2")

    def test_with_an_error_behind_the_commit(self, filled):
        filled.client.sends("Q begin; update a set x = 2; commit; select 1/0")
        filled.server.hears()
        filled.server.sends("C BEGIN", "C UPDATE 1", "C COMMIT", "E 22012 zero", "Z I")
        misses(filled.other, filled.proxy.servers[-1], A, "2")

    def test_count_before_the_client_hears_of_the_commit(self, filled):
        client, server = filled.client, filled.server
        does(client, server, "begin read write", "BEGIN", "T")
        does(client, server, "update a set x = 2", "UPDATE 1", "T")
        client.sends("Q commit")
        server.hears()
        server.sends("C COMMIT")
        filled.other.sends(f"Q {A}")
        filled.other.receives()

    def test_count_before_the_client_hears_of_the_end_of_its_query(self, filled):
        filled.client.sends("Q update a set x = 2")
        filled.server.hears()
        filled.server.sends("C UPDATE 1")
        hits(filled.other, filled.server, A)
        filled.server.sends("Z I")
        self.outdates_a_alone(filled)

    def test_of_a_prepared_transaction(self, filled):
        client, server = filled.client, filled.server
        does(client, server, "begin read write", "BEGIN", "T")
        does(client, server, "update a set x = 2", "UPDATE 1", "T")
        does(client, server, "prepare transaction 'p'", "PREPARE TRANSACTION")
        misses(filled.other, server, A)
        client.sends("Q commit prepared 'p'")
        server.hears()
        server.sends("C COMMIT PREPARED", "Z I")
        if server.hears():
            server.sends("1", "2", "C SELECT", "Z I")
        misses(filled.other, server, A, "2")

    def test_by_a_client_that_has_vanished(self, filled):
        client, server = filled.client, filled.server
        client.sends("Q update a set x = 2")
        server.hears()
        client.vanishes()
        server.cancel_is_done()
        server.sends("C UPDATE 1", "Z I")
        self.outdates_a_alone(filled)

    def test_that_are_cancelled(self, filled):
        client, server = filled.client, filled.server
        client.sends("Q update a set x = 2")
        server.hears()
        client.cancel_request()
        server.sends("E 57014 cancelled", "Z I")
        server.cancel_is_done()
        self.outdates_a_alone(filled)

    def test_of_unknown_outcome_keep_their_tables_out(self, filled):
        client, server = filled.client, filled.server
        client.sends("Q update a set x = 2")
        server.hears()
        server.closes()
        client.hears()
        filled.other.sends(f"Q {A}")
        second = filled.proxy.servers[1]
        second.starts(78)
        second.hears()
        second.sends(*answer("1"))
        filled.other.hears()
        misses(filled.other, second, A, "1")
        hits(filled.other, second, B)
        filled.cache.backend_gone(77)
        misses(filled.other, second, A, "2")
        hits(filled.other, second, A, "2")

    @whole
    def test_one_behind_the_other_each_count(self, filled):
        filled.client.sends("Q update b set x = 2", "Q update a set x = 2")
        filled.server.hears()
        filled.server.sends("C UPDATE 1", "Z I")
        misses_on_another = filled.other
        misses_on_another.sends(f"Q {A}")
        second = filled.proxy.servers[1]
        second.starts(78)
        second.receives(f"Q {A}")
        second.sends(*answer("1"))
        misses_on_another.hears()
        filled.server.sends("C UPDATE 1", "Z I")
        misses(filled.other, filled.server, A, "2")

    @whole
    def test_behind_a_read_that_is_to_be_kept(self, world):
        client, server = world.client, world.server
        other = world.proxy.client()
        misses(client, server, B)
        client.sends(f"Q {A}", "Q update b set x = 2")
        server.receives(f"Q {A}", "Q update b set x = 2")
        server.sends(*answer())
        server.sends("C UPDATE 1", "Z I")
        misses(other, server, B, "2")

    @whole
    def test_bound_behind_a_read_that_is_to_be_kept(self, world):
        client, server = world.client, world.server
        other = world.proxy.client()
        misses(client, server, B)
        client.sends(f"Q {A}", "P : update b set x = 2", "B <-", "E ", "S")
        server.hears()
        server.sends(*answer())
        server.sends("1", "2", "C UPDATE 1", "Z I")
        misses(other, server, B, "2")

    def test_what_triggers_write_under_a_new_catalogue(self, filled):
        client, server = filled.client, filled.server
        client.sends("Q update a set x = 2")
        server.hears()
        new = Catalogue()
        new.also_written = frozenset({2})
        filled.cache.catalogue_loaded(new, float("inf"))
        third = filled.proxy.client()
        third.sends(f"Q {B}")
        second = filled.proxy.servers[1]
        second.starts(78)
        second.hears()
        second.sends(*answer("1"))
        third.hears()
        server.sends("C UPDATE 1", "Z I")
        misses(third, server, B, "2")


class TestRaces:
    def test_a_write_while_it_is_read(self, world):
        client, server = world.client, world.server
        writer = world.proxy.client()
        client.sends(f"Q {A}")
        writer.sends("Q update a set x = 2")
        second = world.proxy.servers[1]
        second.starts(78)
        second.hears()
        second.sends("C UPDATE 1", "Z I")
        server.hears()
        server.sends(*answer("1"))
        client.receives(*answer("1"))
        misses(client, server, A, "2")

    def test_a_commit_that_is_decoded_while_it_is_read(self, cached):
        world = cached("wal")
        world.client.sends(f"Q {A}")
        world.server.hears()
        world.cache.guard.decoded(5, [1])
        world.cache.guard.settled([5])
        world.server.sends(*answer("1"))
        world.client.hears()
        misses(world.client, world.server, A, "2")

    def test_nothing_is_kept_of_what_is_unsettled(self, cached):
        world = cached("wal")
        world.cache.guard.decoded(5, [1])
        for _ in range(2):
            misses(world.client, world.server, A)
        misses(world.client, world.server, B)
        hits(world.client, world.server, B)
        world.cache.guard.settled([5])
        misses(world.client, world.server, A, "2")
        hits(world.client, world.server, A, "2")

    def test_the_wal_is_not_followed_closely(self, cached):
        world = cached("wal")
        misses(world.client, world.server)
        world.proxy.now += 0.9
        hits(world.client, world.server)
        world.proxy.now += 0.1
        misses(world.client, world.server)
        world.cache.guard.reached(world.proxy.now - 0.1)
        hits(world.client, world.server)

    def test_an_unpublished_table(self, cached):
        world = cached("wal")
        world.cache.guard.started([1], world.proxy.now)
        for _ in range(2):
            misses(world.client, world.server, B)
        assert world.counts == {"uncacheable": 2}

    def test_ddl_of_ones_own_closes_it_until_the_catalogue_is_read(self, world):
        told = []
        world.cache.on_stale = lambda: told.append(world.cache.wants_catalogue)
        client, server = world.client, world.server
        misses(client, server)
        client.sends("Q alter table a add y int")
        server.receives("Q alter table a add y int")
        other = world.proxy.client()
        hits(other, server)
        server.sends("C ALTER TABLE", "Z I")
        if server.hears():
            server.sends("1", "2", "C SELECT", "Z I")
        client.hears()
        assert told == [True]
        misses(client, server, value="2")
        misses(client, server, value="2")
        world.cache.catalogue_loaded(Catalogue(), float("inf"))
        misses(client, server, value="2")
        hits(client, server, value="2")

    def test_a_catalogue_that_was_not_looked_at_for_a_while(self, world):
        misses(world.client, world.server)
        world.cache.catalogue_unchanged(world.proxy.now, world.cache.looks)
        world.proxy.now += 3.9
        hits(world.client, world.server)
        world.proxy.now += 0.1
        misses(world.client, world.server)
        assert world.counts["disabled"] == 1
        world.cache.catalogue_unchanged(world.proxy.now, world.cache.looks)
        hits(world.client, world.server)

    def test_a_new_catalogue_while_it_waits_for_a_connection(self, cached):
        world = cached(limits={"origin_connection_limit": 1})
        client, server = world.client, world.server
        misses(client, server)
        client.sends(f"Q {B}")
        server.receives(f"Q {B}")
        other = world.proxy.client()
        other.sends(f"Q {A} where x = 2")
        world.cache.catalogue_loaded(Catalogue(), float("inf"))
        server.sends(*answer())
        server.receives(f"Q {A} where x = 2")
        server.sends(*answer())
        other.receives(*answer())
        assert not len(world.cache.store)

    def test_nobody_is_linked_to_what_was_beginning_with_other_defaults(self, cached):
        world = cached(limits={"max_lifetime": 100, "idle_timeout": 0})
        world.client.sends("Q begin", f"Q {B}")
        world.server.hears()
        other = world.proxy.client()
        other.sends(f"Q {A}")
        second = world.proxy.servers[1]
        second.connects()
        new = Catalogue()
        new.session = {"TimeZone": "Asia/Tokyo"}
        world.cache.catalogue_loaded(new, world.proxy.now + 1e6)
        second.sends("R 0", "S client_encoding=UTF8", "S server_version=18.0", "K 78", "Z I")
        second.receives("X")
        second.closes()
        third = world.proxy.servers[2]
        third.starts(79)
        third.receives(f"Q {A}")

    def test_nothing_of_who_began_with_other_defaults_is_kept(self, world):
        new = Catalogue()
        new.session = {"TimeZone": "Asia/Tokyo"}
        world.cache.catalogue_loaded(new, world.proxy.now + 1e6)
        misses(world.client, world.server)
        assert not len(world.cache.store)
        world.server.receives("X")
        world.client.sends(f"Q {A}")
        second = world.proxy.servers[1]
        second.starts(78)
        second.receives(f"Q {A}")
        second.sends(*answer("2"))
        world.client.receives(*answer("2"))
        hits(world.client, second, value="2")


class TestTransactions:
    def test_of_hits_alone_need_no_origin(self, world):
        misses(world.client, world.server)
        begins(world.client)
        hits(world.client, world.server, status="T")
        hits(world.client, world.server, status="T")
        world.client.sends("Q commit")
        world.client.receives("C COMMIT", "Z I")
        world.server.receives()
        hits(world.client, world.server)

    @pytest.mark.parametrize("mode", ["writes", "wal"])
    def test_modes_that_know_of_all_writes(self, cached, mode):
        world = cached(mode)
        misses(world.client, world.server)
        begins(world.client)
        hits(world.client, world.server, status="T")

    def test_by_age_alone_only_those_that_read_only(self, cached):
        world = cached("ttl")
        misses(world.client, world.server)
        misses(world.client, world.server, B)
        begins(world.client, "begin read only")
        hits(world.client, world.server, status="T")
        world.client.sends("Q commit")
        world.client.receives("C COMMIT", "Z I")
        begins(world.client)
        goes_to_the_origin(world.client, world.server)

    @pytest.mark.parametrize(
        "text",
        [
            "begin isolation level repeatable read",
            "begin isolation level repeatable read read only",
        ],
    )
    def test_no_other_isolation_level(self, world, text):
        misses(world.client, world.server)
        begins(world.client, text)
        goes_to_the_origin(world.client, world.server, A, "2")
        world.client.sends("Q commit")
        world.server.hears()
        world.server.sends("C COMMIT", "Z I")
        world.client.hears()
        hits(world.client, world.server)

    def test_not_if_the_database_has_another_default(self, world):
        misses(world.client, world.server)
        world.catalogue.default_isolation = b"repeatable read"
        begins(world.client)
        goes_to_the_origin(world.client, world.server)
        assert world.counts["transaction"] == 1

    def test_not_if_the_session_has_another_default(self, world):
        other = world.proxy.connect()
        other.asks_in(options="-c default_transaction_isolation=serializable")
        world.server.is_set("default_transaction_isolation=serializable")
        other.hears()
        misses(other, world.server)
        hits(other, world.server)
        begins(other)
        other.sends(f"Q {A}")
        assert world.server.hears()

    def test_set_transaction_is_refused_by_the_origin_after_a_hit(self, world):
        misses(world.client, world.server)
        begins(world.client)
        hits(world.client, world.server, status="T")
        world.client.sends("Q set transaction isolation level serializable")
        world.server.is_asked(
            "P #: BEGIN",
            "B <-#",
            "E",
            "P #: SELECT 1",
            "B <-#",
            "E",
            "Q set transaction isolation level serializable",
            "S",
        )
        world.server.sends(
            "1", "2", "C BEGIN", "1", "2", "C SELECT 1", "E 25001 too late", "Z E", "Z E"
        )
        world.client.receives("E 25001", "Z E")

    def test_set_transaction_first_keeps_all_away(self, world):
        misses(world.client, world.server)
        begins(world.client)
        text = "set transaction isolation level repeatable read"
        begins_with(world.client, world.server, text, "C SET", "Z T")
        misses(world.client, world.server, status="T")

    @pytest.mark.parametrize(
        ("text", "tag"),
        [
            ("lock a", "LOCK TABLE"),
            (f"{A} for update", "SELECT 1"),
            ("savepoint s", "SAVEPOINT"),
            ("insert into b values (1)", "INSERT 0 1"),
        ],
    )
    def test_nothing_after_more_than_reads(self, world, text, tag):
        client, server = world.client, world.server
        misses(client, server)
        begins(client)
        begins_with(client, server, text, f"C {tag}", "Z T")
        for _ in range(2):
            misses(client, server, A, "2", "T")
        misses(client, server, B, "2", "T")
        client.sends("Q rollback")
        server.hears()
        server.sends("C ROLLBACK", "Z I")
        client.hears()
        hits(client, server)

    def test_a_transaction_that_began_at_the_origin(self, world):
        misses(world.client, world.server)
        does(world.client, world.server, "begin read write", "BEGIN", "T")
        misses(world.client, world.server, A, "2", "T")

    def test_the_first_read_at_the_origin_is_kept(self, world):
        begins(world.client)
        goes_to_the_origin(world.client, world.server)
        hits(world.client, world.server, status="T")
        hits(world.proxy.client(), world.server)

    @whole
    def test_a_bound_hit_behind_a_miss(self, world):
        """All its messages are answered, none goes to the origin."""
        client, server = world.client, world.server
        client.sends(*extended())
        server.hears()
        server.sends("1", "2", "T x", "D 1", "C SELECT 1", "Z I")
        client.hears()
        begins(client)
        goes_to_the_origin(client, server, B)
        client.sends(*extended())
        client.receives("1", "2", "T x", "D 1", "C SELECT 1", "Z T")
        server.receives()

    def test_never_older_than_an_earlier_answer(self, cached):
        """What others wrote is known later: one answer that has seen it, then one that has not."""
        world = cached("wal")
        misses(world.client, world.server, A, "old")
        world.proxy.now += 0.5
        misses(world.client, world.server, B, "new")
        begins(world.client)
        hits(world.client, world.server, B, "new", "T")
        goes_to_the_origin(world.client, world.server, A, "new")
        # The very same again is no older.
        world.client.sends("Q commit")
        world.client.hears()

    def test_until_all_of_that_time_is_known(self, cached):
        world = cached("wal")
        misses(world.client, world.server, A)
        world.proxy.now += 0.5
        misses(world.client, world.server, B)
        world.cache.guard.reached(world.proxy.now + 0.1)
        begins(world.client)
        hits(world.client, world.server, B, status="T")
        hits(world.client, world.server, A, status="T")

    def test_not_one_that_was_asked_for_at_the_same_moment(self, cached):
        world = cached("wal")
        misses(world.client, world.server, A)
        misses(world.client, world.server, B)
        begins(world.client)
        hits(world.client, world.server, B, status="T")
        goes_to_the_origin(world.client, world.server, A)

    def test_the_next_one_begins_anew(self, world):
        misses(world.client, world.server)
        begins(world.client)
        hits(world.client, world.server, status="T")
        world.client.sends("Q commit")
        world.client.receives("C COMMIT", "Z I")
        begins(world.client)
        text = "set transaction isolation level serializable"
        world.client.sends(f"Q {text}")
        world.server.is_asked("P #: BEGIN", "B <-#", "E", f"Q {text}")

    def test_the_same_answer_again(self, cached):
        world = cached("wal")
        misses(world.client, world.server, A)
        begins(world.client)
        hits(world.client, world.server, A, status="T")
        hits(world.client, world.server, A, status="T")

    def test_not_while_a_write_is_under_way_that_an_answer_may_have_seen(self, world):
        """It may be committed, and nobody has told us yet."""
        client, server = world.client, world.server
        misses(client, server, A, "old")
        world.proxy.now += 1
        writer = world.proxy.client()
        writer.sends("Q update a set x = 2")
        server.hears()
        world.proxy.now += 1
        other = world.proxy.client()
        other.sends(f"Q {B}")
        second = world.proxy.servers[1]
        second.starts(78)
        second.hears()
        world.proxy.now += 1
        second.sends(*answer("new"))
        other.hears()
        begins(other)
        hits(other, second, B, "new", "T")
        goes_to_the_origin(other, second, A, "new")

    def test_the_same_answer_is_older_than_what_the_origin_has_said_since(self, cached):
        world = cached("wal")
        misses(world.client, world.server, A, "old")
        begins(world.client)
        hits(world.client, world.server, A, "old", "T")
        world.proxy.now += 0.5
        goes_to_the_origin(world.client, world.server, B, "new")
        misses(world.client, world.server, A, "new", "T")

    def test_nothing_after_a_read_that_writes(self, cached):
        """By an operator's function, say: its own write is to be seen."""
        world = cached("wal")
        client, server = world.client, world.server
        misses(client, server, A, "old")
        written = world.catalogue.written

        def writes_to_a(text, settings):
            return Written(frozenset({1}), False) if b"+!" in text else written(text, settings)

        world.catalogue.written = writes_to_a
        begins(client)
        goes_to_the_origin(client, server, "select +! x from b")
        world.proxy.now += 0.5
        world.cache.guard.reached(world.proxy.now)
        misses(client, server, A, "new", "T")

    def test_nothing_stale(self, cached):
        world = cached(max_age=10, stale_while_revalidate=10)
        misses(world.client, world.server)
        world.proxy.now += 11
        begins(world.client)
        goes_to_the_origin(world.client, world.server, A, "2")


class TestSingleFlight:
    @pytest.fixture
    def waiting(self, world):
        """One who has asked, and three who wait for the same answer."""
        world.client.sends(f"Q {A}")
        world.server.receives(f"Q {A}")
        world.others = [world.proxy.client() for _ in range(3)]
        for other in world.others:
            other.sends(f"Q {A}")
            other.receives()
        assert len(world.proxy.servers) == 1
        return world

    def go_on(self, world, *, server=None):
        """One of those who waited asks by itself; all are answered."""
        asked = [each for each in world.proxy.servers if not each.aborted]
        for each in asked:
            if each.state == "connecting":
                each.starts(80)
        lines = [(each, line) for each in asked for line in each.hears()]
        assert {line for _, line in lines} == {f"Q {A}"}
        for each, _ in lines:
            each.sends(*answer("2"))
        for other in world.others:
            if not other.closed:
                other.receives(*answer("2"))

    def test_all_get_the_one_answer(self, world):
        clients = [world.proxy.client() for _ in range(100)]
        for client in clients:
            client.sends(f"Q {A}")
        world.server.receives(f"Q {A}")
        world.server.sends(*answer())
        for client in clients:
            client.receives(*answer())
        world.server.receives()
        assert world.counts == {"miss": 1, "hit": 99}
        assert not world.proxy.core.pool.flights

    def test_who_asked_meets_an_error(self, waiting):
        waiting.server.sends("E 53000 full", "Z I")
        waiting.client.receives("E 53000", "Z I")
        self.go_on(waiting)

    def test_who_asked_vanishes(self, waiting):
        waiting.client.vanishes()
        waiting.server.cancel_is_done()
        waiting.server.sends("E 57014 cancelled", "Z I")
        self.go_on(waiting)

    def test_who_asked_is_cancelled(self, waiting):
        waiting.client.cancel_request()
        waiting.server.sends("E 57014 cancelled", "Z I")
        waiting.server.cancel_is_done()
        self.go_on(waiting)

    def test_the_link_is_lost(self, waiting):
        waiting.server.closes()
        waiting.client.receives("E 08006", "Z I")
        self.go_on(waiting)

    def test_the_answer_is_not_kept(self, waiting):
        waiting.cache.advance([1])
        waiting.server.sends(*answer("1"))
        waiting.client.receives(*answer("1"))
        self.go_on(waiting)

    def test_who_asked_does_not_read(self, waiting):
        waiting.proxy.core.client_blocked(waiting.client.session, waiting.proxy.now)
        waiting.proxy.perform()
        self.go_on(waiting)

    def test_nobody_joins_who_does_not_read(self, world):
        world.client.sends(f"Q {A}")
        world.server.hears()
        world.proxy.core.client_blocked(world.client.session, world.proxy.now)
        world.proxy.client().sends(f"Q {A}")
        assert len(world.proxy.servers) == 2

    def test_nobody_joins_what_is_outdated_already(self, world):
        world.client.sends(f"Q {A}")
        world.server.hears()
        world.cache.advance([1])
        world.proxy.client().sends(f"Q {A}")
        assert len(world.proxy.servers) == 2

    def test_one_who_waits_is_cancelled(self, waiting):
        other = waiting.others.pop()
        other.cancel_request()
        other.receives("E 57014", "Z I")
        waiting.server.sends(*answer("2"))
        for each in waiting.others:
            each.receives(*answer("2"))
        hits(other, waiting.server, A, "2")

    def test_one_who_waits_vanishes(self, waiting):
        waiting.others.pop().vanishes()
        waiting.server.sends(*answer("2"))
        for each in waiting.others:
            each.receives(*answer("2"))

    def test_who_asked_gets_no_link_in_time(self, cached):
        world = cached(limits={"origin_connection_limit": 1, "pool_timeout": 5})
        does(world.client, world.server, "begin read write", "BEGIN", "T")
        first, second = world.proxy.client(), world.proxy.client()
        first.sends(f"Q {A}")
        world.proxy.later(3)
        second.sends(f"Q {A}")
        world.proxy.later(2)
        first.receives("E 58000", "Z I")
        second.receives()
        does(world.client, world.server, "commit", "COMMIT")
        world.server.receives(f"Q {A}")
        world.server.sends(*answer())
        second.receives(*answer())

    def test_who_has_a_link_does_not_wait_for_another(self, waiting):
        client = waiting.proxy.client()
        client.sends("Q begin read write")
        second = waiting.proxy.servers[1]
        second.starts(78)
        second.hears()
        second.sends("C BEGIN", "Z T")
        client.hears()
        misses(client, second, A, "2", "T")

    def test_in_a_transaction_one_waits_as_well(self, waiting):
        client = waiting.proxy.client()
        begins(client)
        client.sends(f"Q {A}")
        client.receives()
        waiting.server.sends(*answer())
        client.receives(*answer(status="T"))

    def test_what_they_sent_behind_it_comes_next(self, waiting):
        other = waiting.others[0]
        other.sends("Q ", f"Q {A}")
        waiting.server.sends(*answer())
        other.receives(*answer(), "I", "Z I", *answer())

    def test_the_proxy_drains(self, waiting):
        waiting.proxy.core.drain(waiting.proxy.now)
        waiting.proxy.perform()
        for other in waiting.others:
            other.receives("E FATAL 57P01")
            assert other.closed
        waiting.server.sends(*answer())
        waiting.client.receives(*answer(), "E FATAL 57P01")
        waiting.server.closes()
        assert waiting.proxy.core.at_rest

    @pytest.mark.parametrize("ahead", [True, False])
    def test_the_cache_is_switched_off(self, cached, ahead):
        world = cached()
        if not ahead:
            does(world.proxy.client(), world.server, "begin read write", "BEGIN", "T")
        world.client.sends(f"Q {A}")
        other = world.proxy.client()
        other.sends(f"Q {A}")
        world.cache.decide("off", "it is gone")
        world.proxy.perform()
        # Each asks by itself now.
        for server in world.proxy.servers[1:]:
            server.starts(80)
        for server in world.proxy.servers[0 if ahead else 1 :]:
            server.receives(f"Q {A}")
            server.sends(*answer())
        for client in (world.client, other):
            client.receives(*answer())
        assert not world.proxy.core.pool.flights
        assert not len(world.cache.store)

    def test_what_they_waited_is_told(self, world):
        world.client.sends(f"Q {A}")
        world.server.hears()
        other = world.proxy.client(options=ASK)
        other.sends(f"Q {A}")
        world.proxy.now += 0.25
        world.server.sends(*answer())
        assert other.hears() == [
            "S hyperdrive.last_wait=another's answer to the same query is on its way, 0.250 s",
            "S hyperdrive.cache=hit: 0.2 s old",
            *answer(),
        ]


class TestStaleWhileRevalidate:
    @pytest.fixture
    def stale(self, cached):
        world = cached(max_age=10, stale_while_revalidate=10)
        misses(world.client, world.server)
        world.proxy.now += 12
        return world

    def revalidates(self, world, client=None):
        """The old answer at once, and one request in the background."""
        client = client or world.client
        client.sends(f"Q {A}")
        client.receives(*answer("1"))
        world.server.receives(f"Q {A}")

    def test_one_request_in_the_background(self, stale):
        self.revalidates(stale)
        for _ in range(3):
            hits(stale.client, stale.server)
        stale.server.sends(*answer("2"))
        hits(stale.client, stale.server, value="2")
        assert stale.proxy.core.counters.refreshes == 1
        assert stale.proxy.core.pool.refreshes == 0
        assert not stale.proxy.core.pool.flights

    def test_not_what_is_outdated(self, stale):
        stale.cache.advance([1])
        misses(stale.client, stale.server, value="2")

    def test_not_what_is_too_old(self, stale):
        stale.proxy.now += 8
        misses(stale.client, stale.server, value="2")

    def test_of_the_extended_protocol(self, stale):
        client, server = stale.client, stale.server
        client.sends(*extended(name="s"))
        server.hears()
        server.sends("1", "2", "T x", "D 1", "C SELECT 1", "Z I")
        client.hears()
        stale.proxy.now += 12
        lines = ("B <-s 7", "D P ", "E ", "S")
        client.sends(*lines)
        client.receives("2", "T x", "D 1", "C SELECT 1", "Z I")
        server.receives(f"P : {WHERE}", "B <- 7", "D P", "E", "S")
        server.sends("1", "2", "T x", "D 2", "C SELECT 1", "Z I")
        client.sends(*lines)
        client.receives("2", "T x", "D 2", "C SELECT 1", "Z I")

    def test_with_the_settings_of_who_asked(self, cached):
        world = cached(max_age=10, stale_while_revalidate=10)
        client = world.proxy.connect()
        client.asks_in(options="-c timezone=Asia/Tokyo")
        world.server.is_set("timezone=Asia/Tokyo")
        client.hears()
        misses(client, world.server)
        misses_plain = world.client
        misses_plain.sends("Q select 1")
        world.server.is_set("timezone")
        world.server.hears()
        world.server.sends("C SELECT 1", "Z I")
        world.proxy.now += 12
        client.sends(f"Q {A}")
        client.receives(*answer())
        world.server.is_set("timezone=Asia/Tokyo")
        world.server.receives(f"Q {A}")
        world.server.sends(*answer("2"))
        hits(client, world.server, value="2")

    def test_it_meets_an_error(self, stale):
        self.revalidates(stale)
        stale.server.sends("E 53000 full", "Z I")
        self.revalidates(stale)
        stale.server.sends(*answer("2"))
        hits(stale.client, stale.server, value="2")

    def test_its_link_is_lost(self, stale):
        self.revalidates(stale)
        stale.server.closes()
        assert stale.proxy.core.pool.refreshes == 0
        stale.client.sends(f"Q {A}")
        stale.client.receives(*answer("1"))
        second = stale.proxy.servers[1]
        second.starts(78)
        second.receives(f"Q {A}")
        second.sends(*answer("2"))
        hits(stale.client, second, value="2")

    def test_its_answer_is_oversized(self, cached):
        world = cached(max_age=10, stale_while_revalidate=10, result_limit=100)
        misses(world.client, world.server)
        world.proxy.now += 12
        self.revalidates(world)
        world.server.sends(*answer("x" * 200))
        assert world.proxy.core.pool.refreshes == 0
        assert world.counts["oversizedresult"] == 1

    def test_the_pool_is_full(self, cached):
        world = cached(
            max_age=10,
            stale_while_revalidate=10,
            limits={"origin_connection_limit": 1, "pool_timeout": 5},
        )
        misses(world.client, world.server)
        world.proxy.now += 12
        other = world.proxy.client()
        does(other, world.server, "begin read write", "BEGIN", "T")
        hits(world.client, world.server)
        assert world.proxy.core.pool.refreshes == 1
        world.proxy.later(5)
        assert world.proxy.core.pool.refreshes == 0
        assert not world.proxy.core.pool.flights
        hits(world.client, world.server)
        does(other, world.server, "commit", "COMMIT")
        world.server.receives(f"Q {A}")
        world.server.sends(*answer("2"))
        hits(world.client, world.server, value="2")

    def test_who_needs_a_new_one_waits_for_it(self, stale):
        self.revalidates(stale)
        stale.proxy.now += 8
        stale.client.sends(f"Q {A}")
        stale.client.receives()
        stale.server.sends(*answer("2"))
        stale.client.receives(*answer("2"))

    def test_it_is_no_client(self, stale):
        self.revalidates(stale)
        assert len(stale.proxy.core.clients) == 1
        stale.client.sends("X")
        stale.proxy.core.drain(stale.proxy.now)
        stale.proxy.perform()
        stale.server.sends(*answer("2"))
        stale.server.receives("X")
        stale.server.closes()
        assert stale.proxy.core.at_rest


class TestHints:
    def test_off(self, world):
        text = f"/* hyperdrive: cache=off */ {A}"
        misses(world.client, world.server)
        for _ in range(2):
            misses(world.client, world.server, text, "2")
        hits(world.client, world.server)
        assert world.counts["disabled"] == 2

    def test_refresh(self, world):
        misses(world.client, world.server)
        for value in "23":
            misses(world.client, world.server, f"/* hyperdrive: refresh */ {A}", value)
        hits(world.client, world.server, value="3")

    def test_max_age(self, world):
        text = f"/* hyperdrive: max_age=5 */ {A}"
        misses(world.client, world.server)
        world.proxy.now += 4.9
        hits(world.client, world.server, text)
        world.proxy.now += 0.2
        hits(world.client, world.server)
        misses(world.client, world.server, text, "2")
        hits(world.client, world.server, value="2")

    @pytest.mark.parametrize("hint", ["", "max_age=", "max_age=1.5", "max_age=3601", "cache=on"])
    def test_one_that_is_not_understood_keeps_it_away(self, world, hint):
        for _ in range(2):
            misses(world.client, world.server, f"/* hyperdrive: {hint} */ {A}")
        assert world.counts == {"uncacheable": 2}


class TestReports:
    def status(self, client, server, line, *answers):
        client.sends(line)
        if server.hears():
            server.sends(*answers)
        told = [each for each in client.hears() if each.startswith("S hyperdrive.cache=")]
        return [each.removeprefix("S hyperdrive.cache=") for each in told]

    def test_each_statement_is_told(self, cached):
        world = cached(options=ASK)
        both = world.client, world.server
        assert self.status(*both, f"Q {A}", *answer()) == ["miss"]
        world.proxy.now += 1.26
        assert self.status(*both, f"Q {A}") == ["hit: 1.3 s old"]
        assert self.status(*both, f"Q {A}") == ["hit: 1.3 s old"]
        volatile = self.status(*both, "Q select random() from a", *answer())
        assert volatile == ["volatile: it calls random()"]
        written = self.status(*both, "Q insert into a values (1)", "C INSERT 0 1", "Z I")
        assert written == ["notaquery"]
        assert self.status(*both, "Q select 1", *answer()) == ["uncacheable: it is none of ours"]
        world.cache.catalogue_lost("it was closed")
        assert self.status(*both, f"Q {A}", *answer()) == ["disabled: it was closed"]

    def test_why_a_transaction_gets_nothing(self, cached):
        world = cached(options=ASK)
        does_begin = self.status(world.client, world.server, "Q begin read write", "C BEGIN", "Z T")
        assert does_begin == []
        told = self.status(world.client, world.server, f"Q {A}", *answer("1", "T"))
        assert told == ["transaction: its isolation level, or how it began"]

    def test_oversized(self, cached):
        world = cached(options=ASK, result_limit=100)
        told = self.status(world.client, world.server, f"Q {A}", *answer("x" * 200))
        assert told == ["miss", "oversizedresult"]

    def test_unpublished(self, cached):
        world = cached("wal", options=ASK)
        world.cache.guard.started([1], world.proxy.now)
        told = self.status(world.client, world.server, f"Q {B}", *answer())
        assert told == ["uncacheable: public.b is not in the publication"]

    def test_never_within_a_message(self, cached, wire):
        world = cached(options=ASK)
        misses(world.proxy.client(), world.server)
        client, server = world.client, world.server
        client.sends("Q select long")
        server.hears()
        client.hears()
        row = wire.encode_answer(f"D {'x' * 1000}")
        server.sends_bytes(wire.encode_answer("T a") + row[:500])
        client.sends("Q select 1")
        server.sends_bytes(row[500:])
        server.sends("C SELECT 1", "Z I", "D 1", "C SELECT 1", "Z I")
        assert client.hears()[:2] == ["T a", f"D {'x' * 1000}"]

    def test_who_did_not_ask_hears_the_same_bytes_from_the_cache(self, world):
        world.client.sends(f"Q {A}")
        world.server.hears()
        world.server.sends(*answer())
        first = world.client.hears_bytes()
        for _ in range(3):
            world.client.sends(f"Q {A}")
            assert world.client.hears_bytes() == first


class TestOff:
    @pytest.mark.parametrize("caching", [{"mode": "off"}, {"mode": "writes", "memory": 0}])
    def test_nothing_is_kept(self, cached, caching):
        world = cached(**caching)
        for _ in range(2):
            misses(world.client, world.server)
        assert not len(world.cache.store)
        assert not world.counts

    def test_switched_on_while_a_write_is_under_way(self, start):
        proxy = start(caching=Caching(mode="auto"))
        client, server = proxy.pair()
        client.sends("Q update a set x = 2")
        server.hears()
        cache = proxy.core.cache
        cache.decide("writes", "")
        cache.catalogue_loaded(Catalogue(), float("inf"))
        other = proxy.client()
        other.sends(f"Q {A}")
        second = proxy.servers[1]
        second.starts(78)
        second.hears()
        second.sends(*answer("1"))
        other.hears()
        server.sends("C UPDATE 1", "Z I")
        server.receives("X")
        misses(other, second, A, "2")


def test_what_is_purged_is_asked_again(world):
    misses(world.client, world.server, A)
    misses(world.client, world.server, B)
    assert world.cache.purge([1]) == 1
    misses(world.client, world.server, A, "2")
    hits(world.client, world.server, B)
    assert world.cache.purge() == 2
    misses(world.client, world.server, B)


def test_an_unnamed_statement_that_was_described_before_ddl_is_for_the_origin(world):
    client, server = world.client, world.server
    text = "select a from a where b = $1"
    client.sends(f"P : {text}", "D S ", "S")
    server.hears()
    server.sends("1", "t 23", "T old", "Z I")
    client.hears()
    world.cache.changes_catalogue()
    world.cache.catalogue_loaded(world.catalogue, float("inf"))
    other = world.proxy.client()
    other.sends(f"P : {text}", "B <- 7", "E ", "S")
    server.hears()
    server.sends("1", "2", "D new", "C SELECT 1", "Z I")
    other.hears()
    client.sends("B <- 7", "E ", "S")
    assert client.hears() == []
    assert server.hears()
