"""Clients whose time is over are told so as PostgreSQL would, and their work is undone."""

from __future__ import annotations

TRANSACTION = "E FATAL 25P04 terminating connection due to transaction timeout"
IDLE_IN_TRANSACTION = "E FATAL 25P03 terminating connection due to idle-in-transaction timeout"
IDLE_SESSION = "E FATAL 57P05 terminating connection due to idle-session timeout"


class TestTransaction:
    def test_one_that_takes_too_long_is_rolled_back(self, start):
        proxy = start(transaction_timeout=10)
        client, server = proxy.linked()
        proxy.later(9)
        client.sends("Q select 1")
        server.receives("Q select 1")
        server.sends("C SELECT 1", "Z T")
        client.receives("C SELECT 1", "Z T")
        proxy.later(1)
        client.receives(TRANSACTION)
        assert client.closed
        server.is_cleaned(rollback=True)
        assert server.state == "idle"

    def test_the_running_statement_is_cancelled(self, start):
        proxy = start(transaction_timeout=10)
        client, server = proxy.pair()
        client.sends("Q select pg_sleep(60)")
        server.hears()
        proxy.later(10)
        client.receives(TRANSACTION)
        assert (client.closed, server.cancels) == (True, 1)
        server.cancel_is_done()
        assert server.state == "draining"
        server.sends("E 57014 canceling statement", "Z I")
        assert server.state == "idle"

    def test_a_batch_without_its_sync_is_not_committed(self, start):
        proxy = start(transaction_timeout=10)
        client, server = proxy.pair()
        client.sends("P : insert", "B <-", "E", "H")
        server.sends("1", "2", "C INSERT 0 1")
        client.hears()
        proxy.later(10)
        client.receives(TRANSACTION)
        assert (server.aborted, server.state) == (True, "closing")

    def test_each_transaction_has_its_own_time(self, start):
        proxy = start(transaction_timeout=10)
        client, server = proxy.pair()
        for _ in range(3):
            client.sends("Q begin read write")
            server.sends("C BEGIN", "Z T")
            proxy.later(9)
            client.sends("Q commit")
            server.sends("C COMMIT", "Z I")
        assert not client.closed

    def test_within_a_message_nothing_is_said(self, start):
        proxy = start(transaction_timeout=10)
        proxy.feeding = "whole"
        client, server = proxy.pair()
        client.sends("Q select 1")
        server.sends_bytes(b"D\x00\x00\x00\x20half of it")
        before = bytes(client.data)
        assert before.startswith(b"D")
        proxy.later(10)
        assert (bytes(client.data), client.closed) == (before, True)

    def test_waiting_for_a_link_does_not_count(self, start):
        proxy = start(transaction_timeout=10, origin_connection_limit=1, pool_timeout=0)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q begin read write")
        server.sends("C BEGIN", "Z T")
        proxy.later(5)
        second.sends("Q select 1")
        proxy.later(4)
        first.sends("Q commit")
        server.sends("C COMMIT", "Z I")
        proxy.later(9)
        assert not second.closed
        proxy.later(1)
        second.receives(TRANSACTION)


class TestIdleInTransaction:
    def test_who_says_nothing_in_a_transaction_is_ended(self, start):
        proxy = start(idle_transaction_timeout=10)
        client, server = proxy.linked()
        proxy.later(9)
        client.sends("Q select 1")
        proxy.later(100)
        server.hears()
        server.sends("C SELECT 1", "Z T")
        client.receives("C SELECT 1", "Z T")
        # It is idle from here on.
        proxy.later(9)
        client.receives()
        proxy.later(1)
        client.receives(IDLE_IN_TRANSACTION)
        server.is_cleaned(rollback=True)

    def test_in_a_failed_transaction_too(self, start):
        proxy = start(idle_transaction_timeout=10)
        client, _ = proxy.linked("E")
        proxy.later(10)
        client.receives(IDLE_IN_TRANSACTION)

    def test_not_outside_of_one(self, start):
        proxy = start(idle_transaction_timeout=10)
        client, _ = proxy.pair()
        proxy.later(100)
        assert not client.closed


class TestIdleSession:
    def test_who_says_nothing_is_ended(self, start):
        proxy = start(client_idle_timeout=10)
        client, server = proxy.pair()
        client.sends("Q select 1")
        proxy.later(100)
        server.sends("C SELECT 1", "Z I")
        client.receives("C SELECT 1", "Z I")
        proxy.later(9)
        client.receives()
        proxy.later(1)
        client.receives(IDLE_SESSION)
        assert (client.closed, server.state) == (True, "idle")

    def test_not_in_a_transaction_nor_while_it_waits(self, start):
        proxy = start(client_idle_timeout=10, origin_connection_limit=1, pool_timeout=0)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q begin read write")
        server.sends("C BEGIN", "Z T")
        second.sends("Q select 1")
        proxy.later(100)
        assert (first.closed, second.closed) == (False, False)


class TestVanished:
    """What a client has left running is cancelled until it has ended."""

    def test_an_unheeded_cancel_is_repeated(self, start):
        proxy = start(silence_timeout=60)
        client, server = proxy.pair()
        client.sends("Q select pg_sleep(600)")
        client.vanishes()
        assert server.cancels == 1
        server.cancel_is_done()
        proxy.later(1)
        assert server.cancels == 1
        proxy.later(1)
        # Not while one is under way.
        assert server.cancels == 1
        server.cancel_is_done()
        server.sends("E 57014 canceling statement", "Z I")
        proxy.later(5)
        assert (server.cancels, server.state) == (0, "idle")

    def test_an_origin_that_never_heeds_it_is_given_up(self, start):
        proxy = start(silence_timeout=60)
        client, server = proxy.pair()
        client.sends("Q select pg_sleep(600)")
        client.vanishes()
        server.cancel_is_done()
        proxy.later(59)
        assert not server.aborted
        server.cancel_is_done()
        proxy.later(1)
        assert server.aborted
        server.closes()
        assert proxy.core.at_rest

    def test_who_says_goodbye_after_its_last_query_has_it_run(self, proxy):
        client, server = proxy.pair()
        client.sends("Q insert", "X")
        proxy.later(1000)
        assert (server.cancels, server.state) == (0, "draining")
        server.hears()
        server.sends("C INSERT 0 1", "Z I")
        assert server.state == "idle"


class TestTooMany:
    def test_the_last_to_come_is_refused(self, start):
        proxy = start(client_connection_limit=2)
        first, _ = proxy.pair()
        proxy.connect()
        third = proxy.connect()
        third.asks_in()
        third.receives("E FATAL 53300 sorry, too many clients already")
        assert third.closed
        first.vanishes()
        proxy.client()

    def test_a_cancel_is_taken_all_the_same(self, start):
        proxy = start(client_connection_limit=1)
        client, server = proxy.pair()
        client.sends("Q select")
        client.cancel_request()
        assert server.cancels == 1
