"""Process ids in NotificationResponse are those that clients know."""

from __future__ import annotations

CHANNELS = "8"


def listens(proxy, client, server) -> None:
    client.sends("Q listen a")
    assert server.hears()[-1] == "Q listen a"
    server.sends("C LISTEN", "Z I")
    client.receives("C LISTEN", "Z I")
    server.is_read_back(CHANNELS)


def pair_with(proxy, pid: int):
    """Another client whose link is a new origin connection with this process id."""
    client = proxy.client()
    client.sends("Q select 1")
    server = proxy.servers[-1]
    server.starts(pid)
    server.hears()
    server.sends("C SELECT 1", "Z I")
    client.hears()
    return client, server


def test_one_by_another_client_has_the_process_id_it_was_given(proxy):
    client, server = proxy.pair()
    listens(proxy, client, server)
    sender, other = pair_with(proxy, 88)
    sender.sends("Q notify a, 'x'")
    other.receives("Q notify a, 'x'")
    other.sends("C NOTIFY", "Z I")
    server.sends("A 88 a x")
    client.receives(f"A {sender.session.process_id} a x")


def test_it_is_still_the_senders_when_another_has_its_connection(proxy):
    client, server = proxy.pair()
    listens(proxy, client, server)
    sender, other = pair_with(proxy, 88)
    sender.sends("Q select pg_notify('a', 'x')")
    other.hears()
    other.sends("C SELECT 1", "Z I")
    proxy.client().sends("Q begin read write")
    server.sends("A 88 a x")
    client.receives(f"A {sender.session.process_id} a x")


def test_its_own_comes_back_as_its_own(proxy):
    client, server = proxy.pair()
    listens(proxy, client, server)
    client.sends("Q notify a, 'x'")
    server.hears()
    server.sends("C NOTIFY", "A 77 a x", "Z I")
    client.receives("C NOTIFY", f"A {client.session.process_id} a x", "Z I")


def test_one_from_outside_keeps_its_own(proxy):
    client, server = proxy.pair()
    listens(proxy, client, server)
    server.sends("A 4242 a x")
    client.receives("A 4242 a x")


def test_one_in_the_middle_of_an_answer_of_ours_is_not_lost(proxy):
    client, server = proxy.pair()
    listens(proxy, client, server)
    client.sends("Q listen b")
    server.hears()
    server.sends("C LISTEN", "Z I")
    client.receives("C LISTEN", "Z I")
    _, (first, *rest) = server.reads_back(CHANNELS)
    server.sends(first, "A 4242 a x", *rest)
    client.receives("A 4242 a x")


def test_one_in_the_middle_of_a_lazy_begin_is_not_lost(proxy):
    client, server = proxy.pair()
    listens(proxy, client, server)
    client.sends("Q begin")
    if not server.hears():
        client.receives("C BEGIN", "Z T")
        client.sends("Q insert into t values (1)")
        server.hears()
        server.sends("1", "2", "A 4242 a x", "C BEGIN", "C INSERT 0 1", "Z T", "Z T")
        client.receives("A 4242 a x", "C INSERT 0 1", "Z T")


def test_one_to_an_idle_connection_reaches_nobody(proxy):
    client, server = proxy.pair()
    server.sends("A 4242 a x")
    client.receives()
    assert server.state == "idle"


def test_listen_keeps_the_accounting_of_syncs(proxy):
    client, server = proxy.pair()
    client.sends("P : listen a", "B <-", "E", "S", "S", "Q select 1")
    server.receives("P : listen a", "B <-", "E", "S", "S")
    server.sends("1", "2", "C LISTEN", "Z I", "A 4242 a x", "Z I")
    server.receives("Q select 1")
    server.sends("C SELECT 1", "Z I")
    client.receives("1", "2", "C LISTEN", "Z I", "A 4242 a x", "Z I", "C SELECT 1", "Z I")
    server.is_read_back(CHANNELS)
    assert server.state == "linked"
