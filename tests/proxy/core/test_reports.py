"""What the proxy says of itself: to everybody, and to those who asked to hear of waits and pins."""

from __future__ import annotations

import pytest

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.version import __version__

ASK = "-c hyperdrive.report=on"
DONE = ("C SELECT 1", "Z I")


@pytest.fixture
def full(start):
    """A client that asked, while the only origin connection is in another's transaction."""
    proxy = start(origin_connection_limit=1)
    other, server = proxy.pair()
    other.sends("Q begin read write")
    server.hears()
    server.sends("C BEGIN", "Z T")
    client = proxy.client(options=ASK)
    return proxy, client, other, server


def listens(client, server) -> None:
    client.sends("Q listen a")
    server.hears()
    server.sends("C LISTEN", "Z I")
    server.is_read_back("8")


class TestAsking:
    @pytest.mark.parametrize(
        "options",
        [ASK, "--hyperdrive.report=on", "-chyperdrive.report=TRUE", "-c Hyperdrive.Report=1"],
    )
    def test_as_postgresql_reads_options(self, proxy, options):
        client, server = proxy.pair(options=options)
        listens(client, server)
        assert client.hears() == ["C LISTEN", "Z I", "S hyperdrive.last_pin=LISTEN"]

    def test_as_a_start_up_parameter_of_its_own(self, proxy):
        client, server = proxy.pair(**{"hyperdrive.report": "on"})
        listens(client, server)
        assert "S hyperdrive.last_pin=LISTEN" in client.hears()

    @pytest.mark.parametrize("options", ["", "-c hyperdrive.report=off", "-c jit=off"])
    def test_who_did_not_hears_nothing(self, proxy, options):
        client = proxy.connect()
        client.asks_in(options=options)
        server = proxy.servers[0]
        server.starts()
        if "jit" in options:
            server.is_set("jit=off")
        client.is_welcomed()
        listens(client, server)
        assert client.hears() == ["C LISTEN", "Z I"]

    def test_the_origin_does_not_hear_of_it(self, proxy):
        client, server = proxy.pair(options=ASK)
        assert b"options" not in server.startup
        client.sends("Q select 1")
        server.receives("Q select 1")

    def test_the_other_settings_count(self, proxy):
        client = proxy.connect()
        client.asks_in(options=f"-c jit=off {ASK} --search_path=a")
        server = proxy.servers[0]
        server.starts()
        server.is_set("jit=off", "search_path=a")
        client.is_welcomed()

    def test_the_profile_is_that_of_who_did_not(self, proxy):
        client, _ = proxy.pair()
        asking = proxy.client(options=ASK)
        assert asking.session.settings == client.session.settings
        assert len(proxy.servers) == 1


def test_the_bytes_of_who_did_not_ask_are_the_same_but_for_the_marker(wire, feeding):
    def conversation(options: str) -> tuple[list[str], bytes]:
        proxy = wire.Proxy(wire.settings(origin_connection_limit=1), feeding)
        other, server = proxy.pair()
        other.sends("Q begin read write")
        server.hears()
        server.sends("C BEGIN", "Z T")
        client = proxy.connect()
        client.asks_in(options=options)
        welcome = [line for line in client.hears() if line[0] != "K"]
        client.sends("Q listen a")
        proxy.later(1)
        other.sends("X")
        server.is_cleaned(rollback=True)
        server.hears()
        server.sends("C LISTEN", "Z I")
        server.is_read_back("8")
        client.sends("Q select 1")
        server.hears()
        server.sends("T a", "D 1", *DONE)
        return welcome, client.hears_bytes()

    welcome, without = conversation("")
    asked_welcome, reported = conversation(ASK)
    off = "S hyperdrive.cache=disabled: the origin was not looked at yet"
    assert welcome == [line for line in asked_welcome if line != off]
    assert off in asked_welcome
    assert without == b"".join(
        wire.encode_answer(line) for line in ("C LISTEN", "Z I", "T a", "D 1", *DONE)
    )
    wait = m.parameter_status(b"hyperdrive.last_wait", b"all 1 origin connections in use, 1.000 s")
    pin = m.parameter_status(b"hyperdrive.last_pin", b"LISTEN")
    assert reported.replace(wait, b"").replace(pin, b"") == without
    assert reported.startswith(wait)


class TestWaits:
    def test_while_all_connections_are_in_use(self, full):
        proxy, client, other, server = full
        client.sends("Q select 1")
        proxy.later(0.25)
        client.receives()
        other.sends("Q commit")
        server.hears()
        server.sends("C COMMIT", "Z I")
        client.receives("S hyperdrive.last_wait=all 1 origin connections in use, 0.250 s")
        server.receives("Q select 1")

    def test_while_one_is_opened(self, proxy):
        proxy.linked()
        other = proxy.client(options=ASK)
        other.sends("Q select 1")
        proxy.now += 0.004
        proxy.servers[1].starts()
        other.receives("S hyperdrive.last_wait=opening an origin connection, 0.004 s")

    def test_for_the_first_one_it_is_told_at_start_up(self, proxy):
        client = proxy.connect()
        client.asks_in(options=ASK)
        proxy.now += 0.004
        proxy.servers[0].starts()
        waited = "opening an origin connection, 0.004 s"
        client.is_welcomed(**{"hyperdrive.last_wait": waited})

    def test_while_the_origin_is_away(self, proxy):
        client, server = proxy.pair(options=ASK)
        server.closes()
        client.sends("Q select 1")
        client.hears()
        client.sends("Q select 1")
        proxy.servers[1].cannot_be_reached()
        proxy.later(1)
        proxy.servers[2].starts()
        assert "S hyperdrive.last_wait=the origin is away, 1.000 s" in client.hears()

    def test_who_comes_then_waits_for_the_same(self, proxy):
        client, server = proxy.pair()
        other = proxy.client(options=ASK)
        server.closes()
        client.sends("Q select 1")
        proxy.servers[1].cannot_be_reached()
        other.sends("Q select 1")
        proxy.later(0.5)
        proxy.servers[2].starts()
        proxy.servers[3].starts()
        other.receives("S hyperdrive.last_wait=the origin is away, 0.500 s")

    def test_while_others_are_in_use_the_origin_is_not_away(self, proxy):
        proxy.linked()
        other = proxy.client(options=ASK)
        other.sends("Q select 1")
        proxy.servers[1].cannot_be_reached()
        proxy.later(0.5)
        proxy.servers[2].starts()
        other.receives("S hyperdrive.last_wait=no further origin connection can be opened, 0.500 s")

    def test_for_settings(self, proxy):
        client, server = proxy.pair()
        other = proxy.connect()
        other.asks_in(options=f"{ASK} -c jit=off")
        server.is_set("jit=off")
        other.hears()
        client.sends("Q select 1")
        server.is_set("jit")
        server.hears()
        server.sends(*DONE)
        other.sends("Q select 1")
        proxy.now += 0.001
        server.is_set("jit=off")
        other.receives("S hyperdrive.last_wait=putting its settings in force, 0.001 s")

    def test_for_the_ends_of_other_transactions(self, proxy):
        reader, server = proxy.pair()
        client = proxy.client(options=ASK)
        reader.sends("Q begin")
        reader.sends("Q select 1")
        server.hears()
        server.sends("1", "2", "C BEGIN", "1", "2", "D isolation\tread committed", "C SELECT 1")
        server.sends("T a", "D 1", "C SELECT 1", "Z T", "Z T")
        reader.sends("Q commit")
        client.sends("Q drop table t")
        second = proxy.servers[1]
        second.starts()
        client.hears()
        proxy.now += 0.003
        server.sends("C COMMIT", "Z I")
        second.receives("Q drop table t")
        client.receives(
            "S hyperdrive.last_wait=held back until other transactions have ended, 0.003 s"
        )

    def test_for_the_ends_of_other_transactions_until_the_link_is_lost(self, proxy):
        reader, server = proxy.pair()
        client = proxy.client(options=ASK)
        reader.sends("Q begin")
        reader.sends("Q select 1")
        server.hears()
        server.sends("1", "2", "C BEGIN", "1", "2", "D isolation\tread committed", "C SELECT 1")
        server.sends("T a", "D 1", "C SELECT 1", "Z T", "Z T")
        reader.sends("Q commit")
        client.sends("Q drop table t")
        second = proxy.servers[1]
        second.starts()
        client.hears()
        proxy.now += 0.003
        second.closes()
        held = "S hyperdrive.last_wait=held back until other transactions have ended, 0.003 s"
        assert client.hears()[0] == held

    def test_that_ended_in_an_error(self, start):
        proxy = start(origin_connection_limit=1, pool_timeout=15)
        proxy.linked()
        client = proxy.client(options=ASK)
        client.sends("Q select 1")
        proxy.later(15)
        client.receives(
            "S hyperdrive.last_wait=all 1 origin connections in use, 15.000 s", "E 58000", "Z I"
        )

    def test_who_leaves_meanwhile_is_told_nothing(self, full):
        proxy, client, _, _ = full
        client.sends("Q select 1")
        client.vanishes()
        client.receives()
        assert proxy.core.counters.waits == 2


class TestPins:
    def test_all_reasons_are_told_when_there_is_another(self, proxy):
        client, server = proxy.pair(options=ASK)
        listens(client, server)
        client.hears()
        client.sends("Q create temp table t ()")
        server.hears()
        server.sends("C CREATE TABLE", "Z I")
        server.is_read_back("2", "8")
        client.receives("C CREATE TABLE", "Z I", "S hyperdrive.last_pin=temporary object, LISTEN")

    def test_one_that_lasts_is_told_once(self, proxy):
        client, server = proxy.pair(options=ASK)
        listens(client, server)
        client.hears()
        listens(client, server)
        client.receives("C LISTEN", "Z I")

    def test_never_within_a_message(self, wire, feeding):
        settings = wire.settings()
        object.__setattr__(settings, "pin_sequences", True)
        proxy = wire.Proxy(settings, feeding)
        client, server = proxy.pair(options=ASK)
        client.sends("Q select long")
        server.hears()
        row = wire.encode_answer(f"D {'x' * 1000}")
        server.sends_bytes(wire.encode_answer("T a") + row[:500])
        client.sends("Q select nextval('s')")
        server.sends_bytes(row[500:])
        server.sends("C SELECT 1", "Z I", "D 1", "C SELECT 1", "Z I")
        assert client.hears() == [
            "T a",
            f"D {'x' * 1000}",
            *DONE,
            "D 1",
            *DONE,
            "S hyperdrive.last_pin=sequence",
        ]


class TestMarker:
    def test_every_client_hears_of_our_version(self, proxy):
        client = proxy.connect()
        client.asks_in()
        proxy.servers[0].starts()
        client.is_welcomed(**{"hyperdrive.proxy": __version__})

    def test_an_origin_that_is_one_of_us_is_refused(self, proxy):
        client = proxy.connect()
        client.asks_in()
        server = proxy.servers[0]
        server.connects()
        server.sends("R 0", f"S hyperdrive.proxy={__version__}")
        (_, error) = client.hears()
        assert error.startswith("E FATAL 0A000 The origin is a Hyperdrive proxy itself: ")
        assert server.aborted

    def test_one_that_has_become_so_is_refused_as_well(self, proxy):
        client, server = proxy.pair()
        server.closes()
        client.sends("Q select 1")
        again = proxy.servers[1]
        again.connects()
        again.sends("R 0", "S hyperdrive.proxy=7")
        client.receives("E 0A000", "Z I")
