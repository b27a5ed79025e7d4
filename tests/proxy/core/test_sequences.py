"""currval and lastval after nextval, on a connection that others use as well."""

from __future__ import annotations

from dataclasses import replace

import pytest

HINT = "pin_sequences"


def advances(client, server, text: str = "select nextval('s')") -> None:
    client.sends(f"Q {text}")
    assert server.hears()[-1] == f"Q {text}"
    server.sends("D 1", "C SELECT 1", "Z I")
    client.receives("D 1", "C SELECT 1", "Z I")
    assert server.state == "idle", "nextval does not pin"


@pytest.fixture
def three(start):
    """Two clients, and two idle origins."""
    proxy = start(origin_connection_limit=2)
    first, one = proxy.linked()
    second = proxy.client()
    second.sends("Q select 1")
    two = proxy.servers[1]
    two.starts()
    two.hears()
    two.sends("C SELECT 1", "Z I")
    first.sends("Q rollback")
    one.hears()
    one.sends("C ROLLBACK", "Z I")
    first.hears()
    second.hears()
    return proxy, first, second, one, two


@pytest.mark.parametrize(
    "text", ["select nextval('s')", "insert into t values (1)", "select setval('s', 3)"]
)
@pytest.mark.parametrize("asked", ["select currval('s')", "select lastval()"])
def test_currval_goes_to_the_connection_where_the_sequence_was_advanced(three, text, asked):
    _, first, second, one, two = three
    advances(first, one, text)
    # The other is the last in now.
    first.sends("Q begin read write")
    one.hears()
    one.sends("C BEGIN", "Z T")
    second.sends("Q select 2")
    two.hears()
    first.sends("Q rollback")
    one.hears()
    one.sends("C ROLLBACK", "Z I")
    two.sends("C SELECT 1", "Z I")
    first.hears()
    first.sends(f"Q {asked}")
    two.receives()
    one.receives(f"Q {asked}")


def test_it_waits_for_that_connection(three):
    _, first, second, one, two = three
    advances(first, one)
    second.sends("Q begin read write")
    assert one.hears() == ["Q begin read write"]
    one.sends("C BEGIN", "Z T")
    first.sends("Q select currval('s')")
    two.receives()
    one.receives()
    second.sends("Q rollback")
    one.hears()
    one.sends("C ROLLBACK", "Z I")
    one.receives("Q select currval('s')")


def test_after_another_session_has_advanced_it_there_it_is_55000_with_a_hint(start):
    proxy = start(origin_connection_limit=1)
    first, server = proxy.pair()
    second = proxy.client()
    advances(first, server)
    advances(second, server)
    first.sends("Q select currval('s')")
    # What the other did must not be taken for this session's doing.
    server.is_asked("P #: DISCARD SEQUENCES", "B <-#", "E", "Q select currval('s')", "S")
    server.sends("1", "2", "C DISCARD SEQUENCES")
    server.sends('E 55000 currval of sequence "s" is not yet defined', "Z I", "Z I")
    data = first.hears_bytes()
    assert b"C55000\x00" in data
    assert HINT.encode() in data
    assert data.endswith(b"Z\x00\x00\x00\x05I")


def test_who_has_advanced_none_gets_none_of_anothers(start):
    proxy = start(origin_connection_limit=1)
    first, server = proxy.pair()
    advances(first, server)
    second = proxy.client()
    second.sends("Q select lastval()")
    server.is_asked("P #: DISCARD SEQUENCES", "B <-#", "E", "Q select lastval()", "S")
    server.sends(
        "1", "2", "C DISCARD SEQUENCES", "E 55000 lastval is not yet defined", "Z I", "Z I"
    )
    # It is its own fault, and needs no hint.
    assert HINT.encode() not in second.hears_bytes()


def test_where_nobody_has_advanced_one_nothing_is_discarded(proxy):
    client, server = proxy.pair()
    client.sends("Q select lastval()")
    server.receives("Q select lastval()")


def test_by_the_extended_protocol(start):
    proxy = start(origin_connection_limit=1)
    first, server = proxy.pair()
    advances(first, server)
    second = proxy.client()
    second.sends("P : select lastval()", "B <-", "E", "S")
    heard = [line.split(" ", 1)[0] for line in server.hears()]
    assert heard.count("S") == 1
    assert len(heard) > 4
    assert server.session.sequence_client is None


def test_when_that_connection_is_gone_another_will_do(three):
    _, first, second, one, two = three
    advances(first, one)
    second.sends("Q begin read write")
    one.hears()
    one.sends("C BEGIN", "Z T")
    first.sends("Q select currval('s')")
    one.closes()
    assert two.hears()[-1].startswith(("Q select currval", "S"))


def test_nothing_is_remembered_of_who_is_gone(start):
    proxy = start(origin_connection_limit=1)
    first, server = proxy.pair()
    advances(first, server)
    first.sends("X")
    second = proxy.client()
    second.sends("Q select currval('s')")
    server.is_asked("P #: DISCARD SEQUENCES", "B <-#", "E", "Q select currval('s')", "S")


def test_pin_sequences_keeps_the_connection(wire, feeding):
    settings = replace(wire.settings(origin_connection_limit=1), pin_sequences=True)
    proxy = wire.Proxy(settings, feeding)
    client, server = proxy.pair()
    other = proxy.client()
    client.sends("Q select nextval('s')")
    server.hears()
    server.sends("D 1", "C SELECT 1", "Z I")
    assert proxy.core.counters.pins == {"sequence": 1}
    other.sends("Q select 1")
    server.receives()
    client.sends("Q select currval('s')")
    server.receives("Q select currval('s')")


def test_one_in_the_same_transaction_is_plain(proxy):
    client, server = proxy.linked()
    client.sends("Q select nextval('s')", "Q select currval('s')")
    server.receives("Q select nextval('s')", "Q select currval('s')")


@pytest.mark.parametrize("closed", [False, True])
def test_when_that_connection_has_been_closed_another_will_do(start, closed):
    proxy = start(origin_connection_limit=1, idle_timeout=10, pool_timeout=0)
    client, server = proxy.pair()
    advances(client, server)
    proxy.later(11)
    server.receives("X")
    if closed:
        server.closes()
    client.sends("Q select currval('s')")
    if not closed:
        server.closes()
    second = proxy.servers[1]
    second.starts()
    assert "Q select currval('s')" in second.hears()
