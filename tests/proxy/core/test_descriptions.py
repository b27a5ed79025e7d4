"""What clients were told of their statements' columns, and catalogues that change meanwhile."""

from __future__ import annotations

import pytest

OUTDATED = "E 0A000 cached plan must not change result type"
TEXT = "select * from t"


def outdated(server) -> None:
    """The origin says that a plan does not fit any more, as PostgreSQL does."""
    fields = b"SERROR\x00VERROR\x00C0A000\x00Mcached plan must not change result type\x00"
    body = fields + b"RRevalidateCachedQuery\x00\x00"
    server.sends_bytes(b"E" + (len(body) + 4).to_bytes(4) + body)


def prepares(client, server, *, described: bool) -> str:
    """The client prepares s, and hears of its columns or not; the origin's name for it."""
    client.sends(f"P s: {TEXT}", *(["D S s"] if described else []), "S")
    parse = server.hears()[0]
    server.sends("1", *(["t", "T a"] if described else []), "Z I")
    client.receives("1", *(["t", "T a"] if described else []), "Z I")
    return parse[2:].partition(":")[0]


@pytest.fixture
def elsewhere(start):
    """A client that was told of the columns of s, and an idle origin that has no s."""
    proxy = start(origin_connection_limit=2, prepared_statements=1)
    client, one = proxy.pair()
    prepares(client, one, described=True)
    other = proxy.client()
    other.sends("Q begin read write")
    one.receives("Q begin read write")
    one.sends("C BEGIN", "Z T")
    third = proxy.client()
    third.sends("Q select 1")
    two = proxy.servers[1]
    two.starts()
    two.hears()
    two.sends("C SELECT 1", "Z I")
    return proxy, client, two


class TestElsewhere:
    """A statement runs at another origin connection only if it has the same columns there."""

    def asked(self, client, two) -> None:
        client.sends("B <-s", "E", "S")
        two.is_asked(f"P #: {TEXT}", "D S #", "H")
        client.receives()

    def test_the_same_columns(self, elsewhere):
        _, client, two = elsewhere
        self.asked(client, two)
        two.sends("1", "t", "T a")
        two.is_asked("B <-#", "E", "S")
        two.sends("2", "D 1", "C SELECT 1", "Z I")
        client.receives("2", "D 1", "C SELECT 1", "Z I")
        client.sends("B <-s", "E", "S")
        two.is_asked("B <-#", "E", "S")

    def test_other_columns_are_the_error_that_postgresql_would_raise(self, elsewhere):
        _, client, two = elsewhere
        self.asked(client, two)
        two.sends("1", "t", "T b")
        bind, *rest = two.hears()
        assert bind.startswith("B <-hyperdrive_")
        assert rest == ["E", "S"]
        two.sends("E 26000 no such statement", "Z I")
        client.receives(OUTDATED, "Z I")
        # It closes and prepares it again, as drivers do.
        client.sends("C S s", f"P s: {TEXT}", "D S s", "S")
        two.hears()
        assert client.hears()[0] == "3"

    def test_no_columns_any_more(self, elsewhere):
        _, client, two = elsewhere
        self.asked(client, two)
        two.sends("1", "t", "n")
        two.hears()
        two.sends("E 26000 none", "Z I")
        client.receives(OUTDATED, "Z I")

    def test_one_that_cannot_be_prepared_there_is_the_clients_error(self, elsewhere):
        _, client, two = elsewhere
        self.asked(client, two)
        two.sends("E 42P01 no such table any more")
        client.receives("E 42P01 no such table any more")
        assert two.hears()[-1:] == ["S"]
        two.sends("Z I")
        client.receives("Z I")
        assert two.state == "idle"

    def test_who_vanishes_meanwhile(self, elsewhere):
        _, client, two = elsewhere
        self.asked(client, two)
        client.vanishes()
        assert two.aborted

    def test_a_cancel_meanwhile(self, elsewhere):
        _, client, two = elsewhere
        self.asked(client, two)
        client.cancel_request()
        assert two.cancels == 1
        two.sends("1", "E 57014 canceled")
        client.receives("E 57014")
        two.cancel_is_done()
        assert two.hears()[-1] == "S"
        two.sends("Z I")
        client.receives("Z I")
        assert two.state == "idle"

    def test_an_origin_lost_meanwhile(self, elsewhere):
        _, client, two = elsewhere
        self.asked(client, two)
        two.sends("1")
        two.closes()
        assert client.hears()[0].startswith("E 0800")
        assert not client.closed

    def test_in_a_lazy_transaction(self, elsewhere):
        _, client, two = elsewhere
        client.sends("Q begin")
        client.receives("C BEGIN", "Z T")
        client.sends("B <-s", "E", "S")
        heard = two.hears()
        assert heard[-1] == "H"
        assert heard[0].endswith(": BEGIN")
        # The only place for a statement goes from BEGIN to s.
        answers = {"P": "1", "B": "2", "C": "3", "E": "C BEGIN"}
        two.sends(*(answers[line[0]] for line in heard[:-2]), "t", "T a")
        two.is_asked("B <-#", "E", "S")
        two.sends("2", "D 1", "C SELECT 1", "Z T")
        client.receives("2", "D 1", "C SELECT 1", "Z T")

    def test_more_than_one_in_a_batch(self, elsewhere):
        _, client, two = elsewhere
        self.asked(client, two)
        client.sends("B <-s", "E", "S")
        two.sends("1", "t", "T a")
        two.is_asked("B <-#", "E", "S", "B <-#", "E", "S")

    def test_at_the_origin_where_it_was_told_nothing_is_asked(self, proxy):
        client, server = proxy.pair()
        name = prepares(client, server, described=True)
        client.sends("B <-s", "E", "S")
        server.receives(f"B <-{name}", "E", "S")

    def test_who_was_told_nothing_asks_nothing(self, start):
        proxy = start(origin_connection_limit=2)
        client, one = proxy.pair()
        prepares(client, one, described=False)
        proxy.client().sends("Q begin read write")
        one.hears()
        client.sends("B <-s", "E", "S")
        two = proxy.servers[1]
        two.starts()
        two.is_asked(f"P #: {TEXT}", "B <-#", "E", "S")


class TestOutdated:
    """0A000, "cached plan must not change result type"."""

    @pytest.mark.parametrize("feeding", ["whole"])
    def test_once_and_invisibly_it_is_prepared_again(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        client.sends("B <-s", "E", "S")
        server.hears()
        outdated(server)
        server.sends("Z I")
        server.is_asked("C S #", f"P #: {TEXT}", "B <-#", "E", "S")
        server.sends("3", "1", "2", "D 1", "C SELECT 1", "Z I")
        client.receives("2", "D 1", "C SELECT 1", "Z I")

    @pytest.mark.parametrize("feeding", ["whole"])
    def test_with_a_describe_of_the_portal_as_well(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        client.sends("B <-s", "D P", "E", "S")
        server.hears()
        outdated(server)
        server.sends("Z I")
        server.is_asked("C S #", f"P #: {TEXT}", "B <-#", "D P", "E", "S")
        server.sends("3", "1", "2", "T b", "D 1", "C SELECT 1", "Z I")
        client.receives("2", "T b", "D 1", "C SELECT 1", "Z I")

    @pytest.mark.parametrize("feeding", ["byte by byte"])
    def test_not_of_a_batch_that_comes_in_parts(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        client.sends("B <-s", "E", "S")
        server.hears()
        outdated(server)
        server.sends("Z I")
        client.receives(OUTDATED, "Z I")
        server.is_cleaned()

    def test_not_twice(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        client.sends("B <-s", "E", "S")
        server.hears()
        outdated(server)
        server.sends("Z I")
        server.hears()
        server.sends("3", "1")
        outdated(server)
        server.sends("Z I")
        client.receives(OUTDATED, "Z I")

    def test_not_of_whom_was_told_of_columns(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=True)
        client.sends("B <-s", "E", "S")
        server.hears()
        outdated(server)
        server.sends("Z I")
        client.receives(OUTDATED, "Z I")

    def test_not_in_a_transaction(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        client.sends("Q begin read write")
        server.hears()
        server.sends("C BEGIN", "Z T")
        client.receives("C BEGIN", "Z T")
        client.sends("B <-s", "E", "S")
        server.hears()
        outdated(server)
        server.sends("Z E")
        client.receives(OUTDATED, "Z E")

    def test_not_behind_something_that_may_have_happened(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        client.sends("P : insert into t values (1)", "B <-", "E", "B <-s", "E", "S")
        server.hears()
        server.sends("1", "2", "C INSERT 0 1")
        outdated(server)
        server.sends("Z I")
        client.receives("1", "2", "C INSERT 0 1", OUTDATED, "Z I")

    def test_another_0a000_is_none_of_ours(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        client.sends("B <-s", "E", "S")
        server.hears()
        server.sends("E 0A000 not supported", "Z I")
        client.receives("E 0A000 not supported", "Z I")

    def test_who_prepares_afterwards_gets_a_statement_of_the_new_catalogue(self, proxy):
        client, server = proxy.pair()
        name = prepares(client, server, described=True)
        client.sends("B <-s", "E", "S")
        server.hears()
        outdated(server)
        server.sends("Z I")
        client.receives(OUTDATED, "Z I")
        if server.state == "cleaning":
            server.is_cleaned()
        client.sends("C S s", f"P s: {TEXT}", "D S s", "S")
        parse = next(line for line in server.hears() if line.startswith("P "))
        assert parse.partition(":")[0] != f"P {name}"

    def test_a_client_that_vanishes_when_it_is_prepared_again(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        client.sends("B <-s", "E", "S")
        server.hears()
        outdated(server)
        client.vanishes()
        if not server.aborted:
            server.cancel_is_done()
            server.sends("Z I")
            server.obliges()
            if server.state == "cleaning":
                server.obliges()
        assert server.aborted or server.state == "idle"

    @pytest.mark.parametrize("feeding", ["whole"])
    def test_what_comes_behind_is_answered_in_its_turn(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        client.sends("B <-s", "E", "S")
        server.hears()
        client.sends("Q select 2")
        server.hears()
        outdated(server)
        server.sends("Z I")
        # Another request is under way: too late to do it again.
        server.sends("C SELECT 1", "Z I")
        client.receives(OUTDATED, "Z I", "C SELECT 1", "Z I")


class TestDdl:
    """After DDL through the proxy nobody gets a statement of the old catalogue."""

    def test_a_parse_after_it_is_of_the_new_catalogue(self, proxy):
        client, server = proxy.pair()
        name = prepares(client, server, described=False)
        other = proxy.client()
        other.sends("Q alter table t add c int")
        server.hears()
        server.sends("C ALTER TABLE", "Z I")
        server.is_read_back()
        other.hears()
        other.sends(f"P s: {TEXT}", "D S s", "S")
        parse = next(line for line in server.hears() if line.startswith("P "))
        assert parse.partition(":")[0] != f"P {name}"

    def test_ddl_by_others_counts_for_a_parse_a_second_later(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=False)
        proxy.later(2)
        other = proxy.client()
        other.sends(f"P s: {TEXT}", "S")
        other.receives("1", "Z I")
        other.sends("B <-s", "E", "S")
        server.is_asked("C S #", f"P #: {TEXT}", "B <-#", "E", "S")

    def test_a_describe_is_never_of_a_statement_older_than_the_parse(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=True)
        proxy.later(0.5)
        other = proxy.client()
        other.sends(f"P s: {TEXT}", "D S s", "S")
        server.is_asked("C S #", f"P #: {TEXT}", "D S #", "S")
        server.sends("3", "1", "t", "T b", "Z I")
        other.receives("1", "t", "T b", "Z I")

    def test_the_other_then_hears_of_it(self, proxy):
        client, server = proxy.pair()
        prepares(client, server, described=True)
        proxy.later(0.5)
        other = proxy.client()
        other.sends(f"P s: {TEXT}", "D S s", "S")
        server.hears()
        server.sends("3", "1", "t", "T b", "Z I")
        client.sends("B <-s", "E", "S")
        heard = server.hears()
        assert heard[-2:] == ["E", "S"]
        server.sends("E 26000 none", "Z I")
        client.receives(OUTDATED, "Z I")
