"""Who gets which origin connection, and when."""

from __future__ import annotations

import pytest

from hyperdrive_client.bindings.connection_string import Address


def asks(client, *servers):
    """The client's query reaches whichever origin has it; that one."""
    client.sends("Q select 1")
    (server,) = [server for server in servers if server.hears()]
    return server


def is_done(server) -> None:
    server.sends("C SELECT 1", "Z I")


class TestLinks:
    def test_the_most_recently_used_is_taken_first(self, proxy):
        first, one = proxy.pair()
        second = proxy.client()
        assert asks(first, one) is one
        second.sends("Q select 1")
        two = proxy.servers[1]
        two.starts()
        two.hears()
        is_done(one)
        is_done(two)
        assert asks(first, one, two) is two
        is_done(two)
        assert asks(first, one, two) is two

    def test_one_with_the_same_settings_is_preferred(self, proxy):
        plain, one = proxy.pair()
        other = proxy.connect()
        other.asks_in(TimeZone="UTC")
        one.hears()
        one.sends("1", "2", "D x", "C SELECT 1", "3", "S TimeZone=UTC", "Z I")
        other.is_welcomed()
        plain.sends("Q begin read write")
        one.is_set("timezone", reports=["TimeZone=GMT"])
        one.receives("Q begin read write")
        other.sends("Q select 1")
        two = proxy.servers[1]
        two.starts()
        two.hears()
        two.sends("1", "2", "D x", "C SELECT 1", "3", "S TimeZone=UTC", "Z I")
        two.receives("Q select 1")
        is_done(two)
        one.sends("C BEGIN", "Z T")
        plain.sends("Q commit")
        one.receives("Q commit")
        one.sends("C COMMIT", "Z I")
        # one is the last in, but two has what other asks for.
        other.sends("Q select 2")
        one.receives()
        two.receives("Q select 2")

    def test_the_link_ends_with_the_transaction(self, proxy):
        client, server = proxy.pair()
        for text, status, state in (
            ("begin read write", "T", "linked"),
            ("select fail", "E", "linked"),
            ("rollback", "I", "idle"),
        ):
            client.sends(f"Q {text}")
            server.sends(f"C {text}", f"Z {status}")
            assert server.state == state

    def test_the_link_stays_while_something_is_expected(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select 1", "S")
        server.sends("C SELECT 1", "Z I")
        assert server.state == "linked"
        server.sends("Z I")
        assert server.state == "idle"

    def test_the_link_stays_while_a_batch_is_open(self, proxy):
        client, server = proxy.pair()
        client.sends("P : select 1", "B p<-", "E p/1", "H")
        server.sends("1", "2", "D 1", "s")
        assert server.state == "linked"
        client.sends("S")
        server.sends("Z I")
        assert server.state == "idle"

    def test_the_link_stays_until_a_message_is_complete(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin")
        server.receives("Q copy t from stdin")
        server.sends("G")
        client.sends_bytes(b"d\x00\x00\x00\x08ab")
        server.sends("E 22P04 bad", "Z I")
        assert server.state == "linked"
        client.sends_bytes(b"cd")
        assert server.hears() == ["d abcd"]
        assert server.state == "idle"


class TestWaiting:
    def test_first_come_first_served(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.pair()
        clients = [proxy.client() for _ in range(4)]
        first.sends("Q select first")
        for number, client in enumerate(clients):
            client.sends(f"Q select {number}")
        server.receives("Q select first")
        for number, client in enumerate(clients):
            assert server.state == "linked"
            is_done(server)
            server.receives(f"Q select {number}")
            assert client.state == "linked"
        is_done(server)
        assert server.state == "idle"
        assert len(proxy.servers) == 1

    def test_one_more_connection_for_each_who_waits(self, start):
        proxy = start(origin_connection_limit=3)
        first, _ = proxy.pair()
        first.sends("Q select first")
        for _ in range(4):
            proxy.client().sends("Q select more")
        assert len(proxy.servers) == 3

    def test_no_connection_is_opened_for_who_is_about_to_get_one(self, proxy):
        first, server = proxy.pair()
        first.sends("Q select first")
        second, third = proxy.client(), proxy.client()
        second.sends("Q select second")
        is_done(server)
        third.sends("Q select third")
        assert len(proxy.servers) == 2

    def test_a_connection_that_nobody_needs_any_more_is_kept(self, proxy):
        first, server = proxy.pair()
        first.sends("Q select first")
        proxy.client().sends("Q select second")
        is_done(server)
        proxy.servers[1].starts()
        assert proxy.servers[1].state == "idle"

    def test_the_limit_counts_those_that_are_closing(self, start):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.pair()
        client.sends("P : select 1", "H")
        client.vanishes()
        assert server.state == "closing"
        other = proxy.client()
        other.sends("Q select 1")
        assert len(proxy.servers) == 1
        server.closes()
        proxy.servers[1].starts()
        proxy.servers[1].receives("Q select 1")

    def test_what_is_sent_while_waiting_follows(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q select first")
        second.sends("Q select 1", "Q select 2")
        second.sends("Q select 3")
        server.receives("Q select first")
        is_done(server)
        server.receives("Q select 1", "Q select 2", "Q select 3")

    def test_who_sends_too_much_is_not_read_from(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q select first")
        second.sends("Q select second")
        second.sends("Q select " + "x" * 32_000)
        assert not second.paused
        second.sends("Q select " + "y" * 34_000)
        assert second.paused
        is_done(server)
        assert not second.paused
        assert [line[:10] for line in server.hears()] == [
            "Q select f",
            "Q select s",
            "Q select x",
            "Q select y",
        ]

    def test_who_waits_too_long_is_told(self, start):
        proxy = start(origin_connection_limit=1, pool_timeout=10)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q select first")
        second.sends("Q select 1", "Q select 2")
        proxy.later(9.9)
        second.receives()
        proxy.later(0.1)
        told = "E 58000 Failed to acquire a connection from the pool."
        second.receives(told, "Z I")
        # The second query waits in its own right.
        assert second.state == "waiting"
        proxy.later(10)
        second.receives(told, "Z I")
        assert second.state == "idle"
        is_done(server)
        second.sends("Q select 3")
        server.receives("Q select first", "Q select 3")

    def test_each_waits_for_its_own_time(self, start):
        proxy = start(origin_connection_limit=1, pool_timeout=10)
        first, _ = proxy.pair()
        second, third = proxy.client(), proxy.client()
        first.sends("Q select first")
        second.sends("Q select second")
        proxy.later(6)
        third.sends("Q select third")
        proxy.later(4)
        assert (second.state, third.state) == ("idle", "waiting")

    def test_who_does_not_come_in_in_time_is_told(self, start):
        proxy = start(pool_timeout=10)
        client = proxy.connect()
        client.asks_in()
        proxy.later(10)
        client.receives("R 0", "E FATAL 58000 Failed to acquire a connection from the pool.")
        assert client.closed

    def test_no_time_out_if_there_is_none(self, start):
        proxy = start(origin_connection_limit=1, pool_timeout=0)
        first, _ = proxy.pair()
        second = proxy.client()
        first.sends("Q select first")
        second.sends("Q select second")
        proxy.later(1000)
        assert second.state == "waiting"

    def test_an_extended_batch_that_failed_to_get_a_link_is_ignored_to_its_sync(self, start):
        proxy = start(origin_connection_limit=1, pool_timeout=10)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q select first")
        second.sends("P : select 1", "B <-", "E", "H")
        proxy.later(10)
        second.receives("E 58000")
        second.sends("D S", "d late", "S")
        second.receives("Z I")
        is_done(server)
        server.hears()
        second.sends("F 1")
        server.receives("F 1")

    def test_a_function_call_that_failed_to_get_a_link(self, start):
        proxy = start(origin_connection_limit=1, pool_timeout=10)
        first, _ = proxy.pair()
        second = proxy.client()
        first.sends("Q select first")
        second.sends("F 1")
        proxy.later(10)
        second.receives("E 58000", "Z I")

    def test_a_long_message_that_failed_to_get_a_link_is_ignored_to_its_end(self, start):
        proxy = start(origin_connection_limit=1, pool_timeout=10)
        proxy.feeding = "whole"
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q select first")
        data = b"Q\x00\x20\x00\x04" + b"x" * 0x200000
        second.sends_bytes(data[:0x180000])
        proxy.later(10)
        second.receives("E 58000", "Z I")
        second.sends_bytes(data[0x180000:-100])
        is_done(server)
        second.sends_bytes(data[-100:] + b"Q\x00\x00\x00\x0bselect\x00")
        server.receives("Q select first", "Q select")
        second.receives()

    def test_a_client_that_gives_up_is_forgotten(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.pair()
        second, third = proxy.client(), proxy.client()
        first.sends("Q select first")
        second.sends("Q select second")
        third.sends("Q select third")
        second.vanishes()
        is_done(server)
        server.receives("Q select first", "Q select third")


class TestReplay:
    @pytest.fixture
    def three(self, start):
        """A plain client, one with a time zone, and the one origin, last used by the second."""
        proxy = start(origin_connection_limit=1)
        plain, server = proxy.pair()
        zoned = proxy.connect()
        zoned.asks_in(TimeZone="UTC")
        server.hears()
        server.sends("1", "2", "D x", "C SELECT 1", "3", "S TimeZone=UTC", "Z I")
        zoned.is_welcomed(TimeZone="UTC")
        return plain, zoned, server

    def test_who_asks_for_nothing_gets_what_a_new_session_has(self, three):
        plain, _, server = three
        plain.sends("Q select 1")
        server.is_set("timezone", reports=["TimeZone=GMT"])
        server.receives("Q select 1")
        server.sends("C SELECT 1", "Z I")
        plain.receives("S TimeZone=GMT", "C SELECT 1", "Z I")

    def test_settings_are_in_force_before_the_first_query(self, three):
        plain, zoned, server = three
        plain.sends("Q select 1")
        server.is_set("timezone", reports=["TimeZone=GMT"])
        server.hears()
        server.sends("C SELECT 1", "Z I")
        zoned.sends("Q select 2")
        server.is_set("timezone=UTC", reports=["TimeZone=UTC"])
        server.receives("Q select 2")
        server.sends("C SELECT 1", "Z I")
        zoned.receives("C SELECT 1", "Z I")

    def test_what_is_in_force_is_not_replayed(self, three):
        _, zoned, server = three
        zoned.sends("Q select 1")
        server.receives("Q select 1")

    def test_a_replay_that_fails_is_the_clients_error(self, three):
        plain, zoned, server = three
        plain.sends("Q select 1")
        server.is_set("timezone", reports=["TimeZone=GMT"])
        server.sends("C SELECT 1", "Z I")
        server.hears()
        zoned.sends("Q select 2")
        server.hears()
        server.sends("1", "2", "E 22023 no more", "Z I")
        zoned.receives("E 22023 no more", "Z I")
        # What is in force there now nobody knows.
        server.receives("X")
        assert (server.state, zoned.state) == ("closing", "idle")

    def test_an_origin_that_cannot_be_cleaned_is_closed(self, proxy):
        client, server = proxy.linked()
        client.vanishes()
        server.receives("Q ROLLBACK", "Q DISCARD ALL")
        server.sends("C ROLLBACK", "Z I", "E 53200 out of memory", "Z I")
        server.receives("X")
        assert server.closing

    def test_a_client_that_vanishes_in_between(self, three):
        plain, _, server = three
        plain.sends("Q select 1")
        plain.vanishes()
        server.is_set("timezone", reports=["TimeZone=GMT"])
        server.receives()
        server.cancel_is_done()
        server.is_cleaned()
        assert server.state == "idle"

    def test_an_origin_lost_in_between(self, three):
        plain, _, server = three
        plain.sends("Q select 1")
        server.closes()
        plain.receives("E 08006 The connection to the origin was lost.", "Z I")
        assert not plain.closed

    def test_the_values_that_differ_are_told(self, start):
        proxy = start(origin_connection_limit=2)
        first, one = proxy.pair()
        second = proxy.client()
        first.sends("Q begin read write")
        one.hears()
        second.sends("Q select 1")
        two = proxy.servers[1]
        two.starts(server_version="18.1")
        second.receives("S server_version=18.1")
        two.receives("Q select 1")
        is_done(two)
        second.receives("C SELECT 1", "Z I")
        second.sends("Q select 1")
        second.receives()

    def test_a_change_that_the_client_hears_of_itself_is_not_told_again(self, proxy):
        client, server = proxy.pair()
        client.sends("Q set timezone to 'UTC'")
        server.receives("Q set timezone to 'UTC'")
        server.sends("C SET", "S TimeZone=UTC", "Z I")
        client.receives("C SET", "S TimeZone=UTC", "Z I")
        server.is_read_back("timezone=UTC")
        client.sends("Q select 1")
        server.receives("Q select 1")
        client.receives()


class TestConnecting:
    def test_a_refusal_before_the_first_success_is_told_at_once(self, proxy):
        client = proxy.connect()
        client.asks_in()
        proxy.servers[0].cannot_be_reached()
        client.receives("R 0", "E FATAL 58000 Server connection attempt failed: connection_refused")
        assert client.closed

    def test_a_connection_that_ends_before_it_is_ready(self, proxy):
        client = proxy.connect()
        client.asks_in()
        proxy.servers[0].connects()
        proxy.servers[0].closes()
        client.receives("R 0", "E FATAL 58000 Server connection attempt failed: connection_closed")

    def test_a_connection_that_takes_too_long(self, start):
        proxy = start(connect_timeout=5)
        client = proxy.connect()
        client.asks_in()
        proxy.later(4)
        proxy.servers[0].connects()
        proxy.later(1)
        client.receives("R 0", "E FATAL 58000 Server connection attempt failed: timeout")
        assert proxy.servers[0].aborted
        proxy.servers[0].closes()
        assert proxy.core.at_rest

    def test_a_connection_that_is_made_too_late_is_closed(self, start):
        proxy = start(connect_timeout=5)
        client = proxy.connect()
        client.asks_in()
        proxy.later(5)
        proxy.servers[0].aborted = False
        proxy.servers[0].connects()
        assert proxy.servers[0].aborted
        assert proxy.servers[0].startup == {}

    def test_a_failure_that_comes_too_late_is_ignored(self, start):
        proxy = start(connect_timeout=5)
        client = proxy.connect()
        client.asks_in()
        proxy.later(5)
        client.hears()
        proxy.servers[0].cannot_be_reached()
        client.receives()

    def test_no_time_out_if_there_is_none(self, start):
        proxy = start(connect_timeout=0, pool_timeout=0)
        client = proxy.connect()
        client.asks_in()
        proxy.later(1000)
        proxy.servers[0].starts()
        client.is_welcomed()

    def test_while_another_attempt_is_under_way_nobody_is_told(self, proxy):
        one, two = proxy.connect(), proxy.connect()
        one.asks_in()
        two.asks_in()
        proxy.servers[0].connects()
        proxy.servers[0].sends("E FATAL 53300 too many")
        proxy.servers[1].starts()
        one.is_welcomed()
        two.is_welcomed()

    def test_a_refusal_after_a_success_is_tried_again(self, start):
        proxy = start(origin_connection_limit=1)
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select 1")
        proxy.servers[1].cannot_be_reached()
        client.receives()
        assert len(proxy.servers) == 2
        proxy.later(0.05)
        proxy.servers[2].starts()
        proxy.servers[2].receives("Q select 1")

    def test_each_failure_doubles_the_pause(self, proxy):
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select 1")
        pauses = []
        while len(pauses) < 8:
            proxy.servers[-1].cannot_be_reached()
            before, made = proxy.now, len(proxy.servers)
            while len(proxy.servers) == made:
                proxy.later(0.005)
            pauses.append(proxy.now - before)
        for pause, longest in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5), strict=True):
            assert longest / 2 - 0.001 <= pause <= longest + 0.006

    def test_one_attempt_at_a_time_while_the_origin_is_away(self, proxy):
        first, server = proxy.pair()
        server.closes()
        first.sends("Q select 1")
        for number in range(3):
            proxy.client().sends(f"Q select {number}")
        assert len(proxy.servers) == 5
        for attempt in proxy.servers[1:]:
            attempt.cannot_be_reached()
        proxy.later(0.5)
        proxy.later(0.2)
        assert len(proxy.servers) == 6
        proxy.servers[5].starts()
        # The first has this one; at once there are as many more as still wait.
        assert len(proxy.servers) == 9

    def test_an_attempt_without_an_answer_gets_company(self, start):
        proxy = start(origin_connection_limit=3)
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select 1")
        proxy.later(0.5)
        assert len(proxy.servers) == 2
        proxy.later(0.1)
        assert len(proxy.servers) == 3
        proxy.later(0.5)
        assert len(proxy.servers) == 3
        proxy.servers[2].starts()
        proxy.servers[2].receives("Q select 1")
        # Nobody waits any more.
        proxy.later(5)
        assert len(proxy.servers) == 3

    def test_the_company_keeps_to_the_limit(self, start):
        proxy = start(origin_connection_limit=2)
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select 1")
        for _ in range(5):
            proxy.later(1)
        assert len(proxy.servers) == 3

    def test_who_waits_too_long_hears_why(self, proxy):
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select 1")
        proxy.servers[1].cannot_be_reached()
        proxy.now += 15
        proxy.core.pool.tick(proxy.now)
        proxy.perform()
        client.receives("E 58000 Server connection attempt failed: connection_refused", "Z I")

    def test_what_waiting_cannot_help_is_told_at_once(self, proxy):
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select 1")
        proxy.servers[1].connects()
        proxy.servers[1].sends("E FATAL 28P01 password authentication failed")
        client.receives("E 28P01 password authentication failed", "Z I")

    def test_while_others_are_in_use_a_failure_is_not_told(self, proxy):
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q select first")
        second.sends("Q select second")
        proxy.servers[1].connects()
        proxy.servers[1].sends("E FATAL 28P01 password authentication failed")
        second.receives()
        is_done(server)
        server.receives("Q select first", "Q select second")

    def test_the_address_is_the_one_that_answered(self, start):
        proxy = start()
        client = proxy.connect()
        client.asks_in()
        server = proxy.servers[0]
        server.connects(Address("db.example"), encrypted=True)
        server.sends_bytes(b"R\x00\x00\x00\x08\x00\x00\x00\x03")
        assert server.hears_bytes() == b"p\x00\x00\x00\x0bsecret\x00"


class TestLifetime:
    def test_an_idle_connection_that_is_too_old_is_closed(self, start):
        proxy = start(max_lifetime=100, idle_timeout=0)
        _, server = proxy.pair()
        proxy.later(89.9)
        assert server.state == "idle"
        proxy.later(10.1)
        server.receives("X")

    def test_a_transaction_is_let_finish_and_who_waits_gets_a_new_one(self, start):
        proxy = start(max_lifetime=100, origin_connection_limit=1)
        client, server = proxy.linked()
        proxy.later(90)
        other = proxy.client()
        other.sends("Q select 1")
        proxy.later(10)
        client.sends("Q commit")
        server.receives("Q commit")
        server.sends("C COMMIT", "Z I")
        client.receives("C COMMIT", "Z I")
        server.receives("X")
        server.closes()
        proxy.servers[1].starts()
        proxy.servers[1].receives("Q select 1")

    def test_they_do_not_all_end_at_once(self, start):
        proxy = start(max_lifetime=1000, origin_connection_limit=20)
        proxy.pair()
        for _ in range(20):
            proxy.client().sends("Q select 1")
        for server in proxy.servers[1:]:
            server.starts()
        ends = {server.session.retires_at - proxy.now for server in proxy.servers}
        assert len(ends) == 20
        assert all(900 <= end <= 1000 for end in ends)


class TestSilence:
    """An origin connection that owes an answer at once and does not give it."""

    def test_one_that_is_not_cleaned_in_time_is_closed(self, start):
        proxy = start(silence_timeout=60)
        client, server = proxy.linked()
        proxy.later(1000)
        client.vanishes()
        proxy.later(59)
        assert not server.aborted
        proxy.later(1)
        assert server.aborted

    def test_a_client_whose_settings_are_not_in_force_in_time_is_told(self, start):
        proxy = start(silence_timeout=10)
        _, server = proxy.pair()
        zoned = proxy.connect()
        zoned.asks_in(TimeZone="UTC")
        proxy.later(10)
        assert server.aborted
        server.closes()
        assert "E FATAL 08006 The connection to the origin was lost." in zoned.hears()


class TestIdle:
    def test_an_idle_connection_is_closed_in_time(self, proxy):
        _, server = proxy.pair()
        proxy.later(599)
        server.receives()
        proxy.later(1)
        server.receives("X")
        assert (server.closing, server.state) == (True, "closing")
        server.closes()
        assert not proxy.core.pool.origins

    def test_never_if_there_is_no_time_out(self, start):
        proxy = start(idle_timeout=0, max_lifetime=0)
        _, server = proxy.pair()
        proxy.later(1_000_000)
        assert server.state == "idle"

    def test_one_that_does_not_close_is_aborted(self, proxy):
        _, server = proxy.pair()
        proxy.later(600)
        proxy.later(4)
        assert not server.aborted
        proxy.later(1)
        assert server.aborted

    def test_one_that_is_used_stays(self, proxy):
        client, server = proxy.pair()
        proxy.later(599)
        client.sends("Q select 1")
        is_done(server)
        proxy.later(599)
        assert server.state == "idle"

    def test_what_a_closing_origin_says_is_ignored(self, proxy):
        _, server = proxy.pair()
        proxy.later(600)
        server.sends("N 00000 bye", "Z I", "C X")
        assert server.state == "closing"

    def test_one_that_is_lost_is_forgotten(self, proxy):
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select 1")
        assert len(proxy.servers) == 2
        server.closes()
        assert len(proxy.core.pool.origins) == 1

    def test_one_that_says_goodbye_is_not_lent_any_more(self, proxy):
        client, server = proxy.pair()
        server.sends("E FATAL 57P01 terminating connection")
        client.sends("Q select 1")
        proxy.servers[1].starts()
        proxy.servers[1].receives("Q select 1")


def test_equal_values_are_one_object(proxy, monkeypatch):
    monkeypatch.setattr("hyperdrive_client.proxy.core.pool.MAX_PROFILES", 2)
    pool = proxy.core.pool
    one = pool.intern({b"a": b"1", b"b": b"2"})
    assert pool.intern({b"b": b"2", b"a": b"1"}) is one
    for number in range(4):
        pool.intern({b"a": b"%d" % number})
    assert pool.intern({b"a": b"1", b"b": b"2"}) == one
