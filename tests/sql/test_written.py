"""What trees say of writes, where no catalogue is needed."""

from __future__ import annotations

import pytest

from hyperdrive_client.sql.reads import Name
from hyperdrive_client.sql.written import (
    DELETE,
    INSERT,
    TRUNCATE,
    UPDATE,
    Target,
    uses_of,
    uses_of_atomic,
    uses_of_long,
    uses_of_plpgsql,
)

DECLARED = "v int; r record; c CURSOR (z int) FOR SELECT z; d refcursor; w int[];"


def target(text: str) -> Target:
    """The one of a text."""
    (found,) = uses_of(text.encode()).targets
    return found


def test_a_target_has_its_name_and_commands() -> None:
    assert target("INSERT INTO a.b VALUES (1)")[:2] == (Name("a", "b"), INSERT)
    assert target('DELETE FROM "A.b"')[:2] == (Name("", "A.b"), DELETE)
    assert target("TRUNCATE t")[:2] == (Name("", "t"), TRUNCATE)
    assert target("COPY t FROM STDIN")[:2] == (Name("", "t"), INSERT)
    merge = "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE"
    assert target(merge)[:2] == (Name("", "t"), DELETE)


def test_only_is_the_table_alone() -> None:
    assert target("UPDATE ONLY t SET a = 1").alone
    assert not target("UPDATE t SET a = 1").alone


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("UPDATE t SET a = 1, b[1] = 2, c.d = 3", "a b c"),
        ('UPDATE t SET ("A", b) = (SELECT 1, 2)', "A b"),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1", "b"),
        (
            "MERGE INTO t USING s ON true WHEN MATCHED AND t.a = 1 THEN UPDATE SET a = 1"
            " WHEN MATCHED THEN UPDATE SET b = 1 WHEN NOT MATCHED THEN INSERT (c) VALUES (1)",
            "a b",
        ),
    ],
)
def test_the_columns_that_an_update_sets(text: str, columns: str) -> None:
    found = target(text)
    assert found.commands & UPDATE
    assert found.columns == frozenset(columns.split())


@pytest.mark.parametrize(
    "body",
    [
        "PERFORM f();",
        "v := f();",
        "v = f();",
        "v := 1 = f();",
        "w[f()] := 1;",
        "r.x := f();",
        "IF f() THEN NULL; END IF;",
        "IF true THEN NULL; ELSIF f() THEN NULL; END IF;",
        "CASE f() WHEN 1 THEN NULL; ELSE NULL; END CASE;",
        "CASE 1 WHEN f() THEN NULL; ELSE NULL; END CASE;",
        "CASE WHEN true THEN NULL; ELSE PERFORM f(); END CASE;",
        "WHILE f() LOOP NULL; END LOOP;",
        "LOOP EXIT WHEN f(); END LOOP;",
        "LOOP CONTINUE WHEN f(); END LOOP;",
        "FOR i IN f()..2 LOOP NULL; END LOOP;",
        "FOR i IN 1..f() LOOP NULL; END LOOP;",
        "FOR i IN 1..2 BY f() LOOP NULL; END LOOP;",
        "FOR i IN 1..2 LOOP PERFORM f(); END LOOP;",
        "FOR r IN SELECT f() LOOP NULL; END LOOP;",
        "FOR r IN c(f()) LOOP NULL; END LOOP;",
        "FOREACH v IN ARRAY f() LOOP NULL; END LOOP;",
        "OPEN c(f());",
        "OPEN d FOR SELECT f();",
        "FETCH RELATIVE f() FROM c INTO v;",
        "MOVE FORWARD f() FROM c;",
        "RETURN NEXT f();",
        "RETURN QUERY SELECT f();",
        "RAISE NOTICE 'x %', f();",
        "RAISE NOTICE 'x' USING MESSAGE = f();",
        "ASSERT f();",
        "ASSERT true, f();",
        "SELECT f() INTO v;",
        "INSERT INTO t VALUES (1) RETURNING f() INTO v;",
        "CALL f();",
        "BEGIN NULL; EXCEPTION WHEN others THEN PERFORM f(); END;",
        "<<inner>> DECLARE x int := f(); BEGIN NULL; END inner;",
        "DECLARE x t%ROWTYPE; y s.t.a%TYPE; BEGIN x.b := f(); SELECT * INTO x FROM t; END;",
        'DECLARE x "S"."T"%rowtype; BEGIN FOR x IN SELECT 1 LOOP PERFORM f(); END LOOP; END;',
        "DECLARE x CURSOR FOR SELECT f(); BEGIN OPEN x; END;",
    ],
)
def test_every_expression_of_plpgsql_is_looked_at(body: str) -> None:
    definition = (
        "CREATE FUNCTION x(a text) RETURNS SETOF text LANGUAGE plpgsql AS"
        f" $x$ DECLARE {DECLARED} BEGIN {body} END $x$"
    )
    uses = uses_of_plpgsql(definition)
    assert not uses.anything
    assert "f" in {call.name.name for call in uses.calls}


@pytest.mark.parametrize(
    "body",
    [
        "EXECUTE 'DELETE FROM t';",
        "OPEN d FOR EXECUTE 'SELECT 1';",
        "FOR r IN EXECUTE 'SELECT 1' LOOP NULL; END LOOP;",
        "RETURN QUERY EXECUTE 'SELECT 1';",
        "COMMIT;",
        "ROLLBACK;",
        "CREATE TABLE t (id int);",
        "unknown.name := 1;",
        "PERFORM (;",
    ],
)
def test_what_plpgsql_may_do_unseen_is_anything(body: str) -> None:
    definition = (
        "CREATE FUNCTION x() RETURNS SETOF text LANGUAGE plpgsql AS"
        f" $x$ DECLARE {DECLARED} BEGIN {body} END $x$"
    )
    assert uses_of_plpgsql(definition).anything


@pytest.mark.parametrize(
    "body",
    [
        "NEW.updated_at := now(); RETURN NEW;",
        "NEW.updated_at = now(); RETURN NEW;",
        "IF OLD IS DISTINCT FROM NEW THEN NEW.a := OLD.a || '{\"x\": {}}'; END IF; RETURN NEW;",
        "NEW := jsonb_populate_record(NEW, '{}'); RETURN NEW;",
        "RAISE EXCEPTION 'no %', TG_TABLE_NAME;",
    ],
)
def test_a_trigger_that_sets_its_row_writes_nothing(body: str) -> None:
    uses = uses_of_plpgsql(
        f"CREATE FUNCTION x() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN {body} END $x$"
    )
    assert not uses.anything
    assert not uses.targets


def test_an_atomic_body_is_looked_at() -> None:
    uses = uses_of_atomic(
        "CREATE FUNCTION x() RETURNS int LANGUAGE sql"
        " BEGIN ATOMIC DELETE FROM a.t; SELECT a.f(1); END"
    )
    assert {each.name for each in uses.targets} == {Name("a", "t")}
    assert {each.name for each in uses.calls} == {Name("a", "f")}


@pytest.mark.parametrize(
    "text",
    [
        "EXPLAIN ANALYZE EXECUTE p",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
        "CREATE TEMP TABLE t AS EXECUTE p",
        "COMMIT PREPARED 'x'",
        "EXECUTE p",
        "ALTER SYSTEM SET work_mem = 1",
        "DO LANGUAGE plpython3u $$ pass $$",
        "SET ROLE x; INSERT INTO t VALUES (1)",
        "RESET ALL; SELECT f()",
        "DISCARD ALL; INSERT INTO t VALUES (1)",
    ],
)
def test_what_is_not_known_is_anything(text: str) -> None:
    assert uses_of(text.encode()).anything


def test_names_stay_what_they_are_where_other_settings_change() -> None:
    assert not uses_of(b"SET LOCAL work_mem = 1; INSERT INTO t VALUES (1)").anything
    assert not uses_of(b"SELECT set_config('my.user', '1', true)").moves_names
    assert uses_of(b"SELECT set_config($1, $2, true)").moves_names


def test_a_long_insert_tells_what_it_may_call() -> None:
    rows = b'INSERT INTO s."T" VALUES ' + b"(lower('x'), 1), " * 1000 + b"(1, 2)"
    uses = uses_of_long(rows + b" ON CONFLICT (a) DO UPDATE SET b = excluded.b;")
    assert {each[:2] for each in uses.targets} == {(Name("s", "T"), INSERT | UPDATE)}
    assert {"lower", "b"} <= uses.words
    assert not uses.anything
    typed = b"INSERT INTO t VALUES " + b"($1::int, $2::TIMESTAMP WITH TIME ZONE), " * 1000
    assert not uses_of_long(typed + b"($1, $2)").anything
    assert uses_of_long(typed + b"($1, (WITH x AS (SELECT 1) TABLE x))").anything
    for end in (b"; DELETE FROM t", b" RETURNING f()", b", ((SELECT 1), 2)", b", ('\\', 1)"):
        assert uses_of_long(rows + end).anything
