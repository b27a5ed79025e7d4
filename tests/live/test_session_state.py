"""What a client's session holds is there in all of its transactions, and nobody else's.

Two clients share one origin connection where settings are concerned, so that whatever is not put
back would show; and two where a session keeps its own.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from psycopg import errors

from hyperdrive_client.bindings.connection_string import parse_connection_string

if TYPE_CHECKING:
    from hyperdrive_client.origin import EmbeddedPostgres

    from .conftest import LiveProxy, StartProxy

Connection = psycopg.Connection[tuple[Any, ...]]

# By itself, pg_backend_pid() is the process id that the proxy gave out.
BACKEND = "SELECT pid FROM pg_stat_activity WHERE pid = pg_backend_pid()"


class Pair(NamedTuple):
    """A proxy and two clients of it, both in autocommit."""

    proxy: LiveProxy
    first: Connection
    second: Connection


def pair_of(proxy: LiveProxy) -> Iterator[Pair]:
    with proxy.connect(autocommit=True) as first, proxy.connect(autocommit=True) as second:
        yield Pair(proxy, first, second)


@pytest.fixture
def pair(start_proxy: StartProxy) -> Iterator[Pair]:
    """Over one origin connection."""
    yield from pair_of(start_proxy(origin_connection_limit=1))


@pytest.fixture
def roomy_pair(start_proxy: StartProxy) -> Iterator[Pair]:
    """Over two origin connections."""
    yield from pair_of(start_proxy(origin_connection_limit=2))


def value(connection: Connection, text: str, *parameters: object) -> Any:
    row = connection.execute(text, parameters).fetchone()
    assert row is not None
    return row[0]


def session_of(watcher: Connection, session: Connection) -> tuple[str, str]:
    """Its state, and why it keeps its origin connection, by the proxy's own words."""
    rows = watcher.execute("SHOW hyperdrive.sessions", prepare=False).fetchall()
    (found,) = [row[1:3] for row in rows if row[0] == str(session.info.backend_pid)]
    return found


def wait_for(watcher: Connection, session: Connection, expected: tuple[str, str]) -> None:
    """What is left by a transaction is looked at after its end."""
    deadline = time.monotonic() + 10
    while (found := session_of(watcher, session)) != expected:
        assert time.monotonic() < deadline, found


def assert_pinned(watcher: Connection, session: Connection, reason: str) -> None:
    wait_for(watcher, session, ("linked", reason))


def assert_not_pinned(watcher: Connection, session: Connection) -> None:
    wait_for(watcher, session, ("idle", ""))


def assert_shared(pair: Pair) -> None:
    """Both use the one origin connection, so neither keeps it."""
    assert value(pair.first, BACKEND) == value(pair.second, BACKEND)


class TestSettings:
    """They follow their session, and only it."""

    def test_set_is_in_force_in_every_later_transaction_of_its_session_alone(
        self, pair: Pair
    ) -> None:
        pair.first.execute("SET work_mem TO '77MB'")
        for _ in range(2):
            assert value(pair.second, "SHOW work_mem") == "4MB"
            assert value(pair.first, "SHOW work_mem") == "77MB"
        assert_shared(pair)

    def test_set_in_a_transaction_that_rolls_back_goes_back(self, pair: Pair) -> None:
        pair.first.execute("SET work_mem TO '77MB'")
        with pair.first.transaction(force_rollback=True):
            pair.first.execute("SET work_mem TO '88MB'")
            assert value(pair.first, "SHOW work_mem") == "88MB"
        assert value(pair.second, "SHOW work_mem") == "4MB"
        assert value(pair.first, "SHOW work_mem") == "77MB"

    def test_set_in_a_savepoint_that_is_rolled_back_goes_back(self, pair: Pair) -> None:
        with pair.first.transaction():
            pair.first.execute("SET work_mem TO '77MB'")
            with pair.first.transaction(force_rollback=True):
                pair.first.execute("SET work_mem TO '88MB'")
        assert value(pair.second, "SHOW work_mem") == "4MB"
        assert value(pair.first, "SHOW work_mem") == "77MB"

    def test_set_in_a_transaction_that_fails_goes_back(self, pair: Pair) -> None:
        with pytest.raises(errors.DivisionByZero), pair.first.transaction():
            pair.first.execute("SET work_mem TO '77MB'")
            pair.first.execute("SELECT 1/0")
        assert value(pair.second, "SHOW work_mem") == "4MB"
        assert value(pair.first, "SHOW work_mem") == "4MB"

    def test_set_local_ends_with_its_transaction(self, pair: Pair) -> None:
        pair.first.execute("SET work_mem TO '77MB'")
        with pair.first.transaction():
            pair.first.execute("SET LOCAL work_mem TO '88MB'")
            assert value(pair.first, "SHOW work_mem") == "88MB"
        assert value(pair.second, "SHOW work_mem") == "4MB"
        assert value(pair.first, "SHOW work_mem") == "77MB"

    def test_set_config_for_the_session(self, pair: Pair) -> None:
        pair.first.execute("SELECT set_config('work_mem', '77MB', false)")
        name = "my.name"
        pair.first.execute("SELECT set_config(%s, 'of the first', false)", (name,))
        assert value(pair.second, "SHOW work_mem") == "4MB"
        assert value(pair.second, "SELECT current_setting('my.name', true)") in (None, "")
        assert value(pair.first, "SHOW work_mem") == "77MB"
        assert value(pair.first, "SHOW my.name") == "of the first"
        assert_shared(pair)

    @pytest.mark.parametrize(
        "reset", ["RESET work_mem", "SET work_mem TO DEFAULT", "RESET ALL", "DISCARD ALL"]
    )
    def test_reset_brings_back_the_origins_value(self, pair: Pair, reset: str) -> None:
        pair.first.execute("SET work_mem TO '77MB'")
        assert value(pair.second, "SHOW work_mem") == "4MB"
        pair.first.execute(reset)
        assert value(pair.first, "SHOW work_mem") == "4MB"

    @pytest.mark.parametrize(
        "reset", ["RESET work_mem", "SET work_mem TO DEFAULT", "RESET ALL", "DISCARD ALL"]
    )
    def test_reset_brings_back_the_clients_start_up_value(self, pair: Pair, reset: str) -> None:
        with pair.proxy.connect(autocommit=True, options="-c work_mem=66MB") as client:
            client.execute("SET work_mem TO '77MB'")
            assert value(pair.second, "SHOW work_mem") == "4MB"
            client.execute(reset)
            for _ in range(2):
                assert value(client, "SHOW work_mem") == "66MB"
                assert value(pair.second, "SHOW work_mem") == "4MB"

    def test_a_reset_that_is_rolled_back_goes_back(self, pair: Pair) -> None:
        with pair.proxy.connect(autocommit=True, options="-c work_mem=66MB") as client:
            client.execute("SET work_mem TO '77MB'")
            with client.transaction(force_rollback=True):
                client.execute("RESET work_mem")
                assert value(client, "SHOW work_mem") == "66MB"
            assert value(client, "SHOW work_mem") == "77MB"
            assert value(pair.second, "SHOW work_mem") == "4MB"

    def test_an_invalid_value_is_an_error_on_that_statement(self, pair: Pair) -> None:
        usual = value(pair.second, "SHOW TimeZone")
        pair.first.execute("SET TimeZone TO 'Asia/Tokyo'")
        with pytest.raises(errors.InvalidParameterValue, match='"TimeZone": "Nowhere/At_All"'):
            pair.first.execute("SET TimeZone TO 'Nowhere/At_All'")
        assert value(pair.second, "SHOW TimeZone") == usual
        assert value(pair.first, "SHOW TimeZone") == "Asia/Tokyo"

    def test_quoted_values_longer_than_128_bytes(self, pair: Pair) -> None:
        schemas = ", ".join(f'"sch""ema \'{number}\\"' for number in range(40))
        pair.first.execute(f"SET search_path TO {schemas}")
        path = value(pair.first, "SHOW search_path")
        assert len(path) > 128
        text = 'it\'s \\ "quoted" ' * 100 + "ä"
        pair.first.execute("SELECT set_config('my.text', %s, false)", (text,))
        assert value(pair.second, "SHOW search_path") == '"$user", public'
        assert value(pair.second, "SELECT current_setting('my.text', true)") in (None, "")
        assert value(pair.first, "SHOW search_path") == path
        assert value(pair.first, "SHOW my.text") == text

    def test_options_of_the_start_up_packet(self, pair: Pair) -> None:
        options = "-c work_mem=66MB --statement-timeout=7s -c my.words=two\\ words"
        with pair.proxy.connect(autocommit=True, options=options) as client:
            for _ in range(2):
                assert value(client, "SHOW work_mem") == "66MB"
                assert value(client, "SHOW statement_timeout") == "7s"
                assert value(client, "SHOW my.words") == "two words"
                assert value(pair.second, "SHOW work_mem") == "4MB"
                assert value(pair.second, "SHOW statement_timeout") == "0"
                assert value(pair.second, "SELECT current_setting('my.words', true)") in (None, "")

    def test_session_characteristics_are_those_of_each_later_transaction(self, pair: Pair) -> None:
        pair.first.execute(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"
        )
        assert value(pair.second, "SHOW transaction_isolation") == "read committed"
        assert value(pair.second, "SHOW transaction_read_only") == "off"
        assert value(pair.first, "SHOW transaction_isolation") == "serializable"
        with pytest.raises(errors.ReadOnlySqlTransaction):
            pair.first.execute("CREATE TABLE never (id int)")

    @pytest.mark.parametrize("mode", ["READ ONLY", "ISOLATION LEVEL SERIALIZABLE", "DEFERRABLE"])
    def test_what_set_transaction_leaves_behind_is_no_setting(self, pair: Pair, mode: str) -> None:
        for text in ("BEGIN", f"SET TRANSACTION {mode}", "COMMIT", "SET TimeZone = 'Asia/Tokyo'"):
            pair.first.pgconn.exec_(text.encode())
        assert value(pair.second, "SHOW TimeZone") != "Asia/Tokyo"

    def test_client_encoding(self, pair: Pair) -> None:
        pair.first.execute("SET client_encoding TO 'latin1'")
        assert pair.first.info.encoding == "iso8859-1"
        assert value(pair.second, "SELECT 'ä€'") == "ä€"
        assert pair.second.info.encoding == "utf-8"
        assert value(pair.first, "SELECT 'ä'") == "ä"
        assert value(pair.first, "SELECT octet_length(convert_to('ä', 'UTF8'))") == 2
        with pytest.raises(errors.UntranslatableCharacter):
            pair.first.execute("SELECT chr(8364)")
        assert_shared(pair)

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("DO $$ BEGIN PERFORM set_config('work_mem', '77MB', false); END $$", "77MB"),
            ("SELECT set_it('77MB')", "77MB"),
            ("SELECT set_it(%s)", "77MB"),
            ("CALL set_it_too('77MB')", "77MB"),
        ],
    )
    def test_what_a_block_or_a_function_sets_is_found(
        self, pair: Pair, text: str, found: str
    ) -> None:
        pair.second.execute(
            "CREATE FUNCTION set_it(v text) RETURNS void LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM set_config('work_mem', v, false); END $$"
        )
        pair.second.execute(
            "CREATE PROCEDURE set_it_too(v text) LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM set_config('work_mem', v, false); END $$"
        )
        pair.first.execute(text, (found,) if "%s" in text else None)
        assert value(pair.second, "SHOW work_mem") == "4MB"
        assert value(pair.first, "SHOW work_mem") == found
        assert_shared(pair)

    def test_what_a_trigger_sets_is_found_where_the_origin_reports_it(self, pair: Pair) -> None:
        pair.second.execute("CREATE TABLE item (id int)")
        pair.second.execute(
            "CREATE FUNCTION travel() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM set_config('TimeZone', 'Asia/Tokyo', false); RETURN NEW; END $$"
        )
        pair.second.execute(
            "CREATE TRIGGER travels BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION travel()"
        )
        usual = value(pair.first, "SHOW TimeZone")
        pair.first.execute("INSERT INTO item VALUES (1)")
        assert value(pair.second, "SHOW TimeZone") == usual
        assert value(pair.first, "SHOW TimeZone") == "Asia/Tokyo"
        assert pair.first.info.parameter_status("TimeZone") == "Asia/Tokyo"
        assert pair.second.info.parameter_status("TimeZone") == usual

    def test_the_search_path_of_a_dump_does_not_reach_the_next_client(
        self, pair: Pair, postgres: EmbeddedPostgres
    ) -> None:
        pair.first.execute("CREATE TABLE item (id int)")
        pair.first.execute("INSERT INTO item VALUES (41)")
        with pair.proxy.connect(autocommit=True) as dumper:
            dumper.execute("SELECT pg_catalog.set_config('search_path', '', false)")
            with pytest.raises(errors.UndefinedTable):
                dumper.execute("SELECT * FROM item")
            assert value(pair.second, "SELECT id FROM item") == 41
        assert value(pair.second, "SELECT id FROM item") == 41

    def test_pg_dump_goes_through_and_leaves_nothing(
        self, pair: Pair, postgres: EmbeddedPostgres
    ) -> None:
        program = postgres.binaries.directory / "pg_dump"
        if not program.exists():
            pytest.skip("no pg_dump of the server's version")
        pair.first.execute("CREATE TABLE item (id int)")
        pair.first.execute("INSERT INTO item VALUES (41)")
        dump = subprocess.run((program, pair.proxy.url), capture_output=True, text=True, timeout=60)
        assert dump.returncode == 0, dump.stderr
        assert "COPY public.item (id) FROM stdin;\n41\n" in dump.stdout
        assert value(pair.second, "SELECT id FROM item") == 41
        assert value(pair.second, "SHOW search_path") == '"$user", public'


class TestRoles:
    @pytest.fixture(autouse=True)
    def _roles(self, pair: Pair) -> Iterator[None]:
        self.role = f"role_{uuid4().hex}"
        with pair.proxy.at_origin() as direct:
            direct.execute(f"CREATE ROLE {self.role}")
            direct.execute("CREATE TABLE secret (id int)")
            direct.execute("INSERT INTO secret VALUES (41)")
        yield
        with pair.proxy.at_origin() as direct:
            direct.execute(f"DROP OWNED BY {self.role}; DROP ROLE {self.role}")

    @pytest.mark.parametrize(
        ("become", "back"),
        [("SET ROLE", "RESET ROLE"), ("SET SESSION AUTHORIZATION", "RESET SESSION AUTHORIZATION")],
    )
    def test_a_role_follows_its_session_and_only_it(
        self, pair: Pair, become: str, back: str
    ) -> None:
        pair.first.execute(f"{become} {self.role}")
        for _ in range(2):
            assert value(pair.first, "SELECT current_user") == self.role
            with pytest.raises(errors.InsufficientPrivilege):
                pair.first.execute("SELECT id FROM secret")
            assert value(pair.second, "SELECT current_user") == "postgres"
            assert value(pair.second, "SELECT session_user") == "postgres"
            assert value(pair.second, "SELECT id FROM secret") == 41
        pair.first.execute(back)
        assert value(pair.first, "SELECT current_user") == "postgres"
        assert value(pair.first, "SELECT id FROM secret") == 41

    def test_other_settings_are_put_in_force_before_a_role_that_may_not_set_them(
        self, pair: Pair
    ) -> None:
        pair.first.execute("SET log_statement TO 'ddl'")
        pair.first.execute(f"SET ROLE {self.role}")
        for _ in range(2):
            assert value(pair.second, "SHOW log_statement") == "none"
            assert value(pair.first, "SHOW log_statement") == "ddl"
            assert value(pair.first, "SELECT current_user") == self.role

    def test_a_statement_prepared_by_one_role_is_checked_for_the_next(self, pair: Pair) -> None:
        pair.second.execute(f"SET ROLE {self.role}")
        for _ in range(3):
            assert pair.first.execute("SELECT id FROM secret", prepare=True).fetchall() == [(41,)]
            with pytest.raises(errors.InsufficientPrivilege):
                pair.second.execute("SELECT id FROM secret", prepare=True)

    def test_a_role_that_is_gone_is_an_error_and_no_statement_runs_without_it(
        self, pair: Pair
    ) -> None:
        pair.first.execute(f"CREATE ROLE {self.role}_2")
        pair.first.execute(f"SET ROLE {self.role}_2")
        assert value(pair.second, "SELECT current_user") == "postgres"
        pair.second.execute(f"DROP ROLE {self.role}_2")
        for _ in range(2):
            with pytest.raises(psycopg.Error, match=f"{self.role}_2"):
                pair.first.execute("INSERT INTO secret VALUES (42)")
        assert value(pair.second, "SELECT count(*) FROM secret") == 1


class TestObjects:
    """What can't be put back elsewhere keeps its origin connection until it is gone."""

    def test_two_clients_temporary_tables_of_one_name(self, roomy_pair: Pair) -> None:
        for number, client in enumerate((roomy_pair.first, roomy_pair.second)):
            client.execute("CREATE TEMP TABLE mine (id int)")
            client.execute("INSERT INTO mine VALUES (%s)", (number,))
        for number, client in enumerate((roomy_pair.first, roomy_pair.second)):
            assert client.execute("SELECT id FROM mine").fetchall() == [(number,)]

    def test_a_temporary_table_is_not_the_next_clients(self, pair: Pair) -> None:
        with pair.proxy.connect(autocommit=True) as owner:
            owner.execute("CREATE TEMP TABLE mine (id int)")
            owner.execute("SELECT * FROM mine")
        with pytest.raises(errors.UndefinedTable):
            pair.second.execute("SELECT * FROM mine")
        pair.second.execute("CREATE TEMP TABLE mine (other text)")

    def test_a_temporary_table_pins_until_it_is_dropped(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        first.execute("CREATE TEMP TABLE mine (id int)")
        assert_pinned(second, first, "temporary object")
        first.execute("DROP TABLE mine")
        assert_not_pinned(second, first)

    def test_a_temporary_table_that_ends_with_its_transaction_does_not_pin(
        self, roomy_pair: Pair
    ) -> None:
        _, first, second = roomy_pair
        with first.transaction():
            first.execute("CREATE TEMP TABLE mine (id int) ON COMMIT DROP")
        assert_not_pinned(second, first)
        with first.transaction(force_rollback=True):
            first.execute("CREATE TEMP TABLE mine (id int)")
        assert_not_pinned(second, first)

    def test_a_lock_taken_by_one_is_not_released_by_another(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        first.execute("SELECT pg_advisory_lock(41)")
        assert_pinned(second, first, "advisory lock")
        assert value(second, "SELECT pg_advisory_unlock(41)") is False
        second.execute("SELECT pg_advisory_unlock_all()")
        assert value(second, "SELECT pg_try_advisory_lock(41)") is False
        assert value(first, "SELECT pg_advisory_unlock(41)") is True
        assert_not_pinned(second, first)
        assert value(second, "SELECT pg_try_advisory_lock(41)") is True

    def test_a_lock_of_a_transaction_does_not_pin(self, pair: Pair) -> None:
        with pair.first.transaction():
            pair.first.execute("SELECT pg_advisory_xact_lock(41)")
        assert value(pair.second, "SELECT pg_try_advisory_xact_lock(41)") is True

    def test_a_lock_goes_with_its_session(self, start_proxy: StartProxy) -> None:
        proxy = start_proxy(origin_connection_limit=1)
        with proxy.connect(autocommit=True) as first:
            first.execute("SELECT pg_advisory_lock(41)")
        with proxy.connect(autocommit=True) as second:
            assert value(second, "SELECT pg_try_advisory_xact_lock(41)") is True

    def test_a_cursor_with_hold_outlives_its_transaction(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        with first.transaction():
            first.execute("DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 10)")
            assert value(first, "FETCH c") == 1
        assert_pinned(second, first, "WITH HOLD cursor")
        with pytest.raises(errors.InvalidCursorName):
            second.execute("FETCH c")
        assert value(first, "FETCH c") == 2

    def test_a_cursor_with_hold_pins_until_it_is_closed(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        first.execute("DECLARE c CURSOR WITH HOLD FOR SELECT 1")
        assert_pinned(second, first, "WITH HOLD cursor")
        first.execute("CLOSE c")
        assert_not_pinned(second, first)

    def test_a_seed_is_followed_by_its_numbers(self, roomy_pair: Pair) -> None:
        proxy, first, second = roomy_pair
        with proxy.at_origin() as direct:
            direct.execute("SELECT setseed(0.5)")
            numbers = [value(direct, "SELECT random()") for _ in range(3)]
        first.execute("SELECT setseed(0.5)")
        found = []
        for _ in numbers:
            found.append(value(first, "SELECT random()"))
            second.execute("SELECT random()")
        assert found == numbers
        assert_pinned(second, first, "LOAD, setseed or dblink")

    def test_a_loaded_library_stays_with_its_session(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        first.execute("LOAD 'plpgsql'")
        assert_pinned(second, first, "LOAD, setseed or dblink")

    def test_a_statement_that_was_rejected_pins_nothing(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        for text in ("CREATE TEMP TABLE mine (id nonsense)", "PREPARE p AS SELECT nonsense"):
            with pytest.raises(psycopg.Error):
                first.execute(text)
            assert_not_pinned(second, first)

    @pytest.mark.parametrize(
        "text",
        ["SELECT '" + "x" * 100_000 + "'", "SELECT $tag$ it's /* not clear $tag$, E'\\\\'"],
        ids=["too long", "not parsed"],
    )
    def test_a_text_that_is_not_understood_does_not_pin(self, roomy_pair: Pair, text: str) -> None:
        _, first, second = roomy_pair
        first.execute(text)
        assert_not_pinned(second, first)

    def test_a_lock_taken_in_a_text_too_long_to_be_looked_at_is_found(
        self, roomy_pair: Pair
    ) -> None:
        _, first, second = roomy_pair
        first.execute("SELECT pg_advisory_lock(41), '" + "x" * 100_000 + "'")
        assert_pinned(second, first, "advisory lock")
        assert value(second, "SELECT pg_try_advisory_lock(41)") is False


class TestSqlPrepare:
    def test_prepare_execute_and_deallocate(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        first.execute("PREPARE plan (int) AS SELECT $1 + 41")
        assert_pinned(second, first, "PREPARE")
        second.execute("PREPARE plan (int) AS SELECT $1 + 1")
        for _ in range(2):
            assert value(first, "EXECUTE plan (1)") == 42
            assert value(second, "EXECUTE plan (1)") == 2
        first.execute("DEALLOCATE plan")
        with pytest.raises(errors.InvalidSqlStatementName):
            first.execute("EXECUTE plan (1)")
        second.execute("DEALLOCATE ALL")
        with pytest.raises(errors.InvalidSqlStatementName):
            second.execute("EXECUTE plan (1)")
        assert_not_pinned(second, first)
        assert_not_pinned(first, second)

    def test_it_is_not_the_next_clients(self, pair: Pair) -> None:
        with pair.proxy.connect(autocommit=True) as owner:
            owner.execute("PREPARE plan AS SELECT 41")
        with pytest.raises(errors.InvalidSqlStatementName):
            pair.second.execute("EXECUTE plan")


class TestNotifications:
    def test_they_come_to_who_listens_with_the_process_id_that_who_notifies_was_given(
        self, roomy_pair: Pair
    ) -> None:
        _, first, second = roomy_pair
        first.execute("LISTEN news")
        assert_pinned(second, first, "LISTEN")
        for payload in ("one", "two"):
            second.execute("SELECT pg_notify('news', %s)", (payload,))
            (notice,) = first.notifies(timeout=10, stop_after=1)
            assert (notice.channel, notice.payload) == ("news", payload)
            assert notice.pid == second.info.backend_pid

    def test_ones_own_come_with_ones_own_process_id(self, pair: Pair) -> None:
        pair.first.execute("LISTEN news")
        pair.first.execute("NOTIFY news")
        (notice,) = pair.first.notifies(timeout=10, stop_after=1)
        assert notice.pid == pair.first.info.backend_pid

    def test_of_one_that_is_no_client_comes_with_its_own_process_id(self, pair: Pair) -> None:
        pair.first.execute("LISTEN news")
        with pair.proxy.at_origin() as direct:
            direct.execute("NOTIFY news")
            (notice,) = pair.first.notifies(timeout=10, stop_after=1)
            assert notice.pid == direct.info.backend_pid

    def test_they_do_not_upset_who_counts_its_answers(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        first.execute("LISTEN news")
        done = threading.Event()

        def notify() -> int:
            sent = 0
            while not done.is_set():
                second.execute("NOTIFY news")
                sent += 1
            return sent

        heard: list[int] = []
        first.add_notify_handler(lambda notice: heard.append(notice.pid))
        with ThreadPoolExecutor(1) as pool:
            notifying = pool.submit(notify)
            for turn in range(20):
                with first.pipeline() as pipeline:
                    cursors = [first.execute("SELECT %s::int", (turn + n,)) for n in range(3)]
                    pipeline.sync()
                    cursors.append(first.execute("SELECT %s::int", (turn + 3,)))
                    rows = [cursor.fetchone() for cursor in cursors]
                assert rows == [(turn + n,) for n in range(4)]
            done.set()
            sent = notifying.result(30)
        deadline = time.monotonic() + 10
        while len(heard) < sent:
            first.execute("SELECT 1")
            assert time.monotonic() < deadline, (len(heard), sent)
        assert set(heard) == {second.info.backend_pid}

    def test_unlisten_ends_them_and_the_pin(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        first.execute("LISTEN news")
        first.execute("UNLISTEN news")
        assert_not_pinned(second, first)
        second.execute("NOTIFY news")
        assert list(first.notifies(timeout=0)) == []

    def test_who_does_not_listen_gets_none(self, pair: Pair) -> None:
        with pair.proxy.connect(autocommit=True) as listener:
            listener.execute("LISTEN news")
        pair.first.execute("NOTIFY news")
        pair.second.execute("SELECT 1")
        assert list(pair.second.notifies(timeout=0)) == []

    def test_one_channel_on_two_databases_is_two(
        self, roomy_pair: Pair, start_proxy: StartProxy, postgres: EmbeddedPostgres
    ) -> None:
        _, first, second = roomy_pair
        elsewhere = start_proxy(origin=parse_connection_string(postgres.connection_string))
        first.execute("LISTEN news")
        with elsewhere.connect(autocommit=True) as stranger:
            stranger.execute("LISTEN news")
            stranger.execute("NOTIFY news, 'elsewhere'")
            second.execute("NOTIFY news, 'here'")
            for client, payload in ((first, "here"), (stranger, "elsewhere")):
                (notice,) = client.notifies(timeout=10, stop_after=1)
                assert notice.payload == payload
                client.execute("SELECT 1")
                assert list(client.notifies(timeout=0)) == []


class TestSequences:
    @pytest.fixture
    def sequences(self, pair: Pair) -> Pair:
        pair.first.execute("CREATE SEQUENCE s")
        pair.first.execute("CREATE TABLE item (id serial, name text)")
        return pair

    def test_nextval_does_not_pin(self, sequences: Pair) -> None:
        sequences.first.execute("SELECT nextval('s')")
        sequences.first.execute("INSERT INTO item (name) VALUES ('a')")
        assert_not_pinned(sequences.second, sequences.first)

    def test_currval_after_nextval_in_another_transaction(self, sequences: Pair) -> None:
        _, first, second = sequences
        assert value(first, "SELECT nextval('s')") == 1
        second.execute("SELECT 1")
        assert value(first, "SELECT currval('s')") == 1
        assert value(first, "SELECT lastval()") == 1
        first.execute("INSERT INTO item (name) VALUES ('a')")
        second.execute("SELECT 1")
        assert value(first, "SELECT currval(pg_get_serial_sequence('item', 'id'))") == 1

    def test_currval_waits_for_the_connection_of_its_nextval(self, roomy_pair: Pair) -> None:
        proxy, first, second = roomy_pair
        first.execute("CREATE SEQUENCE s")
        assert value(first, "SELECT nextval('s')") == 1
        with proxy.connect(autocommit=True) as third, ThreadPoolExecutor(1) as pool:
            with second.transaction():
                # The one used last is lent first: the connection of the nextval.
                second.execute("SELECT 1")
                asked = pool.submit(value, first, "SELECT currval('s')")
                wait_for(third, first, ("waiting", ""))
                assert value(third, "SELECT 1") == 1
                assert not asked.done()
            assert asked.result(10) == 1

    @pytest.mark.parametrize("recall", ["SELECT currval('s')", "SELECT lastval()"])
    def test_after_another_session_used_a_sequence_there_it_is_55000_with_a_hint(
        self, sequences: Pair, recall: str
    ) -> None:
        _, first, second = sequences
        assert value(first, "SELECT nextval('s')") == 1
        assert value(second, "SELECT nextval('s')") == 2
        with pytest.raises(errors.ObjectNotInPrerequisiteState) as caught:
            first.execute(recall)
        assert caught.value.sqlstate == "55000"
        assert "pin_sequences" in str(caught.value.diag.message_hint)
        assert value(first, "SELECT nextval('s')") == 3
        assert value(first, recall) == 3

    def test_who_never_used_a_sequence_sees_nobodys(self, sequences: Pair) -> None:
        _, first, second = sequences
        first.execute("SELECT nextval('s')")
        for recall in ("SELECT currval('s')", "SELECT lastval()"):
            with pytest.raises(errors.ObjectNotInPrerequisiteState) as caught:
                second.execute(recall)
            assert caught.value.diag.message_hint is None

    def test_with_pin_sequences_it_always_works(self, start_proxy: StartProxy) -> None:
        proxy = start_proxy(origin_connection_limit=2, pin_sequences=True)
        for _, first, second in pair_of(proxy):
            first.execute("CREATE SEQUENCE s")
            for number in (1, 3):
                assert value(first, "SELECT nextval('s')") == number
                assert value(second, "SELECT nextval('s')") == number + 1
                assert value(first, "SELECT currval('s')") == number
                assert value(second, "SELECT lastval()") == number + 1
            assert_pinned(first, second, "sequence")


class TestAsyncpgsPool:
    """What it says when a connection is released neither pins nor costs anybody their state."""

    async def test_its_release_does_not_pin(self, pair: Pair) -> None:
        pool = await asyncpg.create_pool(pair.proxy.url, min_size=1, max_size=1, ssl=False)
        try:
            for turn in range(3):
                async with pool.acquire() as connection:
                    assert await connection.fetchval("SELECT $1::int", turn) == turn
                    pid = connection.get_server_pid()
                    await connection.execute("SET work_mem TO '77MB'")
                rows = pair.first.execute("SHOW hyperdrive.sessions").fetchall()
                assert [row[1:3] for row in rows if row[0] == str(pid)] == [("idle", "")]
                assert value(pair.second, "SHOW work_mem") == "4MB"
                async with pool.acquire() as connection:
                    assert await connection.fetchval("SHOW work_mem") == "4MB"
        finally:
            await pool.close()

    async def test_its_release_lets_go_of_what_pinned(self, pair: Pair) -> None:
        pool = await asyncpg.create_pool(pair.proxy.url, min_size=1, max_size=1, ssl=False)
        try:
            async with pool.acquire() as connection:
                await connection.execute("SELECT pg_advisory_lock(41)")
                await connection.execute("LISTEN news")
            assert value(pair.first, "SELECT pg_try_advisory_xact_lock(41)") is True
        finally:
            await pool.close()


class TestShow:
    """SHOW hyperdrive.… answers from the proxy; nothing can be changed by it."""

    def test_sessions(self, roomy_pair: Pair) -> None:
        proxy, first, second = roomy_pair
        with proxy.connect(application_name="the third") as third:
            first.execute("LISTEN news")
            assert_pinned(second, first, "LISTEN")
            cursor = second.execute("SHOW hyperdrive.sessions")
            assert cursor.description is not None
            names = [column.name for column in cursor.description]
            assert names == ["pid", "state", "pinned_by", "application_name"]
            rows = {row[0]: row[1:] for row in cursor}
            assert rows[str(first.info.backend_pid)][1] == "LISTEN"
            assert rows[str(second.info.backend_pid)][0:2] == ("linked", "")
            assert rows[str(third.info.backend_pid)] == ("idle", "", "the third")

    def test_pins(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        assert second.execute("SHOW hyperdrive.pins").fetchall() == []
        first.execute("LISTEN news")
        assert_pinned(second, first, "LISTEN")
        assert second.execute("SHOW hyperdrive.pins").fetchall() == [("LISTEN", "1", "1")]
        first.execute("UNLISTEN *")
        assert_not_pinned(second, first)
        assert second.execute("SHOW hyperdrive.pins").fetchall() == [("LISTEN", "0", "1")]

    def test_pool(self, roomy_pair: Pair) -> None:
        figures = dict(roomy_pair.first.execute("SHOW hyperdrive.pool").fetchall())
        assert figures["origin_connection_limit"] == "2"
        assert figures["clients"] == "2"
        assert figures["waiting"] == "0"
        assert float(figures["link_seconds"]) >= float(figures["pinned_seconds"]) == 0

    def test_in_a_transaction_and_by_the_extended_protocol(self, pair: Pair) -> None:
        with pair.first.transaction():
            pair.first.execute("SELECT 1")
            rows = pair.first.execute("SHOW hyperdrive.pool", prepare=True).fetchall()
            assert ("origin_connection_limit", "1") in rows
            assert pair.first.info.transaction_status.name == "INTRANS"

    def test_prepared_it_is_up_to_date(self, roomy_pair: Pair) -> None:
        _, first, second = roomy_pair
        assert second.execute("SHOW hyperdrive.pins", prepare=True).fetchall() == []
        first.execute("LISTEN news")
        assert_pinned(second, first, "LISTEN")
        rows = second.execute("SHOW hyperdrive.pins", prepare=True).fetchall()
        assert rows == [("LISTEN", "1", "1")]

    @pytest.mark.parametrize(
        "command",
        ["PAUSE", "RESUME", "KILL", "RELOAD", "SHUTDOWN", "RECONNECT", "DISABLE x", "SUSPEND"],
    )
    def test_there_is_no_command_that_changes_the_proxy(self, pair: Pair, command: str) -> None:
        with pytest.raises(errors.SyntaxError):
            pair.first.execute(command)
        with pytest.raises(errors.UndefinedObject):
            pair.first.execute("SHOW hyperdrive.users")
        assert value(pair.second, "SELECT 1") == 1
