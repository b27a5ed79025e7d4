"""What is taken by the fast path, what is not, and that nobody can tell.

Whether a world went on in one way or the other must not be seen in anything: the effects, the
counters, and what each session remembers are compared after every event.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from enum import Enum
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.core import fast_path
from hyperdrive_client.proxy.core.client_session import ClientSession
from hyperdrive_client.proxy.core.expected import Expected
from hyperdrive_client.proxy.core.origin_session import OriginSession
from hyperdrive_client.proxy.core.statements import Prepared, Statement

from .conftest import encode
from .test_any_pipeline import CLIENTS, World, queries, run, steps, with_copy_data

READ = "select x from t where y = $1"
ROWS = ("T x", "D 1", "D 2", "C SELECT 2", "Z I")
# What is sent at once, and what the origin answers.
PLAIN = {
    "a query": (["Q select x from t"], ROWS),
    "a query without rows": (["Q select x from t"], ("T x", "C SELECT 0", "Z I")),
    "parsed and described": ([f"P : {READ}", "B <- 7", "D P ", "E ", "S"], ("1", "2", *ROWS)),
    "parsed": ([f"P : {READ}", "B <- 7", "E ", "S"], ("1", "2", *ROWS[1:])),
    "prepared and described": (["B <-s 7", "D P ", "E ", "S"], ("2", *ROWS)),
    "prepared": (["B <-s 7", "E ", "S"], ("2", *ROWS[1:])),
}
plain = pytest.mark.parametrize(("lines", "answers"), PLAIN.values(), ids=PLAIN)
pytestmark = pytest.mark.parametrize("feeding", ["whole"])


@pytest.fixture
def taken(monkeypatch) -> list[str]:
    """Which ways the fast path has been taken since."""
    ways: list[str] = []
    for way in ("request", "answer"):
        take = getattr(fast_path, way)

        def noted(*given: Any, take: Any = take, way: str = way) -> bool:
            took: bool = take(*given)
            ways.extend([way] * took)
            return took

        monkeypatch.setattr(fast_path, way, noted)
    return ways


def prepares(client, server, text=READ) -> None:
    client.sends(f"P s: {text}", "S")
    server.hears()
    server.sends("1", "Z I")
    client.receives("1", "Z I")


class TestTaken:
    @plain
    def test_what_most_clients_do_most_of_the_time(self, proxy, taken, lines, answers):
        client, server = proxy.pair()
        prepares(client, server)
        taken.clear()
        client.sends(*lines)
        name = client.session.statements[b"s"].server_name.decode()
        server.receives(*(line.replace("<-s", f"<-{name}").rstrip() for line in lines))
        assert (client.state, server.state) == ("linked", "linked")
        server.sends(*answers)
        client.receives(*answers)
        assert (client.state, server.state) == ("idle", "idle")
        assert taken == ["request", "answer"]

    def test_the_same_parse_is_understood_once(self, proxy, taken, monkeypatch):
        client, server = proxy.pair()
        for value in ("7", "8"):
            client.sends(f"P : {READ}", f"B <- {value}", "E ", "S")
            server.hears()
            server.sends("1", "2", *ROWS[1:])
            monkeypatch.setattr(fast_path, "parse_fields", None)
        assert taken == ["request", "answer"] * 2

    def test_an_answer_in_parts_ends_the_link_when_it_is_whole(self, proxy, taken):
        client, server = proxy.pair()
        client.sends("Q select x from t")
        server.sends(*ROWS[:2])
        assert client.state == "linked"
        server.sends(*ROWS[2:])
        client.receives(*ROWS)
        assert (client.state, taken) == ("idle", ["request"])

    def test_a_parse_that_fails_leaves_no_statement(self, proxy, taken):
        client, server = proxy.pair()
        client.sends(f"P : {READ}", "B <- 7", "E ", "S")
        server.hears()
        server.sends("E 42P01 no such table", "Z I")
        client.receives("E 42P01 no such table", "Z I")
        client.sends("B <- 7", "E ", "S")
        assert not any(line.startswith("P") for line in server.hears())
        assert taken == ["request"]

    def test_a_statement_out_of_date_is_made_anew(self, proxy, taken):
        client, server = proxy.pair()
        prepares(client, server)
        client.sends("B <-s 7", "E ", "S")
        server.hears()
        error = m.error_response("0A000", "cached plan must not change result type")
        routine = b"RRevalidateCachedQuery\x00\x00"
        server.sends_bytes(m.message(m.ERROR_RESPONSE, error[5:-1] + routine))
        assert [line[0] for line in server.hears()] == [*"CPBES"]
        client.receives()
        assert taken == ["request"]

    def test_an_answer_in_another_order_is_none(self, proxy, taken):
        client, server = proxy.pair()
        client.sends(f"P : {READ}", "B <- 7", "E ", "S")
        server.sends("2", "1", *ROWS[1:])
        client.receives("E FATAL 08P01")
        assert server.aborted

    def test_what_is_within_another_message_is_no_answer(self, proxy, taken, wire):
        client, server = proxy.pair()
        rows = b"".join(map(wire.encode_answer, ROWS))
        server.sends_bytes(m.HEADER.pack(m.NOTICE_RESPONSE, 4 + len(rows)))
        client.sends("Q select x from t")
        server.sends_bytes(rows)
        assert (client.state, taken) == ("linked", ["request"])

    def test_the_statement_used_last_is_closed_last(self, start, taken):
        client, server = start(prepared_statements=2).pair()
        for name in "st":
            client.sends(f"P {name}: select {name}", "S")
            server.sends("1", "Z I")
        client.sends("B <-s ", "E ", "S")
        server.sends("2", "C SELECT 0", "Z I")
        assert taken == ["request", "answer"]
        server.hears()
        client.sends("P u: select u", "S")
        closed, _, _ = server.hears()
        assert closed == f"C S {client.session.statements[b't'].server_name.decode()}"

    def test_what_is_told_by_the_way_belongs_to_the_last_request(self, proxy, taken):
        """As when it is another client's NOTIFY: it is known who was served there last."""
        client, server = proxy.pair()
        other = proxy.client()
        other.sends("Q select x from t")
        server.sends(*ROWS)
        client.sends("Q listen x")
        server.sends(f"A {server.session.process_id} x hello", "C LISTEN", "Z I")
        assert f"A {client.process_id} x hello" in client.hears()

    def test_the_clock_goes_on(self, proxy, taken):
        client, _ = proxy.pair()
        proxy.now += 5
        client.sends("Q select x from t")
        assert proxy.core.pool.now == proxy.now


class TestEnd:
    """What else may be due when the answer has come."""

    @pytest.fixture
    def asked(self, start, taken):
        proxy = start(max_lifetime=60)
        client, server = proxy.pair()
        client.sends("Q select x from t")
        server.hears()
        assert taken == ["request"]
        return proxy, client, server

    def test_the_proxy_ends(self, asked):
        proxy, client, server = asked
        proxy.core.drain(proxy.now)
        proxy.perform()
        server.sends(*ROWS)
        client.receives(*ROWS, "E FATAL 57P01")
        assert (client.closed, server.state) == (True, "closing")

    def test_the_connection_is_too_old(self, asked):
        proxy, client, server = asked
        proxy.now += 61
        server.sends(*ROWS)
        assert (client.state, server.state) == ("idle", "closing")

    def test_the_database_is_to_be_left(self, asked):
        proxy, client, server = asked
        proxy.core.pool.leave_database(proxy.now)
        server.sends(*ROWS)
        assert (client.state, server.state) == ("idle", "closing")

    def test_the_cache_was_switched_on(self, asked, taken):
        proxy, _, server = asked
        server.session.writes(frozenset({1}), proxy.now)
        server.sends(*ROWS)
        assert server.session.written is None
        assert taken == ["request"]

    def test_what_is_said_of_something_else_in_between_is_passed_on(self, proxy, taken):
        client, server = proxy.pair()
        client.sends("Q select x from t")
        server.sends("N 01000 by the way", *ROWS)
        client.receives("N 01000 by the way", *ROWS)
        assert (client.state, taken) == ("idle", ["request"])


class TestNotTaken:
    @pytest.mark.parametrize(
        "lines",
        [
            ["Q insert into t values (1)"],
            ["Q select nextval('s')"],
            ["Q "],
            ["Q begin"],
            ["Q select 1", "Q select 2"],
            ["P : insert into t values ($1)", "B <- 7", "E ", "S"],
            [f"P n: {READ}", "B <-n 7", "E ", "S"],
            [f"P n: {READ}", "B <- 7", "E ", "S"],
            [f"P : {READ}", "B p<- 7", "E p", "S"],
            [f"P : {READ}", "B <-s 7", "E ", "S"],
            [f"P : {READ}", "B <- 7", "E /1", "S"],
            [f"P : {READ}", "B <- 7", "E ", "H"],
            [f"P : {READ}", "B <- 7", "E ", "S", "S"],
            [f"P : {READ}", "D S ", "S"],
            ["B <-s 7", "E /1", "S"],
            ["B <-nobody 7", "E ", "S"],
            ["B p<-s 7", "E p", "S"],
            ["B ps<-s 7", "E ", "S"],
            ["B <- 7", "E ", "S"],
            ["S"],
            ["X"],
        ],
        ids=" ".join,
    )
    def test_anything_else(self, proxy, taken, lines):
        client, server = proxy.pair()
        prepares(client, server)
        client.sends(*lines)
        assert not taken

    @plain
    def test_within_a_transaction(self, proxy, taken, lines, answers):
        client, server = proxy.pair()
        prepares(client, server)
        client.sends("Q begin")
        client.receives("C BEGIN", "Z T")
        client.sends(*lines)
        assert not taken

    @plain
    def test_while_no_origin_connection_is_idle(self, start, taken, lines, answers):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.pair()
        prepares(client, server)
        other = proxy.client()
        other.sends("Q insert into t values (1)")
        client.sends(*lines)
        assert (client.state, taken) == ("waiting", [])

    @plain
    def test_a_piece_of_it(self, proxy, taken, lines, answers, wire):
        client, server = proxy.pair()
        prepares(client, server)
        data = b"".join(map(wire.encode, lines))
        for size in range(1, len(data)):
            client.sends_bytes(data[:size])
            client.sends_bytes(data[size:])
            server.sends(*answers)
        assert "request" not in taken

    @pytest.mark.parametrize("kind", [m.QUERY, m.COPY_DATA])
    def test_what_is_within_another_message(self, proxy, taken, kind):
        client, _ = proxy.pair()
        query = encode("Q select x from t")
        client.sends_bytes(m.HEADER.pack(kind, 4 + len(query)))
        client.sends_bytes(query)
        assert not taken

    def test_what_an_error_has_made_void(self, start, taken):
        proxy = start(origin_connection_limit=1, pool_timeout=1)
        client, server = proxy.pair()
        other = proxy.client()
        other.sends("Q insert into t values (1)")
        client.sends("P : insert into t values (1)", "H")
        proxy.later(2)
        client.receives("E 58000")
        server.sends("C INSERT", "Z I")
        assert client.state == server.state == "idle"
        client.sends(f"P : {READ}", "B <- 7", "E ", "S")
        client.receives("Z I")
        assert not taken

    def test_when_another_connection_reports_other_values(self, start, taken):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select x from t")
        proxy.servers[-1].starts(server_version="19.0")
        proxy.servers[-1].sends(*ROWS)
        client.receives("S server_version=19.0", *ROWS)
        other = proxy.client()
        other.session.reported = {**other.session.reported}
        other.sends("Q select x from t")
        assert not taken

    def test_a_statement_that_is_older_than_the_clients_parse(self, proxy, taken):
        client, server = proxy.pair()
        prepares(client, server)
        proxy.later(5)
        other = proxy.client()
        other.sends(f"P s: {READ}", "S")
        other.receives("1", "Z I")
        other.sends("B <-s 7", "E ", "S")
        assert [line[0] for line in server.hears()] == [*"CPBES"]
        assert not taken

    @pytest.mark.parametrize("told", [{"unnamed_description": b""}, {"described": {b"s": b"t"}}])
    def test_a_statement_that_was_described_from_the_cache(self, proxy, taken, told):
        client, server = proxy.pair()
        prepares(client, server)
        for name, value in told.items():
            setattr(client.session, name, value)
        client.sends("B <-s 7", "E ", "S")
        assert not taken

    def test_a_show_of_ours(self, proxy, taken):
        client, server = proxy.pair()
        prepares(client, server, "show hyperdrive.pool")
        client.sends("B <-s ", "E ", "S")
        assert not taken


class TestSettings:
    """The same text means something else under other settings."""

    @pytest.fixture
    def both(self, start):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.pair()
        client.sends("Q set search_path to elsewhere")
        server.hears()
        server.sends("C SET", "Z I")
        server.is_read_back("search_path=elsewhere")
        client.hears()
        server.hears()
        assert client.session.settings
        return client, server

    def test_of_an_unnamed_statement(self, both, taken):
        client, _ = both
        client.session.pool.registry.plain[encode(f"P : {READ}")] = Statement(
            READ.encode(), b"\x00\x00", (), b"other"
        )
        client.sends(f"P : {READ}", "B <- 7", "E ", "S")
        assert client.session.unnamed.settings == client.session.settings

    def test_of_a_prepared_one(self, both, taken):
        client, server = both
        prepares(client, server)
        client.sends("Q reset search_path")
        server.hears()
        server.sends("C RESET", "Z I")
        server.is_read_back()
        client.hears()
        server.hears()
        client.sends("B <-s 7", "E ", "S")
        assert [line[0] for line in server.hears()] == [*"PBES"]
        assert not taken

    def test_what_is_remembered_is_of_one_catalogue(self, proxy, taken):
        client, _ = proxy.pair()
        registry = client.session.pool.registry
        client.session.unnamed_generation = 3
        client.sends(f"P : {READ}", "B <- 7", "E ", "S")
        assert client.session.unnamed_generation == -1
        assert registry.plain
        registry.forget()
        assert not registry.plain


def observed(value: Any) -> Any:
    """A session's attribute, as far as it can be compared with that of another world."""
    if isinstance(value, Statement):
        return value.text, value.parameter_types, value.server_name
    if isinstance(value, Expected):
        return repr(value)
    if isinstance(value, Prepared):
        return value.at, value.description
    if isinstance(value, dict):
        return [(observed(key), observed(each)) for key, each in value.items()]
    if isinstance(value, list | tuple | deque):
        return [observed(each) for each in value]
    if isinstance(value, ClientSession | OriginSession):
        return repr(value)
    if isinstance(value, Enum | bytes | str | int | float | frozenset | set | None):
        return value
    return type(value).__name__


# What the one way needs and the other does not.
_OWN = {"unnamed_parse", "plain_answer"}


class Watched(World):
    """A world that writes down everything that can be seen of it."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self.seen: list[Any] = []
        super().__init__(*given, **options)

    def moves(self) -> list[tuple[str, Any]]:
        """Mostly answers come before the next request."""
        moves = super().moves()
        answers = [move for move in moves if move[0] in ("to origin", "from origin")]
        return answers if answers and self.random.random() < 0.8 else moves

    def piece(self, data: bytes, likely: int = 0) -> tuple[bytes, bytes]:
        """Mostly a request comes alone, and an answer as a whole."""
        if self.random.random() < 0.9:
            return data[: likely or len(data)], data[likely or len(data) :]
        return super().piece(data, likely)

    def perform(self, what: str, whom: Any) -> None:
        super().perform(what, whom)
        core = self.proxy.core
        self.seen.append(what)
        for session in (*core.pool.idle, *core.pool.waiting, *(c.session for c in self.clients)):
            self.seen.append(self.state(session))
        self.seen += [self.state(server.session) for server in self.proxy.servers]
        self.seen += [(bytes(server.data), server.cancels) for server in self.proxy.servers]
        self.seen += [bytes(client.data) for client in self.clients]
        self.seen.append(observed(asdict(core.counters)))

    @staticmethod
    def state(session: Any) -> dict[str, Any]:
        return {name: observed(each) for name, each in vars(session).items() if name not in _OWN}


plain_steps = st.builds(
    lambda name, text, describes: [
        *([f"P {name}: {text}"] if not name else []),
        f"B <-{name} #",
        *(["D P "] if describes else []),
        "E ",
        "S",
    ],
    st.sampled_from(["", "", "a", "b"]),
    st.sampled_from(["select $1", "select many", "select fail", "select notice", "select wrong"]),
    st.booleans(),
)
plain_queries = st.sampled_from(["select 1", "select many", "select fail", "select notice"]).map(
    lambda text: [f"Q {text}"]
)
named = st.sampled_from(["a", "b"]).map(lambda name: [*run(name, "select $1", "#"), "S"])
others = steps.map(lambda step: [*step, "S"])
scripts = st.lists(
    st.one_of(plain_steps, plain_steps, plain_queries, named, others, queries),
    min_size=3,
    max_size=8,
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=HealthCheck)
@given(
    given_scripts=st.lists(scripts, min_size=1, max_size=CLIENTS),
    seed=st.integers(0, 2**32),
    origins=st.integers(1, 2),
    statements=st.integers(1, 3),
    accidents=st.booleans(),
)
def test_nobody_can_tell(wire, given_scripts, seed, origins, statements, accidents, feeding):
    lines = [with_copy_data(script, index, ("c",)) for index, script in enumerate(given_scripts)]
    limits = {
        "origin_connection_limit": origins,
        "prepared_statements": statements,
        "max_lifetime": 0,  # else a connection's is a matter of chance
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
        patch.setattr("secrets.token_bytes", bytes)
        worlds = []
        taken = [0]
        request = fast_path.request

        def counted(*given: Any) -> bool:
            took = request(*given)
            taken[0] += took
            return took

        for way in (counted, lambda *_: False):
            patch.setattr(fast_path, "request", way)
            world = Watched(wire, lines, Random(seed), accidents=accidents, **limits)
            worlds.append(world)
            world.play()
    event("requests taken: " + (str(taken[0]) if taken[0] < 5 else "more"))
    assert worlds[0].seen == worlds[1].seen
