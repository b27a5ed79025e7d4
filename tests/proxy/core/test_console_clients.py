"""Clients that name the console as their database."""

from __future__ import annotations

import pytest

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.core.core import Core

CONSOLE = "hyperdrive.console"


@pytest.fixture
def console(proxy):
    """A client at the console of a proxy that has never reached its origin."""
    client = proxy.connect()
    client.asks_in(database=CONSOLE)
    client.is_welcomed(client_encoding="UTF8")
    return client


def values(client) -> dict[str, str]:
    """What it hears of names and values."""
    rows = [line[2:].split("\t") for line in client.hears() if line[0] == "D"]
    return {name: value for name, value, *_ in rows}


def test_it_needs_no_origin(proxy, console):
    console.sends("Q SHOW POOL")
    assert values(console)["origin_connections"] == "0"
    assert proxy.servers == []


def test_it_authenticates_like_any_other(start):
    proxy = start(auth="scram")
    client = proxy.connect()
    client.asks_in(database=CONSOLE)
    client.proves("wrong")
    client.receives("E FATAL 28P01")
    client = proxy.connect()
    client.asks_in(database=CONSOLE)
    client.proves()
    client.is_welcomed()
    assert client.state == "console"


def test_what_was_sent_ahead_is_answered(proxy, wire):
    client = proxy.connect()
    parameters = {b"user": b"visitor", b"database": CONSOLE.encode()}
    client.sends_bytes(m.startup_message(parameters) + wire.encode("Q show help"))
    heard = client.hears()
    assert heard[heard.index("Z I") + 1] == "T command"


def test_other_settings_are_nobodys_business(proxy):
    client = proxy.connect()
    client.asks_in(database=CONSOLE, options="-c nonsense=1 -x", search_path="a")
    client.is_welcomed()


def test_it_does_not_count_as_a_client(proxy, console):
    assert not proxy.core.has_clients
    console.sends("Q SHOW STATS")
    stats = values(console)
    assert (stats["clients"], stats["clients_connected"]) == ("0", "0")
    console.sends("Q SHOW SESSIONS")
    console.receives("T pid", "C SHOW", "Z I")


def test_neither_does_a_cancel_request(proxy):
    client, _ = proxy.pair()
    client.sends("Q select 1")
    client.cancel_request()
    assert proxy.core.has_clients
    client.vanishes()
    assert not proxy.core.has_clients


@pytest.mark.parametrize("known", [False, True])
def test_who_is_on_the_way_in_counts(proxy, known):
    if known:
        proxy.pair()[0].vanishes()
    proxy.connect()
    assert proxy.core.has_clients


def test_its_requests_take_no_origin_connection(proxy, console):
    proxy.pair()
    console.sends("Q begin", "Q show pins", "Q commit")
    assert len(proxy.servers) == 1
    assert proxy.servers[0].hears() == []


def test_it_may_leave(proxy, console):
    console.sends("X")
    assert console.closed
    assert console.session not in proxy.core.clients


@pytest.mark.parametrize("last", ["X", "p what?"])
def test_what_it_asked_before_the_end_is_answered(console, last):
    console.sends("Q show help", last)
    assert console.hears()[0] == "T command"
    assert console.closed


def test_it_breaks_the_protocol_only_once(proxy, console):
    console.sends_bytes(b"Q\x00\x00\x00\x01")
    console.receives("E FATAL 08P01")
    assert console.closed


def test_a_proxy_that_ends_says_so(proxy, console):
    proxy.core.drain(proxy.now)
    proxy.perform()
    console.receives("E FATAL 57P01")
    assert console.closed
    assert proxy.core.at_rest


def test_a_proxy_without_a_console_has_no_such_database(proxy, wire):
    proxy.core = Core(proxy.core.settings)
    client = proxy.connect()
    client.asks_in(database=CONSOLE)
    client.receives('E FATAL 3D000 database "hyperdrive.console" does not exist')
