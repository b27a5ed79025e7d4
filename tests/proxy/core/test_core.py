"""Cancelling, time, and the end."""

from __future__ import annotations

import pytest

from hyperdrive_client.proxy.core import core as core_module


class TestCancel:
    def test_a_running_query_is_cancelled(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        requester = client.cancel_request()
        assert server.cancels == 1
        assert not requester.closed
        server.cancel_is_done()
        assert requester.closed
        requester.receives()
        server.sends("E 57014 canceling statement due to user request", "Z I")
        client.receives("E 57014", "Z I")

    def test_the_link_is_held_until_the_cancel_is_delivered(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        client.cancel_request()
        server.sends("C SELECT", "Z I")
        assert server.state == "linked"
        other = proxy.client()
        other.sends("Q mine")
        server.receives("Q select")
        server.cancel_is_done()
        # It went to whoever waited, who can't be hit any more.
        server.receives("Q mine")

    def test_two_requests_are_two_cancels(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        one, two = client.cancel_request(), client.cancel_request()
        assert server.cancels == 2
        server.sends("C SELECT", "Z I")
        server.cancel_is_done()
        assert server.state == "linked"
        server.cancel_is_done()
        assert server.state == "idle"
        assert one.closed
        assert two.closed

    def test_each_requester_waits_for_its_own(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        one, two, gone = (client.cancel_request() for _ in range(3))
        gone.vanishes()
        server.cancel_is_done(1)
        assert (one.closed, two.closed) == (False, True)
        server.cancel_is_done()
        assert one.closed
        server.cancel_is_done()

    @pytest.mark.parametrize("key", [b"", b"\x00", b"\x00\x00\x00\x00", b"x" * 256])
    def test_a_wrong_key_does_nothing(self, proxy, key):
        client, server = proxy.pair()
        client.sends("Q select")
        requester = client.cancel_request(secret_key=key)
        assert requester.closed
        assert server.cancels == 0
        assert not any(line.startswith("E 57014") for line in requester.hears())

    def test_an_unknown_process_id_does_nothing(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        requester = client.cancel_request(process_id=server.session.process_id)
        assert requester.closed
        requester.receives()
        assert server.cancels == 0

    def test_the_next_occupant_is_not_hit(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        server.sends("C SELECT", "Z I")
        other = proxy.client()
        other.sends("Q mine")
        requester = client.cancel_request()
        assert requester.closed
        assert server.cancels == 0

    def test_between_statements_there_is_nothing_to_cancel(self, proxy):
        client, server = proxy.linked()
        requester = client.cancel_request()
        assert requester.closed
        assert server.cancels == 0

    def test_who_waits_is_cancelled_here(self, start):
        proxy = start(origin_connection_limit=1)
        first, server = proxy.pair()
        second = proxy.client()
        first.sends("Q first")
        second.sends("Q second")
        requester = second.cancel_request()
        assert requester.closed
        second.receives("E 57014 canceling statement due to user request", "Z I")
        assert server.cancels == 0
        assert second.state == "idle"

    def test_who_waits_for_its_settings_is_cancelled_here(self, start):
        proxy = start(origin_connection_limit=1)
        plain, server = proxy.pair()
        zoned = proxy.connect()
        zoned.asks_in(TimeZone="UTC")
        server.hears()
        server.sends("1", "2", "D x", "C SELECT 1", "3", "S TimeZone=UTC", "Z I")
        plain.sends("Q select 1")
        requester = plain.cancel_request()
        assert requester.closed
        plain.receives("E 57014", "Z I")
        server.is_set("timezone")
        server.receives()
        server.cancel_is_done()
        server.is_cleaned()
        assert server.state == "idle"

    def test_a_session_that_is_gone_cannot_be_cancelled(self, proxy):
        client, server = proxy.pair()
        client.sends("X")
        requester = client.cancel_request()
        assert requester.closed
        assert server.cancels == 0

    def test_an_origin_that_is_lost_ends_its_cancels(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        requester = client.cancel_request()
        server.closes()
        assert requester.closed
        server.cancel_is_done()
        client.receives("E 08006", "Z I")

    def test_copy_in_can_be_cancelled(self, proxy):
        client, server = proxy.pair()
        client.sends("Q copy t from stdin")
        server.sends("G")
        client.cancel_request()
        assert server.cancels == 1

    def test_a_cancel_while_an_answer_of_ours_waits_its_turn(self, proxy):
        client, server = proxy.linked()
        client.sends("P s: select 1", "S")
        server.sends("1", "Z T")
        client.sends("E p", "P t: select 1", "S")
        client.hears()
        client.cancel_request()
        server.sends("E 57014 canceled", "Z E")
        server.cancel_is_done()
        client.receives("E 57014", "Z E")


class TestProcessIds:
    def test_they_are_no_backends(self, proxy):
        client, _ = proxy.pair()
        other = proxy.client()
        assert client.process_id > 1 << 22
        assert other.process_id == client.process_id + 1

    def test_they_are_used_again_after_the_last(self, proxy):
        client, _ = proxy.pair()
        first = client.process_id
        proxy.core._next_process_id = core_module.LAST_PROCESS_ID
        assert proxy.client().process_id == core_module.LAST_PROCESS_ID
        # The first is still taken.
        assert proxy.client().process_id == first + 1


class TestDrain:
    def test_who_is_idle_is_told_and_closed(self, proxy):
        client, server = proxy.pair()
        proxy.core.drain(proxy.now)
        proxy.perform()
        client.receives("E FATAL 57P01 terminating connection due to administrator command")
        assert client.closed
        server.receives("X")
        server.closes()
        assert proxy.core.at_rest

    def test_a_transaction_is_let_finish(self, proxy):
        client, server = proxy.linked()
        proxy.core.drain(proxy.now)
        proxy.perform()
        client.sends("Q commit")
        server.receives("Q commit")
        server.sends("C COMMIT", "Z I")
        client.receives("C COMMIT", "Z I", "E FATAL 57P01")
        server.receives("X")
        server.closes()
        assert proxy.core.at_rest

    def test_who_waits_is_told(self, start):
        proxy = start(origin_connection_limit=1)
        first, _ = proxy.linked()
        second = proxy.client()
        second.sends("Q second")
        proxy.core.drain(proxy.now)
        proxy.perform()
        second.receives("E FATAL 57P01")
        assert not first.closed

    def test_who_joins_is_told(self, proxy):
        client = proxy.connect()
        client.asks_in()
        proxy.core.drain(proxy.now)
        proxy.perform()
        client.receives("R 0", "E FATAL 57P01")
        proxy.servers[0].starts()
        proxy.servers[0].receives("X")

    def test_who_comes_later_is_told(self, proxy):
        proxy.pair()
        proxy.core.drain(proxy.now)
        proxy.perform()
        client = proxy.connect()
        client.asks_in()
        client.receives("E FATAL 57P03 the database system is shutting down")
        assert client.closed

    def test_a_cancel_that_comes_later_is_taken(self, proxy):
        client, server = proxy.pair()
        client.sends("Q select")
        under_way = client.cancel_request()
        proxy.core.drain(proxy.now)
        proxy.perform()
        later = client.cancel_request()
        assert server.cancels == 2
        assert (under_way.closed, later.closed) == (False, False)
        server.cancel_is_done()
        server.cancel_is_done()
        under_way.receives()
        later.receives()
        assert under_way.closed
        assert later.closed

    def test_who_asks_for_a_link_when_it_is_too_late(self, proxy):
        client, _ = proxy.pair()
        # As if the query had been on its way already.
        proxy.core.draining = True
        proxy.core.pool.close(proxy.now)
        client.sends("Q select 1")
        client.receives("E FATAL 57P01")
        assert client.closed

    def test_no_new_connections_are_made(self, proxy):
        client, server = proxy.linked()
        proxy.core.drain(proxy.now)
        proxy.perform()
        proxy.later(100)
        assert len(proxy.servers) == 1
        client.vanishes()
        server.is_cleaned(rollback=True)
        server.receives("X")
        server.closes()
        assert proxy.core.at_rest


class TestStop:
    def test_everyone_is_closed_at_once(self, proxy):
        client, _ = proxy.linked()
        idle = proxy.client()
        waiting = proxy.connect()
        waiting.asks_in(TimeZone="UTC")
        proxy.core.stop(proxy.now)
        proxy.perform()
        assert client.closed
        assert idle.closed
        assert waiting.closed
        assert all(each.aborted for each in proxy.servers)

    def test_nothing_is_left(self, proxy):
        _, server = proxy.linked()
        proxy.core.stop(proxy.now)
        proxy.perform()
        server.closes()
        assert proxy.core.at_rest
