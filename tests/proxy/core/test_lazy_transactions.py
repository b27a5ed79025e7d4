"""BEGIN without a round trip, and the end of a transaction of reads without a wait."""

from __future__ import annotations

import pytest

BEGUN = ("P #: BEGIN", "B <-#", "E")
BEGUN_AGAIN = ("B <-#", "E")
INSPECTED = ("P #: <inspection>", "B <-#", "E")
ISOLATION = "D isolation\tread committed"
READ = ("T a", "D 1", "C SELECT 1")


def begins(client, text: str = "begin") -> None:
    client.sends(f"Q {text}")
    client.receives("C BEGIN", "Z T")


def reads(client, server, text: str = "select 1", *, found: tuple[str, ...] = (ISOLATION,)) -> None:
    """The first statement of a transaction that was begun lazily, a read; and its answer."""
    client.sends(f"Q {text}")
    server.is_asked(*BEGUN, *INSPECTED, f"Q {text}", "S")
    server.sends("1", "2", "C BEGIN", "1", "2", *found, "C SELECT", *READ, "Z T", "Z T")
    client.receives(*READ, "Z T")


@pytest.fixture
def primary(proxy):
    """A client and an origin that says that it is no hot standby."""
    client = proxy.connect()
    client.asks_in()
    server = proxy.servers[-1]
    server.starts(in_hot_standby="off")
    client.is_welcomed()
    return client, server


class TestBegin:
    @pytest.mark.parametrize(
        ("text", "tag"),
        [
            ("begin", "BEGIN"),
            ("BEGIN ;", "BEGIN"),
            ("begin work", "BEGIN"),
            ("start transaction", "START TRANSACTION"),
            ("begin isolation level read committed", "BEGIN"),
            ("begin isolation level repeatable read read only", "BEGIN"),
            ("begin transaction read only, deferrable", "BEGIN"),
        ],
    )
    def test_alone_in_its_query_it_is_answered_here(self, proxy, text, tag):
        client, server = proxy.pair()
        client.sends(f"Q {text}")
        client.receives(f"C {tag}", "Z T")
        server.receives()
        assert server.state == "idle"

    @pytest.mark.parametrize("describe", ["", "D P", "D S"])
    def test_alone_in_its_sync_batch_it_is_answered_here(self, proxy, describe):
        client, server = proxy.pair()
        client.sends("P : begin", "B <-", *([describe] if describe else []), "E", "S")
        if server.hears():
            assert proxy.feeding == "byte by byte"
            return
        described = {"": [], "D P": ["n"], "D S": ["t", "n"]}[describe]
        client.receives("1", "2", *described, "C BEGIN", "Z T")

    def test_with_parameters_that_it_has_not_it_is_forwarded(self, proxy):
        client, server = proxy.pair()
        client.sends("P : begin", "B <- 1", "E", "S")
        assert server.hears()[-3:] == ["B <- 1", "E", "S"]

    @pytest.mark.parametrize(
        "text", ["begin isolation level serializable", "begin read write", "begin; select 1"]
    )
    def test_what_a_hot_standby_may_refuse_is_forwarded(self, proxy, text):
        client, server = proxy.pair()
        client.sends(f"Q {text}")
        server.receives(f"Q {text}")
        client.receives()

    @pytest.mark.parametrize("text", ["begin isolation level serializable", "begin read write"])
    def test_where_in_hot_standby_is_known_to_be_off_it_is_lazy(self, primary, text):
        client, server = primary
        begins(client, text)
        server.receives()

    def test_in_a_transaction_it_is_forwarded_for_its_warning(self, proxy):
        client, server = proxy.linked()
        client.sends("Q begin")
        server.receives("Q begin")
        server.sends("N 25001 already", "C BEGIN", "Z T")
        client.receives("N 25001 already", "C BEGIN", "Z T")

    def test_in_a_lazy_transaction_it_is_forwarded_for_its_warning(self, proxy):
        client, server = proxy.pair()
        begins(client)
        client.sends("Q begin")
        server.is_asked(*BEGUN, "Q begin")
        server.sends("1", "2", "C BEGIN", "N 25001 already", "C BEGIN", "Z T")
        client.receives("N 25001 already", "C BEGIN", "Z T")

    @pytest.mark.parametrize("feeding", ["whole"])
    def test_in_a_pipeline_it_is_forwarded(self, proxy):
        client, server = proxy.pair()
        lines = ["P : insert into t values (1)", "B <-", "E", "P : begin", "B <-", "E", "S"]
        client.sends(*lines)
        server.receives(*lines)
        client.receives()

    def test_behind_an_answer_that_is_still_to_come_it_is_forwarded(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select 1", "Q begin")
        server.receives("Q select 1", "Q begin")
        client.receives()

    def test_it_is_sent_with_the_first_statement(self, proxy):
        client, server = proxy.pair()
        begins(client)
        client.sends("Q insert into t values (1)")
        server.is_asked(*BEGUN, "Q insert into t values (1)")
        server.sends("1", "2", "C BEGIN", "C INSERT 0 1", "Z T")
        client.receives("C INSERT 0 1", "Z T")
        client.sends("Q commit")
        server.receives("Q commit")
        client.receives()

    @pytest.mark.parametrize("kind", ["P", "D"])
    def test_a_message_without_a_body_is_the_clients_fault(self, proxy, wire, kind):
        client, _ = proxy.pair()
        lines = ["P : begin", "B <-", "D P", "E", "S"]
        empty = kind.encode() + b"\x00\x00\x00\x04"
        messages = [empty if line[0] == kind else wire.encode(line) for line in lines]
        client.sends_bytes(b"".join(messages))
        assert client.hears()[-1].startswith("E FATAL 08P01")
        assert client.closed

    @pytest.mark.parametrize("feeding", ["whole"])
    def test_an_execute_without_a_body_is_the_origins(self, proxy, wire):
        client, server = proxy.pair()
        batch = b"".join(map(wire.encode, ["P : begin", "B <-"]))
        batch += b"E\x00\x00\x00\x04" + wire.encode("S")
        client.sends_bytes(batch)
        client.receives()
        assert server.hears_bytes() == batch

    def test_a_malformed_bind_behind_it_is_the_clients_fault(self, proxy):
        client, _ = proxy.pair()
        begins(client)
        client.sends_bytes(b"B\x00\x00\x00\x06ab")
        assert client.hears()[-1].startswith("E FATAL 08P01")
        assert client.closed

    def test_its_modes_are_sent_with_it(self, proxy):
        client, server = proxy.pair()
        begins(client, "begin isolation level repeatable read read only")
        client.sends("Q select 1")
        first, *_ = server.hears()
        assert first.lower().endswith(": begin isolation level repeatable read read only")

    def test_it_is_sent_with_the_first_extended_batch(self, proxy):
        client, server = proxy.pair()
        begins(client)
        client.sends("P : insert into t values (1)", "B <-", "E", "S")
        server.is_asked(*BEGUN, "P : insert into t values (1)", "B <-", "E", "S")
        server.sends("1", "2", "C BEGIN", "1", "2", "C INSERT 0 1", "Z T")
        client.receives("1", "2", "C INSERT 0 1", "Z T")

    def test_it_is_prepared_once(self, proxy):
        client, server = proxy.pair()
        for begun in (BEGUN, BEGUN_AGAIN):
            begins(client)
            client.sends("Q insert into t values (1)")
            server.is_asked(*begun, "Q insert into t values (1)")
            answers = ("1",) if begun is BEGUN else ()
            server.sends(*answers, "2", "C BEGIN", "C INSERT 0 1", "Z T")
            client.sends("Q commit")
            server.hears()
            server.sends("C COMMIT", "Z I")
            client.hears()

    def test_what_it_refuses_must_not_run_in_autocommit(self, proxy):
        client, server = proxy.pair()
        begins(client, "begin isolation level repeatable read")
        client.sends("Q insert into t values (1)")
        server.hears()
        # PostgreSQL, "Extended Query": after an error everything is ignored up to Sync.
        server.sends("1", "2", "E 25001 no")
        if not server.aborted:
            server.sends("Z I")
        client.receives("E 25001", "Z E")
        client.sends("Q insert into t values (2)")
        client.receives("E 25P02", "Z E")
        client.sends("Q rollback")
        client.receives("C ROLLBACK", "Z I")
        assert not client.closed

    @pytest.mark.parametrize("text", ["begin", "commit", "rollback"])
    def test_not_if_another_statement_is_bound(self, proxy, text):
        client, server = proxy.pair()
        if text != "begin":
            begins(client)
        client.sends(f"P : {text}", "B <-other", "E", "S")
        heard = server.hears()
        assert heard[-4:] == [f"P : {text}", "B <-other", "E", "S"]

    def test_a_copy_may_be_the_first_statement(self, proxy):
        client, server = proxy.pair()
        begins(client)
        client.sends("Q copy t from stdin")
        server.is_asked(*BEGUN, "Q copy t from stdin")
        server.sends("1", "2", "C BEGIN", "G")
        client.receives("G")
        client.sends("d one", "c")
        server.receives("d one", "c")
        # The Sync behind the Query was ignored: PostgreSQL, "COPY Operations".
        server.sends("C COPY 1", "Z T")
        client.receives("C COPY 1", "Z T")
        client.sends("Q commit")
        server.receives("Q commit")
        server.sends("C COMMIT", "Z I")
        client.receives("C COMMIT", "Z I")
        assert server.state == "idle"

    def test_a_copy_that_fails_may_be_the_first_statement(self, proxy):
        client, server = proxy.pair()
        begins(client)
        client.sends("Q copy t from stdin")
        server.hears()
        server.sends("1", "2", "C BEGIN", "G")
        client.sends("d one", "f no")
        server.sends("E 57014 no", "Z E")
        client.receives("G", "E 57014", "Z E")
        client.sends("Q rollback")
        assert server.hears()[-1] == "Q rollback"
        server.sends("C ROLLBACK", "Z I")
        client.receives("C ROLLBACK", "Z I")
        assert server.state == "idle"

    def test_a_query_longer_than_a_read_may_be_the_first_statement(self, proxy):
        proxy.feeding = "whole"
        client, server = proxy.pair()
        begins(client)
        size = 2 * 1024 * 1024
        query = b"Q" + (size + 5).to_bytes(4) + b"x" * size + b"\x00"
        for at in range(0, len(query), 700_000):
            client.sends_bytes(query[at : at + 700_000])
        begun = server.hears_bytes()
        assert begun.endswith(query)
        server.sends("1", "2", "C BEGIN", "E 42601 syntax", "Z E")
        client.receives("E 42601", "Z E")
        client.sends("Q rollback")
        server.hears()
        server.sends("C ROLLBACK", "Z I")
        server.is_read_back()
        assert server.state == "idle"

    def test_a_query_longer_than_a_read_and_more_behind_it(self, proxy):
        proxy.feeding = "whole"
        client, server = proxy.pair()
        begins(client)
        size = 2 * 1024 * 1024
        query = b"Q" + (size + 5).to_bytes(4) + b"x" * size + b"\x00"
        behind = b"Q\x00\x00\x00\x0dselect 2\x00"
        client.sends_bytes(query[:1_500_000])
        client.sends_bytes(query[1_500_000:] + behind)
        assert server.hears_bytes().endswith(query)
        server.sends("1", "2", "C BEGIN", "C DONE", "Z T")
        assert server.hears_bytes() == behind

    def test_a_function_call_may_be_the_first_statement(self, proxy):
        client, server = proxy.pair()
        begins(client)
        client.sends("F 1")
        server.is_asked(*BEGUN, "F 1", "S")
        server.sends("1", "2", "C BEGIN", "V x", "Z T", "Z T")
        client.receives("V x", "Z T")

    def test_a_known_statement_is_prepared_without_sending_it(self, proxy):
        client, server = proxy.pair()
        client.sends("P s: select 1", "S")
        server.hears()
        server.sends("1", "Z I")
        client.receives("1", "Z I")
        other = proxy.client()
        begins(other)
        other.sends("P t: select 1", "S")
        other.receives("1", "Z T")
        server.receives()


class TestUntouched:
    """A transaction that never reached the origin."""

    @pytest.mark.parametrize(
        ("text", "tag"),
        [
            ("commit", "COMMIT"),
            ("end", "COMMIT"),
            ("COMMIT WORK;", "COMMIT"),
            ("rollback", "ROLLBACK"),
            ("abort transaction", "ROLLBACK"),
        ],
    )
    def test_costs_nothing(self, proxy, text, tag):
        client, server = proxy.pair()
        begins(client)
        client.sends(f"Q {text}")
        client.receives(f"C {tag}", "Z I")
        server.receives()
        assert not proxy.core.pool.ending

    def test_its_end_by_the_extended_protocol_costs_nothing(self, proxy):
        proxy.feeding = "whole"
        client, server = proxy.pair()
        client.sends("P : begin", "B <-", "E", "S", "P : commit", "B <-", "D P", "E", "S")
        client.receives("1", "2", "C BEGIN", "Z T", "1", "2", "n", "C COMMIT", "Z I")
        server.receives()

    def test_many_in_one_segment_cost_nothing(self, proxy):
        client, server = proxy.pair()
        client.sends(*["Q begin", "Q commit", "Q begin", "Q rollback"] * 3)
        done = ["C BEGIN", "Z T", "C COMMIT", "Z I", "C BEGIN", "Z T", "C ROLLBACK", "Z I"]
        client.receives(*done * 3)
        server.receives()

    @pytest.mark.parametrize("text", ["commit", "rollback"])
    def test_outside_of_one_the_end_is_forwarded_for_its_warning(self, proxy, text):
        client, server = proxy.pair()
        client.sends(f"Q {text}")
        server.receives(f"Q {text}")

    @pytest.mark.parametrize(
        "text",
        [
            "savepoint a",
            "set local a to b",
            "prepare transaction 'x'",
            "commit and chain",
            "sync it",
        ],
    )
    def test_all_else_goes_to_the_origin(self, proxy, text):
        client, server = proxy.pair()
        begins(client)
        client.sends(f"Q {text}")
        assert server.hears()[-1:] == [f"Q {text}"]

    def test_who_vanishes_in_it_leaves_nothing(self, proxy):
        client, server = proxy.pair()
        begins(client)
        client.vanishes()
        server.receives()
        assert (server.state, server.cancels) == ("idle", 0)

    def test_a_cancel_in_it_reaches_nobody(self, proxy):
        client, server = proxy.pair()
        begins(client)
        assert client.cancel_request().closed
        assert server.cancels == 0
        assert client.session.status == ord("T")

    def test_sync_in_it_says_that_it_is_open(self, proxy):
        client, _ = proxy.pair()
        begins(client)
        client.sends("S")
        client.receives("Z T")

    def test_it_does_not_wait_for_a_link(self, start):
        proxy = start(origin_connection_limit=1)
        _, server = proxy.linked()
        client = proxy.client()
        client.sends("Q begin", "Q commit")
        client.receives("C BEGIN", "Z T", "C COMMIT", "Z I")
        assert server.state == "linked"


class TestEarlyEnd:
    """The end of a transaction that did nothing but read."""

    def test_the_answer_to_our_own_sync_is_not_waited_for(self, proxy):
        client, server = proxy.pair()
        begins(client)
        client.sends("Q select 1")
        server.is_asked(*BEGUN, *INSPECTED, "Q select 1", "S")
        server.sends("1", "2", "C BEGIN", "1", "2", ISOLATION, "C SELECT", *READ, "Z T")
        client.receives(*READ, "Z T")
        client.sends("Q commit")
        client.receives("C COMMIT", "Z I")
        server.receives("Q commit")
        server.sends("Z T")
        assert server.state == "ending"
        server.sends("C COMMIT", "Z I")
        assert server.state == "idle"

    @pytest.mark.parametrize(("text", "tag"), [("commit", "COMMIT"), ("rollback", "ROLLBACK")])
    def test_it_is_answered_at_once(self, proxy, text, tag):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends(f"Q {text}")
        client.receives(f"C {tag}", "Z I")
        server.receives(f"Q {text}")
        assert (client.state, server.state) == ("idle", "ending")
        server.sends(f"C {tag}", "Z I")
        client.receives()
        assert server.state == "idle"
        assert not proxy.core.pool.ending

    def test_the_link_ends_when_the_real_one_is_done(self, start):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        client.sends("Q begin", "Q select 2")
        client.receives("C COMMIT", "Z I", "C BEGIN", "Z T")
        server.receives("Q commit")
        server.sends("C COMMIT", "Z I")
        server.is_asked(*BEGUN_AGAIN, "Q select 2")

    def test_the_next_transaction_uses_another_connection(self, start):
        proxy = start(origin_connection_limit=2)
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        client.sends("Q begin", "Q insert into t values (1)")
        client.receives("C COMMIT", "Z I", "C BEGIN", "Z T")
        second = proxy.servers[1]
        second.starts()
        second.is_asked(*BEGUN, "Q insert into t values (1)")
        server.sends("C COMMIT", "Z I")
        assert server.state == "idle"

    @pytest.mark.parametrize("feeding", ["whole"])
    def test_not_with_more_behind_it_in_one_segment(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit", "Q begin", "Q insert into t values (1)")
        server.receives("Q commit", "Q begin", "Q insert into t values (1)")
        server.sends("C COMMIT", "Z I", "C BEGIN", "Z T", "C INSERT 0 1", "Z T")
        client.receives("C COMMIT", "Z I", "C BEGIN", "Z T", "C INSERT 0 1", "Z T")

    @pytest.mark.parametrize(
        "text",
        [
            "insert into t values (1)",
            "select f()",
            "select pg_advisory_xact_lock(1)",
            "select txid_current()",
            "select nextval('s')",
            "select 1 for update",
            "declare c cursor for select 1",
            "savepoint a",
            "set local a to b",
            "set a to b",
            "lock table t",
            "with d as (delete from t returning 1) select * from d",
            "select * from pg_settings",
        ],
    )
    def test_what_does_more_than_read_ends_in_its_own_time(self, proxy, text):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends(f"Q {text}")
        server.hears()
        server.sends("C DONE", "Z T")
        client.hears()
        client.sends("Q commit")
        client.receives()
        assert server.hears() == ["Q commit"]

    def test_and_so_it_does_where_that_came_first(self, proxy):
        client, server = proxy.pair()
        begins(client)
        client.sends("Q insert into t values (1)")
        server.is_asked(*BEGUN, "Q insert into t values (1)")
        server.sends("1", "2", "C BEGIN", "C INSERT 0 1", "Z T")
        client.sends("Q select 1")
        server.hears()
        server.sends(*READ, "Z T")
        client.hears()
        client.sends("Q commit")
        client.receives()
        server.receives("Q commit")

    @pytest.mark.parametrize(
        "text",
        [
            "begin isolation level repeatable read",
            "start transaction isolation level repeatable read",
        ],
    )
    def test_not_in_another_isolation_level(self, proxy, text):
        client, server = proxy.pair()
        client.sends(f"Q {text}")
        client.hears()
        client.sends("Q select 1")
        server.hears()
        server.sends("1", "2", "C BEGIN", *READ, "Z T")
        client.receives(*READ, "Z T")
        client.sends("Q commit")
        client.receives()
        server.receives("Q commit")

    @pytest.mark.parametrize(
        "found",
        [
            ("D isolation\tserializable",),
            ("D isolation\trepeatable read",),
            (ISOLATION, "D acts\t"),
            (),
        ],
    )
    def test_not_where_the_inspection_says_that_reads_may_act(self, proxy, found):
        client, server = proxy.pair()
        begins(client)
        reads(client, server, found=found)
        client.sends("Q commit")
        client.receives()
        server.receives("Q commit")

    def test_not_with_and_chain(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit and chain")
        client.receives()
        server.receives("Q commit and chain")
        server.sends("C COMMIT", "Z T")
        client.receives("C COMMIT", "Z T")
        client.sends("Q commit")
        client.receives()
        server.receives("Q commit")

    def test_not_while_an_answer_is_still_to_come(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q select 2", "Q commit")
        client.receives()
        server.receives("Q select 2", "Q commit")

    def test_not_in_a_failed_transaction(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q select 1/0")
        server.hears()
        server.sends("E 22012 division by zero", "Z E")
        client.hears()
        client.sends("Q commit")
        client.receives()
        server.receives("Q commit")
        server.sends("C ROLLBACK", "Z I")
        client.receives("C ROLLBACK", "Z I")

    def test_not_with_a_named_portal_in_it(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("P : select 2", "B p<-", "E p/1", "S")
        server.hears()
        server.sends("1", "2", "D 1", "s", "Z T")
        client.hears()
        client.sends("Q commit")
        client.receives()
        server.receives("Q commit")

    def test_not_of_a_transaction_that_was_begun_at_the_origin(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select 1")
        server.hears()
        server.sends(*READ, "Z T")
        client.hears()
        client.sends("Q commit")
        client.receives()
        server.receives("Q commit")

    @pytest.mark.parametrize("text", ["begin isolation level serializable", "begin read write"])
    def test_not_of_one_begun_at_the_origin_after_one_that_was_not(self, proxy, text):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        server.hears()
        server.sends("C COMMIT", "Z I")
        client.hears()
        client.sends(f"Q {text}", "Q select 1")
        server.receives(f"Q {text}", "Q select 1")
        server.sends("C BEGIN", "Z T", *READ, "Z T")
        client.hears()
        client.sends("Q commit")
        # It may fail yet: SERIALIZABLE does so at its end.
        client.receives()
        server.receives("Q commit")

    @pytest.mark.parametrize("feeding", ["whole"])
    @pytest.mark.parametrize("text", ["begin isolation level serializable", "begin read write"])
    def test_not_of_one_begun_at_the_origin_in_the_same_link(self, proxy, text):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit", f"Q {text}", "Q select 1")
        server.receives("Q commit", f"Q {text}", "Q select 1")
        server.sends("C COMMIT", "Z I", "C BEGIN", "Z T", *READ, "Z T")
        client.hears()
        client.sends("Q commit")
        client.receives()
        server.receives("Q commit")

    def test_not_by_an_inspection_that_is_older_than_a_second(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        server.hears()
        server.sends("C COMMIT", "Z I")
        client.hears()
        proxy.later(60)
        begins(client)
        # Nothing is read yet, so nothing is inspected.
        client.sends("D S none", "S")
        server.is_asked(*BEGUN_AGAIN, "C P", "D S none", "S")
        server.sends("2", "C BEGIN", "3", "t", "n", "Z T")
        client.sends("Q select 1")
        server.hears()
        server.sends(*READ, "Z T")
        client.hears()
        client.sends("Q commit")
        client.receives()
        server.receives("Q commit")

    def test_not_after_a_failure_behind_an_early_answer(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        client.receives("C COMMIT", "Z I")
        server.sends("E 40001 too late", "Z I")
        client.receives()
        # Whatever that was: nobody else is to meet it.
        assert server.state == "closing"

    def test_the_inspection_counts_for_a_second(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        server.sends("C COMMIT", "Z I")
        server.hears()
        client.hears()
        proxy.later(0.5)
        begins(client)
        client.sends("Q select 2")
        server.is_asked(*BEGUN_AGAIN, "Q select 2")
        server.sends("2", "C BEGIN", *READ, "Z T")
        client.sends("Q commit")
        server.sends("C COMMIT", "Z I")
        server.hears()
        proxy.later(0.6)
        client.hears()
        begins(client)
        client.sends("Q select 3")
        server.is_asked(*BEGUN_AGAIN, "B <-#", "E", "Q select 3", "S")

    def test_whoever_vanishes_afterwards_does_not_stop_it(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        client.vanishes()
        assert server.cancels == 0
        server.receives("Q commit")
        server.sends("C COMMIT", "Z I")
        assert server.state == "idle"

    def test_an_origin_lost_then_hurts_nobody(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        client.receives("C COMMIT", "Z I")
        server.closes()
        client.receives()
        assert not client.closed
        assert not proxy.core.pool.ending

    def test_a_notification_in_between_goes_to_nobody(self, proxy):
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        client.receives("C COMMIT", "Z I")
        server.sends("A 5 channel payload", "C COMMIT", "Z I")
        client.receives()
        assert server.state == "idle"


class TestLocksOfAnEarlyEnd:
    """Until the real COMMIT is done its locks hold."""

    @pytest.fixture
    def ending(self, start):
        """One transaction of reads under way to its real end, at the first of two origins."""
        proxy = start(origin_connection_limit=2)
        client, server = proxy.pair()
        begins(client)
        reads(client, server)
        client.sends("Q commit")
        client.receives("C COMMIT", "Z I")
        server.receives("Q commit")
        return proxy, client, server

    def second(self, proxy):
        server = proxy.servers[1]
        if server.state == "connecting":
            server.starts()
        return server

    @pytest.mark.parametrize("text", ["drop table t", "alter table t add c int", "truncate t"])
    def test_what_wants_them_waits(self, ending, text):
        proxy, client, server = ending
        client.sends(f"Q {text}")
        second = self.second(proxy)
        second.receives()
        server.sends("C COMMIT", "Z I")
        second.receives(f"Q {text}")

    @pytest.mark.parametrize("broken", [b"!\0\0\0\4", b"A\0\0\0\4"])
    def test_they_are_gone_with_a_connection_that_breaks_the_protocol(self, ending, broken):
        proxy, client, server = ending
        client.sends("Q drop table t")
        second = self.second(proxy)
        server.sends_bytes(broken)
        second.receives("Q drop table t")
        assert proxy.core.pool.ending == {}

    def test_a_late_cancel_of_what_came_before_does_not_end_the_waiting(self, ending):
        proxy, client, server = ending
        client.sends("Q drop table t")
        second = self.second(proxy)
        second.session.cancel()
        proxy.core.cancel_done(second.session, proxy.now)
        server.sends("C COMMIT", "Z I")
        second.receives("Q drop table t")

    def test_by_the_extended_protocol_as_well(self, ending):
        proxy, client, server = ending
        client.sends("P : lock table t", "B <-", "E", "S")
        second = self.second(proxy)
        second.receives()
        server.sends("C COMMIT", "Z I")
        second.receives("P : lock table t", "B <-", "E", "S")

    @pytest.mark.parametrize("text", ["select 1", "insert into t values (1)", "update t set a = 1"])
    def test_what_does_not_conflict_with_a_reads_goes_on(self, ending, text):
        proxy, client, _ = ending
        client.sends(f"Q {text}")
        self.second(proxy).receives(f"Q {text}")

    def test_a_later_end_does_not_prolong_the_wait(self, ending):
        proxy, client, server = ending
        client.sends("Q drop table t")
        second = self.second(proxy)
        other = proxy.client()
        server.sends("C COMMIT", "Z I")
        second.receives("Q drop table t")
        begins(other)
        other.sends("Q select 2")
        server.hears()
        server.sends("2", "C BEGIN", *READ, "Z T")
        other.sends("Q commit")
        second.sends("C DROP TABLE", "Z I")
        client.receives("C DROP TABLE", "Z I")

    def test_an_origin_lost_ends_the_wait(self, ending):
        proxy, client, server = ending
        client.sends("Q drop table t")
        second = self.second(proxy)
        second.receives()
        server.closes()
        second.receives("Q drop table t")

    def test_who_waits_can_be_cancelled(self, ending):
        proxy, client, server = ending
        client.sends("Q drop table t")
        second = self.second(proxy)
        assert client.cancel_request().closed
        client.receives("E 57014", "Z I")
        server.sends("C COMMIT", "Z I")
        second.receives()
        assert second.state == "idle"

    def test_who_loses_its_own_connection_while_waiting_goes_on_with_another(self, ending):
        proxy, client, server = ending
        client.sends("Q drop table t")
        second = self.second(proxy)
        second.closes()
        server.sends("C COMMIT", "Z I")
        assert client.hears() in ([], ["E 08006 The connection to the origin was lost.", "Z I"])
        assert not proxy.core.pool.held_back
        for each in proxy.servers:
            if each.state == "connecting":
                each.starts()
        client.sends("Q select 1")
        queries = [line for each in proxy.servers[:1] + proxy.servers[2:] for line in each.hears()]
        assert queries[-1] in ("Q drop table t", "Q select 1")

    def test_who_loses_it_waits_for_its_settings_elsewhere_and_for_no_other_end(self, ending):
        proxy, _, server = ending
        client = proxy.connect()
        client.asks_in(options="-c jit=off")
        second = proxy.servers[-1]
        second.starts()
        second.is_set("jit=off")
        client.sends("Q drop table t")
        assert client.state == "stalled"
        second.closes()
        assert not proxy.core.pool.held_back
        third = proxy.servers[-1]
        third.starts()
        server.sends("C COMMIT", "Z I")
        assert client.state == "waiting"
        third.is_set("jit=off")
        third.receives("Q drop table t")

    def test_who_vanishes_while_waiting_is_forgotten(self, ending):
        proxy, client, server = ending
        client.sends("Q drop table t")
        second = self.second(proxy)
        client.vanishes()
        server.sends("C COMMIT", "Z I")
        second.receives()
        assert second.state == "idle"
        assert not proxy.core.pool.held_back
