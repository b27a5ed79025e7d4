"""What a transaction leaves is read back: settings follow the client, objects pin."""

from __future__ import annotations

import pytest

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.core.read_back import UNREADABLE, array, query, reasons
from hyperdrive_client.sql.facts import (
    ANYTHING,
    CHANNELS,
    CURSORS,
    LOCKS,
    SETTINGS,
    STATEMENTS,
    TEMPORARY,
    UNSEEN,
)


def runs(client, server, text: str, *rows: str, tag: str = "DONE") -> int:
    """A Query outside a transaction, and the read-back after it; what was asked for."""
    client.sends(f"Q {text}")
    assert server.hears()[-1] == f"Q {text}"
    server.sends(f"C {tag}", "Z I")
    client.receives(f"C {tag}", "Z I")
    return server.is_read_back(*rows)


def works(client, server, text: str = "select 1") -> None:
    """Runs something that leaves nothing."""
    client.sends(f"Q {text}")
    server.receives(f"Q {text}")
    server.sends("C SELECT 1", "Z I")
    client.receives("C SELECT 1", "Z I")


class TestSettings:
    """SET, RESET and set_config hold for the session, wherever it runs."""

    def test_a_set_is_in_force_in_the_next_link(self, start):
        proxy = start(origin_connection_limit=2)
        client, server = proxy.pair()
        assert runs(client, server, "set work_mem to '1MB'", "work_mem=1MB") == SETTINGS
        assert server.state == "idle"
        other = proxy.client()
        other.sends("Q begin read write")
        server.is_set("work_mem")
        server.receives("Q begin read write")
        client.sends("Q select 1")
        second = proxy.servers[1]
        second.starts()
        second.is_set("work_mem=1MB")
        second.receives("Q select 1")

    def test_it_is_not_replayed_where_it_is_in_force(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "set work_mem to '1MB'", "work_mem=1MB")
        works(client, server)

    def test_it_does_not_reach_the_next_client(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "set search_path to evil", "search_path=evil")
        proxy.client().sends("Q select 1")
        server.is_set("search_path")
        server.receives("Q select 1")

    def test_one_by_a_function_is_found_as_well(self, proxy):
        client, server = proxy.pair()
        assert runs(client, server, "select f()", "work_mem=1MB") == ANYTHING
        assert client.session.settings == ((b"work_mem", b"1MB"),)

    def test_in_a_transaction_that_is_rolled_back_the_value_goes_back(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "set work_mem to '1MB'", "work_mem=1MB")
        client.sends("Q begin read write", "Q set work_mem to '2MB'", "Q rollback")
        server.hears()
        server.sends("C BEGIN", "Z T", "C SET", "Z T", "C ROLLBACK", "Z I")
        client.hears()
        # The origin says so, nobody has to know.
        assert server.is_read_back("work_mem=1MB") == SETTINGS
        assert client.session.settings == ((b"work_mem", b"1MB"),)
        works(client, server)

    def test_one_that_fails_leaves_what_was(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set work_mem to 'nonsense'")
        server.hears()
        server.sends("E 22023 invalid value", "Z I")
        # The error comes on that statement, not later.
        client.receives("E 22023", "Z I")
        server.is_read_back()
        works(client, server)

    @pytest.mark.parametrize("text", ["set local work_mem to '1MB'", "set transaction read only"])
    def test_what_ends_with_its_transaction_is_not_asked_for(self, proxy, text):
        client, server = proxy.linked()
        client.sends(f"Q {text}", "Q commit")
        server.receives(f"Q {text}", "Q commit")
        server.sends("C SET", "Z T", "C COMMIT", "Z I")
        server.receives()
        assert server.state == "idle"

    def test_names_and_values_are_never_quoted(self, proxy):
        client, server = proxy.pair()
        value = 'it\'s "x", ' + "y" * 200
        runs(client, server, "set work_mem to 'x'", f"search_path={value}")
        assert client.session.settings == ((b"search_path", value.encode()),)
        proxy.client().sends("Q select 1")
        server.is_set("search_path")
        server.hears()
        server.sends("C SELECT 1", "Z I")
        client.sends("Q select 1")
        server.is_set(f"search_path={value}")

    def test_custom_settings_are_asked_for_by_name(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "set app.user to 'x'", "app.user=x")
        assert server.read_back_names == '{"app.user"}'
        assert client.session.settings == ((b"app.user", b"x"),)

    def test_an_empty_custom_setting_is_none(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "set app.user to ''", "app.user=")
        assert client.session.settings == ()

    def test_the_name_of_a_custom_setting_may_be_a_parameter(self, proxy):
        client, server = proxy.pair()
        client.sends("P : select set_config($1,$2,false)", "B <- app.user,x", "E", "S")
        server.hears()
        server.sends("1", "2", "D x", "C SELECT 1", "Z I")
        server.is_read_back("app.user=x")
        assert '"app.user"' in server.read_back_names

    def test_role_and_authorization_are_settings_that_follow_the_client(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "set role r", "role=r", "session_authorization=owner")
        assert client.session.settings == ((b"role", b"r"),)
        other = proxy.client()
        other.sends("Q select 1")
        server.is_set("role")
        server.hears()
        server.sends("C SELECT 1", "Z I")
        client.sends("Q select 1")
        server.is_set("role=r")

    @pytest.mark.parametrize("rows", [["role=none", "session_authorization=owner"], []])
    def test_no_role_and_the_logins_own_authorization_are_none(self, proxy, rows):
        client, server = proxy.pair()
        runs(client, server, "reset role", *rows)
        assert client.session.settings == ()

    def test_another_authorization_is_one(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "set session authorization x", "session_authorization=x")
        assert client.session.settings == ((b"session_authorization", b"x"),)

    def test_a_parameter_status_says_that_something_has_changed(self, proxy):
        client, server = proxy.pair()
        # A trigger, perhaps.
        client.sends("Q insert into t values (1)")
        server.hears()
        server.sends("C INSERT 0 1", "S TimeZone=UTC", "Z I")
        client.receives("C INSERT 0 1", "S TimeZone=UTC", "Z I")
        assert server.is_read_back("timezone=UTC") == SETTINGS
        assert client.session.settings == ((b"timezone", b"UTC"),)

    def test_statements_are_parsed_anew_under_other_settings(self, proxy):
        client, server = proxy.pair()
        client.sends("P s: select * from t", "S")
        first = server.hears()[0]
        server.sends("1", "Z I")
        client.receives("1", "Z I")
        runs(client, server, "set search_path to b", "search_path=b")
        client.sends("B <-s", "E", "S")
        parse, bind, *_ = server.hears()
        assert parse.endswith(": select * from t")
        assert parse != first
        assert bind == f"B <-{parse[2:].partition(':')[0]}"


class TestStartingValues:
    """RESET brings back what the client has started with, not what the origin starts with."""

    @pytest.fixture
    def zoned(self, proxy):
        _, server = proxy.pair()
        client = proxy.connect()
        client.asks_in(TimeZone="UTC")
        server.is_set("timezone=UTC", reports=["TimeZone=UTC"])
        client.is_welcomed(TimeZone="UTC")
        return client, server

    @pytest.mark.parametrize(
        "text",
        [
            "reset timezone",
            "RESET ALL",
            "set timezone to default",
            "set time zone local",
            "reset time zone",
            "discard all",
            "select 1; reset timezone",
        ],
    )
    def test_by_query(self, zoned, text):
        client, server = zoned
        client.sends(f"Q {text}")
        assert server.hears()[0] == f"Q {text}"
        server.sends("C RESET", "S TimeZone=GMT", "Z I")
        # ReadyForQuery is that of the batch that puts it back in force.
        assert client.hears()[-1] == "S TimeZone=GMT"
        server.sends("1", "2", "D UTC", "C SELECT 1", "3", "S TimeZone=UTC", "Z I")
        client.receives("S TimeZone=UTC", "Z I")
        server.is_read_back("timezone=UTC")
        assert client.session.settings == ((b"timezone", b"UTC"),)

    def test_by_the_extended_protocol_before_its_sync(self, zoned):
        client, server = zoned
        client.sends("P : reset timezone", "B <-", "E", "S")
        lines = server.hears()
        assert lines[:3] == ["P : reset timezone", "B <-", "E"]
        assert (lines[4], lines[-1], lines.count("S")) == ("B <- timezone,UTC", "S", 1)
        server.sends("1", "2", "C RESET")
        server.sends("1", "2", "D UTC", "C SELECT 1", "3", "Z I")
        client.receives("1", "2", "C RESET", "Z I")

    def test_one_that_fails_is_one_error(self, zoned):
        client, server = zoned
        client.sends("Q reset nosuch; reset timezone")
        heard = server.hears()
        server.sends("E 42704 unrecognized configuration parameter", "Z I")
        server.sends("1", "2", "D UTC", "C SELECT 1", "3", "Z I") if len(heard) > 1 else None
        client.receives("E 42704", "Z I")

    def test_one_in_a_failed_transaction_is_one_error(self, zoned):
        client, server = zoned
        client.sends("Q begin read write", "Q select fail")
        server.hears()
        server.sends("C BEGIN", "Z T", "E 42703 no", "Z E")
        client.hears()
        client.sends("Q reset timezone")
        heard = server.hears()
        server.sends("E 25P02 aborted", "Z E")
        if len(heard) > 1:
            server.sends("E 25P02 aborted", "Z E")
        client.receives("E 25P02", "Z E")

    def test_what_it_did_not_start_with_is_left_alone(self, zoned):
        client, server = zoned
        client.sends("Q reset work_mem")
        server.receives("Q reset work_mem")

    def test_a_set_of_another_value_holds(self, zoned):
        client, server = zoned
        client.sends("Q set timezone to 'Asia/Tokyo'")
        server.hears()
        server.sends("C SET", "S TimeZone=Asia/Tokyo", "Z I")
        server.is_read_back("timezone=Asia/Tokyo")
        assert client.session.settings == ((b"timezone", b"Asia/Tokyo"),)

    def test_what_is_not_there_any_more_is_back_at_its_start(self, zoned):
        client, server = zoned
        runs(client, server, "select f()")
        assert client.session.settings == ((b"timezone", b"UTC"),)
        client.sends("Q select 1")
        server.is_set("timezone=UTC")


OBJECTS = [
    ("create temp table t (i int)", TEMPORARY, "temporary object"),
    ("select pg_advisory_lock(1)", LOCKS, "advisory lock"),
    ("listen a", CHANNELS, "LISTEN"),
    ("declare c cursor with hold for select 1", CURSORS, "WITH HOLD cursor"),
    ("prepare p as select 1", STATEMENTS, "PREPARE"),
]


class TestPins:
    """What can't be replayed keeps the link, until it is gone."""

    @pytest.mark.parametrize(("text", "trace", "reason"), OBJECTS)
    def test_an_object_of_the_session_pins(self, start, text, trace, reason):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.pair()
        other = proxy.client()
        asked = runs(client, server, text, str(trace))
        assert asked & trace
        assert reasons(client.session.pinned) == [reason]
        assert proxy.core.counters.pins == {reason: 1}
        other.sends("Q select 1")
        server.receives()
        # The link is kept, and costs nothing more.
        works(client, server)
        assert server.state == "linked"

    @pytest.mark.parametrize(("text", "trace", "reason"), OBJECTS)
    def test_none_is_no_pin(self, proxy, text, trace, reason):
        client, server = proxy.pair()
        runs(client, server, text)
        assert (client.session.pinned, server.state) == (0, "idle")

    @pytest.mark.parametrize(("text", "trace", "reason"), OBJECTS)
    def test_the_pin_ends_when_the_object_does(self, start, text, trace, reason):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.pair()
        other = proxy.client()
        runs(client, server, text, str(trace))
        other.sends("Q select 2")
        runs(client, server, "do 'something'")
        assert client.session.pinned == 0
        server.receives("Q select 2")

    def test_other_reasons_last(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "listen a", str(CHANNELS))
        runs(client, server, "select pg_advisory_lock(1)", str(LOCKS), str(CHANNELS))
        assert reasons(client.session.pinned) == ["advisory lock", "LISTEN"]
        runs(client, server, "select pg_advisory_unlock(1)", str(CHANNELS))
        assert reasons(client.session.pinned) == ["LISTEN"]

    def test_who_ends_pinned_leaves_it_to_be_cleaned(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "create temp table t (i int)", str(TEMPORARY))
        client.sends("X")
        server.is_cleaned()
        assert server.state == "idle"

    def test_who_vanishes_pinned_leaves_it_to_be_cleaned(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "select pg_advisory_lock(1)", str(LOCKS))
        client.vanishes()
        server.is_cleaned()
        assert server.state == "idle"

    def test_an_origin_lost_takes_the_session_with_it(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "listen a", str(CHANNELS))
        server.closes()
        client.receives("E FATAL 08006")
        assert client.closed

    def test_begin_is_lazy_and_the_end_is_not_early(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "listen a", str(CHANNELS))
        client.sends("Q begin", "Q select 1", "Q commit")
        assert [line for line in server.hears() if line[0] == "Q"][-1] in ("Q select 1", "Q commit")
        assert server.state == "linked"

    def test_notifications_come_through_a_pinned_link(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "listen a", str(CHANNELS))
        server.sends("A 5 a payload")
        client.receives("A 5 a payload")

    def test_the_time_spent_pinned_is_counted(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "listen a", str(CHANNELS))
        proxy.later(5)
        runs(client, server, "unlisten a")
        assert proxy.core.counters.pinned_seconds == pytest.approx(5)
        assert proxy.core.counters.link_seconds == pytest.approx(5)


class TestReading:
    """The read-back itself is nobody's business."""

    def test_nobody_hears_of_it(self, proxy):
        client, server = proxy.pair()
        runs(client, server, "set a to b", "a=b")
        client.receives()

    def test_it_waits_for_the_end_of_a_pipeline(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set a to b", "Q select 1")
        server.receives("Q set a to b", "Q select 1")
        server.sends("C SET", "Z I")
        server.receives()
        server.sends("C SELECT 1", "Z I")
        assert server.is_read_back("a=b") == SETTINGS

    def test_it_asks_once_for_all_of_a_transaction(self, proxy):
        client, server = proxy.linked()
        client.sends("Q listen a", "Q set a to b", "Q commit")
        server.hears()
        server.sends("C LISTEN", "Z T", "C SET", "Z T", "C COMMIT", "Z I")
        assert server.is_read_back() == SETTINGS | CHANNELS
        assert server.state == "idle"

    def test_a_query_behind_it_is_sent_at_once_and_answered_in_turn(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set a to b")
        server.hears()
        server.sends("C SET", "Z I")
        _, answers = server.reads_back("a=b")
        client.receives("C SET", "Z I")
        client.sends("Q select 1")
        if server.data:
            server.receives("Q select 1")
        server.sends(*answers)
        client.receives()
        server.hears()
        server.sends("C SELECT 1", "Z I")
        client.receives("C SELECT 1", "Z I")
        assert server.state == "idle"
        assert client.session.settings == ((b"a", b"b"),)

    def test_a_statement_parsed_behind_it_is_parsed_under_what_it_finds(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set search_path to b")
        server.hears()
        server.sends("C SET", "Z I")
        _, answers = server.reads_back("search_path=b")
        client.sends("P s: select * from t", "S")
        server.sends(*answers)
        parse = server.hears()[0]
        server.sends("1", "Z I")
        client.hears()
        other = proxy.client()
        other.sends("P s: select * from t", "S")
        server.is_set("search_path")
        assert server.hears()[0] != parse, "shared with a session of another search_path"

    def test_who_vanishes_during_it_leaves_the_origin_to_be_cleaned(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set a to b")
        server.hears()
        server.sends("C SET", "Z I")
        _, answers = server.reads_back("a=b")
        client.vanishes()
        server.sends(*answers)
        if server.cancels:
            server.cancel_is_done()
        server.is_cleaned()
        assert server.state == "idle"

    def test_who_ends_during_it_leaves_the_origin_to_be_cleaned(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set a to b", "X")
        server.hears()
        server.sends("C SET", "Z I")
        server.is_cleaned()
        assert server.state == "idle"

    def test_a_cancel_that_comes_too_late_does_not_harm_it(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set a to b")
        server.hears()
        server.sends("C SET", "Z I")
        client.receives("C SET", "Z I")
        server.hears()
        client.cancel_request()
        server.sends("1", "2", "E 57014 canceling statement due to user request", "Z I")
        client.receives()
        while server.cancels:
            server.cancel_is_done()
        # Once more, without the client's own statement_timeout.
        assert server.is_read_back("a=b", patiently=True) == SETTINGS
        client.receives()
        assert client.session.settings == ((b"a", b"b"),)
        assert server.state == "idle"

    def test_a_session_that_cannot_be_read_back_stays_where_it_is(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set a to b")
        server.hears()
        server.sends("C SET", "Z I")
        client.receives("C SET", "Z I")
        server.hears()
        server.sends("1", "2", "E 57014 timeout", "Z I")
        server.hears()
        server.sends("1", "2", "D x", "C SELECT 1", "2", "E 42501 denied", "Z I")
        client.receives()
        assert reasons(client.session.pinned) == ["unreadable state"]
        assert server.state == "linked"
        works(client, server)
        # The next change is another chance.
        assert runs(client, server, "set a to c", "a=c") == ANYTHING
        assert (client.session.pinned, server.state) == (0, "idle")

    def test_an_origin_lost_during_it_ends_the_session(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set a to b")
        server.sends("C SET", "Z I")
        client.receives("C SET", "Z I")
        server.closes()
        client.receives("E FATAL 08006")
        assert client.closed

    def test_names_made_at_the_origin_for_an_error_go_with_it(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S")
        server.hears()
        server.sends("1", "Z T")
        client.sends("P s: select 2", "S")
        server.hears()
        server.sends("3", "1", "E 42P05 exists", "Z E")
        client.sends("Q rollback")
        server.hears()
        server.sends("C ROLLBACK", "Z I")
        assert "C S s" in server.hears()

    def test_and_so_they_do_if_the_client_is_gone(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S")
        server.hears()
        server.sends("1", "Z T")
        client.sends("P s: select 2", "S")
        server.hears()
        server.sends("3", "1", "E 42P05 exists", "Z E")
        client.vanishes()
        server.is_cleaned(rollback=True)
        assert server.state == "idle"

    def test_a_read_back_that_fails_does_not_forget_them(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S")
        server.hears()
        server.sends("1", "Z T")
        client.sends("P s: select 2", "S")
        server.hears()
        server.sends("3", "1", "E 42P05 exists", "Z E")
        client.sends("Q rollback")
        server.hears()
        server.sends("C ROLLBACK", "Z I")
        assert "C S s" in server.hears()
        server.sends("1", "2", "E 57014 canceled", "Z I")
        assert "C S s" in server.hears()

    def test_a_function_call_may_have_done_anything(self, proxy):
        client, server = proxy.pair()
        client.sends("F 1")
        server.hears()
        server.sends("V x", "Z I")
        assert server.is_read_back() == ANYTHING

    def test_what_no_query_shows_keeps_the_link_for_good(self, proxy):
        client, server = proxy.pair()
        assert runs(client, server, "load 'x'") == 0
        assert client.session.pinned == UNSEEN
        runs(client, server, "discard all")
        assert client.session.pinned == UNSEEN

    @pytest.mark.parametrize(
        "row", [b"\x00\x01\x00\x00\x00\x01x", b"\x00\x02\x00\x00\x00\x7fx", b"", b"\x00\x02"]
    )
    def test_nonsense_from_the_origin_ends_that_connection_only(self, proxy, row):
        client, server = proxy.pair()
        other = proxy.client()
        client.sends("Q set a to b")
        server.hears()
        server.sends("C SET", "Z I")
        server.sends("1", "2")
        server.sends_bytes(m.message(m.DATA_ROW, row))
        server.sends("C SELECT 1", "Z I")
        assert server.aborted or server.state == "idle"
        assert not other.closed


class TestQuery:
    @pytest.mark.parametrize("traces", [0, SETTINGS, LOCKS | CHANNELS, ANYTHING])
    def test_every_name_in_it_is_qualified(self, traces):
        text = query(traces).decode()
        assert "FROM pg_catalog." in text or not traces
        assert " = " not in text
        assert " <> " not in text

    def test_it_takes_its_parameter_in_any_case(self):
        assert all(b"$1" in query(traces) for traces in range(ANYTHING + 1))

    def test_an_array_of_names(self):
        assert array([b"b.c", b"a.b"]) == b'{"a.b","b.c"}'
        assert array([]) == b"{}"

    def test_every_trace_has_a_reason(self):
        traces = (TEMPORARY, LOCKS, CHANNELS, CURSORS, STATEMENTS, UNSEEN, UNREADABLE)
        assert all(reasons(trace) for trace in traces)
        assert reasons(SETTINGS) == []
