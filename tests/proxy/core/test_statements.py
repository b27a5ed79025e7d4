"""Prepared statements of many clients on few origin connections."""

from __future__ import annotations

import re

import pytest

from hyperdrive_client.proxy.core.statements import StatementRegistry

DONE = ("C SELECT 1", "Z T")


def server_name(parse: str) -> str:
    """The name in the line of a Parse."""
    name = re.match(r"P (\S+):", parse)
    assert name, parse
    return name[1]


def prepared(client, server, name="s", text="select 1", status="T") -> str:
    """``client``, linked, prepares and closes its batch; the origin's name for it."""
    client.sends(f"P {name}: {text}", "S")
    parse, sync = server.hears()
    assert (parse.partition(": ")[2], sync) == (text, "S")
    server.sends("1", f"Z {status}")
    client.receives("1", f"Z {status}")
    return server_name(parse)


def ends(client, server) -> None:
    """The client's transaction ends, and with it the link."""
    client.sends("Q commit")
    server.receives("Q commit")
    server.sends("C COMMIT", "Z I")
    client.receives("C COMMIT", "Z I")
    assert server.state == "idle"


def begins(client, server) -> None:
    client.sends("Q begin read write")
    server.receives("Q begin read write")
    server.sends("C BEGIN", "Z T")
    client.receives("C BEGIN", "Z T")


class TestNamed:
    def test_a_statement_has_a_name_of_ours_at_the_origin(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        assert name != "s"
        client.sends("D S s", "B <-s a,b", "E", "S")
        server.receives(f"D S {name}", f"B <-{name} a,b", "E", "S")
        server.sends("t 23", "T x", "2", "D 1", *DONE)
        client.receives("t 23", "T x", "2", "D 1", *DONE)

    def test_it_is_prepared_again_at_another_origin(self, start):
        proxy = start(origin_connection_limit=2)
        first, server = proxy.linked()
        name = prepared(first, server)
        ends(first, server)
        other = proxy.client()
        begins(other, server)
        first.sends("B <-s", "E", "S")
        second = proxy.servers[1]
        second.starts()
        second.receives(f"P {name}: select 1", f"B <-{name}", "E", "S")
        second.sends("1", "2", "D 1", "C SELECT 1", "Z I")
        first.receives("2", "D 1", "C SELECT 1", "Z I")

    def test_a_describe_prepares_it_as_well(self, start):
        proxy = start(origin_connection_limit=2)
        first, server = proxy.linked()
        name = prepared(first, server)
        ends(first, server)
        begins(proxy.client(), server)
        first.sends("D S s", "S")
        second = proxy.servers[1]
        second.starts()
        second.receives(f"P {name}: select 1", f"D S {name}", "S")
        second.sends("1", "t ", "n", "Z I")
        first.receives("t", "n", "Z I")

    def test_two_clients_share_one_server_statement(self, proxy):
        first, server = proxy.linked()
        name = prepared(first, server)
        ends(first, server)
        second = proxy.client()
        second.sends("P other: select 1", "B <-other", "E", "S")
        second.receives("1")
        server.receives(f"B <-{name}", "E", "S")

    def test_other_parameter_types_are_another_statement(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server, text="select $1 [23]")
        assert name != prepared(client, server, "t", text="select $1 [20]")

    def test_a_known_statement_is_answered_in_its_turn(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("E p", "P t: select 1", "P u: select 1", "B <-t", "S")
        server.receives("E p", f"B <-{name}", "S")
        client.receives()
        server.sends("D 1", "s")
        client.receives("D 1", "s", "1", "1")
        server.sends("2", "Z T")
        client.receives("2", "Z T")

    def test_while_a_transaction_may_yet_fail_the_origin_answers(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("E p", "S", "P t: select 1", "B <-t", "S")
        server.receives("E p", "S", f"C S {name}", f"P {name}: select 1", f"B <-{name}", "S")
        server.sends(*DONE, "3", "1", "2", "Z T")
        client.receives(*DONE, "1", "2", "Z T")

    def test_the_close_of_a_known_statement_after_a_sync_is_answered_after_it(self, proxy):
        client, server = proxy.linked()
        prepared(client, server)
        client.sends("E p", "S", "C S s", "S")
        server.receives("E p", "S", "S")
        server.sends(*DONE, "Z T")
        client.receives(*DONE, "3", "Z T")

    def test_a_known_statement_and_a_flush_are_answered_at_once(self, proxy):
        client, server = proxy.linked()
        prepared(client, server)
        client.sends("P t: select 1", "H")
        client.receives("1")
        server.receives("H")
        client.sends("S")
        server.receives("S")
        server.sends("Z T")
        client.receives("Z T")

    def test_a_name_that_exists_gives_the_origins_own_error(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("P s: select 2", "B <-s", "E", "S")
        server.receives("C S s", "P s:", "P s: select 2", f"B <-{name}", "E", "S")
        server.sends("3", "1", 'E 42P05 prepared statement "s" already exists', "Z E")
        client.receives("E 42P05", "Z E")
        client.sends("Q rollback")
        server.receives("Q rollback")
        server.sends("C ROLLBACK", "Z I")
        client.receives("C ROLLBACK", "Z I")
        # The one made there under the client's name goes.
        assert server.hears()[-2:] == ["C S s", "S"]

    def test_the_old_statement_outlives_a_second_parse_of_its_name(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("P s: select 2", "S")
        server.hears()
        server.sends("3", "1", "E 42P05 exists", "Z T")
        client.receives("E 42P05", "Z T")
        client.sends("B <-s", "S")
        server.receives(f"B <-{name}", "S")

    def test_an_unknown_name_gives_the_origins_own_error(self, proxy):
        client, server = proxy.linked()
        client.sends("B <-none", "S")
        server.receives("B <-none", "S")
        server.sends("E 26000 no such statement", "Z E")
        client.receives("E 26000", "Z E")
        client.sends("D S none", "S")
        server.receives("D S none", "S")

    def test_a_name_like_ours_does_not_reach_another_clients_statement(self, proxy):
        first, server = proxy.linked()
        name = prepared(first, server)
        ends(first, server)
        thief = proxy.client()
        begins(thief, server)
        guessed = f"hyperdrive_{name.rpartition('_')[2]}"
        thief.sends(f"D S {guessed}", f"B <-{guessed}", f"C S {guessed}", "S")
        assert name not in " ".join(server.hears())

    def test_a_failed_parse_leaves_the_name_free(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: selec", "S")
        server.hears()
        server.sends("E 42601 syntax error", "Z T")
        client.receives("E 42601", "Z T")
        name = prepared(client, server, "s", "select 1")
        client.sends("B <-s", "S")
        server.receives(f"B <-{name}", "S")

    def test_a_failed_parse_is_not_taken_for_known(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select nothing", "S")
        failed = server.hears()[0]
        server.sends("E 42703 no such column", "Z T")
        client.receives("E 42703", "Z T")
        client.sends("P t: select nothing", "S")
        server.receives(failed, "S")

    def test_what_follows_an_error_never_happened(self, proxy):
        client, server = proxy.linked()
        kept = prepared(client, server, "kept", "select 0")
        client.sends("B <-none", "P s: select 1", "P t: select 0", "C S kept", "S")
        server.hears()
        server.sends("E 26000 no such statement", "Z T")
        client.receives("E 26000", "Z T")
        client.sends("P s: select 1", "P t: select 0", "B <-kept", "S")
        heard = server.hears()
        assert heard[0].endswith(": select 1")
        assert heard[1:] == [f"B <-{kept}", "S"]
        server.sends("1", "2", "Z T")
        client.receives("1", "1", "2", "Z T")

    def test_a_name_that_was_to_be_used_anew_is_what_it_was(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("B <-none", "C S s", "P s: select 2", "S")
        server.hears()
        server.sends("E 26000 no such statement", "Z T")
        client.receives("E 26000", "Z T")
        client.sends("B <-s", "S")
        server.receives(f"B <-{name}", "S")

    def test_the_sync_after_an_error_may_come_late(self, proxy):
        client, server = proxy.linked()
        client.sends("B <-none", "H")
        server.receives("B <-none", "H")
        server.sends("E 26000 no such statement")
        client.receives("E 26000")
        client.sends("P s: select 1", "B <-s", "E", "Q select 2", "F 1", "C S x", "D S x", "H")
        server.receives()
        client.sends("S", "P s: select 1", "S")
        assert server.hears()[0] == "S"
        server.sends("Z T", "1", "Z T")
        client.receives("Z T", "1", "Z T")

    def test_closing_keeps_the_shared_statement(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("C S s", "B <-s", "S")
        client.receives("3")
        server.receives("B <-s", "S")
        server.sends("E 26000 no such statement", "Z T")
        client.receives("E 26000", "Z T")
        client.sends("P t: select 1", "B <-t", "S")
        client.receives("1")
        server.receives(f"B <-{name}", "S")

    def test_closing_is_answered_in_its_turn(self, proxy):
        client, server = proxy.linked()
        prepared(client, server)
        client.sends("E p", "C S s", "S")
        server.receives("E p", "S")
        client.receives()
        server.sends("D 1", *DONE)
        client.receives("D 1", "C SELECT 1", "3", "Z T")

    def test_closing_an_unknown_name_is_no_error(self, proxy):
        client, server = proxy.linked()
        client.sends("C S none", "S")
        server.receives("C S none", "S")
        server.sends("3", "Z T")
        client.receives("3", "Z T")

    def test_portals_are_the_origins_business(self, proxy):
        client, server = proxy.linked()
        client.sends("B p<-", "D P p", "E p/2", "C P p", "C P", "S")
        server.receives("B p<-", "D P p", "E p/2", "C P p", "C P", "S")
        server.sends("2", "T a", "D 1", "D 2", "s", "3", "3", "Z T")
        client.receives("2", "T a", "D 1", "D 2", "s", "3", "3", "Z T")

    def test_a_bind_longer_than_a_read_is_rewritten(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        proxy.feeding = "whole"
        value = "v" * 200_000
        client.sends(f"B <-s {value}", "S")
        server.receives(f"B <-{name} {value}", "S")

    def test_a_name_longer_than_a_read_is_kept(self, proxy):
        client, server = proxy.linked()
        proxy.feeding = "whole"
        long = "s" * 70_000
        name = prepared(client, server, long)
        client.sends(f"B <-{long}", f"D S {long}", "S")
        server.receives(f"B <-{name}", f"D S {name}", "S")

    def test_in_a_failed_transaction_a_known_statement_fails_as_it_should(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("Q select fail")
        server.receives("Q select fail")
        server.sends("E 42601 no", "Z E")
        client.receives("E 42601", "Z E")
        client.sends("P t: select 1", "S")
        heard = server.hears()
        assert heard[-2:] == [f"P {name}: select 1", "S"]
        answers = ["3"] if heard[0] == f"C S {name}" else []
        server.sends(*answers, "E 25P02 aborted", "Z E")
        client.receives("E 25P02", "Z E")

    def test_after_a_failed_transaction_the_statement_is_still_usable(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("Q select fail")
        server.hears()
        server.sends("E 42601 no", "Z E")
        client.sends("P t: select 1", "S")
        answers = ["3"] if server.hears()[0] == f"C S {name}" else []
        server.sends(*answers, "E 25P02 aborted", "Z E")
        client.sends("Q rollback")
        server.receives("Q rollback")
        server.sends("C ROLLBACK", "Z I")
        client.hears()
        begins(client, server)
        client.sends("B <-s", "S")
        heard = server.hears()
        # It is there, or was closed and is prepared again; never prepared twice.
        assert heard[:-2] == ([f"P {name}: select 1"] if answers else [])
        assert heard[-2:] == [f"B <-{name}", "S"]

    def test_in_a_failed_transaction_a_known_rollback_is_known(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server, "r", " ROLLBACK")
        client.sends("Q select fail")
        server.hears()
        server.sends("E 42601 no", "Z E")
        client.receives("E 42601", "Z E")
        client.sends("P t:  ROLLBACK", "B <-t", "E", "S")
        client.receives("1")
        server.receives(f"B <-{name}", "E", "S")


class TestWithoutTheOrigin:
    """What the proxy knows is answered without a link."""

    @pytest.fixture
    def idle(self, proxy):
        """A client without a link, the origin, and its name for ``select 1``, which is there."""
        first, server = proxy.linked()
        name = prepared(first, server)
        ends(first, server)
        return proxy.client(), server, name

    def test_the_parse_of_a_known_statement(self, idle):
        client, server, name = idle
        client.sends("P s: select 1", "S")
        client.receives("1", "Z I")
        server.receives()
        client.sends("D S s", "B <-s", "E", "S")
        server.receives(f"D S {name}", f"B <-{name}", "E", "S")

    def test_a_parse_and_what_needs_the_origin(self, idle):
        client, server, name = idle
        client.sends("P s: select 1", "D S s", "H")
        client.receives("1")
        server.receives(f"D S {name}", "H")
        server.sends("t ", "T x")
        client.receives("t", "T x")
        client.sends("S")
        server.receives("S")

    def test_not_a_name_that_exists(self, idle):
        client, server, _ = idle
        client.sends("P s: select 1", "P s: select 1", "S")
        client.receives("1")
        server.receives("C S s", "P s:", "P s: select 1", "S")

    def test_not_the_unnamed_statement(self, idle):
        client, server, _ = idle
        client.sends("P : select 1", "S")
        client.receives()
        server.receives("P : select 1", "S")

    def test_not_what_no_origin_has_parsed(self, idle):
        client, server, _ = idle
        client.sends("P s: selec", "S")
        server.hears()
        server.sends("E 42601 syntax", "Z I")
        client.receives("E 42601", "Z I")
        client.sends("P s: selec", "S")
        client.receives()
        assert server.hears()[-1] == "S"

    def test_not_what_an_origin_has_refused_since(self, start):
        proxy = start(prepared_statements=1)
        client, server = proxy.linked()
        name = prepared(client, server)
        prepared_instead(client, server, name)
        client.sends("B <-s", "S")
        server.hears()
        server.sends("3", "E 42P01 no such table any more", "Z E")
        client.sends("Q rollback")
        server.hears()
        server.sends("C ROLLBACK", "Z I")
        client.hears()
        client.sends("P t: select 1", "S")
        client.receives()
        server.receives(f"P {name}: select 1", "S")

    def test_every_close(self, idle):
        client, server, _ = idle
        client.sends("P s: select 1", "C S s", "C S none", "C P p", "C S", "S")
        client.receives("1", "3", "3", "3", "3", "Z I")
        server.receives()
        client.sends("B <-s", "S")
        server.receives("B <-s", "S")

    def test_the_close_of_the_unnamed_statement(self, idle):
        client, server, _ = idle
        client.sends("P : select 2", "S")
        server.obliges()
        client.hears()
        client.sends("C S", "B <-", "S")
        client.receives("3")
        # It is still there, and must not be.
        server.receives("C S", "B <-", "S")


class TestPipelines:
    """What comes in one write, over several Syncs."""

    def test_a_failed_parse_and_then_the_same_name(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: selec", "S", "P s: select 1", "S")
        heard = server.hears()
        server.sends("E 42601 syntax error", "Z T")
        client.receives("E 42601", "Z T")
        heard += server.hears()
        assert [line.partition(": ")[2] or line for line in heard] == [
            "selec",
            "S",
            "select 1",
            "S",
        ]
        server.sends("1", "Z T")
        client.receives("1", "Z T")

    def test_a_parse_that_was_not_run_and_then_the_same_name(self, proxy):
        client, server = proxy.linked()
        client.sends("B <-none", "P s: select 1", "S", "P s: select 1", "S")
        heard = server.hears()
        server.sends("E 26000 none", "Z T")
        client.receives("E 26000", "Z T")
        heard += server.hears()
        assert "P s: " not in heard
        assert heard[-2].endswith(": select 1")
        server.sends("1", "Z T")
        client.receives("1", "Z T")

    def test_a_failed_parse_and_then_the_same_text(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: nonsense", "S", "P t: nonsense", "S")
        server.hears()
        server.sends("E 42601 syntax error", "Z T")
        client.receives("E 42601", "Z T")
        heard = server.hears()
        assert not heard or heard[-2].endswith(": nonsense")
        server.sends("E 42601 syntax error", "Z T")
        client.receives("E 42601", "Z T")

    def test_a_failing_batch_and_then_a_known_statement(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("E none", "S", "P t: select 1", "S")
        server.hears()
        server.sends("E 34000 no such portal", "Z E")
        client.receives("E 34000", "Z E")
        heard = server.hears()
        answers = ["3"] if f"C S {name}" in heard else []
        server.sends(*answers, "E 25P02 aborted", "Z E")
        client.receives("E 25P02", "Z E")

    def test_the_unnamed_statement_of_a_later_batch_survives_the_failure_of_an_earlier(self, proxy):
        client, server = proxy.linked()
        client.sends("B <-none", "P : select 1", "S", "P : select 2", "S")
        server.hears()
        server.sends("E 26000 none", "Z T")
        server.sends("1", "Z T")
        client.receives("E 26000", "Z T", "1", "Z T")
        server.hears()
        client.sends("B <-", "S")
        server.receives("B <-", "S")

    def test_an_eviction_that_was_not_run_and_then_its_statement(self, start):
        proxy = start(prepared_statements=1)
        client, server = proxy.linked()
        name = prepared(client, server, "a", "select 1")
        client.sends("B <-none", "P b: select 2", "S", "B <-a", "S")
        heard = server.hears()
        server.sends("E 26000 none", "Z T")
        client.receives("E 26000", "Z T")
        heard += server.hears()
        rest = heard[heard.index("S") + 1 :]
        # Still there: bound at once, or closed first and prepared again.
        assert rest in (
            [f"B <-{name}", "S"],
            [f"C S {name}", f"P {name}: select 1", f"B <-{name}", "S"],
        )

    def test_deallocate_all_and_then_a_known_text(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("Q deallocate all", "P t: select 1", "B <-t", "E", "S")
        heard = server.hears()
        server.sends("C DEALLOCATE ALL", "Z T")
        heard += server.hears()
        assert f"P {name}: select 1" in heard

    def test_a_statement_that_is_closed_between_bind_and_execute_of_its_deallocate(self, proxy):
        client, server = proxy.linked()
        prepared(client, server, "a", "deallocate a")
        client.sends("B <-a", "C S a", "E", "S")
        assert server.hears()[-2:] == ["E", "S"]

    def test_deallocate_all_and_then_a_new_statement(self, proxy):
        client, server = proxy.linked()
        client.sends("Q deallocate all", "P t: select 1", "S")
        heard = server.hears()
        server.sends("C DEALLOCATE ALL", "Z T")
        heard += server.hears()
        name = server_name(heard[1])
        server.sends("1", "Z T")
        client.receives("C DEALLOCATE ALL", "Z T", "1", "Z T")
        client.sends("B <-t", "S")
        server.receives(f"B <-{name}", "S")


def prepared_instead(client, server, evicted: str) -> str:
    """The client prepares another statement, for which ``evicted`` makes room; its name."""
    client.sends("P other: select 2", "S")
    close, parse, _ = server.hears()
    assert close == f"C S {evicted}"
    server.sends("3", "1", "Z T")
    client.receives("1", "Z T")
    return server_name(parse)


class TestEviction:
    def test_the_least_recently_used_makes_room(self, start):
        proxy = start(prepared_statements=2)
        client, server = proxy.linked()
        first = prepared(client, server, "a", "select 1")
        second = prepared(client, server, "b", "select 2")
        client.sends("B <-a", "S")
        server.receives(f"B <-{first}", "S")
        server.sends("2", "Z T")
        client.sends("P c: select 3", "S")
        close, parse, _ = server.hears()
        assert close == f"C S {second}"
        server.sends("3", "1", "Z T")
        client.receives("2", "Z T", "1", "Z T")
        client.sends("B <-b", "S")
        server.receives(f"C S {first}", f"P {second}: select 2", f"B <-{second}", "S")
        server.sends("3", "1", "2", "Z T")
        client.receives("2", "Z T")
        client.sends("B <-c", "S")
        server.receives(f"B <-{server_name(parse)}", "S")

    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_any_size_will_do(self, start, size):
        proxy = start(prepared_statements=size)
        client, server = proxy.linked()
        there = set()
        for turn, number in enumerate((0, 1, 2, 3, 4, 5, 0, 3, 5, 1, 1, 2)):
            client.sends(f"P s{turn}: select {number}", "C S none", "S")
            for line in server.hears():
                if line.startswith("P "):
                    assert server_name(line) not in there
                    there.add(server_name(line))
                    server.sends("1")
                elif line != "S":
                    there.discard(line[4:])
                    server.sends("3")
            assert len(there) <= size
            server.sends("Z T")
            client.receives("1", "3", "Z T")

    def test_one_is_enough_for_a_pipeline_of_two(self, start):
        proxy = start(prepared_statements=1)
        client, server = proxy.linked()
        client.sends("P a: select 1", "P b: select 2", "B p<-a", "B q<-b", "S")
        a, close_a, b, close_b, a2, bind_a, close_a2, b2, bind_b, _ = server.hears()
        one, two = server_name(a), server_name(b)
        assert (a2, b2) == (a, b)
        assert (close_a, close_b, close_a2) == (f"C S {one}", f"C S {two}", f"C S {one}")
        assert (bind_a, bind_b) == (f"B p<-{one}", f"B q<-{two}")
        server.sends("1", "3", "1", "3", "1", "2", "3", "1", "2", "Z T")
        client.receives("1", "1", "2", "2", "Z T")

    def test_an_eviction_is_put_back_if_an_error_came_first(self, start):
        proxy = start(prepared_statements=1)
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("B <-none", "P t: select 2", "S")
        server.hears()
        server.sends("E 26000 none", "Z T")
        client.receives("E 26000", "Z T")
        client.sends("B <-s", "S")
        server.receives(f"B <-{name}", "S")

    def test_an_eviction_stands_if_the_parse_after_it_failed(self, start):
        proxy = start(prepared_statements=1)
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("P t: selec", "S")
        assert server.hears()[0] == f"C S {name}"
        server.sends("3", "E 42601 syntax", "Z T")
        client.receives("E 42601", "Z T")
        client.sends("B <-s", "S")
        server.receives(f"P {name}: select 1", f"B <-{name}", "S")

    def test_a_preparation_of_ours_that_fails_is_the_clients_error(self, start):
        proxy = start(prepared_statements=1)
        client, server = proxy.linked()
        name = prepared(client, server)
        other = prepared_instead(client, server, name)
        client.sends("B <-s", "E", "S")
        server.receives(f"C S {other}", f"P {name}: select 1", f"B <-{name}", "E", "S")
        server.sends("3", "E 42P01 no such table any more", "Z E")
        client.receives("E 42P01", "Z E")


class TestUnnamed:
    def test_it_passes_as_it_is(self, proxy):
        client, server = proxy.linked()
        client.sends("P : select 1", "D S", "B <-", "E", "S")
        server.receives("P : select 1", "D S", "B <-", "E", "S")
        server.sends("1", "t ", "n", "2", *DONE)
        client.receives("1", "t", "n", "2", *DONE)

    def test_it_follows_its_client_to_the_next_link(self, proxy):
        client, server = proxy.pair()
        client.sends("P : select 1", "S")
        server.receives("P : select 1", "S")
        server.sends("1", "Z I")
        client.receives("1", "Z I")
        other = proxy.client()
        other.sends("P : select 2", "S")
        server.receives("P : select 2", "S")
        server.sends("1", "Z I")
        other.receives("1", "Z I")
        client.sends("B <-", "D S", "S")
        server.receives("P : select 1", "B <-", "D S", "S")
        server.sends("1", "2", "t ", "n", "Z I")
        client.receives("2", "t", "n", "Z I")

    def test_the_same_text_of_another_client_is_the_same(self, proxy):
        client, server = proxy.pair()
        for one in (client, proxy.client()):
            one.sends("P : select 1", "S")
            server.receives("P : select 1", "S")
            server.sends("1", "Z I")
        client.sends("B <-", "S")
        server.receives("B <-", "S")

    def test_another_clients_is_out_of_reach(self, proxy):
        client, server = proxy.pair()
        client.sends("P : select 1", "S")
        server.hears()
        server.sends("1", "Z I")
        thief = proxy.client()
        thief.sends("D S", "B <-", "E", "S")
        server.receives("C S", "D S", "B <-", "E", "S")
        server.sends("3", "E 26000 none", "Z I")
        thief.receives("E 26000", "Z I")

    def test_a_failed_parse_leaves_none(self, proxy):
        client, server = proxy.linked()
        client.sends("P : select 1", "S", "P : selec", "S")
        server.sends("1", "Z T")
        server.sends("E 42601 syntax", "Z T")
        client.receives("1", "Z T", "E 42601", "Z T")
        assert client.session.unnamed is server.session.unnamed is None

    def test_a_parse_that_was_not_run_leaves_the_old(self, proxy):
        client, server = proxy.linked()
        client.sends("P : select 1", "S")
        server.hears()
        server.sends("1", "Z T")
        client.sends("B <-none", "P : select 2", "S")
        server.hears()
        server.sends("E 26000 none", "Z T")
        client.hears()
        client.sends("B <-", "S")
        server.receives("B <-", "S")

    def test_a_query_ends_it(self, proxy):
        client, server = proxy.linked()
        client.sends("P : select 1", "S", "Q select 2")
        server.sends("1", "Z T")
        server.sends(*DONE)
        client.receives("1", "Z T", *DONE)
        assert client.session.unnamed is server.session.unnamed is None

    def test_a_query_that_was_not_run_does_not(self, proxy):
        client, server = proxy.linked()
        client.sends("P : select 1", "S")
        server.hears()
        server.sends("1", "Z T")
        client.sends("B <-none", "Q select 2", "S")
        server.hears()
        server.sends("E 26000 none", "Z T")
        client.hears()
        client.sends("B <-", "S")
        server.receives("B <-", "S")

    def test_closing_it(self, proxy):
        client, server = proxy.linked()
        client.sends("P : select 1", "C S", "S")
        server.receives("P : select 1", "C S", "S")
        server.sends("1", "3", "Z T")
        client.receives("1", "3", "Z T")
        assert client.session.unnamed is server.session.unnamed is None

    def test_a_close_that_was_not_run_gives_no_access_to_anothers(self, proxy):
        client, server = proxy.pair()
        for one, text in ((client, "select 1"), (proxy.client(), "select 2")):
            one.sends(f"P : {text}", "S")
            server.hears()
            server.sends("1", "Z I")
        client.hears()
        client.sends("B <-none", "C S", "S")
        server.hears()
        server.sends("E 26000 none", "Z I")
        client.receives("E 26000", "Z I")
        client.sends("B <-", "S")
        server.receives("P : select 1", "B <-", "S")

    def test_a_preparation_that_was_not_run_gives_no_access_to_anothers(self, proxy):
        client, server = proxy.pair()
        for one, text in ((client, "select 1"), (proxy.client(), "select 2")):
            one.sends(f"P : {text}", "S")
            server.hears()
            server.sends("1", "Z I")
        client.hears()
        client.sends("B <-none", "B <-", "S", "B <-", "S")
        heard = server.hears()
        server.sends("E 26000 none", "Z I")
        client.receives("E 26000", "Z I")
        heard += server.hears()
        rest = heard[heard.index("S") + 1 :]
        assert rest == ["P : select 1", "B <-", "S"]


class TestForgetting:
    def test_all_by_query(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("Q DEALLOCATE ALL")
        server.receives("Q DEALLOCATE ALL")
        server.sends("C DEALLOCATE ALL", "Z T")
        client.receives("C DEALLOCATE ALL", "Z T")
        client.sends("B <-s", "S")
        server.receives("B <-s", "S")
        server.sends("E 26000 none", "Z T")
        client.hears()
        client.sends("P s: select 1", "S")
        server.receives(f"P {name}: select 1", "S")

    def test_all_by_discard(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        ends(client, server)
        client.sends("Q DISCARD ALL")
        server.receives("Q DISCARD ALL")
        server.sends("C DISCARD ALL", "Z I")
        client.receives("C DISCARD ALL", "Z I")
        server.is_read_back()
        client.sends("B <-s", "S")
        server.receives("B <-s", "S")
        server.sends("E 26000 none", "Z I")
        client.hears()
        client.sends("P s: select 1", "B <-s", "S")
        server.receives(f"P {name}: select 1", f"B <-{name}", "S")

    @pytest.mark.parametrize("text", ["discard all", "/* c */ discard all", "DISCARD ALL;"])
    def test_what_comes_behind_a_discard_is_prepared_anew(self, proxy, text):
        client, server = proxy.linked()
        prepared(client, server)
        ends(client, server)
        client.sends(f"Q {text}", "P t: select 1", "B <-t", "S")
        heard = server.hears()
        server.sends("C DISCARD ALL", "Z I")
        heard += server.hears()
        (parse,) = (line for line in heard if line.endswith(": select 1"))
        assert heard[heard.index(parse) + 1 :][:2] == [f"B <-{server_name(parse)}", "S"]
        server.sends("1", "2", "Z I")
        client.receives("C DISCARD ALL", "Z I", "1", "2", "Z I")
        assert list(client.session.statements) == [b"t"]

    def test_all_by_the_extended_protocol(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("P : DEALLOCATE ALL", "B <-", "E", "P s: select 1", "S")
        server.receives("P : DEALLOCATE ALL", "B <-", "E", f"P {name}: select 1", "S")
        server.sends("1", "2", "C DEALLOCATE ALL", "1", "Z T")
        client.receives("1", "2", "C DEALLOCATE ALL", "1", "Z T")
        client.sends("B <-s", "S")
        server.receives(f"B <-{name}", "S")

    def test_all_once(self, proxy):
        client, server = proxy.linked()
        client.sends("B p<-", "P : DEALLOCATE ALL", "B <-", "E", "P s: select 1", "E p", "S")
        name = server_name(server.hears()[4])
        server.sends("2", "1", "2", "C DEALLOCATE ALL", "1", "C SELECT 1", "Z T")
        client.hears()
        client.sends("B <-s", "S")
        server.receives(f"B <-{name}", "S")

    @pytest.mark.parametrize("text", ["deallocate s", 'DEALLOCATE PREPARE "s";'])
    def test_one_by_name(self, proxy, text):
        client, server = proxy.linked()
        prepared(client, server)
        client.sends(f"Q {text}")
        server.receives("C S s", "P s:", f"Q {text}")
        server.sends("3", "1", "C DEALLOCATE", "Z T")
        client.receives("C DEALLOCATE", "Z T")
        client.sends("B <-s", "S")
        server.receives("C S s", "B <-s", "S")

    def test_one_by_name_that_fails(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("Q select fail")
        server.hears()
        server.sends("E 42601 no", "Z E")
        client.hears()
        client.sends("Q deallocate s")
        server.hears()
        server.sends("3", "1", "E 25P02 aborted", "Z E")
        client.receives("E 25P02", "Z E")
        client.sends("D S s", "S")
        server.receives(f"D S {name}", "S")

    def test_one_by_name_in_a_failed_batch_is_ignored_like_all_else(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("B <-none", "Q deallocate s")
        assert "S" not in server.hears()
        server.sends("E 26000 none")
        client.sends("P t: select 2", "S", "B <-s", "S")
        server.receives("S", f"B <-{name}", "S")

    def test_one_that_is_unknown(self, proxy):
        client, server = proxy.linked()
        client.sends("Q deallocate none")
        server.receives("Q deallocate none")
        server.sends("E 26000 none", "Z E")
        client.receives("E 26000", "Z E")

    @pytest.mark.parametrize(
        "text", ["/* c */ deallocate all", "select 1; deallocate all", "deallocate all; select 1"]
    )
    def test_all_in_a_longer_text(self, proxy, text):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends(f"Q {text}", "P t: select 1", "S")
        server.receives(f"Q {text}")
        server.sends("C DEALLOCATE ALL", "Z T")
        server.receives(f"P {name}: select 1", "S")

    def test_all_that_fails_leaves_all(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("Q discard all")
        server.hears()
        server.sends("E 25001 cannot run inside a transaction block", "Z E")
        client.hears()
        client.sends("D S s", "S")
        server.receives(f"D S {name}", "S")

    def test_all_that_was_not_run_leaves_all(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("P d: deallocate all", "S")
        server.obliges("T")
        client.hears()
        client.sends("B <-none", "B <-d", "E", "S")
        server.hears()
        server.sends("E 26000 none", "Z T")
        client.receives("E 26000", "Z T")
        client.sends("D S s", "S")
        server.receives(f"D S {name}", "S")

    def test_a_change_of_settings_leaves_the_statements(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.linked()
        name = prepared(first, server)
        ends(first, server)
        other = proxy.connect()
        other.asks_in(search_path="other")
        server.hears()
        server.sends("1", "2", "D x", "C SELECT 1", "3", "Z I")
        other.is_welcomed()
        first.sends("B <-s", "S")
        server.is_set("search_path")
        server.receives(f"B <-{name}", "S")

    def test_our_own_discard_all_empties_the_books_of_the_origin_alone(self, start):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.linked()
        name = prepared(client, server)
        ends(client, server)
        other = proxy.client()
        begins(other, server)
        other.vanishes()
        server.is_cleaned(rollback=True)
        client.sends("B <-s", "S")
        server.receives(f"P {name}: select 1", f"B <-{name}", "S")


class TestListing:
    """pg_prepared_statements shows what the client prepared, by its own names."""

    def test_its_own_are_there(self, proxy):
        client, server = proxy.linked()
        name = prepared(client, server)
        client.sends("Q select name from pg_prepared_statements")
        heard = server.hears()
        assert f"C S {name}" in heard
        assert "P s: select 1" in heard

    def test_anothers_are_not(self, proxy):
        first, server = proxy.linked()
        name = prepared(first, server)
        ends(first, server)
        second = proxy.client()
        second.sends("Q select name from pg_prepared_statements")
        heard = server.hears()
        assert f"C S {name}" in heard
        assert not [line for line in heard if line.endswith(": select 1")]

    def test_afterwards_all_is_as_it_was(self, proxy):
        client, server = proxy.linked()
        prepared(client, server)
        ends(client, server)
        client.sends("Q select name from pg_prepared_statements")
        server.obliges()
        assert server.state == "idle"
        client.hears()
        client.sends("B <-s", "S")
        parse, bind, _ = server.hears()
        assert parse.endswith(": select 1")
        assert bind == f"B <-{server_name(parse)}"


class TestRegistry:
    def test_one_statement_per_text_and_types(self):
        registry = StatementRegistry()
        one = registry.get(b"select 1", b"\0\0", ())
        assert registry.get(b"select 1", b"\0\0", ()) is one
        others = [
            registry.get(b"select 2", b"\0\0", ()),
            registry.get(b"select 1", b"\0\1\0\0\0\x17", ()),
            registry.get(b"select 1", b"\0\0", ((b"search_path", b"a"),)),
        ]
        assert len({each.server_name for each in (one, *others)}) == 4

    def test_names_cannot_be_guessed(self):
        names = {StatementRegistry().get(b"", b"\0\0", ()).server_name for _ in range(2)}
        assert len(names) == 2

    def test_the_least_recently_used_is_forgotten(self):
        registry = StatementRegistry(size=2)
        one = registry.get(b"1", b"\0\0", ())
        two = registry.get(b"2", b"\0\0", ())
        assert registry.get(b"1", b"\0\0", ()) is one
        registry.get(b"3", b"\0\0", ())
        assert registry.get(b"1", b"\0\0", ()) is one
        again = registry.get(b"2", b"\0\0", ())
        assert again is not two
        assert again.server_name != two.server_name
