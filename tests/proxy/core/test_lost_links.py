"""A link that breaks is an error for its transaction, and the session goes on where it can."""

from __future__ import annotations

import pytest

from hyperdrive_client.protocol import messages as m

LOST = "E 08006 The connection to the origin was lost."
ABORTED = "E 25P02"


@pytest.fixture
def lazy(proxy):
    """A client that was told that its transaction is open, and the origin that was not."""
    client, server = proxy.pair()
    client.sends("Q begin")
    client.receives("C BEGIN", "Z T")
    return client, server


def next_server(proxy):
    server = proxy.servers[-1]
    server.starts()
    return server


class TestAtRest:
    """Nothing was owed when the link broke: the next thing the client does is told."""

    @pytest.mark.parametrize("text", ["select 1", "savepoint a", "begin"])
    def test_the_next_statement_is_the_error_and_the_transaction_has_failed(self, proxy, text):
        client, server = proxy.linked()
        server.closes()
        client.receives()
        client.sends(f"Q {text}")
        client.receives(LOST, "Z E")
        client.sends("Q select 2")
        client.receives(ABORTED, "Z E")
        client.sends("Q rollback")
        client.receives("C ROLLBACK", "Z I")
        client.sends("Q select 3")
        next_server(proxy).receives("Q select 3")

    def test_by_the_extended_protocol(self, proxy):
        client, server = proxy.linked()
        server.closes()
        client.sends("P : select 1", "B <-", "E", "S")
        client.receives(LOST, "Z E")
        client.sends("P : select 1", "B <-", "E", "S", "S")
        client.receives(ABORTED, "Z E", "Z E")
        client.sends("P : rollback", "B <-", "E", "S")
        client.receives("1", "2", "C ROLLBACK", "Z I")

    def test_commit_is_told_that_nothing_was_committed(self, proxy):
        client, server = proxy.linked()
        server.closes()
        client.sends("Q commit")
        client.receives(LOST, "Z I")
        assert not client.closed

    def test_in_a_failed_transaction_it_stays_failed(self, proxy):
        client, server = proxy.linked("E")
        server.closes()
        client.sends("Q select 1")
        assert client.hears()[-1] == "Z E"
        client.sends("Q rollback")
        assert client.hears()[-1] == "Z I"

    def test_it_is_told_once(self, proxy):
        client, server = proxy.linked()
        server.closes()
        client.sends("Q select 1", "Q select 2")
        client.receives(LOST, "Z E", ABORTED, "Z E")

    def test_the_origins_last_words_are_the_reason(self, proxy):
        client, server = proxy.linked()
        server.sends("E FATAL 57P01 terminating connection due to administrator command")
        client.receives()
        server.closes()
        client.sends("Q select 1")
        client.receives("E 57P01 terminating connection due to administrator command", "Z E")

    def test_a_panic_is_as_good(self, proxy):
        client, server = proxy.linked()
        server.sends_bytes(m.error_response("XX000", "oh", severity="PANIC"))
        client.sends("Q select 1")
        client.receives("E XX000 oh", "Z E")

    def test_a_client_that_says_goodbye_instead_is_let_go(self, proxy):
        client, server = proxy.linked()
        server.closes()
        client.sends("X")
        assert client.closed
        assert proxy.core.at_rest

    def test_what_waits_for_a_link_may_have_it(self, start):
        proxy = start(origin_connection_limit=1)
        _, server = proxy.linked()
        other = proxy.client()
        other.sends("Q select 2")
        server.closes()
        next_server(proxy).receives("Q select 2")


class TestAtWork:
    """Answers were owed when the link broke."""

    def test_a_read_has_failed(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select 1")
        server.sends("T a", "D 1")
        server.closes()
        client.receives("T a", "D 1", LOST, "Z I")
        client.sends("Q select 1")
        next_server(proxy).receives("Q select 1")

    @pytest.mark.parametrize("text", ["insert into t values (1)", "call f()", "select f()"])
    def test_the_outcome_of_a_write_in_autocommit_is_unknown(self, proxy, text):
        client, server = proxy.pair()
        client.sends(f"Q {text}")
        server.closes()
        client.receives("E 08007", "Z I")

    def test_the_outcome_of_a_commit_in_flight_is_unknown(self, proxy):
        client, server = proxy.linked()
        client.sends("Q insert into t values (1)")
        server.sends("C INSERT 0 1", "Z T")
        client.sends("Q commit")
        server.closes()
        client.receives("C INSERT 0 1", "Z T", "E 08007", "Z I")

    @pytest.mark.parametrize("second", ["begin read write", "begin"])
    def test_a_commit_that_was_answered_is_forgotten_in_the_next_transaction(self, proxy, second):
        client, server = proxy.linked()
        client.sends("Q insert into t values (1)", "Q commit", f"Q {second}", "Q select 1")
        server.sends("C INSERT 0 1", "Z T", "C COMMIT", "Z I", "C BEGIN", "Z T")
        server.closes()
        answers = ["C INSERT 0 1", "Z T", "C COMMIT", "Z I", "C BEGIN", "Z T"]
        client.receives(*answers, LOST, "Z E")

    def test_two_commits_in_flight_are_both_unknown(self, proxy):
        client, server = proxy.linked()
        client.sends("Q commit", "Q begin read write", "Q insert into t values (1)", "Q commit")
        server.closes()
        heard = client.hears()
        assert heard[0].startswith("E 08007")
        assert heard[-1] == "Z I"

    def test_a_transaction_begun_behind_a_lost_commit_is_none(self, proxy):
        client, server = proxy.linked()
        client.sends("Q commit", "Q begin read write")
        server.closes()
        heard = client.hears()
        assert heard[0].startswith("E 08007")
        # BEGIN was an error: the client is in no transaction, and knows.
        assert heard[1:] == ["Z I", heard[2], "Z I"]
        assert heard[2].startswith("E 0")

    def test_a_statement_in_a_transaction_has_failed_with_it(self, proxy):
        client, server = proxy.linked()
        client.sends("Q insert into t values (1)")
        server.closes()
        client.receives(LOST, "Z E")
        client.sends("Q commit")
        client.receives("C ROLLBACK", "Z I")

    def test_the_first_statement_of_a_lazy_transaction_has_failed_with_it(self, lazy):
        client, server = lazy
        client.sends("Q insert into t values (1)")
        server.closes()
        client.receives(LOST, "Z E")
        client.sends("Q rollback")
        client.receives("C ROLLBACK", "Z I")

    @pytest.mark.parametrize("answers", [["1"], ["1", "2"], ["1", "2", "C BEGIN"]])
    def test_at_any_point_of_our_own_begin(self, lazy, answers):
        client, server = lazy
        client.sends("Q insert into t values (1)")
        server.sends(*answers)
        server.closes()
        client.receives(LOST, "Z E")
        client.sends("Q rollback")
        client.receives("C ROLLBACK", "Z I")

    def test_one_error_for_each_answer_that_ends_in_ready_for_query(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select 1", "Q select 2", "P : select 3", "S")
        server.sends("C SELECT 1", "Z T")
        server.closes()
        client.receives("C SELECT 1", "Z T", LOST, "Z E", ABORTED, "Z E")

    def test_one_error_in_an_open_batch_and_ready_at_its_sync(self, proxy):
        client, server = proxy.linked()
        client.sends("P : select 1", "B <-", "E", "H")
        server.sends("1")
        server.closes()
        client.receives("1", LOST)
        client.sends("B <-", "E", "S")
        client.receives("Z E")
        client.sends("Q rollback")
        client.receives("C ROLLBACK", "Z I")

    def test_no_second_error_in_a_batch_that_has_failed(self, proxy):
        client, server = proxy.linked()
        client.sends("B <-none", "E", "H")
        server.sends("E 26000 none")
        server.closes()
        client.receives("E 26000")
        client.sends("E", "S")
        assert client.hears()[-1] == "Z E"

    def test_statements_that_were_not_prepared_are_not_there(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S")
        server.closes()
        client.receives(LOST, "Z E")
        assert client.session.statements == {}

    def test_those_that_were_follow_the_client(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S")
        server.hears()
        server.sends("1", "Z T")
        server.closes()
        client.sends("Q rollback")
        client.hears()
        client.sends("B <-s", "E", "S")
        server = next_server(proxy)
        server.is_asked("P #: select 1", "B <-#", "E", "S")

    def test_in_the_middle_of_a_message_nothing_fits_but_the_end(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select")
        server.sends_bytes(b"D\x00\x00\x00\x40\x00\x01")
        server.closes()
        assert client.closed
        assert client.hears_bytes() == b"D\x00\x00\x00\x40\x00\x01"

    def test_in_copy_in_nothing_fits_but_the_end(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin")
        server.sends("G")
        client.sends("d one")
        server.closes()
        client.receives("G", "E FATAL 08006")
        assert client.closed

    def test_a_function_call_may_have_done_anything_to_the_session(self, proxy):
        client, server = proxy.pair()
        client.sends("F 1")
        server.closes()
        client.receives("E FATAL 08006")
        assert client.closed

    def test_half_a_message_under_way_ends_the_session(self, proxy):
        client, server = proxy.linked()
        client.sends_bytes(b"F\x00\x00\x00\x20abcd")
        server.closes()
        client.receives("E FATAL 08006")
        assert client.closed

    def test_nothing_is_sent_again(self, proxy):
        client, server = proxy.pair()
        client.sends("Q insert into t values (1)", "Q insert into t values (2)")
        server.closes()
        client.hears()
        client.sends("Q select 1")
        next_server(proxy).receives("Q select 1")

    def test_a_broken_protocol_ends_the_session(self, proxy):
        client, server = proxy.linked()
        server.sends_bytes(b"y\x00\x00\x00\x04")
        client.receives("E FATAL 08P01")
        assert client.closed


class TestSessionState:
    """Settings that the client has heard of are never lost without a word."""

    def test_those_that_were_read_back_are_put_in_force_elsewhere(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set work_mem to '1MB'")
        server.hears()
        server.sends("C SET", "Z I")
        client.receives("C SET", "Z I")
        server.is_read_back("work_mem=1MB")
        client.sends("Q begin read write")
        server.hears()
        server.sends("C BEGIN", "Z T")
        server.closes()
        client.sends("Q rollback")
        client.hears()
        client.sends("Q select 1")
        server = next_server(proxy)
        server.is_set("work_mem=1MB")
        server.receives("Q select 1")

    def test_those_of_the_lost_transaction_are_not(self, proxy):
        client, server = proxy.linked()
        client.sends("Q set work_mem to '1MB'")
        server.sends("C SET", "Z T")
        server.closes()
        client.sends("Q rollback")
        client.hears()
        client.sends("Q select 1")
        next_server(proxy).receives("Q select 1")

    @pytest.mark.parametrize("text", ["set work_mem to '1MB'", "listen a"])
    def test_those_that_could_not_be_read_back_end_the_session(self, proxy, text):
        client, server = proxy.pair()
        client.sends(f"Q {text}", "Q select 1")
        server.sends("C DONE", "Z I")
        server.closes()
        assert client.closed
        assert client.hears()[-1].startswith("E FATAL 08006")

    @pytest.mark.parametrize("text", ["set work_mem to '1MB'", "listen a"])
    def test_behind_an_error_in_a_pipeline_as_well(self, proxy, text):
        client, server = proxy.pair()
        client.sends(f"Q {text}", "B <-none", "E", "H")
        server.sends("C DONE", "Z I", "E 26000 none")
        server.closes()
        assert client.closed


class TestNoLink:
    """A link that can't be had."""

    def test_in_a_lazy_transaction_it_is_an_error_and_the_transaction_has_failed(self, start):
        proxy = start(origin_connection_limit=1, pool_timeout=5)
        _, server = proxy.linked()
        client = proxy.client()
        client.sends("Q begin", "Q insert into t values (1)")
        client.receives("C BEGIN", "Z T")
        proxy.later(6)
        client.receives("E 58000 Failed to acquire a connection from the pool.", "Z E")
        client.sends("Q insert into t values (2)")
        client.receives(ABORTED, "Z E")
        client.sends("Q commit")
        client.receives("C ROLLBACK", "Z I")
        assert server.state == "linked"

    def test_outside_of_one_it_is_an_error(self, start):
        proxy = start(origin_connection_limit=1, pool_timeout=5)
        proxy.linked()
        client = proxy.client()
        client.sends("P : select 1", "B <-", "E", "S", "Q select 2")
        proxy.later(6)
        assert client.hears()[:2] == [
            "E 58000 Failed to acquire a connection from the pool.",
            "Z I",
        ]

    def test_a_cancel_while_waiting_in_a_lazy_transaction_fails_it(self, start):
        proxy = start(origin_connection_limit=1)
        proxy.linked()
        client = proxy.client()
        client.sends("Q begin", "Q insert into t values (1)")
        assert client.cancel_request().closed
        client.receives("C BEGIN", "Z T", "E 57014", "Z E")
        client.sends("Q rollback")
        client.receives("C ROLLBACK", "Z I")

    def test_a_replay_that_fails_in_a_lazy_transaction_fails_it(self, proxy):
        _, server = proxy.pair()
        client = proxy.connect()
        client.asks_in(TimeZone="UTC")
        server.is_set("timezone=UTC", reports=["TimeZone=UTC"])
        client.is_welcomed()
        plain = proxy.client()
        plain.sends("Q select 1")
        server.is_set("timezone", reports=["TimeZone=GMT"])
        server.sends("C SELECT 1", "Z I")
        client.sends("Q begin", "Q insert into t values (1)")
        server.hears()
        server.sends("1", "2", "E 22023 no more", "Z I")
        client.receives("C BEGIN", "Z T", "E 22023 no more", "Z E")
        server.receives("X")
