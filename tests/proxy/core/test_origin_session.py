"""What an origin says, whose it is, and what may not be."""

from __future__ import annotations

import pytest

from hyperdrive_client.protocol import messages as m


class TestForwarding:
    def test_notices_notifications_and_values(self, proxy):
        client, server = proxy.linked()
        server.sends("N 00000 psst", "A 7 channel payload", "S TimeZone=UTC")
        client.receives("N 00000 psst", "A 7 channel payload", "S TimeZone=UTC")

    def test_within_an_answer(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select")
        server.sends("T a", "N 00000 psst", "D 1", "S a=b", "D 2", "C SELECT 2", "Z T")
        client.receives("T a", "N 00000 psst", "D 1", "S a=b", "D 2", "C SELECT 2", "Z T")

    def test_nobody_hears_an_idle_origin(self, proxy):
        client, server = proxy.pair()
        server.sends("N 00000 psst", "A 7 channel payload", "S server_version=18.1")
        client.receives()
        client.sends("Q select 1")
        client.receives("S server_version=18.1")

    def test_application_name_is_each_clients_own(self, proxy):
        client, server = proxy.linked()
        server.sends("S application_name=x")
        client.receives("S application_name=x")
        assert b"application_name" not in server.session.reported

    def test_rows_of_any_size_in_any_pieces(self, proxy):
        proxy.feeding = "whole"
        client, server = proxy.linked()
        client.sends("Q select")
        row = m.message(m.DATA_ROW, b"\x00\x01\x00\x0f\xff\xff" + b"x" * 0xFFFFF)
        answer = row * 3 + m.message(m.COMMAND_COMPLETE, b"SELECT 3\x00") + m.ready_for_query(84)
        client.hears_bytes()
        for at in range(0, len(answer), 300_007):
            server.sends_bytes(answer[at : at + 300_007])
        assert client.hears_bytes() == answer

    def test_a_function_result_in_pieces(self, proxy):
        client, server = proxy.linked()
        client.sends("F 1")
        server.sends_bytes(b"V\x00\x00\x00\x10\x00\x00")
        assert client.hears_bytes() == b"V\x00\x00\x00\x10\x00\x00"
        server.sends_bytes(b"\x00\x08" + b"x" * 8 + m.ready_for_query(84))
        assert client.hears_bytes() == b"\x00\x08" + b"x" * 8 + m.ready_for_query(84)

    def test_answers_that_nobody_asked_for_are_left_out(self, start):
        proxy = start(prepared_statements=1)
        client, server = proxy.linked()
        for name in "ab":
            client.sends(f"P {name}: select {name}", "S")
            server.sends(*("3" for line in server.hears() if line[0] == "C"), "1", "Z T")
        client.receives("1", "Z T", "1", "Z T")
        client.sends("E p", "B <-a", "E", "S")
        server.sends("D 1", "s", "3", "N 00000 truncated", "1", "2", "D 2", "C SELECT 1", "Z T")
        client.receives("D 1", "s", "2", "D 2", "C SELECT 1", "Z T")

    def test_portals_that_are_suspended(self, proxy):
        client, server = proxy.linked()
        client.sends("P : select", "B p<-", "E p/1", "H")
        server.sends("1", "2", "D 1", "s")
        client.receives("1", "2", "D 1", "s")
        client.sends("E p/1", "P : select 2", "B <-", "E", "S")
        server.sends("D 2", "s", "1", "2", "D x", "C SELECT 1", "Z T")
        client.receives("D 2", "s", "1", "2", "D x", "C SELECT 1", "Z T")


class TestCopyIn:
    def test_by_query(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin")
        server.receives("Q copy t from stdin")
        server.sends("G")
        client.receives("G")
        client.sends("d one", "d two")
        client.sends("c")
        server.receives("d one", "d two", "c")
        assert server.state == "linked"
        server.sends("C COPY 2", "Z I")
        client.receives("C COPY 2", "Z I")
        assert server.state == "idle"

    def test_given_up(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin")
        server.sends("G")
        client.sends("d one", "f never mind")
        server.sends("E 57014 COPY failed", "Z I")
        client.receives("G", "E 57014", "Z I")
        assert server.state == "idle"

    def test_data_that_is_wrong(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin")
        server.sends("G")
        client.sends("d wrong")
        server.sends("E 22P04 wrong", "Z I")
        client.receives("G", "E 22P04", "Z I")
        # What was on its way is ignored, here as there.
        client.sends("d more", "c")
        assert server.state == "idle"
        server.receives("Q copy t from stdin", "d wrong")
        client.sends("Q select 1")
        server.receives("Q select 1")

    def test_data_that_is_wrong_in_a_transaction(self, proxy):
        client, server = proxy.linked()
        client.sends("Q copy t from stdin")
        server.sends("G", "E 22P04 wrong", "Z E")
        client.sends("d more", "c", "Q rollback")
        server.receives("Q copy t from stdin", "d more", "c", "Q rollback")
        server.sends("C ROLLBACK", "Z I")
        client.receives("G", "E 22P04", "Z E", "C ROLLBACK", "Z I")
        assert server.state == "idle"

    def test_the_end_is_sent_before_the_error_is_heard(self, proxy):
        client, server = proxy.linked()
        client.sends("Q copy t from stdin")
        server.sends("G")
        client.sends("d wrong", "c", "Q select 1")
        server.sends("E 22P04 wrong", "Z E", "E 25P02 aborted", "Z E")
        client.receives("G", "E 22P04", "Z E", "E 25P02", "Z E")

    @pytest.mark.parametrize("end", ["c", "f no"])
    def test_all_in_one_write(self, proxy, end):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin", "d one", end, "Q select 1")
        server.sends("G", "C COPY 1", "Z I", "C SELECT 1", "Z I")
        client.receives("G", "C COPY 1", "Z I", "C SELECT 1", "Z I")
        assert server.state == "idle"

    def test_two_in_one_query(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin; copy u from stdin")
        server.sends("G")
        client.sends("d one", "c")
        server.sends("C COPY 1", "G")
        client.sends("d two", "c")
        server.sends("C COPY 1", "Z I")
        client.receives("G", "C COPY 1", "G", "C COPY 1", "Z I")
        assert server.state == "idle"

    def test_two_in_one_query_and_one_write(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin; copy u from stdin", "d one", "c", "d two", "c")
        server.sends("G", "C COPY 1", "G")
        assert server.state == "linked"
        server.sends("C COPY 1", "Z I")
        client.receives("G", "C COPY 1", "G", "C COPY 1", "Z I")
        assert server.state == "idle"

    def test_by_the_extended_protocol(self, proxy):
        client, server = proxy.pair()
        client.sends("P : copy t from stdin", "B <-", "E", "H")
        server.sends("1", "2", "G")
        client.sends("d one", "c", "S")
        server.sends("C COPY 1", "Z I")
        client.receives("1", "2", "G", "C COPY 1", "Z I")
        assert server.state == "idle"

    def test_a_sync_sent_too_early_is_swallowed(self, proxy):
        client, server = proxy.pair()
        client.sends("P : copy t from stdin", "B <-", "E", "S")
        server.sends("1", "2", "G")
        client.sends("d one", "S", "c")
        server.sends("C COPY 1")
        client.receives("1", "2", "G", "C COPY 1")
        assert server.state == "linked"
        client.sends("S")
        server.sends("Z I")
        client.receives("Z I")
        assert server.state == "idle"

    def test_a_sync_sent_too_early_and_all_the_rest(self, proxy):
        client, server = proxy.pair()
        client.sends("P : copy t from stdin", "B <-", "E", "S", "d one", "c", "S")
        server.sends("1", "2", "G", "C COPY 1", "Z I")
        client.receives("1", "2", "G", "C COPY 1", "Z I")
        assert server.state == "idle"

    def test_without_its_sync_the_copy_is_not_done(self, proxy):
        client, server = proxy.pair()
        client.sends("P : copy t from stdin", "B <-", "E", "S", "d one", "c")
        server.sends("1", "2", "G", "C COPY 1")
        client.receives("1", "2", "G", "C COPY 1")
        client.vanishes()
        # The next client's Sync would commit it.
        assert server.aborted

    def test_all_in_one_write_by_the_extended_protocol(self, proxy):
        client, server = proxy.pair()
        client.sends("P : copy t from stdin", "B <-", "E", "d one", "c", "S", "Q select 1")
        server.sends("1", "2", "G", "C COPY 1", "Z I")
        server.sends("C SELECT 1", "Z I")
        client.receives("1", "2", "G", "C COPY 1", "Z I", "C SELECT 1", "Z I")
        assert server.state == "idle"

    def test_all_in_one_write_where_there_is_no_copy(self, proxy):
        client, server = proxy.pair()
        client.sends("B <-none", "E", "S", "d one", "c", "S")
        server.sends("E 26000 none", "Z I", "Z I")
        client.receives("E 26000", "Z I", "Z I")
        assert server.state == "idle"

    def test_wrong_data_by_the_extended_protocol(self, proxy):
        client, server = proxy.pair()
        client.sends("P : copy t from stdin", "B <-", "E", "H")
        server.sends("1", "2", "G")
        client.sends("d wrong")
        server.hears()
        server.sends("E 22P04 wrong")
        client.sends("d more", "c", "S")
        server.receives("S")
        server.sends("Z I")
        client.receives("1", "2", "G", "E 22P04", "Z I")
        assert server.state == "idle"

    def test_wrong_data_and_half_a_message(self, proxy):
        client, server = proxy.pair()
        client.sends("P : copy t from stdin", "B <-", "E", "H")
        server.sends("1", "2", "G")
        server.hears()
        client.sends_bytes(b"d\x00\x00\x00\x14half of it")
        server.sends("E 22P04 wrong")
        client.sends_bytes(b" rest" + b"x")
        client.sends("c", "S")
        assert server.hears() == ["d half of it restx", "S"]
        server.sends("Z I")
        assert server.state == "idle"

    def test_an_end_where_there_is_no_copy(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select 1", "c", "f no", "Q select 2")
        server.sends("C SELECT 1", "Z T", "C SELECT 1", "Z T")
        client.receives("C SELECT 1", "Z T", "C SELECT 1", "Z T")
        client.sends("c")
        client.sends("Q commit")
        server.sends("C COMMIT", "Z I")
        assert server.state == "idle"

    @pytest.mark.parametrize("last", [("B <-t", "S"), ("S",), ("H",)])
    def test_an_end_before_an_answer_of_ours(self, proxy, last):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S")
        server.sends("1", "Z T")
        client.receives("1", "Z T")
        client.sends("P : select 2", "c", "P t: select 1", *last)
        server.sends("1")
        client.receives("1", "1")
        client.sends("c", "P u: select 1", "H")
        if last[-1] == "H":
            client.receives("1")


class TestCopyOut:
    def test_by_query(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t to stdout")
        server.sends("H", "d one", "d two", "c", "C COPY 2", "Z I")
        client.receives("H", "d one", "d two", "c", "C COPY 2", "Z I")
        assert server.state == "idle"

    def test_by_the_extended_protocol(self, proxy):
        client, server = proxy.pair()
        client.sends("P : copy t to stdout", "B <-", "E", "S")
        server.sends("1", "2", "H", "d one", "c", "C COPY 1", "Z I")
        client.receives("1", "2", "H", "d one", "c", "C COPY 1", "Z I")
        assert server.state == "idle"


class TestHostile:
    """An origin that breaks the protocol loses its connection; the client hears why."""

    @pytest.mark.parametrize(
        "lines", [["Z I"], ["C SELECT 1"], ["1"], ["2"], ["T a"], ["I"], ["n"], ["3"], ["s"]]
    )
    def test_an_answer_that_nobody_asked_for(self, proxy, lines):
        client, server = proxy.linked()
        server.sends(*lines)
        assert client.hears()[-1].startswith("E FATAL 08P01 The origin broke the protocol")
        assert client.closed
        assert server.aborted

    @pytest.mark.parametrize("lines", [["Z I"], ["C SELECT 1"], ["1"]])
    def test_an_answer_that_nobody_asked_for_while_idle(self, proxy, lines):
        client, server = proxy.pair()
        server.sends(*lines)
        assert server.aborted
        server.closes()
        client.sends("Q select 1")
        proxy.servers[1].starts()
        proxy.servers[1].receives("Q select 1")
        client.receives()

    @pytest.mark.parametrize(
        ("asked", "answered"),
        [
            (["P : select", "S"], ["2"]),
            (["P : select", "S"], ["Z I"]),
            (["B <-", "S"], ["1"]),
            (["B <-", "S"], ["C SELECT 1"]),
            (["D S", "S"], ["1"]),
            (["E", "S"], ["T a"]),
            (["S"], ["C SELECT 1"]),
            (["F 1"], ["C SELECT 1"]),
        ],
    )
    def test_the_wrong_answer(self, proxy, asked, answered):
        client, server = proxy.linked()
        client.sends(*asked)
        server.sends(*answered)
        assert client.hears()[-1].startswith("E FATAL 08P01 The origin broke the protocol")
        assert server.aborted

    @pytest.mark.parametrize(
        "data",
        [
            b"R\x00\x00\x00\x08\x00\x00\x00\x00",
            b"K\x00\x00\x00\x0c\x00\x00\x00\x00key!",
            b"v\x00\x00\x00\x0c\x00\x03\x00\x00\x00\x00\x00\x00",
            b"?\x00\x00\x00\x04",
            b"Z\x00\x00\x00\x04",
            b"Z\x00\x00\x00\x06II",
            b"C\x00\x00\x00\x03",
            b"D\x00\x00\x00\x03",
            b"T\xff\xff\xff\xff",
            b"T\x7f\xff\xff\xff",
        ],
    )
    def test_a_message_that_cannot_be(self, proxy, data):
        client, server = proxy.linked()
        client.sends("Q select 1")
        server.sends_bytes(data)
        client.receives("E FATAL 08P01")
        assert server.aborted

    def test_what_comes_before_a_bad_message_is_passed_on(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select 1")
        server.sends_bytes(b"I\x00\x00\x00\x04" + m.ready_for_query(84) + b"T\x00\x00\x00\x03")
        client.receives("I", "Z T", "E FATAL 08P01")
        assert server.aborted

    def test_forgetting_for_nobody(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select f()", "X")
        server.receives("Q select f()")
        server.sends("C DEALLOCATE ALL", "Z I")
        server.is_cleaned()

    def test_a_command_without_a_tag(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select 1")
        server.sends_bytes(b"C\x00\x00\x00\x04")
        server.sends("Z T")
        assert client.hears_bytes() == b"C\x00\x00\x00\x04" + m.ready_for_query(84)

    @pytest.mark.parametrize("status", [b"X", b"\x00"])
    def test_a_status_that_does_not_exist(self, proxy, status):
        client, server = proxy.linked()
        client.sends("Q select 1")
        server.sends_bytes(b"Z\x00\x00\x00\x05" + status)
        client.receives("E FATAL 08P01")

    @pytest.mark.parametrize("body", [b"", b"\x00", b"SERROR\x00\x00", b"no end"])
    def test_an_error_without_fields(self, proxy, body):
        client, server = proxy.linked()
        client.sends("Q select 1")
        server.sends_bytes(m.message(m.ERROR_RESPONSE, body) + m.ready_for_query(69))
        assert client.hears_bytes() == m.message(m.ERROR_RESPONSE, body) + m.ready_for_query(69)

    def test_in_the_middle_of_a_row_nothing_can_be_said(self, proxy):
        client, server = proxy.linked()
        client.sends("Q select 1")
        server.sends_bytes(b"D\x00\x00\x00\x10\x00\x01")
        row = client.hears_bytes()
        server.sends_bytes(b"\x00\x00\x00\x06rowrow" + b"?\x00\x00\x00\x04")
        assert client.closed
        heard = row + client.hears_bytes()
        # The row is complete and the error follows, or there is neither.
        assert heard == row or heard.startswith(b"D\x00\x00\x00\x10\x00\x01\x00\x00\x00\x06rowrowE")

    def test_a_client_that_waits_is_told(self, start):
        proxy = start(origin_connection_limit=1)
        _, server = proxy.pair()
        client = proxy.connect()
        client.asks_in(TimeZone="UTC")
        server.sends("Z I")
        client.receives("R 0", "E FATAL 08P01")

    def test_in_the_middle_of_cleaning(self, proxy):
        client, server = proxy.linked()
        client.vanishes()
        server.sends("K 7")
        assert server.aborted
        server.closes()
        assert proxy.core.at_rest

    def test_what_comes_after_the_end_is_ignored(self, proxy):
        client, server = proxy.linked()
        client.sends("P : select", "H")
        client.vanishes()
        server.aborted = False
        server.sends("1", "Z I", "C X")
        assert server.state == "closing"


@pytest.mark.parametrize("feeding", ["whole"])
class TestGoodbye:
    """An origin that ends a connection right behind the end of a transaction."""

    def test_the_client_whose_transaction_is_over_is_not_told(self, proxy):
        client, server = proxy.linked()
        client.sends("Q commit")
        server.sends("C COMMIT", "Z I", "E FATAL 57P01 terminating connection")
        client.receives("C COMMIT", "Z I")
        assert client.state == "idle"

    def test_the_connection_is_not_lent_any_more(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.linked()
        second = proxy.client()
        second.sends("Q select 1")
        first.sends("Q commit")
        server.hears()
        server.sends("C COMMIT", "Z I", "E FATAL 57P01 terminating connection")
        server.receives("X")
        server.closes()
        proxy.servers[1].starts()
        proxy.servers[1].receives("Q select 1")
        assert not second.closed
