"""Process ids of ours, and what SHOW hyperdrive.… says."""

from __future__ import annotations

import pytest

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.core.own_statements import (
    LARGEST_PROCESS_ID,
    bound_parameters,
    ends_itself,
    signalled,
)

OTHERS = 4242


@pytest.fixture
def two(proxy):
    """Two clients, of which the second is in a transaction; and its origin."""
    second, server = proxy.linked()
    first = proxy.client()
    second.process_id = second.session.process_id
    return first, second, server


def asks(proxy, client, text: str) -> str:
    """What the origin is asked in place of ``text``; by the client whose link is the newest."""
    client.sends(f"Q {text}")
    server = proxy.servers[-1]
    if server.state == "connecting":
        server.starts()
    (line,) = server.hears()
    server.sends("C SELECT 1", "Z I")
    return line.removeprefix("Q ")


class TestProcessIds:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("select pg_backend_pid()", ""),
            ("SELECT pg_catalog.pg_backend_pid() AS pid;", " AS pid"),
            ("select pg_backend_pid() me", " me"),
        ],
    )
    def test_its_own_is_the_one_the_client_was_given(self, proxy, text, name):
        client, _ = proxy.pair()
        asked = asks(proxy, client, text)
        assert asked.lower() == (
            f"select (select {client.session.process_id} as pg_backend_pid){name}".lower()
        )

    def test_by_the_extended_protocol(self, proxy):
        client, server = proxy.pair()
        client.sends("P : select pg_backend_pid()", "B <-", "E", "S")
        assert server.hears()[0] == (
            f"P : SELECT (SELECT {client.session.process_id} AS pg_backend_pid)"
        )

    def test_those_given_out_name_no_backend(self, proxy):
        client, _ = proxy.pair()
        assert client.session.process_id > LARGEST_PROCESS_ID

    def test_a_statement_prepared_for_one_client_is_not_anothers(self, proxy):
        client, server = proxy.pair()
        other = proxy.client()
        heard = []
        for each in (client, other):
            each.sends("P s: select pg_backend_pid()", "B <-s", "E", "S")
            heard += [line for line in server.hears() if line[0] == "P"]
            server.sends("1", "2", "D 1", "C SELECT 1", "Z I")
            each.hears()
        assert str(client.session.process_id) in heard[0]
        assert str(other.session.process_id) in heard[1]


class TestSignals:
    def test_cancel_reaches_the_session_that_was_named(self, proxy, two):
        first, second, server = two
        second.sends("Q select pg_sleep(9)")
        asked = asks(proxy, first, f"select pg_cancel_backend({second.process_id})")
        assert server.cancels == 1
        # The answer is the origin's, without a signal to a process that is not there.
        assert f"> {LARGEST_PROCESS_ID} THEN true" in asked.replace("OPERATOR(pg_catalog.>)", ">")

    def test_terminate_ends_the_session_that_was_named(self, proxy, two):
        first, second, server = two
        asks(proxy, first, f"SELECT pg_terminate_backend({second.process_id})")
        second.receives("E FATAL 57P01")
        assert second.closed
        server.is_cleaned(rollback=True)

    def test_by_a_bound_parameter(self, proxy, two):
        first, second, server = two
        second.sends("Q select pg_sleep(9)")
        first.sends("P : select pg_cancel_backend($1)", f"B <- {second.process_id}", "E", "S")
        proxy.servers[1].starts()
        assert server.cancels == 1

    def test_one_that_nobody_has_is_the_origins_business(self, proxy, two):
        first, _, server = two
        text = f"select pg_terminate_backend({OTHERS})"
        assert asks(proxy, first, text) == text
        assert server.cancels == 0

    def test_a_cancel_of_nothing_reaches_nobody(self, proxy, two):
        first, second, server = two
        asks(proxy, first, f"select pg_cancel_backend({second.process_id})")
        assert server.cancels == 0
        assert not second.closed

    @pytest.mark.parametrize("status", ["T", "E"])
    def test_a_statement_that_is_only_prepared_signals_nobody(self, proxy, two, status):
        first, second, server = two
        second.sends("Q select pg_sleep(9)")
        first.sends(f"P s: select pg_cancel_backend({second.process_id})", "S")
        assert server.cancels == 0

    def test_who_ends_itself_is_ended_as_by_postgresql(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select pg_terminate_backend(pg_backend_pid())")
        server.hears()
        server.sends("E FATAL 57P01 terminating connection due to administrator command")
        server.closes()
        client.receives("E FATAL 57P01 terminating connection due to administrator command")
        assert client.closed

    def test_who_ends_itself_by_the_number_it_was_given(self, proxy):
        client, server = proxy.pair()
        client.sends(f"Q select pg_terminate_backend({client.session.process_id})")
        client.receives("E FATAL 57P01")
        assert client.closed
        if server.state == "draining":
            while server.cancels:
                server.cancel_is_done()
            if server.hears():
                server.sends("C SELECT 1", "Z I")
        assert server.state in ("idle", "closed", "closing")


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (b"select pg_cancel_backend(4194305)", [(4194305, False)]),
            (b"select pg_catalog.pg_terminate_backend ( '4194306' )", [(4194306, True)]),
            (b"select pg_terminate_backend(4194306::int)", [(4194306, True)]),
            (b"select pg_cancel_backend(77)", []),
            (b"select pg_cancel_backend(pid) from pg_stat_activity", []),
            (b"select pg_cancel_backend($1), pg_terminate_backend($2)", [(4194307, False)]),
        ],
    )
    def test_whom_a_text_signals(self, text, expected):
        values = {1: b"4194307", 2: None}
        assert list(signalled(text, values.get)) == expected

    def test_parameters_by_their_number(self):
        value_of = bound_parameters(m.bind(b"p", b"s", [b"a", b"", b"4194305"]))
        assert [value_of(number) for number in range(5)] == [None, b"a", b"", b"4194305", None]

    def test_a_parameter_that_is_null(self):
        message = b"B\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff\x00\x00"
        assert bound_parameters(message)(1) is None

    @pytest.mark.parametrize("value", [(4194309).to_bytes(4), (4194309).to_bytes(8)])
    def test_a_parameter_in_binary(self, value):
        assert list(signalled(b"select pg_cancel_backend($1)", lambda _: value)) == [
            (4194309, False)
        ]

    def test_who_ends_itself(self):
        assert ends_itself(b"select pg_terminate_backend(pg_catalog.pg_backend_pid())")
        assert not ends_itself(b"select pg_terminate_backend(77)")


class TestShow:
    def test_sessions_tell_their_state_and_pins(self, proxy):
        client, server = proxy.pair()
        other = proxy.client(application_name="the 'other'")
        client.sends("Q listen a")
        server.hears()
        server.sends("C LISTEN", "Z I")
        server.is_read_back("8")
        asked = asks(proxy, other, "show hyperdrive.sessions")
        assert f"(E'{client.session.process_id}',E'linked',E'LISTEN',E'')" in asked
        assert f"(E'{other.session.process_id}'" in asked
        assert "E'the \\'other\\''" in asked
        assert asked.endswith("AS shown(pid,state,pinned_by,application_name)")

    def test_pins_are_counted_by_reason(self, proxy):
        client, server = proxy.pair()
        for rows in (["8"], [], ["8"]):
            client.sends("Q listen a")
            server.hears()
            server.sends("C LISTEN", "Z I")
            server.is_read_back(*rows)
        assert "(E'LISTEN',E'1',E'2')" in asks(proxy, client, "SHOW hyperdrive.pins;")

    def test_no_pins_are_no_rows(self, proxy):
        client, _ = proxy.pair()
        assert asks(proxy, client, "show hyperdrive.pins").endswith(
            "AS shown(reason,sessions,times) WHERE false"
        )

    def test_the_pool(self, start):
        proxy = start(origin_connection_limit=3)
        client, _ = proxy.pair()
        asked = asks(proxy, client, "show hyperdrive.pool")
        assert "(E'origin_connection_limit',E'3')" in asked
        assert "(E'origin_connections',E'1')" in asked

    def test_the_stats(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select 1")
        server.hears()
        server.sends("C SELECT 1", "Z I")
        asked = asks(proxy, client, "show hyperdrive.stats")
        assert "(E'origin_round_trips',E'1')" in asked
        assert asked.endswith("AS shown(name,value)")

    def test_what_there_is_not_is_the_origins_error(self, proxy):
        client, _ = proxy.pair()
        assert asks(proxy, client, "show hyperdrive.nonsense") == "show hyperdrive.nonsense"

    def test_by_the_extended_protocol(self, proxy):
        client, server = proxy.pair()
        client.sends("P : show hyperdrive.pool", "D S", "B <-", "E", "S")
        parse, *rest = server.hears()
        assert parse.startswith("P : SELECT * FROM (VALUES ")
        assert rest == ["D S", "B <-", "E", "S"]

    def test_nothing_of_a_client_is_run_by_being_shown(self, proxy):
        client, _ = proxy.pair()
        proxy.client(application_name="\\'); drop table t; --")
        asked = asks(proxy, client, "show hyperdrive.sessions")
        literals = asked.split("E'")[1:]
        assert any("drop table" in literal for literal in literals)
        assert "E'\\\\\\'); drop table t; --')" in asked
