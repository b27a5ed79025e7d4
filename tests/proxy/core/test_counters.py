"""What is counted, once each."""

from __future__ import annotations

import pytest

DONE = ("C SELECT 1", "Z I")
BATCH = ("P : select $1", "B <- 1", "D P", "E", "S")


@pytest.fixture
def pair(proxy):
    return proxy.pair()


def trips(server) -> tuple[int, int]:
    """Round trips for clients, and in the background."""
    counters = server.proxy.core.counters
    return counters.round_trips, counters.background_round_trips


def test_connecting_is_no_round_trip(pair):
    _, server = pair
    assert trips(server) == (0, 0)
    counters = server.proxy.core.counters
    assert (counters.clients, counters.origin_connects) == (1, 1)


def test_a_query_is_one(pair):
    client, server = pair
    client.sends("Q select 1")
    assert trips(server) == (0, 0)
    server.sends("T a", "D 1", *DONE)
    assert trips(server) == (1, 0)


def test_a_batch_is_one(pair):
    client, server = pair
    client.sends(*BATCH)
    server.sends("1", "2", "T a", "D 1", *DONE)
    assert trips(server) == (1, 0)


def test_one_that_fails_is_one(pair):
    client, server = pair
    client.sends(*BATCH)
    server.sends("E 42601", "Z I")
    assert trips(server) == (1, 0)


def test_a_flush_is_one_of_its_own(pair):
    client, server = pair
    client.sends("P s: select $1", "D S s", "H")
    server.sends("1", "t 25", "T a")
    client.sends("B <-s 1", "E", "S")
    server.sends("2", "D 1", *DONE)
    assert trips(server) == (2, 0)


def test_a_flush_of_nothing_is_none(proxy):
    client, server = proxy.linked()
    before = trips(server)
    client.sends("H")
    assert trips(server) == before


@pytest.mark.parametrize("text", ["select 1", "insert into t values (1)"])
def test_begin_goes_along(pair, text):
    client, server = pair
    client.sends("Q begin")
    client.sends(f"Q {text}")
    server.obliges("T")
    assert trips(server) == (1, 0)


def test_a_transaction_that_did_nothing_is_none(pair):
    client, server = pair
    client.sends("Q begin")
    client.sends("Q commit")
    assert trips(server) == (0, 0)


def test_a_commit_that_is_waited_for_is_one(proxy):
    client, server = proxy.linked()
    client.sends("Q commit")
    server.sends("C COMMIT", "Z I")
    assert trips(server) == (2, 0)


def test_an_end_that_was_told_early_is_in_the_background(pair):
    client, server = pair
    client.sends("Q begin")
    client.sends("Q select 1")
    server.hears()
    server.sends("1", "2", "C BEGIN", "1", "2", "D isolation\tread committed", "C SELECT 1")
    server.sends("T a", "D 1", "C SELECT 1", "Z T", "Z T")
    client.sends("Q commit")
    server.receives("Q commit")
    server.sends("C COMMIT", "Z I")
    assert trips(server) == (1, 1)


def test_a_read_back_is_in_the_background(pair):
    client, server = pair
    client.sends("Q set a to b")
    server.hears()
    server.sends("C SET", "Z I")
    server.is_read_back("a=b")
    assert trips(server) == (1, 1)


def test_a_replay_is_one_and_counted_as_such(pair):
    client, server = pair
    client.sends("Q set a to b")
    server.hears()
    server.sends("C SET", "Z I")
    server.is_read_back("a=b")
    other = server.proxy.client()
    other.sends("Q select 1")
    server.is_set("a")
    server.hears()
    server.sends(*DONE)
    assert trips(server) == (3, 1)
    assert server.proxy.core.counters.replays == 1


def test_cleaning_is_in_the_background(proxy):
    client, server = proxy.linked()
    client.vanishes()
    server.is_cleaned(rollback=True)
    assert trips(server) == (1, 1)


def test_what_starts_anew_after_a_reset_goes_along(proxy):
    client = proxy.connect()
    client.asks_in(options="-c jit=off")
    server = proxy.servers[0]
    server.starts()
    server.is_set("jit=off")
    before = trips(server)
    client.sends("Q reset jit")
    server.obliges()
    assert trips(server) == (before[0] + 1, before[1] + 1)


def test_links_and_their_time(pair):
    client, server = pair
    for _ in range(2):
        client.sends("Q select 1")
        server.proxy.now += 0.5
        server.sends(*DONE)
    counters = server.proxy.core.counters
    assert (counters.links, counters.link_seconds) == (2, pytest.approx(1))


def test_waits_and_their_time(start):
    proxy = start(origin_connection_limit=1)
    client, server = proxy.pair()
    counters = proxy.core.counters
    # For the first connection.
    assert counters.waits == 1
    client.sends("Q select 1")
    other = proxy.client()
    other.sends("Q select 2")
    proxy.now += 2
    server.sends(*DONE)
    assert (counters.waits, counters.wait_seconds) == (2, pytest.approx(2))


def test_a_link_that_breaks_and_takes_its_session_along_is_one(pair):
    client, server = pair
    client.sends("Q copy t from stdin")
    server.sends("G")
    server.proxy.now += 1
    server.closes()
    client.receives("G", "E FATAL 08006")
    counters = server.proxy.core.counters
    assert (counters.links, counters.link_seconds) == (1, pytest.approx(1))
