"""What the catalogue of a real database makes of statements, and when it has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.proxy.cache import catalogue as catalogue_module
from hyperdrive_client.proxy.cache.catalogue import Catalogue
from hyperdrive_client.proxy.cache.catalogue_queries import FINGERPRINT
from hyperdrive_client.sql.parse_tree import why_unavailable

pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "parses")

LoadCatalogue = Callable[..., Catalogue]
Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """To the test's own database, in autocommit."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def load(database: str, load_catalogue: LoadCatalogue) -> Callable[..., Catalogue]:
    """Load the catalogue of the test's own database."""
    return lambda *functions: load_catalogue(database, *functions)


@pytest.fixture
def role(connection: Connection) -> Iterator[str]:
    """A role of the test's own."""
    name = "role_of_" + connection.info.dbname[-8:]
    connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    yield name
    for statement in ("DROP OWNED BY {}", "DROP ROLE {}"):
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def fingerprint(connection: Connection) -> object:
    row = connection.execute(FINGERPRINT).fetchone()
    assert row is not None
    return row[0]


DDL = [
    "CREATE TABLE made (id int)",
    "ALTER TABLE made ADD name varchar(10)",
    "ALTER TABLE made ALTER name TYPE varchar(20)",
    "ALTER TABLE made RENAME name TO called",
    "ALTER TABLE made ALTER id SET DEFAULT 3",
    "ALTER TABLE made ADD CHECK (id > 0)",
    "ALTER TABLE made ADD PRIMARY KEY (id)",
    "ALTER TABLE made ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY all_rows ON made USING (true)",
    "ALTER POLICY all_rows ON made USING (false)",
    "GRANT SELECT (id) ON made TO public",
    "CREATE VIEW seen AS SELECT id FROM made",
    "CREATE OR REPLACE VIEW seen AS SELECT id + 1 AS id FROM made",
    "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER FUNCTION one() STABLE",
    "CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER fires BEFORE INSERT ON made EXECUTE FUNCTION fired()",
    "ALTER TABLE made DISABLE TRIGGER fires",
    "CREATE TYPE colour AS ENUM ('red')",
    "ALTER TYPE colour ADD VALUE 'blue'",
    "CREATE SCHEMA elsewhere",
    "ALTER TABLE made SET SCHEMA elsewhere",
    "CREATE TABLE child () INHERITS (elsewhere.made)",
    "ALTER TABLE child NO INHERIT elsewhere.made",
    "REVOKE USAGE ON SCHEMA elsewhere FROM public",
    "CREATE EXTENSION citext",
    "DROP EXTENSION citext",
    "ALTER TABLE child SET UNLOGGED",
    "DROP TABLE child",
    "ALTER DATABASE {} SET search_path = elsewhere",
    "ALTER ROLE {} SET default_transaction_isolation = 'serializable'",
    "GRANT {} TO CURRENT_USER",
]


def test_the_fingerprint_changes_with_every_change_of_the_catalogue(
    connection: Connection, role: str
) -> None:
    missed = []
    before = fingerprint(connection)
    for statement in DDL:
        name = connection.info.dbname if "DATABASE" in statement else role
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
        found = fingerprint(connection)
        if found == before:
            missed.append(statement)
        before = found
    assert not missed


def test_the_fingerprint_stays_while_only_rows_sessions_and_temporary_tables_change(
    connection: Connection,
) -> None:
    connection.execute("CREATE TABLE made (id serial PRIMARY KEY, name text)")
    connection.execute("CREATE TEMPORARY TABLE opens_the_temporary_schema ()")
    before = fingerprint(connection)
    for statement in (
        "INSERT INTO made SELECT g FROM generate_series(1, 5000) g",
        "DELETE FROM made WHERE id > 100",
        "VACUUM ANALYZE made",
        "ANALYZE",
        "CREATE TEMPORARY TABLE passing (id int PRIMARY KEY, at timestamp DEFAULT now())",
        "ALTER TABLE passing ADD name text CHECK (name <> '')",
        "DROP TABLE passing",
        "SET search_path = pg_catalog",
    ):
        connection.execute(statement)
        assert fingerprint(connection) == before, statement


def test_the_fingerprint_is_the_same_for_all_who_ask(connection: Connection, database: str) -> None:
    with psycopg.connect(database, options="-c search_path=x -c timezone=Asia/Tokyo") as other:
        assert fingerprint(other) == fingerprint(connection)


def test_a_name_means_what_the_first_usable_schema_has(
    connection: Connection, load: Callable[..., Catalogue], role: str, database: str
) -> None:
    for statement in (
        "CREATE SCHEMA closed; CREATE TABLE closed.t (a int); CREATE TABLE public.t (b int)",
        "CREATE SCHEMA {0}; CREATE TABLE {0}.t (c int); CREATE TABLE {0}.own (d int)",
        "ALTER ROLE {0} LOGIN; GRANT USAGE ON SCHEMA {0} TO {0}",
    ):
        connection.execute(sql.SQL(statement).format(sql.Identifier(role)))
    found = load()
    path = (b"search_path", b"closed, public")
    closed, public, own = (
        found.oid_of(f"{schema}.t".encode()) for schema in ("closed", "public", role)
    )
    assert found.verdict(b"SELECT * FROM t", (path,)).tables == (closed,)
    assert found.verdict(b"SELECT * FROM t", ()).tables == (public,)
    assert found.oid_of(b"t") == public
    # Of another role's rights nothing is known, so that only what is there once is sure.
    as_role = (b"role", role.encode())
    assert found.verdict(b"SELECT * FROM t", (as_role, path)).reason == (
        "the role's rights decide which t is meant"
    )
    assert found.verdict(b"SELECT * FROM own", (as_role,)).tables == (
        found.oid_of(f"{role}.own".encode()),
    )
    assert found.verdict(b"SELECT * FROM own", ()).status == "uncacheable"
    assert found.verdict(b"SELECT * FROM public.t", (as_role,)).tables == (public,)
    assert own not in (public, closed, None)


def test_a_schema_that_the_user_may_not_use_is_passed_over(
    connection: Connection, load_catalogue: LoadCatalogue, role: str, database: str
) -> None:
    connection.execute("CREATE SCHEMA closed; CREATE TABLE closed.t (a int)")
    connection.execute("CREATE TABLE public.t (b int)")
    password = "of the test"
    statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}")
    connection.execute(statement.format(sql.Identifier(role), sql.Literal(password)))
    url = psycopg.conninfo.make_conninfo(database, user=role, password=password)
    found = load_catalogue(url)
    settings = ((b"search_path", b'closed, "$user", public'),)
    assert found.verdict(b"SELECT * FROM t", settings).tables == (found.oid_of(b"public.t"),)


@pytest.mark.parametrize(
    ("statement", "text", "reason"),
    [
        (
            "CREATE CAST (text AS int) WITH FUNCTION worth(text) AS IMPLICIT",
            b"SELECT 1",
            "implicit cast to int4",
        ),
        (
            "CREATE CAST (text AS int) WITH FUNCTION worth(text)",
            b"SELECT name::int FROM t",
            "a cast to int4 calls a function of a user",
        ),
        (
            "CREATE CAST (text AS int) WITH FUNCTION worth(text)",
            b"SELECT ARRAY[name]::int[] FROM t",
            "a cast to int4 calls a function of a user",
        ),
        (
            "CREATE CAST (text AS int[]) WITH FUNCTION worths(text)",
            b"SELECT name::int[] FROM t",
            "a cast to int4 calls a function of a user",
        ),
        ("CREATE CAST (varchar AS date) WITH INOUT AS IMPLICIT", b"SELECT 1", "implicit cast"),
        ("CREATE CAST (varchar AS mood) WITH INOUT AS IMPLICIT", b"SELECT 1", ""),
        ("CREATE CAST (mood AS json) WITH FUNCTION told(mood)", b"SELECT 1", "cast to json"),
        (
            "CREATE OPERATOR CLASS odd DEFAULT FOR TYPE json USING btree AS FUNCTION 1 compare",
            b"SELECT DISTINCT '{}'::json",
            "a user's functions compare values of type json",
        ),
        (
            "CREATE TYPE span AS RANGE (subtype = float8); CREATE TABLE s (span span)",
            b"SELECT * FROM s",
            "type public.span, which is a user's own",
        ),
        (
            "CREATE DOMAIN seat AS regclass; CREATE TABLE s (seats seat[])",
            b"SELECT * FROM s",
            "regclass",
        ),
    ],
)
def test_what_users_made_of_types(
    connection: Connection,
    load: Callable[..., Catalogue],
    statement: str,
    text: bytes,
    reason: str,
) -> None:
    connection.execute("CREATE TYPE mood AS ENUM ('ok')")
    connection.execute("CREATE TABLE t (name text, data json)")
    for name, argument, result in (
        ("worth", "text", "int"),
        ("worths", "text", "int[]"),
        ("told", "mood", "json"),
        ("compare", "json, json", "int"),
    ):
        body = f"RETURNS {result} IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        connection.execute(f"CREATE FUNCTION {name}({argument}) {body}")
    connection.execute(statement)
    found = load().verdict(text, ())
    assert bool(found.status) == bool(reason)
    assert reason in found.reason


def test_extensions_overloads_of_builtin_functions_are_as_good_as_those(
    connection: Connection, load: Callable[..., Catalogue]
) -> None:
    connection.execute("CREATE EXTENSION vector; CREATE TABLE t (id int, v vector(2))")
    connection.execute(
        "CREATE AGGREGATE sum(text) (SFUNC = textcat, STYPE = text); CREATE SCHEMA apart;"
        "ALTER AGGREGATE sum(text) SET SCHEMA apart"
    )
    found = load()
    assert found.verdict(b"SELECT sum(id), avg(id), avg(v) FROM t", ()).status == ""
    assert found.verdict(b"SELECT id FROM t ORDER BY v <-> '[1,2]'", ()).status == ""
    assert "public.l2_distance()" in found.verdict(b"SELECT l2_distance(v, v) FROM t", ()).reason
    settings = ((b"search_path", b"public, apart"),)
    assert "apart.sum()" in found.verdict(b"SELECT sum(id) FROM t", settings).reason


def test_functions_that_the_user_vouches_for_may_be_postgresqls_own(
    load: Callable[..., Catalogue],
) -> None:
    text = b"SELECT date_trunc('day', d) FROM (VALUES (timestamptz '2024-01-01')) v(d)"
    assert load().verdict(text, ()).status == "volatile"
    assert load("pg_catalog.date_trunc").verdict(text, ()).status == ""


def test_what_the_wal_does_not_tell_of(
    connection: Connection, load: Callable[..., Catalogue]
) -> None:
    connection.execute("CREATE TABLE t (a int); CREATE UNLOGGED TABLE u (a int)")
    connection.execute("CREATE MATERIALIZED VIEW m AS SELECT a FROM t; CREATE SEQUENCE s")
    connection.execute(
        "CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler;"
        "CREATE TABLE o (a int) USING other"
    )
    found = load()
    named = {found.name_of(oid): reason for oid, reason in found.unguarded.items()}
    assert named == {
        "public.u": "an unlogged table",
        "public.m": "a materialized view",
        "public.o": "a table with an access method of its own",
    }
    assert found.name_of(1) == "1"
    assert found.oid_of(b"nothing") is None


def test_the_defaults_of_sessions_are_those_of_the_role_and_the_database(
    connection: Connection, load: Callable[..., Catalogue]
) -> None:
    connection.execute("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t (a int)")
    assert load().default_isolation == b"read committed"
    assert load().verdict(b"SELECT * FROM t", ()).status == "uncacheable"
    name = sql.Identifier(connection.info.dbname)
    for setting in ("search_path = elsewhere", "default_transaction_isolation = 'serializable'"):
        connection.execute(sql.SQL(f"ALTER DATABASE {{}} SET {setting}").format(name))
    found = load()
    assert found.default_isolation == b"serializable"
    assert found.verdict(b"SELECT * FROM t", ()).tables == (found.oid_of(b"elsewhere.t"),)


def test_names_that_are_not_ascii_are_understood_in_utf8_alone(
    postgres: EmbeddedPostgres, connection: Connection, load_catalogue: LoadCatalogue, database: str
) -> None:
    utf8 = load_catalogue(database)
    assert utf8.verdict("SELECT 1 AS é".encode(), ()).status == ""
    assert utf8.verdict("SELECT 1 AS é".encode("latin1"), ()).status == "parseerror"
    for encoding, status in ((b"SJIS", "uncacheable"), (b"utf-8", "")):
        settings = ((b"client_encoding", encoding),)
        assert utf8.verdict("SELECT 1 AS é".encode(), settings).status == status
    name = connection.info.dbname + "_latin1"
    made = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
    connection.execute(sql.SQL(made).format(sql.Identifier(name)))
    try:
        latin1 = load_catalogue(psycopg.conninfo.make_conninfo(database, dbname=name))
        found = latin1.verdict("SELECT 1 AS é".encode(), ())
        assert "not in UTF-8" in found.reason
        assert latin1.verdict("SELECT 'é'".encode(), ()).status == ""
    finally:
        dropped = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
        connection.execute(dropped)


def test_a_long_name_means_its_first_63_bytes(
    connection: Connection, load: Callable[..., Catalogue]
) -> None:
    connection.execute(f"CREATE TABLE {'x' * 63} (a int)")
    found = load()
    assert found.verdict(b"SELECT * FROM " + b"x" * 70, ()).tables == (found.oid_of(b"x" * 63),)


def test_verdicts_are_remembered_within_bounds(
    connection: Connection, load: Callable[..., Catalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.execute("CREATE TABLE t (a int)")
    monkeypatch.setattr(catalogue_module, "_MAX_VERDICTS", 10)
    monkeypatch.setattr(catalogue_module, "_MAX_SESSIONS", 4)
    found = load()
    first = found.verdict(b"SELECT a FROM t WHERE a = 1", ())
    assert found.verdict(b"SELECT a FROM t WHERE a = 23456", ()) is first
    commented = b"SELECT a /* traceparent='00-%d' */ FROM t WHERE a = 1 -- now"
    assert found.verdict(commented % 1, ()) == first
    assert found.verdict(commented % 2, ()) is found.verdict(commented % 3, ())
    for number in range(50):
        settings = ((b"search_path", f"public, s{number % 7}".encode()),)
        text = f"SELECT a AS a{number} FROM t".encode()
        assert found.verdict(text, settings).status == ""
        assert found.verdict(text, ()).status == ""
    assert len(found._sessions) <= 2 * 4
    session = found._session(())
    assert len(session.verdicts) + len(session.earlier) <= 20
    assert found.verdict(b"SELECT a FROM t WHERE a = 1", ()) == first
