"""BEGIN, COMMIT and ROLLBACK that the origin may see later: nobody can tell by the answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors

from hyperdrive_client.bindings.connection_string import parse_connection_string
from hyperdrive_client.origin import EmbeddedPostgres

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def narrow(start_proxy: StartProxy) -> LiveProxy:
    """A proxy with one origin connection."""
    return start_proxy(origin_connection_limit=1)


@pytest.fixture
def client(narrow: LiveProxy) -> Iterator[Connection]:
    with narrow.connect(autocommit=True) as connection:
        yield connection


@pytest.fixture
def other(narrow: LiveProxy) -> Iterator[Connection]:
    with narrow.connect(autocommit=True) as connection:
        yield connection


def notices_of(connection: Connection) -> list[tuple[str | None, str | None]]:
    """Where the notices to come are kept."""
    notices: list[tuple[str | None, str | None]] = []
    connection.add_notice_handler(
        lambda notice: notices.append((notice.sqlstate, notice.message_primary))
    )
    return notices


def status_of(connection: Connection) -> str:
    return connection.info.transaction_status.name


class TestBegin:
    @pytest.mark.parametrize(
        "begin", ["BEGIN", "START TRANSACTION", "begin isolation level\nread committed;"]
    )
    def test_it_takes_no_origin_connection(
        self, client: Connection, other: Connection, begin: str
    ) -> None:
        client.execute(begin)
        assert status_of(client) == "INTRANS"
        assert other.execute("SELECT 1").fetchone() == (1,)
        client.execute("COMMIT")
        assert status_of(client) == "IDLE"

    def test_the_first_statement_is_in_it(
        self, client: Connection, other: Connection, narrow: LiveProxy
    ) -> None:
        client.execute("CREATE TABLE item (id int)")
        for end in ("ROLLBACK", "COMMIT"):
            client.execute("BEGIN")
            client.execute("INSERT INTO item VALUES (1)")
            with narrow.at_origin() as direct:
                assert direct.execute("SELECT count(*) FROM item").fetchone() == (0,)
            client.execute(end)
        assert other.execute("SELECT count(*) FROM item").fetchone() == (1,)

    def test_its_modes_hold(self, client: Connection) -> None:
        client.execute("CREATE TABLE item (id int)")
        client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        assert client.execute("SHOW transaction_isolation").fetchone() == ("repeatable read",)
        with pytest.raises(errors.ReadOnlySqlTransaction):
            client.execute("INSERT INTO item VALUES (1)")
        client.execute("ROLLBACK")
        assert client.execute("SHOW transaction_isolation").fetchone() == ("read committed",)

    @pytest.mark.parametrize(
        "texts",
        [
            ("BEGIN", "BEGIN", "COMMIT"),
            ("BEGIN", "SELECT 1", "BEGIN", "COMMIT"),
            ("COMMIT",),
            ("ROLLBACK",),
            ("BEGIN", "SELECT 1/0", "BEGIN", "COMMIT", "COMMIT"),
            ("BEGIN", "SELECT 1/0", "SELECT 1", "ROLLBACK", "ROLLBACK"),
            ("BEGIN", "SAVEPOINT a", "SELECT 1/0", "ROLLBACK TO a", "SELECT 1", "COMMIT"),
            ("BEGIN", "COMMIT AND CHAIN", "SELECT 1", "ROLLBACK AND CHAIN", "COMMIT"),
            ("SAVEPOINT a",),
            ("BEGIN", "SELECT 1", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "ROLLBACK"),
            ("BEGIN", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT 1", "COMMIT"),
            ("BEGIN; SELECT 1", "COMMIT; SELECT 2"),
        ],
    )
    def test_warnings_errors_and_status_are_postgresqls(
        self, client: Connection, narrow: LiveProxy, texts: tuple[str, ...]
    ) -> None:
        def answers(connection: Connection) -> list[object]:
            notices = notices_of(connection)
            found: list[object] = [notices]
            for text in texts:
                try:
                    found.append(connection.execute(text).statusmessage)
                except psycopg.Error as error:
                    found.append(error.sqlstate)
                found.append(status_of(connection))
            return found

        with narrow.at_origin() as direct:
            expected = answers(direct)
        assert answers(client) == expected

    def test_an_insert_before_it_in_a_pipeline_is_rolled_back_with_it(
        self, client: Connection, narrow: LiveProxy
    ) -> None:
        def count_after(connection: Connection) -> int:
            connection.execute("CREATE TABLE item (id int)")
            with connection.pipeline():
                connection.execute("INSERT INTO item VALUES (1)")
                connection.execute("BEGIN")
                connection.execute("INSERT INTO item VALUES (2)")
                connection.execute("ROLLBACK")
            row = connection.execute("SELECT count(*) FROM item").fetchone()
            connection.execute("DROP TABLE item")
            assert row is not None
            return int(row[0])

        with narrow.at_origin() as direct:
            assert count_after(direct) == 0
        assert count_after(client) == 0

    def test_now_is_when_it_reached_the_origin(self, client: Connection, other: Connection) -> None:
        client.execute("BEGIN")
        row = other.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        (before,) = row
        times = [client.execute("SELECT now()").fetchone() for _ in range(2)]
        client.execute("COMMIT")
        assert times[0] == times[1]
        assert times[0] is not None
        assert times[0][0] > before

    def test_an_untouched_one_is_not_idle_at_the_origin(
        self, client: Connection, other: Connection
    ) -> None:
        client.execute("SET idle_in_transaction_session_timeout TO '300ms'")
        # Once the other has had the connection, the first has nothing under way.
        other.execute("SELECT 1")
        client.execute("BEGIN")
        other.execute("SELECT pg_sleep(0.8)")
        assert client.execute("SELECT 1").fetchone() == (1,)
        client.execute("COMMIT")


class TestInjectedStatements:
    """What the proxy sends before a client's statement neither breaks it nor is undone by it."""

    @pytest.mark.parametrize("prepare", [False, True])
    @pytest.mark.parametrize(
        "text", ["VACUUM item", "CREATE INDEX CONCURRENTLY ON item (id)", "REINDEX TABLE item"]
    )
    def test_a_statement_that_refuses_a_transaction_block_runs_with_settings_replayed(
        self, narrow: LiveProxy, other: Connection, text: str, *, prepare: bool
    ) -> None:
        other.execute("CREATE TABLE item (id int)")
        with narrow.connect(autocommit=True, options="-c work_mem=66MB") as client:
            client.execute("SET maintenance_work_mem TO '55MB'")
            assert other.execute("SHOW work_mem").fetchone() == ("4MB",)
            client.execute(text, prepare=prepare)
            assert client.execute("SHOW work_mem").fetchone() == ("66MB",)
            assert client.execute("SHOW maintenance_work_mem").fetchone() == ("55MB",)

    @pytest.mark.parametrize("prepare", [False, True])
    def test_a_statement_that_fails_does_not_take_replayed_settings_back(
        self, client: Connection, other: Connection, *, prepare: bool
    ) -> None:
        client.execute("SET work_mem TO '77MB'")
        assert other.execute("SHOW work_mem").fetchone() == ("4MB",)
        with pytest.raises(errors.DivisionByZero):
            client.execute("SELECT 1/0", prepare=prepare)
        assert client.execute("SHOW work_mem").fetchone() == ("77MB",)
        assert other.execute("SHOW work_mem").fetchone() == ("4MB",)
        with pytest.raises(errors.DivisionByZero), client.transaction():
            client.execute("SELECT 1/0", prepare=prepare)
        assert client.execute("SHOW work_mem").fetchone() == ("77MB",)
        assert other.execute("SHOW work_mem").fetchone() == ("4MB",)

    def test_nothing_runs_where_a_replay_fails(
        self, client: Connection, other: Connection, narrow: LiveProxy
    ) -> None:
        other.execute("CREATE TABLE item (id int)")
        role = f"role_{uuid4().hex}"
        client.execute(f"CREATE ROLE {role}")
        client.execute(f"SET ROLE {role}")
        other.execute(f"DROP ROLE {role}")
        with pytest.raises(psycopg.Error, match=role):
            client.execute("INSERT INTO item VALUES (1)")
        with pytest.raises(psycopg.Error, match=role), client.pipeline():
            client.execute("INSERT INTO item VALUES (2)")
        client.execute("BEGIN")
        with pytest.raises(psycopg.Error, match=role):
            client.execute("INSERT INTO item VALUES (3)")
        assert status_of(client) == "INERROR"
        with pytest.raises(errors.InFailedSqlTransaction):
            client.execute("INSERT INTO item VALUES (4)")
        client.execute("ROLLBACK")
        assert other.execute("SELECT count(*) FROM item").fetchone() == (0,)

    def test_what_others_changed_is_told_before_the_answer(
        self, client: Connection, other: Connection
    ) -> None:
        client.execute("SET TimeZone TO 'Asia/Tokyo'")
        other.execute("SET TimeZone TO 'UTC'")
        for connection, zone in ((client, "Asia/Tokyo"), (other, "UTC")) * 2:
            assert connection.execute("SHOW TimeZone").fetchone() == (zone,)
            assert connection.info.parameter_status("TimeZone") == zone

    def test_settings_of_the_role_and_the_database_are_the_usual_ones(
        self, narrow: LiveProxy
    ) -> None:
        database = narrow.settings.origin.database
        with narrow.at_origin() as direct:
            direct.execute(
                f"ALTER DATABASE {database} SET default_transaction_isolation TO 'serializable'"
            )
            direct.execute(f"ALTER DATABASE {database} SET work_mem TO '33MB'")
        with narrow.connect(autocommit=True) as client:
            client.execute("SET work_mem TO '77MB'")
            client.execute("RESET work_mem")
            assert client.execute("SHOW work_mem").fetchone() == ("33MB",)
            client.execute("BEGIN")
            level = client.execute("SHOW transaction_isolation").fetchone()
            assert level == ("serializable",)
            client.execute("COMMIT")


def prepared_commit(connection: Connection) -> None:
    connection.execute("COMMIT", prepare=True)


class TestEarlyCommit:
    """Only where nothing is left to be done can the answer come first."""

    @pytest.fixture
    def tables(self, client: Connection) -> None:
        client.execute("CREATE TABLE parent (id int PRIMARY KEY)")
        client.execute(
            "CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
        )
        client.execute(
            "CREATE FUNCTION adopt() RETURNS int LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO child VALUES (1); RETURN 1; END $$"
        )
        client.execute("CREATE VIEW adopting AS SELECT adopt() AS id")

    @pytest.mark.parametrize(
        "text", ["INSERT INTO child VALUES (1)", "SELECT adopt()", "SELECT * FROM adopting"]
    )
    @pytest.mark.usefixtures("tables")
    def test_a_commit_that_fails_is_told(self, client: Connection, text: str) -> None:
        for commit in (Connection.commit, prepared_commit):
            client.execute("BEGIN")
            client.execute(text)
            with pytest.raises(errors.ForeignKeyViolation):
                commit(client)
            assert status_of(client) == "IDLE"
        assert client.execute("SELECT count(*) FROM child").fetchone() == (0,)

    @pytest.mark.usefixtures("tables")
    def test_what_a_function_behind_a_view_wrote_is_there_when_the_answer_is(
        self, client: Connection, narrow: LiveProxy
    ) -> None:
        client.execute("INSERT INTO parent VALUES (1)")
        with narrow.at_origin() as direct:
            for number in range(1, 30):
                client.execute("BEGIN")
                client.execute("SELECT * FROM adopting")
                client.execute("COMMIT")
                assert direct.execute("SELECT count(*) FROM child").fetchone() == (number,)

    def test_what_was_written_at_a_foreign_table_is_there_when_the_answer_is(
        self, client: Connection, narrow: LiveProxy, postgres: EmbeddedPostgres
    ) -> None:
        found = client.execute("SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw'")
        if not found.rowcount:
            pytest.skip("the server has no postgres_fdw")
        origin = parse_connection_string(postgres.connection_string)
        with narrow.at_origin() as direct:
            direct.execute("CREATE TABLE log (id int)")
            direct.execute(
                "CREATE FUNCTION note() RETURNS int LANGUAGE sql AS "
                "'INSERT INTO public.log VALUES (1) RETURNING id'"
            )
            direct.execute("CREATE VIEW noting AS SELECT note() AS id")
            direct.execute("CREATE EXTENSION postgres_fdw")
            direct.execute(
                "CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS "
                f"(host '127.0.0.1', port '{origin.addresses[0].port}', "
                f"dbname '{narrow.settings.origin.database}')"
            )
            direct.execute(
                "CREATE USER MAPPING FOR postgres SERVER here OPTIONS "
                f"(user 'postgres', password '{origin.password}')"
            )
            direct.execute(
                "CREATE FOREIGN TABLE far (id int) SERVER here OPTIONS (table_name 'noting')"
            )
            for number in range(1, 20):
                client.execute("BEGIN")
                client.execute("SELECT * FROM far")
                client.execute("COMMIT")
                assert direct.execute("SELECT count(*) FROM log").fetchone() == (number,)

    @pytest.mark.parametrize(
        "prepare",
        [False, True],
    )
    def test_its_locks_are_in_nobodys_way(self, start_proxy: StartProxy, *, prepare: bool) -> None:
        proxy = start_proxy(origin_connection_limit=2)
        with proxy.connect() as reader, proxy.connect() as writer:
            writer.execute("CREATE TABLE item (id int)")
            writer.commit()
            for _ in range(100):
                assert reader.execute("SELECT * FROM item").fetchall() == []
                reader.commit()
                writer.execute("LOCK item IN ACCESS EXCLUSIVE MODE NOWAIT", prepare=prepare)
                writer.commit()

    def test_a_commit_after_savepoints_and_writes_is_the_origins(
        self, client: Connection, narrow: LiveProxy
    ) -> None:
        client.execute("CREATE TABLE item (id int)")
        with narrow.at_origin() as direct:
            for number in range(1, 30):
                with client.transaction():
                    client.execute("SELECT 1")
                    with client.transaction():
                        client.execute("INSERT INTO item VALUES (1)")
                assert direct.execute("SELECT count(*) FROM item").fetchone() == (number,)

    def test_a_setting_made_before_it_holds_after_it(
        self, client: Connection, other: Connection
    ) -> None:
        with client.transaction():
            client.execute("SELECT 1")
            client.execute("SET work_mem TO '77MB'")
        assert other.execute("SHOW work_mem").fetchone() == ("4MB",)
        assert client.execute("SHOW work_mem").fetchone() == ("77MB",)


class TestLostLink:
    """A transaction that is lost is a failed one, never one that goes on in autocommit."""

    @pytest.mark.parametrize("prepare", [False, True])
    def test_the_next_statement_fails_and_all_others_until_rollback(
        self, client: Connection, narrow: LiveProxy, *, prepare: bool
    ) -> None:
        client.execute("CREATE TABLE item (id int)")
        client.execute("BEGIN")
        client.execute("INSERT INTO item VALUES (1)")
        with narrow.at_origin() as direct:
            direct.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE state = 'idle in transaction' AND datname = current_database()"
            )
        with pytest.raises(psycopg.Error) as caught:
            client.execute("INSERT INTO item VALUES (2)", prepare=prepare)
        assert caught.value.sqlstate is not None
        assert status_of(client) == "INERROR"
        with pytest.raises(errors.InFailedSqlTransaction):
            client.execute("INSERT INTO item VALUES (3)", prepare=prepare)
        client.execute("ROLLBACK")
        assert client.execute("SELECT count(*) FROM item").fetchone() == (0,)


@pytest.fixture(scope="module")
def standby() -> Iterator[EmbeddedPostgres]:
    """A server that recovers for ever and lets itself be read meanwhile."""
    with EmbeddedPostgres() as server:
        with psycopg.connect(server.connection_string, autocommit=True) as connection:
            connection.execute("CREATE TABLE item (id int)")
            connection.execute("CHECKPOINT")
        server.kill()
        (server.data_directory / "standby.signal").touch()
        server.start()
        yield server


class TestHotStandby:
    @pytest.fixture
    def reader(self, start_proxy: StartProxy, standby: EmbeddedPostgres) -> Iterator[Connection]:
        origin = parse_connection_string(standby.connection_string)
        proxy = start_proxy(origin=origin, origin_connection_limit=1)
        with proxy.connect(autocommit=True) as connection:
            assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            yield connection

    @pytest.mark.parametrize(
        "begin",
        [
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "BEGIN READ WRITE",
            "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
        ],
    )
    @pytest.mark.parametrize("prepare", [False, True])
    def test_a_begin_that_it_refuses_is_an_error_at_once_and_begins_nothing(
        self, reader: Connection, begin: str, *, prepare: bool
    ) -> None:
        with pytest.raises(psycopg.Error) as caught:
            reader.execute(begin, prepare=prepare)
        assert caught.value.sqlstate == "0A000"
        assert status_of(reader) == "IDLE"

    def test_other_transactions_are_as_ever(self, reader: Connection) -> None:
        for begin in ("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN READ ONLY"):
            reader.execute(begin)
            assert reader.execute("SELECT count(*) FROM item").fetchone() == (0,)
            reader.execute("COMMIT")

    def test_a_write_in_a_transaction_fails_it(self, reader: Connection) -> None:
        reader.execute("BEGIN")
        with pytest.raises(errors.ReadOnlySqlTransaction):
            reader.execute("INSERT INTO item VALUES (1)")
        assert status_of(reader) == "INERROR"
        reader.execute("ROLLBACK")
