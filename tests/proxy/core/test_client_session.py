"""What clients send, and how they go."""

from __future__ import annotations

import pytest

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.sql.facts import ANYTHING, CHANNELS, LOCKS, SETTINGS

MIB = 1024 * 1024


class TestWithoutALink:
    def test_sync_alone_is_answered_here(self, proxy):
        client, server = proxy.pair()
        client.sends("S", "S")
        client.receives("Z I", "Z I")
        server.receives()

    def test_what_postgresql_ignores_is_ignored(self, proxy):
        client, server = proxy.pair()
        client.sends("d late", "c", "f late", "H")
        client.receives()
        server.receives()

    @pytest.mark.parametrize("text", ["", ";"])
    def test_an_empty_query_is_answered_here(self, proxy, text):
        client, server = proxy.pair()
        client.sends(f"Q {text}", "Q begin", f"Q {text}")
        client.receives("I", "Z I", "C BEGIN", "Z T", "I", "Z T")
        server.receives()

    @pytest.mark.parametrize("body", [b"", b"x", b";x"])
    def test_a_query_without_its_end_is_none_that_is_empty(self, proxy, body):
        client, server = proxy.pair()
        query = m.message(m.QUERY, body)
        client.sends_bytes(query)
        client.receives()
        assert server.hears_bytes() == query

    def test_goodbye(self, proxy):
        client, server = proxy.pair()
        client.sends("X")
        assert client.closed
        client.receives()
        assert server.state == "idle"

    @pytest.mark.parametrize("kind", [b"z", b"p", b"\x00", b"Z"])
    def test_an_unknown_message_ends_this_client_only(self, proxy, kind):
        client, server = proxy.pair()
        client.sends_bytes(kind + m.INT32.pack(4))
        client.receives("E FATAL 08P01")
        assert client.closed
        assert server.state == "idle"


class TestQueries:
    def test_a_query_and_its_answer(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select 1")
        server.receives("Q select 1")
        server.sends("T a", "D 1", "C SELECT 1", "Z I")
        client.receives("T a", "D 1", "C SELECT 1", "Z I")

    def test_an_empty_query_in_a_transaction(self, proxy):
        client, server = proxy.linked()
        client.sends("Q ")
        server.receives("Q")
        server.sends("I", "Z T")
        client.receives("I", "Z T")

    def test_half_a_message_waits_for_the_rest(self, proxy):
        client, server = proxy.pair()
        client.sends_bytes(b"Q\x00\x00\x00\x0ds")
        server.receives()
        assert client.state == "idle"
        client.sends_bytes(b"elect 1\x00")
        server.receives("Q select 1")

    def test_several_in_one_write(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select 1", "F 2", "B <-", "E", "S", "S", "Q select 3")
        server.receives("Q select 1", "F 2", "B <-", "E", "S", "S", "Q select 3")
        answers = ("C SELECT 1", "Z I", "V x", "Z I", "2", "D 1", "C SELECT 1", "Z I", "Z I", "I")
        server.sends(*answers)
        client.receives(*answers)
        assert server.state == "linked"
        server.sends("Z I")
        client.receives("Z I")

    def test_a_query_of_two_megabytes_passes_in_parts(self, proxy):
        client, server = proxy.pair()
        proxy.feeding = "whole"
        data = b"Q" + m.INT32.pack(2 * MIB + 5) + b"x" * (2 * MIB) + b"\x00"
        for at in range(0, len(data), 700_000):
            client.sends_bytes(data[at : at + 700_000])
        assert server.hears_bytes() == data
        assert server.state == "linked"

    def test_a_function_call(self, proxy):
        client, server = proxy.pair()
        client.sends("F 1598")
        server.receives("F 1598")
        server.sends("V 1", "Z I")
        client.receives("V 1", "Z I")
        # Who knows what the function did.
        assert server.is_read_back() == ANYTHING
        assert server.state == "idle"

    def test_a_function_call_that_fails(self, proxy):
        client, server = proxy.pair()
        client.sends("F 1", "Q select 1")
        server.sends("E 42883 no such function", "Z I")
        server.sends("C SELECT 1", "Z I")
        client.receives("E 42883", "Z I", "C SELECT 1", "Z I")

    def test_a_commit_that_fails_at_sync(self, proxy):
        client, server = proxy.pair()
        client.sends("P : insert", "B <-", "E", "S", "Q select 1")
        server.sends("1", "2", "C INSERT 0 1", "E 23503 deferred", "Z I")
        server.sends("C SELECT 1", "Z I")
        client.receives("1", "2", "C INSERT 0 1", "E 23503", "Z I", "C SELECT 1", "Z I")

    def test_a_query_in_an_open_batch(self, proxy):
        client, server = proxy.pair()
        client.sends("P : select 1", "Q select 2")
        assert server.obliges() == ["P : select 1", "Q select 2"]
        client.receives("1", "C SELECT 1", "Z I")
        client.sends("S")
        server.obliges()
        client.receives("Z I")
        assert server.state == "idle"

    def test_a_query_in_a_failed_batch_is_ignored_to_its_sync(self, proxy):
        client, server = proxy.linked()
        client.sends("P : selec", "Q select 2")
        server.sends("E 42601 syntax")
        client.receives("E 42601")
        client.sends("Q select 3")
        client.sends("P : select 4", "S")
        assert server.hears()[-1] == "S"
        server.sends("Z E")
        client.receives("Z E")

    def test_a_batch_behind_one_that_failed_and_never_ended(self, proxy):
        client, server = proxy.linked()
        client.sends("B <-none", "Q select 1", "P : select 2", "B <-", "S")
        server.sends("E 26000 none")
        assert server.hears()[-1] == "S"
        server.sends("Z E")
        client.receives("E 26000", "Z E")

    def test_answers_after_the_clients_end_reach_nobody(self, proxy):
        client, server = proxy.pair()
        client.sends("Q update t set a = 1", "X")
        server.receives("Q update t set a = 1")
        assert client.closed
        assert server.state == "draining"
        server.sends("C UPDATE 1", "Z I")
        assert server.state == "idle"
        assert server.cancels == 0

    @pytest.mark.parametrize("text", ["select 1", "begin read write; update t set a = 1"])
    def test_what_cannot_last_is_cancelled_when_the_client_says_goodbye(self, proxy, text):
        client, server = proxy.pair()
        *first, last = text.split("; ")
        for before in first:
            client.sends(f"Q {before}")
            server.hears()
            server.sends("C BEGIN", "Z T")
        client.sends(f"Q {last}", "X")
        assert client.closed
        assert server.cancels == 1


class TestMalformed:
    """Whoever breaks the protocol is told and closed; nobody else notices."""

    @pytest.mark.parametrize(
        "data",
        [
            b"Q" + m.INT32.pack(3),
            b"Q" + m.INT32.pack(0xFFFFFFFF),
            b"Q" + m.INT32.pack(0),
            b"S" + m.INT32.pack(0x7FFFFFFF),
            m.message(m.PARSE, b"name without end"),
            m.message(m.PARSE, b"s\x00text without end"),
            m.message(m.PARSE, b"s\x00select 1\x00"),
            m.message(m.PARSE, b"s\x00select 1\x00\x00"),
            m.message(m.PARSE, b"s\x00select 1\x00\x00\x01\x00\x00"),
            m.message(m.PARSE, b"s\x00select 1\x00\x00\x00more"),
            m.message(m.BIND, b"portal"),
            m.message(m.BIND, b"portal\x00statement"),
            m.message(m.DESCRIBE, b""),
            m.message(m.DESCRIBE, b"Sname"),
            m.message(m.DESCRIBE, b"Xname\x00"),
            m.message(m.CLOSE, b"P"),
            m.message(m.CLOSE, b"s\x00"),
        ],
    )
    @pytest.mark.parametrize("linked", [False, True])
    def test_a_message(self, proxy, data, linked):
        client, server = proxy.linked() if linked else proxy.pair()
        other = proxy.client()
        client.sends_bytes(data)
        client.receives("E FATAL 08P01")
        assert client.closed
        if server.state == "cleaning":
            server.is_cleaned(rollback=True)
        elif server.aborted:
            server.closes()
        other.sends("Q select 1")
        if server.state == "closed":
            proxy.servers[1].starts()
        assert proxy.servers[-1].hears() == ["Q select 1"]

    @pytest.mark.parametrize(
        "bad",
        [
            b"z" + m.INT32.pack(4),
            b"Q" + m.INT32.pack(2),
            m.message(m.PARSE, b"s\x00select"),
            m.message(m.DESCRIBE, b"X\x00"),
        ],
    )
    def test_what_comes_before_it_is_done(self, proxy, bad):
        client, server = proxy.pair()
        client.sends_bytes(b"Q\x00\x00\x00\x0dinsert 1\x00" + bad)
        assert server.hears() == ["Q insert 1"]
        assert client.hears()[-1].startswith("E FATAL 08P01")
        server.sends("C INSERT 0 1", "Z I")
        # A batch that the bad message began can't be ended: that origin connection goes.
        assert server.state in ("idle", "closing")
        assert server.state != "closing" or server.aborted

    @pytest.mark.parametrize("bad", [b"z" + m.INT32.pack(4), b"Q" + m.INT32.pack(2)])
    def test_behind_half_a_message(self, proxy, bad):
        proxy.feeding = "whole"
        client, server = proxy.pair()
        begin = b"Q" + m.INT32.pack(2 * MIB + 5) + b"x" * (MIB + 10)
        client.sends_bytes(begin)
        rest = b"x" * (MIB - 10) + b"\x00"
        client.sends_bytes(rest + bad)
        client.receives("E FATAL 08P01")
        if server.aborted:
            return
        assert server.hears_bytes() == begin + rest
        server.sends("E 42601 syntax", "Z I")
        assert server.state in ("idle", "cleaning")

    def test_while_waiting(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q select 1")
        second.sends_bytes(b"Q\x00\x00\x00\x0bselect\x00" + b"z" + m.INT32.pack(4))
        second.receives()
        server.sends("C SELECT 1", "Z I")
        second.receives("E FATAL 08P01")
        server.receives("Q select 1", "Q select")
        server.sends("C SELECT 1", "Z I")
        assert server.state == "idle"

    def test_a_bad_length_while_waiting(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q select 1")
        second.sends_bytes(b"Q\x00\x00\x00\x0bselect\x00" + b"Q" + m.INT32.pack(1))
        server.sends("C SELECT 1", "Z I")
        second.receives("E FATAL 08P01")
        server.receives("Q select 1", "Q select")
        server.sends("C SELECT 1", "Z I")
        assert server.state == "idle"

    def test_a_rewritten_bind_may_not_grow_too_long(self, proxy):
        proxy.feeding = "whole"
        client, server = proxy.linked()
        client.sends("P s: select 1", "S")
        server.hears()
        server.sends("1", "Z T")
        client.hears()
        body = b"\x00s\x00" + b"\x00\x00\x00\x00\x00\x00"
        client.sends_bytes(b"B" + m.INT32.pack(0x3FFFFFFE) + body + b"x" * MIB)
        client.receives("E FATAL 08P01")
        assert client.closed
        assert server.aborted


class TestLongMessages:
    """What is passed on in parts is passed on to its end, whatever happens meanwhile."""

    @pytest.fixture
    def bound(self, proxy):
        """A client in a transaction, half of whose Bind is at the origin; and the other half."""
        proxy.feeding = "whole"
        client, server = proxy.linked()
        values = b"v" * (2 * MIB)
        bind = m.bind(b"", b"", [values])
        client.sends("P : selec")
        client.sends_bytes(bind[: MIB + 100])
        assert server.hears() == ["P : selec"]
        return client, server, bind

    def test_an_error_in_between(self, bound):
        client, server, bind = bound
        server.sends("E 42601 syntax")
        client.sends_bytes(bind[MIB + 100 : MIB + 200])
        client.sends_bytes(bind[MIB + 200 :])
        client.sends("E", "S")
        assert [line[:2] for line in server.hears()] == ["B ", "S"]
        server.sends("Z E")
        client.receives("E 42601", "Z E")

    def test_none_in_between(self, bound):
        client, server, bind = bound
        client.sends_bytes(bind[MIB + 100 :] + b"S\x00\x00\x00\x04")
        assert [line[:2] for line in server.hears()] == ["B ", "S"]

    def test_the_client_vanishes_in_between(self, bound):
        client, server, _ = bound
        client.vanishes()
        assert server.aborted

    def test_one_that_is_ignored_is_ignored_to_its_end(self, proxy):
        proxy.feeding = "whole"
        client, server = proxy.linked()
        client.sends("B <-none", "H")
        server.receives("B <-none", "H")
        server.sends("E 26000 none")
        bind = m.bind(b"", b"", [b"v" * (2 * MIB)])
        client.sends_bytes(bind[: MIB + 100])
        client.sends_bytes(bind[MIB + 100 : MIB + 200])
        client.sends_bytes(bind[MIB + 200 :] + b"S\x00\x00\x00\x04")
        server.receives("S")
        server.sends("Z E")
        client.receives("E 26000", "Z E")
        client.sends("Q rollback")
        server.receives("Q rollback")

    def test_the_client_vanishes_in_the_middle_of_a_query(self, proxy):
        proxy.feeding = "whole"
        client, server = proxy.pair()
        query = b"Q" + m.INT32.pack(2 * MIB + 5) + b"x" * (2 * MIB) + b"\x00"
        client.sends_bytes(query[: MIB + 50])
        client.vanishes()
        assert server.aborted


class TestVanishing:
    """A client that is gone leaves nothing behind."""

    def test_idle(self, proxy):
        client, server = proxy.pair()
        client.vanishes()
        assert server.state == "idle"
        assert not proxy.core.clients

    def test_in_start_up(self, proxy):
        client = proxy.connect()
        client.vanishes()
        client.vanishes()
        assert proxy.core.at_rest

    def test_in_a_transaction_at_rest(self, proxy):
        client, server = proxy.linked()
        client.vanishes()
        assert server.cancels == 0
        server.is_cleaned(rollback=True)
        assert server.state == "idle"

    def test_in_a_failed_transaction(self, proxy):
        client, server = proxy.linked("E")
        client.sends("X")
        server.is_cleaned(rollback=True)
        assert server.state == "idle"

    def test_while_a_query_runs(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        server.hears()
        client.vanishes()
        assert server.cancels == 1
        server.cancel_is_done()
        server.receives()
        server.sends("E 57014 canceled", "Z I")
        assert server.state == "idle"

    def test_the_link_is_held_until_the_cancel_is_delivered(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        client.vanishes()
        server.sends("C SELECT 1", "Z I")
        assert server.state == "draining"
        server.cancel_is_done()
        assert server.state == "idle"

    def test_in_a_running_transaction(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select")
        server.hears()
        client.vanishes()
        server.cancel_is_done()
        server.sends("E 57014 canceled", "Z E")
        server.is_cleaned(rollback=True)

    def test_in_an_open_batch(self, proxy):
        client, server = proxy.pair()
        client.sends("P : insert", "B <-", "E", "H")
        client.vanishes()
        assert server.cancels == 1
        assert server.aborted
        server.cancel_is_done()
        server.closes()
        assert proxy.core.at_rest

    def test_in_an_open_batch_that_is_answered(self, proxy):
        client, server = proxy.pair()
        client.sends("P : insert", "H")
        server.sends("1")
        client.vanishes()
        assert server.cancels == 0
        assert server.aborted

    def test_in_a_failed_batch(self, proxy):
        client, server = proxy.pair()
        client.sends("P : selec", "H")
        server.sends("E 42601 syntax")
        client.vanishes()
        assert server.aborted

    def test_in_a_failed_batch_with_a_query_in_it(self, proxy):
        client, server = proxy.pair()
        client.sends("P : selec", "Q select 1")
        server.sends("E 42601 syntax")
        client.vanishes()
        # The origin ignores everything: nobody can use it.
        assert server.aborted

    def test_in_a_batch_that_then_fails_with_a_query_in_it(self, proxy):
        client, server = proxy.pair()
        client.sends("P : selec", "Q select 1")
        client.vanishes()
        if not server.aborted:
            server.sends("E 42601 syntax")
        assert server.aborted

    def test_in_a_failed_batch_while_a_cancel_is_under_way(self, proxy):
        client, server = proxy.pair()
        client.sends("P : selec", "Q select 1")
        client.cancel_request()
        server.sends("E 42601 syntax")
        server.cancel_is_done()
        assert server.state == "linked"

    def test_in_copy_in(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin")
        server.sends("G")
        client.sends("d one")
        client.vanishes()
        assert server.aborted

    @pytest.mark.parametrize("lines", [["Q copy t from stdin"], ["P : copy", "B <-", "E", "S"]])
    @pytest.mark.parametrize("terminates", [True, False])
    def test_before_copy_in_begins(self, proxy, lines, terminates):
        client, server = proxy.pair()
        client.sends(*lines)
        if terminates:
            client.sends("X")
        else:
            client.vanishes()
        if len(lines) > 1:
            server.sends("1", "2")
        server.sends("G")
        assert server.aborted

    def test_in_copy_out(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t to stdout")
        server.sends("H", "d one")
        client.vanishes()
        server.cancel_is_done()
        server.sends("d two", "E 57014 canceled", "Z I")
        assert server.state == "idle"

    def test_in_the_middle_of_a_message(self, proxy):
        client, server = proxy.linked()
        client.sends_bytes(b"F\x00\x00\x00\x20abcd")
        client.vanishes()
        assert server.aborted

    def test_with_half_a_message_that_nobody_has_seen(self, proxy):
        client, server = proxy.linked()
        client.sends_bytes(b"Q\x00\x00\x00\x20abcd")
        client.vanishes()
        server.is_cleaned(rollback=True)

    def test_while_it_waits(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q select 1")
        second.sends("Q select 2")
        second.vanishes()
        server.sends("C SELECT 1", "Z I")
        server.receives("Q select 1")
        assert server.state == "idle"

    def test_while_it_is_stalled(self, proxy):
        client, server = proxy.pair()
        client.sends("P s: select 1", "S", "P t: select 1", "S")
        assert client.state == "stalled"
        client.vanishes()
        server.cancel_is_done()
        server.sends("1", "Z I")
        assert server.state == "idle"

    def test_when_it_has_terminated_already(self, proxy):
        client, _ = proxy.pair()
        client.sends("X")
        client.vanishes()
        assert not proxy.core.clients


class TestStalling:
    """What depends on answers that are still to come waits for them."""

    def test_what_comes_meanwhile_is_kept_in_order(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S", "P s: select 2", "S")
        client.sends("Q select 3")
        assert client.state == "stalled"
        assert server.hears()[-1] == "S"
        server.sends("E 42601 no", "Z T")
        parse, *rest = server.obliges("T")
        assert parse.endswith("select 2")
        assert rest == ["S", "Q select 3"]
        client.receives("E 42601", "Z T", "1", "Z T", "C SELECT 1", "Z T")

    def test_it_may_be_cancelled(self, proxy):
        client, server = proxy.pair()
        client.sends("P s: select 1", "S", "P t: select 1", "S")
        client.cancel_request()
        assert server.cancels == 1

    def test_the_end_that_comes_meanwhile_is_obeyed_afterwards(self, proxy):
        client, server = proxy.pair()
        client.sends("P s: select 1", "S", "P t: select 1", "S", "X")
        assert not client.closed
        assert server.obliges()[-1] == "S"
        assert client.closed
        assert server.cancels == 1

    def test_a_bad_message_that_comes_meanwhile_is_told_afterwards(self, proxy):
        client, server = proxy.pair()
        client.sends("P s: select 1", "S", "P t: select 1", "S")
        client.sends_bytes(b"z\x00\x00\x00\x04")
        client.receives()
        assert server.obliges()[-1] == "S"
        assert client.hears()[-1] == "E FATAL 08P01 invalid frontend message type 122"
        assert server.state == "idle"

    def test_who_sends_too_much_is_not_read_from(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S", "P s: select 2", "S")
        client.sends("Q select " + "x" * 70_000)
        assert client.paused
        server.sends("1", "Z T")
        assert not client.paused

    def test_an_origin_lost_meanwhile(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S", "P t: select 1", "S")
        server.closes()
        client.receives("E 08006", "Z E", "E 25P02", "Z E")
        client.sends("Q rollback")
        client.receives("C ROLLBACK", "Z I")


class TestSessionState:
    """What a client does to its session does not reach the next."""

    @pytest.mark.parametrize(
        ("text", "traces"),
        [
            ("set a to b", SETTINGS),
            ("listen a", CHANNELS),
            ("create temp table t (i int)", ANYTHING),
            ("select pg_advisory_lock(1)", LOCKS),
            ("do", ANYTHING),
        ],
    )
    def test_after_a_change_the_origin_is_asked_what_is_left(self, proxy, text, traces):
        client, server = proxy.pair()
        client.sends(f"Q {text}")
        server.receives(f"Q {text}")
        server.sends("C OK", "Z I")
        client.receives("C OK", "Z I")
        assert server.is_read_back() == traces
        assert server.state == "idle"
        client.receives()

    def test_not_before_the_transaction_ends(self, proxy):
        client, server = proxy.linked()
        client.sends("Q set a to b")
        server.sends("C SET", "Z T")
        client.sends("Q commit")
        server.receives("Q set a to b", "Q commit")
        server.sends("C COMMIT", "Z I")
        assert server.is_read_back("a=b") == SETTINGS

    def test_what_changes_nothing_is_not_asked_for(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select 1", "Q insert into t values (1)", "Q begin; set local a to b; end")
        server.hears()
        server.sends("C S", "Z I", "C I", "Z I", "C E", "Z I")
        server.receives()
        assert server.state == "idle"

    def test_a_change_by_the_extended_protocol(self, proxy):
        client, server = proxy.pair()
        client.sends("P : set a to b", "B <-", "E", "S")
        server.receives("P : set a to b", "B <-", "E", "S")
        server.sends("1", "2", "C SET", "Z I")
        assert server.is_read_back("a=b") == SETTINGS

    @pytest.mark.parametrize("name", ["s", ""])
    def test_a_change_by_a_statement_prepared_in_another_link(self, proxy, name):
        client, server = proxy.pair()
        client.sends(f"P {name}: select set_config('search_path', $1, false)", "S")
        server.hears()
        server.sends("1", "Z I")
        client.hears()
        assert server.state == "idle"
        client.sends(f"B <-{name} b", "E", "S")
        heard = server.hears()
        assert heard[-1] == "S"
        server.sends(*["1"] * (len(heard) - 3), "2", "D b", "C SELECT 1", "Z I")
        client.receives("2", "D b", "C SELECT 1", "Z I")
        assert server.is_read_back("search_path=b") == SETTINGS
        assert client.session.settings == ((b"search_path", b"b"),)

    @pytest.mark.parametrize(
        "lines", [["Q load 'x'"], ["P : select setseed(0.5)", "B <-", "E", "S"]]
    )
    def test_what_nobody_can_see_keeps_the_origin_connection_to_the_end(self, start, lines):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.pair()
        other = proxy.client()
        client.sends(*lines)
        server.receives(*lines)
        server.sends(*(["1", "2"] if len(lines) > 1 else []), "C SELECT 1", "Z I")
        server.is_read_back()
        other.sends("Q select 1")
        server.receives()
        client.sends("Q select 2")
        server.receives("Q select 2")
        server.sends("C SELECT 1", "Z I")
        client.sends("X")
        # DISCARD ALL would not remove it.
        server.receives("X")
        assert server.closing
        server.closes()
        proxy.servers[1].starts()
        proxy.servers[1].receives("Q select 1")

    def test_our_own_statement_for_settings_is_out_of_reach(self, proxy):
        _, server = proxy.pair()
        client = proxy.connect()
        client.asks_in(TimeZone="UTC")
        server.hears()
        server.sends("1", "2", "D x", "C SELECT 1", "3", "S TimeZone=UTC", "Z I")
        client.is_welcomed()
        client.sends("B <- search_path,evil", "S")
        # Passed on, since there is none: the Close after the replay has seen to it.
        server.receives("B <- search_path,evil", "S")

    def test_statements_are_not_shared_across_settings(self, start):
        proxy = start(origin_connection_limit=1)
        plain, server = proxy.pair()
        plain.sends("P s: select * from t", "S")
        name = server.hears()[0].partition(":")[0]
        server.sends("1", "Z I")
        other = proxy.connect()
        other.asks_in(search_path="other")
        server.hears()
        server.sends("1", "2", "D x", "C SELECT 1", "3", "Z I")
        other.is_welcomed()
        other.sends("P s: select * from t", "S")
        parse = server.hears()[0]
        assert parse.endswith(": select * from t")
        assert not parse.startswith(name + ":")


class TestLosingTheOrigin:
    def test_in_the_middle_of_a_message(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select")
        server.sends_bytes(b"D\x00\x00\x00\x40\x00\x01")
        server.closes()
        assert client.closed
        assert client.hears_bytes() == b"D\x00\x00\x00\x40\x00\x01"

    def test_while_a_query_runs(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        server.sends("T a", "D 1")
        server.closes()
        client.receives("T a", "D 1", "E 08006", "Z I")

    def test_while_draining(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select", "X")
        server.closes()
        assert proxy.core.at_rest

    def test_while_cleaning(self, proxy):
        client, server = proxy.linked()
        client.vanishes()
        assert server.state == "cleaning"
        server.closes()
        assert proxy.core.at_rest

    def test_who_waits_gets_another(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.linked()
        second = proxy.client()
        second.sends("Q select 2")
        server.closes()
        proxy.servers[1].starts()
        proxy.servers[1].receives("Q select 2")
        first.receives()
        assert not first.closed
