"""A real server is the judge of what changes a session and what does not."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.types import TypeInfo
from psycopg.types.composite import CompositeInfo
from psycopg.types.enum import EnumInfo
from psycopg.types.range import RangeInfo
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql

from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.sql.facts import facts_of
from hyperdrive_client.sql.session_effects import (
    _HARMLESS_FUNCTIONS,
    _KEYWORDS_BEFORE_PARENTHESIS,
)

Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, name text, tags text[], data jsonb);
CREATE TABLE u (id int, t_id int REFERENCES t DEFERRABLE);
CREATE SEQUENCE s;
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT pg_advisory_lock(1); SELECT 1';
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE floats AS RANGE (subtype = float8);
CREATE TABLE pgbench_accounts (aid int, bid int, abalance int, filler char(84));
CREATE TABLE pgbench_branches (bid int, bbalance int, filler char(88));
CREATE TABLE pgbench_tellers (tid int, bid int, tbalance int, filler char(84));
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp);
"""
# Settings that pg_settings does not show, because no module has defined them.
CUSTOM = ("a.b", "local.x", "transaction.x", "constraints.x")


@pytest.fixture(scope="module")
def dsn(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database with the schema above."""
    name = f"test_{uuid4().hex}"
    dsn = postgres.create_database(name)
    with psycopg.connect(dsn) as connection:
        connection.execute(SCHEMA)
    yield dsn
    with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def session(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        yield connection


@pytest.fixture
def fresh(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        yield connection


@pytest.fixture(scope="module")
def observer(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


STATE = {
    "settings": "SELECT name, setting, source FROM pg_settings "
    "WHERE name NOT LIKE 'transaction%' ORDER BY name",
    "custom settings": f"SELECT current_setting(name, true) FROM unnest('{{{','.join(CUSTOM)}}}'"
    "::text[]) AS name",
    "users": "SELECT current_user, session_user",
    "schemas": "SELECT current_schemas(true), pg_my_temp_schema()",
    "temporary relations": "SELECT relname FROM pg_class "
    "WHERE relnamespace = pg_my_temp_schema() ORDER BY 1",
    "channels": "SELECT pg_listening_channels()",
    "prepared statements": "SELECT name, statement FROM pg_prepared_statements ORDER BY 1",
    "cursors": "SELECT name, is_holdable FROM pg_cursors ORDER BY 1",
}


def state(session: Connection, observer: Connection) -> dict[str, object]:
    """All that one can see of a session that is in no transaction."""
    assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    pid = session.info.backend_pid
    found: dict[str, object] = {
        name: session.execute(query.encode()).fetchall() for name, query in STATE.items()
    }
    found["locks"] = observer.execute(
        "SELECT locktype, objid, mode FROM pg_locks WHERE pid = %s ORDER BY 1, 2", [pid]
    ).fetchall()
    found["replication slots"] = observer.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE active_pid = %s", [pid]
    ).fetchall()
    # Last, for an error ends temporary slots.
    try:
        found["last value"] = session.execute("SELECT lastval()").fetchone()
    except psycopg.errors.ObjectNotInPrerequisiteState:
        found["last value"] = None
    return found


def run(session: Connection, text: str) -> None:
    if not text.startswith("COPY"):
        session.execute(text.encode())
        return
    with session.cursor().copy(text.encode()) as copy:
        if "STDOUT" in text:
            list(copy)


PGBENCH = [
    "select count(*) from pgbench_branches",
    "select o.n, p.partstrat, pg_catalog.count(i.inhparent) from pg_catalog.pg_class as c join "
    "pg_catalog.pg_namespace as n on (n.oid = c.relnamespace) cross join lateral (select "
    "pg_catalog.array_position(pg_catalog.current_schemas(true), n.nspname)) as o(n) left join "
    "pg_catalog.pg_partitioned_table as p on (p.partrelid = c.oid) left join "
    "pg_catalog.pg_inherits as i on (c.oid = i.inhparent) where c.relname = 'pgbench_accounts' "
    "and o.n is not null group by 1, 2 order by 1 asc limit 1",
    "vacuum pgbench_branches",
    "vacuum analyze pgbench_accounts",
    "truncate pgbench_history",
    "truncate table pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers",
    "BEGIN;UPDATE pgbench_accounts SET abalance = abalance + -42 WHERE aid = 1;"
    "SELECT abalance FROM pgbench_accounts WHERE aid = 1;"
    "UPDATE pgbench_tellers SET tbalance = tbalance + -42 WHERE tid = 1;"
    "UPDATE pgbench_branches SET bbalance = bbalance + -42 WHERE bid = 1;"
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)"
    " VALUES (1, 1, 1, -42, CURRENT_TIMESTAMP);END;",
    "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
    "COPY pgbench_accounts FROM STDIN WITH (FREEZE ON)",
]
HARMLESS = [
    *PGBENCH[:-1],
    "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE; SELECT 1; COMMIT AND CHAIN; ABORT",
    "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL work_mem = '1MB'; END",
    "BEGIN; SET LOCAL SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; END",
    "BEGIN; SET LOCAL ROLE pg_monitor; SET LOCAL SESSION AUTHORIZATION pg_monitor; END",
    "BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO u VALUES (1, NULL); COMMIT",
    "BEGIN; SAVEPOINT a; SET LOCAL timezone = 'UTC'; ROLLBACK TO a; RELEASE a; COMMIT",
    "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT pg_advisory_xact_lock(1); COMMIT",
    "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2)",
    "BEGIN; DECLARE c SCROLL CURSOR FOR TABLE t; FETCH ALL FROM c; MOVE LAST IN c; COMMIT",
    "BEGIN; DECLARE c CURSOR FOR VALUES (1); CLOSE c; CLOSE ALL; COMMIT",
    "SET LOCAL work_mem = '1MB'",
    "SET TRANSACTION READ ONLY",
    "SHOW ALL",
    "TABLE t",
    "VALUES (1), (2)",
    "ANALYZE",
    "VACUUM FULL t",
    "TRUNCATE t, u RESTART IDENTITY CASCADE",
    "INSERT INTO t (id, name) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    "MERGE INTO t USING (VALUES (2)) AS v(id) ON (t.id = v.id) WHEN NOT MATCHED THEN "
    "INSERT VALUES (v.id)",
    "UPDATE t SET name = upper(name), tags = array_append(tags, 'x') WHERE id = 1 RETURNING *",
    "DELETE FROM t WHERE id > 100",
    "SELECT * FROM t WHERE id = 1 FOR UPDATE NOWAIT",
    "SELECT current_setting('work_mem'), current_schema(), current_database(), version()",
    "SELECT random(), gen_random_uuid(), now(), clock_timestamp(), pg_backend_pid()",
    "SELECT to_tsvector('english', 'a b') @@ to_tsquery('a'), ts_headline('a', to_tsquery('a'))",
    "SELECT * FROM json_populate_record(NULL::pair, '{\"a\": 1}')",
    "SELECT pg_get_viewdef('pg_tables'::regclass), pg_get_functiondef('f'::regproc)",
    "SELECT txid_current(), txid_current_snapshot()",
    "SELECT nspname FROM pg_namespace JOIN pg_class ON relnamespace = pg_namespace.oid LIMIT (1)",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 9) TABLE n",
    "WITH x AS MATERIALIZED (SELECT 1), y AS NOT MATERIALIZED (SELECT 2) SELECT * FROM x, y",
    "SELECT count(*) FILTER (WHERE true) OVER (PARTITION BY (id) ORDER BY (id)) FROM t",
    "COPY t FROM STDIN",
    "COPY public.t (id, name) FROM STDIN",
    "COPY (SELECT lower(name) FROM t) TO STDOUT",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_judged_harmless_changes_nothing_in_the_session(
    session: Connection, observer: Connection, text: str
) -> None:
    assert not facts_of(text.encode()).traces
    before = state(session, observer)
    run(session, text)
    assert state(session, observer) == before


DEEDS = [
    "SET work_mem = '1MB'",
    "SET local.x = 'y'",
    "SET transaction . x = 'y'",
    "SET constraints/**/.x TO 'y'",
    "SET ROLE pg_monitor",
    "SELECT set_config('a.b', 'x', false)",
    "SELECT \"set_config\"('a.b', 'x', false)",
    "SELECT SET_CONFIG --(\n('a.b', 'x', false)",
    "SELECT pg_catalog . set_config /* ( */ ('a.b', 'x', false)",
    "SELECT U&\"!0073et_config\" UESCAPE '!' ('a.b', 'x', false)",
    "SELECT U&\"\\0073et_config\"('a.b', 'x', false)",
    "SELECT E'\\'', set_config('a.b', 'x', false) -- '",
    "SELECT E'a'\n'\\'', set_config('a.b', 'x', false) -- '",
    "SELECT $$'$$, set_config('a.b', 'x', false), $a$'$a$",
    "SELECT 1 /* /* */ ' */, set_config('a.b', 'x', false) /* ' */",
    "SELECT 1 AS \"as \", set_config('a.b', 'x', false) \"(x\"",
    "COPY (SELECT set_config('a.b', 'x', false)) TO STDOUT",
    "UPDATE pg_settings SET setting = '1234' WHERE name = 'work_mem'",
    "UPDATE \"pg_settings\" SET setting = '1234' WHERE name = 'work_mem'",
    "UPDATE U&\"pg!005fsettings\" UESCAPE '!' SET setting = '1234' WHERE name = 'work_mem'",
    "SELECT 1; SELECT pg_advisory_lock(1); SELECT 2",
    "SELECT f()",
    "SELECT * FROM ROWS FROM (f())",
    "SELECT pg_try_advisory_lock_shared(1)",
    "SELECT nextval('s')",
    "LISTEN channel",
    "PREPARE p AS SELECT 1",
    "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "CREATE TEMP TABLE x (a int)",
    "CREATE TABLE pg_temp.x (a int)",
    "SELECT 1 AS a INTO TEMP x",
    "SELECT 1 AS a INTO pg_temp.x",
    "SELECT 1 AS insert INTO pg_temp.x",
    "WITH y AS (SELECT 1) SELECT (1) merge INTO pg_temp.x",
    "EXPLAIN ANALYZE CREATE TABLE pg_temp.x AS SELECT 1",
    "SELECT query_to_xml('SELECT pg_advisory_lock(1)', true, true, '')",
    "SELECT pg_create_physical_replication_slot('test_slot', false, true)",
]


@pytest.mark.parametrize("text", DEEDS)
def test_what_changes_the_session_is_a_yes(
    fresh: Connection, observer: Connection, text: str
) -> None:
    before = state(fresh, observer)
    with suppress(psycopg.errors.FeatureNotSupported):  # a server without libxml
        run(fresh, text)
        assert state(fresh, observer) != before
    facts = facts_of(text.encode())
    assert facts.traces or facts.advances


def test_set_local_leaves_of_a_custom_setting_what_discard_all_leaves_too(
    fresh: Connection,
) -> None:
    text = "BEGIN; SET LOCAL a.b = 'x'; COMMIT"
    assert not facts_of(text.encode()).traces
    for statement in (text, "DISCARD ALL"):
        fresh.execute(statement.encode())
        assert fresh.execute("SELECT current_setting('a.b', true)").fetchone() == ("",)


@pytest.mark.parametrize("text", PGBENCH)
def test_pgbench_says_nothing_that_changes_the_session(text: str) -> None:
    assert not facts_of(text.encode()).traces


def test_no_keyword_before_a_parenthesis_can_be_a_function(session: Connection) -> None:
    """PostgreSQL, "SQL Key Words": reserved ones, and those that cannot be function names."""
    words = session.execute(
        "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'C')"
    ).fetchall()
    assert set(_KEYWORDS_BEFORE_PARENTHESIS.decode().split()) <= {word for (word,) in words}


# Of the functions that are no mere function of their arguments and the data, why they are harmless.
VOLATILE = {
    "clock_timestamp": "reads the clock",
    "gen_random_uuid": "does not use the session's seed",
    "pg_advisory_xact_lock": "ends with the transaction",
    "pg_blocking_pids": "reads shared memory",
    "pg_database_size": "reads the file system",
    "pg_is_in_recovery": "reads shared memory",
    "pg_relation_size": "reads the file system",
    "pg_sleep": "waits",
    "pg_table_size": "reads the file system",
    "pg_total_relation_size": "reads the file system",
    "pg_try_advisory_xact_lock": "ends with the transaction",
    "random": "uses the seed, which setseed sets",
    "timeofday": "reads the clock",
}


def test_every_function_is_postgresqls_own_and_no_unknown_one_is_volatile(
    session: Connection,
) -> None:
    names = _HARMLESS_FUNCTIONS.decode().split()
    assert len(names) == len(set(names))
    known = session.execute(
        "SELECT proname, bool_or(provolatile = 'v') FROM pg_proc "
        "WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY proname "
        "UNION ALL SELECT word, false FROM pg_get_keywords() WHERE catcode IN ('R', 'C')"
    ).fetchall()
    assert set(names) <= {name for name, _ in known}
    assert {name for name, volatile in known if volatile and name in names} == VOLATILE.keys()


def test_no_other_rule_of_the_catalogue_acts_on_the_session(session: Connection) -> None:
    rules = session.execute(
        "SELECT DISTINCT tablename FROM pg_rules WHERE schemaname IN "
        "('pg_catalog', 'information_schema')"
    ).fetchall()
    assert rules == [("pg_settings",)]


# A value of each type that a function below takes, as an expression.
ARGUMENTS = {
    "any": "1",
    "anyarray": "ARRAY[1]",
    "anycompatible": "1",
    "anycompatiblearray": "ARRAY[1]",
    "anyelement": "1",
    "anymultirange": "'{[1,2)}'::int4multirange",
    "anynonarray": "1",
    "anyrange": "'[1,2)'::int4range",
    "boolean": "true",
    "bytea": "'abc'::bytea",
    "double precision": "0.01::float8",
    "interval": "'1 day'::interval",
    "json": "'{\"a\": [1]}'::json",
    "jsonb": "'{\"a\": [1]}'::jsonb",
    "jsonpath": "'$.a'::jsonpath",
    "name": "'utf8'::name",
    "oid": "'t'::regclass::oid",
    "pg_node_tree": "NULL::pg_node_tree",
    "record": "ROW(1)",
    "regclass": "'t'::regclass",
    "text": "'t'::text",
    "text[]": "'{a,b}'::text[]",
    "tsquery": "'a'::tsquery",
    "tsvector": "'a'::tsvector",
    "xml": "NULL::xml",
}
# What needs arguments that fit each other, or a grammar of its own.
CALLS = """
date_part('day', now()) | date_trunc('day', now()) | extract(day FROM now())
decode('00', 'hex') | encode('0'::bytea, 'hex') | to_ascii('a', 'latin1') | to_number('1', '9')
has_any_column_privilege('t', 'SELECT') | has_column_privilege('t', 'id', 'SELECT')
has_database_privilege(current_database(), 'CONNECT') | has_function_privilege('f()', 'EXECUTE')
has_schema_privilege('public', 'USAGE') | has_sequence_privilege('s', 'USAGE')
has_table_privilege('t', 'SELECT') | pg_database_size(current_database())
pg_describe_object('pg_class'::regclass, 't'::regclass, 0) | pg_get_serial_sequence('t', 'id')
json_array_elements('[1]') | json_array_elements_text('[1]') | json_array_length('[1]')
json_extract_path('{}', 'a') | json_extract_path_text('{}', 'a') | json_object_agg('a', 1)
json_populate_record(NULL::pair, '{}') | json_populate_recordset(NULL::pair, '[{}]')
jsonb_array_elements('[1]') | jsonb_array_elements_text('[1]') | jsonb_array_length('[1]')
jsonb_extract_path('{}', 'a') | jsonb_extract_path_text('{}', 'a') | jsonb_object_agg('a', 1)
jsonb_populate_record(NULL::pair, '{}') | jsonb_insert('{}', '{a}', '1')
jsonb_set('{}', '{a}', '1') | mode() WITHIN GROUP (ORDER BY 1)
percentile_cont(0.5) WITHIN GROUP (ORDER BY 1)
percentile_disc(0.5) WITHIN GROUP (ORDER BY 1) | to_regtype('int')
coalesce(1, 2) | greatest(1, 2) | least(1, 2) | nullif(1, 2) | trim('a') | localtime(0)
localtimestamp(0) | session_user
(SELECT a FROM json_to_record('{}') AS x(a int)) | (SELECT a FROM jsonb_to_record('{}') AS x(a int))
(SELECT a FROM json_to_recordset('[{}]') AS x(a int))
(SELECT a FROM jsonb_to_recordset('[{}]') AS x(a int))
"""
FUNCTIONS = """
SELECT proname, prokind, ARRAY(
    SELECT format_type(each, NULL) FROM unnest(proargtypes) WITH ORDINALITY AS t(each, i) ORDER BY i
) FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (%s)
ORDER BY oid
"""


def argument(kind: str) -> str:
    if kind in ARGUMENTS:
        return ARGUMENTS[kind]
    if kind.endswith(("int", "integer", "numeric", "real")):
        return f"1::{kind}"
    if kind.startswith(("date", "time")):
        return f"'2020-01-02 03:04:05+00'::{kind}"
    return f"NULL::{kind}"


def test_every_form_of_every_function_changes_nothing_in_the_session(
    session: Connection, observer: Connection
) -> None:
    names = _HARMLESS_FUNCTIONS.decode().split()
    before = state(session, observer)
    ran = set()
    for name, kind, types in session.execute(FUNCTIONS, [names]).fetchall():
        over = "OVER ()" if kind == "w" else ""
        # Not every form takes the arguments above.
        with suppress(psycopg.Error):
            session.execute(f'SELECT "{name}"({", ".join(map(argument, types))}) {over}'.encode())
            ran.add(name)
    for call in CALLS.replace("|", "\n").strip().splitlines():
        session.execute(f"SELECT {call}".encode())
        ran.update(re.findall(r"\w+", call))
    assert state(session, observer) == before
    # There may be no XML in this server.
    assert set(names) - ran <= {"xmlagg"}


@pytest.mark.skipif(sys.platform != "linux", reason="libpq's trace needs Linux in psycopg")
def test_psycopg_says_nothing_of_its_own_that_changes_the_session(dsn: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with trace.open("w") as file, psycopg.connect(dsn) as connection:
        connection.pgconn.trace(file.fileno())
        connection.pgconn.set_trace_flags(psycopg.pq.Trace.SUPPRESS_TIMESTAMPS)
        _use_psycopg(connection)
        connection.pgconn.untrace()
    texts = _requests(trace.read_bytes())
    assert len(texts) > 40
    # What psycopg does when it knows no better than to forget its prepared statements.
    assert {text for text in texts if facts_of(text).traces} <= {b"DEALLOCATE ALL"}


def _use_psycopg(connection: Connection) -> None:
    for _ in range(8):
        connection.execute("SELECT * FROM t WHERE id = %s AND name LIKE 'a%%'", [1])
    connection.execute("SELECT %(a)s::jsonb, %(b)s, %(c)s", {"a": "{}", "b": [1, 2], "c": b"x"})
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO u (id) VALUES (%s) RETURNING id", [(1,), (2,)])
        with cursor.copy("COPY u (id) FROM STDIN") as copy:
            copy.write_row((3,))
        with cursor.copy("COPY (SELECT * FROM u) TO STDOUT WITH (FORMAT binary)") as copy:
            list(copy)
        list(cursor.stream("SELECT * FROM u"))
    with connection.cursor("a cursor", scrollable=True) as cursor:
        cursor.execute("SELECT * FROM u WHERE id > %s", [0])
        cursor.scroll(1)
        cursor.fetchone()
        cursor.fetchall()
    with connection.transaction(), connection.transaction("inner"):
        connection.execute("SELECT 1")
    with connection.pipeline():
        connection.execute("SELECT 1")
        connection.execute("UPDATE u SET id = id + 1")
    TypeInfo.fetch(connection, "mood")
    EnumInfo.fetch(connection, "mood")
    CompositeInfo.fetch(connection, "pair")
    RangeInfo.fetch(connection, sql.Identifier("public", "floats"))
    connection.rollback()
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    connection.read_only = connection.deferrable = True
    connection.execute("SELECT 1")
    connection.commit()


def _requests(trace: bytes) -> list[bytes]:
    """The texts in the Query and Parse messages of a PQtrace, which escapes nothing."""
    texts = []
    for message in trace.replace(b"\nB\t", b"\n\0").replace(b"\nF\t", b"\n\0F\t").split(b"\n\0"):
        kind = message.split(b"\t", 3)
        if kind[0] == b"F" and kind[2] == b"Query":
            texts.append(kind[3].strip()[1:-1])
        elif kind[0] == b"F" and kind[2] == b"Parse":
            texts.append(kind[3].split(b'"', 3)[3].rpartition(b'"')[0])
    return texts


class Base(orm.DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "person"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    kind: orm.Mapped[str] = orm.mapped_column(sa.String(20))
    name: orm.Mapped[str | None]
    boss_id: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey("person.id"))
    staff: orm.Mapped[list[Person]] = orm.relationship()
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Engineer(Person):
    __tablename__ = "engineer"
    id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("person.id"), primary_key=True)
    order: orm.Mapped[str | None]
    __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012


class Tag(Base):
    __tablename__ = "Tag"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    key: orm.Mapped[str] = orm.mapped_column(unique=True)
    engineer_id: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey("engineer.id"))
    engineer: orm.Mapped[Engineer | None] = orm.relationship()


def test_sqlalchemy_says_nothing_that_changes_the_session(database: str) -> None:
    engine = sa.create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    texts: list[str] = []
    with engine.begin() as connection:
        Base.metadata.create_all(connection)

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _(_c: object, _u: object, statement: str, *_: object) -> None:
        texts.append(statement)

    with orm.Session(engine) as session:
        _use_the_orm(session)
    inspector = sa.inspect(engine)
    inspector.reflect_table(sa.Table("Tag", sa.MetaData()), None)
    inspector.get_multi_table_comment()
    inspector.get_view_names()
    inspector.get_multi_check_constraints()
    inspector.get_sequence_names()
    inspector.get_schema_names()
    engine.dispose()
    assert len(texts) > 30
    assert [text for text in texts if facts_of(text.encode()).traces] == []


def _use_the_orm(session: orm.Session) -> None:
    boss = Engineer(name="b", staff=[Engineer(name=str(i)) for i in range(5)])
    session.add_all([boss, Person(name="p"), *(Tag(key=str(i), engineer=boss) for i in range(5))])
    session.commit()
    with session.begin_nested():
        boss.name = "boss"
    alias = orm.aliased(Engineer)
    count = sa.func.count()
    chain = sa.select(Person.id).where(Person.boss_id.is_(None)).cte("chain", recursive=True)
    chain = chain.union_all(sa.select(Person.id).join(chain, Person.boss_id == chain.c.id))
    for statement in (
        sa.select(Person).where(Person.id == 1),
        sa.select(Person).options(orm.joinedload(Person.staff)).limit(3),
        sa.select(Person).options(orm.selectinload(Person.staff)),
        sa.select(Person).options(orm.subqueryload(Person.staff)),
        sa.select(Tag).join(Tag.engineer).join(Person.staff.of_type(alias)),
        sa.select(Tag).outerjoin(Tag.engineer).options(orm.contains_eager(Tag.engineer)),
        sa.select(Tag).options(orm.joinedload(Tag.engineer)).order_by(Tag.key.desc()),
        sa.select(Tag).where(Tag.engineer.has(Engineer.order.is_(None)), Tag.key.in_(["1", "2"])),
        sa.select(Person).where(Person.staff.any(Person.name.ilike("%a%")) | ~Person.staff.any()),
        sa.select(Person).where(Person.name.startswith("a", autoescape=True)),
        sa.select(Person.kind, count.label("count(*)")).group_by(Person.kind).having(count > 1),
        sa.select(count.filter(Tag.id > 1).over(), sa.func.max(Tag.id).over(partition_by=Tag.key)),
        sa.select(sa.func.coalesce(Person.name, "x"), sa.cast(Person.id, sa.String(10))),
        sa.select(sa.case((Person.id > 1, "a"), else_="b"), sa.extract("year", sa.func.now())),
        sa.select(chain.c.id),
        sa.select(sa.union(sa.select(Tag.id), sa.select(Person.id)).subquery("both")),
        sa.select(Person).where(Person.id == sa.any_(postgresql.array([1, 2]))).with_for_update(),
        sa.select(
            Person.id, sa.select(Tag.key).where(Tag.engineer_id == Person.id).lateral().c.key
        ),
        sa.insert(Tag).from_select(["key"], sa.select(sa.literal("z"))),
        postgresql.insert(Tag)
        .values(key="z")
        .on_conflict_do_update(index_elements=["key"], set_={"key": "y"}),
        sa.update(Tag).values(key=Tag.key + "!").where(Tag.id > 1),
        sa.delete(Tag).where(Tag.key == "q").returning(Tag.id),
    ):
        session.execute(statement)
    session.get(Engineer, 1, with_for_update=True)
    session.execute(sa.insert(Tag), [{"key": f"many {i}"} for i in range(50)])
    session.refresh(boss)
    session.delete(session.scalars(sa.select(Tag)).first())
    session.rollback()
