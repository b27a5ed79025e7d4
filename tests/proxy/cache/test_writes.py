"""What is told to be written, beside what statements write when a server runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection, sql

from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.proxy.cache.catalogue import Catalogue

from .conftest import LoadCatalogue

NAME = "test_writes"

SCHEMA = """
CREATE SCHEMA shop; CREATE SCHEMA other; CREATE SCHEMA "Odd Name"; CREATE SCHEMA hidden;

CREATE TABLE plain (id int PRIMARY KEY, a int, b text);
CREATE TABLE audit (what text);
CREATE TABLE tally (n int);
CREATE TABLE deeper (n int);
CREATE TABLE quiet (id int);
CREATE TABLE shop.plain (id int, a int);
CREATE TABLE other.plain (id int, a int);
CREATE TABLE shop.only_here (id int);
CREATE TABLE "Odd Name"."Odd Table" ("Odd Column" int);
CREATE TABLE "plain.plain" (id int);
INSERT INTO plain SELECT n, n, 'x' FROM generate_series(1, 5) n;
INSERT INTO shop.plain VALUES (1, 1); INSERT INTO other.plain VALUES (1, 1);
INSERT INTO tally VALUES (0); INSERT INTO deeper VALUES (0); INSERT INTO quiet VALUES (1);
INSERT INTO "Odd Name"."Odd Table" VALUES (1);

CREATE TABLE parted (id int, part int) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE parted_2_low PARTITION OF parted_2 FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_2_high PARTITION OF parted_2 FOR VALUES FROM (100) TO (200);
INSERT INTO parted VALUES (1, 1), (2, 2), (150, 2);

CREATE TABLE ancestor (id int);
CREATE TABLE heir (extra int) INHERITS (ancestor);
INSERT INTO ancestor VALUES (1); INSERT INTO heir VALUES (2, 2);

CREATE TABLE top (id int PRIMARY KEY, name text);
CREATE TABLE middle (id int PRIMARY KEY,
  top_id int REFERENCES top ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE bottom (id int PRIMARY KEY, middle_id int REFERENCES middle ON DELETE SET NULL);
CREATE TABLE strict (top_id int REFERENCES top);
CREATE TABLE bottom_audit (n int);
INSERT INTO top VALUES (1, 'one'), (2, 'two'); INSERT INTO middle VALUES (10, 1);
INSERT INTO bottom VALUES (100, 10); INSERT INTO bottom_audit VALUES (0);
CREATE FUNCTION count_bottom() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN UPDATE bottom_audit SET n = n + 1; RETURN NEW; END $$;
CREATE TRIGGER counts AFTER UPDATE ON bottom FOR EACH ROW EXECUTE FUNCTION count_bottom();
CREATE TABLE keys (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE keys_low PARTITION OF keys FOR VALUES FROM (0) TO (10);
CREATE TABLE keys_high PARTITION OF keys FOR VALUES FROM (10) TO (20);
CREATE TABLE key_users (id int REFERENCES keys ON DELETE CASCADE);
INSERT INTO keys VALUES (1), (11); INSERT INTO key_users VALUES (1), (11);

CREATE TABLE stamped (id int PRIMARY KEY, updated_at timestamptz, note text);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE TRIGGER stamps BEFORE INSERT OR UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION stamp();
INSERT INTO stamped VALUES (1, NULL, 'x');

CREATE TABLE audited (id int PRIMARY KEY, a int);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  line audit%ROWTYPE;
  size audit.what%TYPE := 'none';
BEGIN
  IF TG_OP = 'DELETE' THEN line.what := OLD.id::text; ELSE line.what = NEW.id::text; END IF;
  INSERT INTO audit VALUES (line.what);
  RETURN NULL;
END $$;
CREATE TRIGGER audits AFTER INSERT OR UPDATE OR DELETE ON audited
  FOR EACH ROW EXECUTE FUNCTION audit();
INSERT INTO audited VALUES (1, 1);

CREATE TABLE nested (id int);
CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO audited VALUES (NEW.id + 1000); RETURN NEW; END $$;
CREATE TRIGGER nests AFTER INSERT ON nested FOR EACH ROW EXECUTE FUNCTION nest();

CREATE TABLE truncated (id int);
CREATE TRIGGER audits AFTER TRUNCATE ON truncated FOR EACH STATEMENT
  EXECUTE FUNCTION count_bottom();
INSERT INTO truncated VALUES (1);

CREATE TABLE picky (id int);
CREATE FUNCTION is_wanted(int) RETURNS bool LANGUAGE plpgsql AS
  $$ BEGIN UPDATE tally SET n = n + 1; RETURN false; END $$;
CREATE TRIGGER stamps BEFORE INSERT ON picky FOR EACH ROW WHEN (is_wanted(NEW.id))
  EXECUTE FUNCTION stamp();

CREATE TABLE late (id int);
CREATE CONSTRAINT TRIGGER counts AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION count_bottom();

CREATE TABLE switched_off (id int);
CREATE TRIGGER counts AFTER INSERT ON switched_off FOR EACH ROW EXECUTE FUNCTION count_bottom();
ALTER TABLE switched_off DISABLE TRIGGER counts;

CREATE TABLE ruled (id int);
CREATE RULE also AS ON INSERT TO ruled DO ALSO UPDATE tally SET n = n + 1;

CREATE VIEW simple_view AS SELECT id, a FROM plain WHERE id < 100;
CREATE VIEW view_of_view AS SELECT id, a FROM simple_view;
CREATE VIEW joined_view AS SELECT p.id, q.id AS q FROM plain p JOIN quiet q ON q.id = p.id;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO audit VALUES ('instead'); RETURN NEW; END $$;
CREATE TRIGGER instead INSTEAD OF INSERT ON joined_view FOR EACH ROW EXECUTE FUNCTION instead();

CREATE FUNCTION bump() RETURNS int LANGUAGE sql AS
  $$ UPDATE tally SET n = n + 1 RETURNING n $$;
CREATE FUNCTION bump_far() RETURNS int LANGUAGE sql AS
  $$ UPDATE public.tally SET n = n + 1 RETURNING n $$;
CREATE FUNCTION bump_atomic() RETURNS int LANGUAGE sql
  BEGIN ATOMIC UPDATE tally SET n = n + 1 RETURNING n; END;
CREATE FUNCTION bump_pl() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN UPDATE tally SET n = n + 1; RETURN 1; END $$;
CREATE FUNCTION nested_bump(step int DEFAULT 1) RETURNS int LANGUAGE plpgsql AS $$
DECLARE total int := 0; part record;
BEGIN
  UPDATE deeper SET n = n + step;
  FOR part IN SELECT bump() AS n LOOP total := total + part.n; END LOOP;
  RETURN total;
END $$;
CREATE FUNCTION looks_stable() RETURNS int LANGUAGE sql STABLE AS $$ SELECT bump() $$;
CREATE FUNCTION dynamic(name text) RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN EXECUTE format('UPDATE %I SET n = n + 1', name); END $$;
CREATE FUNCTION reads_only() RETURNS bigint LANGUAGE plpgsql STABLE AS
  $$ DECLARE n bigint; BEGIN SELECT count(*) INTO n FROM plain; RETURN n; END $$;
CREATE FUNCTION by_row(p plain) RETURNS int LANGUAGE sql AS
  $$ UPDATE tally SET n = n + 1 RETURNING n $$;
CREATE FUNCTION recursive(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  IF n > 0 THEN RETURN recursive(n - 1); END IF;
  UPDATE deeper SET n = deeper.n + 1;
  RETURN 0;
END $$;
CREATE FUNCTION in_subscript() RETURNS int LANGUAGE plpgsql AS
  $$ DECLARE a int[] := '{}'; BEGIN a[bump()] := 1; RETURN 1; END $$;
CREATE FUNCTION by_assignment() RETURNS int LANGUAGE plpgsql AS
  $$ DECLARE v int; w bool; BEGIN w := v = bump(); RETURN 1; END $$;
CREATE FUNCTION everywhere(VARIADIC list int[]) RETURNS SETOF int LANGUAGE plpgsql AS $$
DECLARE c CURSOR (x int) FOR SELECT x + bump(); v int; r record;
BEGIN
  OPEN c(1); FETCH c INTO v; CLOSE c;
  FOR r IN c(2) LOOP NULL; END LOOP;
  FOREACH v IN ARRAY list LOOP RETURN NEXT v; END LOOP;
  RETURN QUERY SELECT bump();
END $$;
CREATE FUNCTION moves_path() RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN SET LOCAL search_path = shop; UPDATE plain SET a = 9; END $$;
CREATE FUNCTION sets_path() RETURNS void LANGUAGE plpgsql AS $$
BEGIN PERFORM set_config('search_path', 'shop', true); UPDATE plain SET a = 9; END $$;
CREATE FUNCTION sets_other() RETURNS void LANGUAGE plpgsql AS $$
BEGIN PERFORM set_config('my.user', '1', true); UPDATE plain SET a = 9; END $$;
CREATE FUNCTION own_path() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = shop, pg_temp AS $$ BEGIN UPDATE plain SET a = 9; END $$;
CREATE FUNCTION callers_path() RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN UPDATE plain SET a = 9; END $$;
CREATE FUNCTION in_own_path() RETURNS void LANGUAGE sql SET search_path = other AS
  $$ SELECT public.callers_path() $$;
CREATE FUNCTION shop.only_shop() RETURNS void LANGUAGE sql AS
  $$ DELETE FROM shop.only_here; INSERT INTO shop.only_here VALUES (1) $$;
CREATE FUNCTION makes_table() RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN CREATE TABLE IF NOT EXISTS made (id int); END $$;
CREATE FUNCTION lower(plain) RETURNS int LANGUAGE sql AS
  $$ UPDATE tally SET n = n + 1 RETURNING n $$;
CREATE PROCEDURE proc(by int) LANGUAGE plpgsql AS $$ BEGIN UPDATE tally SET n = n + by; END $$;
CREATE PROCEDURE outer_proc() LANGUAGE plpgsql AS $$ BEGIN CALL proc(2); END $$;
CREATE PROCEDURE committing() LANGUAGE plpgsql AS
  $$ BEGIN UPDATE tally SET n = n + 1; COMMIT; END $$;
CREATE FUNCTION add_up(int, int) RETURNS int LANGUAGE sql AS $$
  UPDATE tally SET n = n + 1; SELECT $1 + $2 $$;
CREATE AGGREGATE total (int) (SFUNC = add_up, STYPE = int, INITCOND = '0');

CREATE FUNCTION by_default(n int DEFAULT bump()) RETURNS int LANGUAGE sql AS 'SELECT n';

CREATE VIEW writing_view AS SELECT bump() AS n;
CREATE VIEW view_of_writing_view AS SELECT n FROM writing_view;
CREATE MATERIALIZED VIEW kept AS SELECT id FROM plain;
CREATE MATERIALIZED VIEW kept_writing AS SELECT id FROM quiet, LATERAL (SELECT bump_far()) x;
CREATE TABLE with_default (id int DEFAULT bump(), b int);
CREATE TABLE with_uuid (id uuid DEFAULT gen_random_uuid(), n serial, b int);
CREATE FUNCTION checks(int) RETURNS bool LANGUAGE plpgsql AS
  $$ BEGIN UPDATE tally SET n = n + 1; RETURN true; END $$;
CREATE TABLE with_check (id int CHECK (checks(id)));
CREATE TABLE with_policy (id int);
INSERT INTO with_policy VALUES (1);
ALTER TABLE with_policy ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON with_policy USING (checks(id));

CREATE TABLE behind_view_policy (id int);
INSERT INTO behind_view_policy VALUES (1);
ALTER TABLE behind_view_policy ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON behind_view_policy USING (id <= (SELECT n FROM writing_view));
CREATE VIEW LONG_NAME AS SELECT bump();
CREATE FUNCTION key_of(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN PERFORM bump_far(); RETURN $1; END $$;
CREATE TABLE keyed_parts (id int) PARTITION BY RANGE (key_of(id));
CREATE TABLE keyed_parts_low PARTITION OF keyed_parts FOR VALUES FROM (0) TO (100);
CREATE TABLE pair_top (a int, b int, PRIMARY KEY (a, b));
CREATE TABLE pair_low (a int, b int UNIQUE,
  FOREIGN KEY (a, b) REFERENCES pair_top ON UPDATE SET NULL);
CREATE TABLE pair_lowest (b int REFERENCES pair_low (b) ON UPDATE CASCADE);
INSERT INTO pair_top VALUES (1, 1); INSERT INTO pair_low VALUES (1, 1);
INSERT INTO pair_lowest VALUES (1);
CREATE FUNCTION other_strings() RETURNS void LANGUAGE plpgsql
  SET standard_conforming_strings = off AS $$ BEGIN UPDATE plain SET a = 9; END $$;
CREATE FUNCTION by_record() RETURNS int LANGUAGE plpgsql AS
  $$ DECLARE "R" record /* one */ := (SELECT ROW(bump())); BEGIN RETURN 1; END $$;
CREATE FUNCTION by_plain_record() RETURNS int LANGUAGE plpgsql AS
  $$ DECLARE r record; x int = 1; BEGIN r := ROW(bump()); RETURN x; END $$;
CREATE FUNCTION long_body() RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN /* LONG_COMMENT */ UPDATE tally SET n = n + 1; END $$;
CREATE FUNCTION deep_0() RETURNS int LANGUAGE sql AS 'SELECT bump()';
""" + "".join(
    f"CREATE FUNCTION deep_{n + 1}() RETURNS int LANGUAGE sql AS 'SELECT deep_{n}()';"
    for n in range(300)
)
SCHEMA = SCHEMA.replace("LONG_COMMENT", "x" * 9000).replace("LONG_NAME", "x" * 63)


class Case(NamedTuple):
    """``claim``: the tables that are to be told, without ``public.``; ``*`` is any table, ``DDL``
    any table and the catalogue. ``exact``: all of them do change."""

    text: str
    claim: str
    exact: bool = True
    search_path: str = ""


def more(text: str, claim: str, search_path: str = "") -> Case:
    """Some of these tables do not change this time."""
    return Case(text, claim, exact=False, search_path=search_path)


LONG = ", ".join(f"({n}, {n}, 'a longer text without a meaning')" for n in range(1000, 1400))
LONG_LIST = ", ".join(str(n) for n in range(3000))

CASES = [
    # Reads.
    Case("SELECT 1", ""),
    Case("SELECT * FROM plain WHERE id = 1 FOR UPDATE", ""),
    Case("SELECT upper(b), count(*), nextval('with_uuid_n_seq') FROM plain GROUP BY 1", ""),
    Case("WITH x AS (SELECT id FROM plain) SELECT * FROM x JOIN quiet USING (id)", ""),
    Case("VALUES (1), (2)", ""),
    Case("TABLE plain", ""),
    Case("COPY plain TO STDOUT", ""),
    Case("SELECT reads_only()", ""),
    Case("SELECT * FROM information_schema.tables", ""),
    Case("SELECT relname FROM pg_class WHERE oid = 'plain'::regclass", ""),
    Case(f"SELECT * FROM plain WHERE id IN ({LONG_LIST})", ""),
    Case(f"SELECT * FROM \"Odd Name\".\"Odd Table\" WHERE 'x' <> 'y' OR 1 IN ({LONG_LIST})", ""),
    # Utility statements.
    Case("SET search_path = shop", ""),
    Case("SHOW search_path", ""),
    Case("LOCK TABLE plain IN SHARE MODE", ""),
    Case("ANALYZE plain", ""),
    Case("LISTEN x; NOTIFY x; UNLISTEN x", ""),
    Case("DECLARE c CURSOR FOR SELECT * FROM plain; FETCH c; MOVE c; CLOSE c", ""),
    Case("SAVEPOINT s; ROLLBACK TO s; RELEASE s", ""),
    Case("SET CONSTRAINTS ALL IMMEDIATE", ""),
    Case("PREPARE p1 AS INSERT INTO plain VALUES (50); DEALLOCATE p1", ""),
    Case("PREPARE p2 AS INSERT INTO plain VALUES (50); EXECUTE p2; DEALLOCATE p2", "*"),
    Case("DECLARE c CURSOR FOR SELECT bump(); FETCH c; CLOSE c", "tally"),
    more("EXPLAIN INSERT INTO plain VALUES (51)", "plain"),
    Case("EXPLAIN ANALYZE INSERT INTO plain VALUES (51)", "plain"),
    Case("EXPLAIN (ANALYZE, COSTS off) SELECT bump()", "tally"),
    # Plain writes.
    Case("INSERT INTO plain VALUES (60, 1)", "plain"),
    Case("insert into public.plain (id) select 61", "plain"),
    Case("INSERT INTO plain VALUES (1) ON CONFLICT (id) DO UPDATE SET a = excluded.a", "plain"),
    more("INSERT INTO plain VALUES (1) ON CONFLICT DO NOTHING", "plain"),
    Case("INSERT INTO plain VALUES (62) RETURNING id", "plain"),
    Case("INSERT INTO plain VALUES (63) RETURNING bump()", "plain tally"),
    Case("UPDATE plain SET a = 2 WHERE id = 1", "plain"),
    Case("UPDATE plain SET a = q.id FROM quiet q WHERE plain.id = q.id", "plain"),
    Case("UPDATE plain AS p SET a = (SELECT max(id) FROM quiet)", "plain"),
    Case("DELETE FROM plain USING quiet WHERE plain.id = quiet.id", "plain"),
    Case("DELETE FROM ONLY ancestor", "ancestor"),
    Case(
        "MERGE INTO plain p USING quiet q ON p.id = q.id"
        " WHEN MATCHED THEN UPDATE SET a = 7 WHEN NOT MATCHED THEN INSERT (id) VALUES (q.id)",
        "plain",
    ),
    Case("TRUNCATE quiet", "quiet"),
    Case("TRUNCATE quiet, truncated", "quiet truncated bottom_audit"),
    Case("COPY quiet FROM STDIN", "quiet"),
    Case("COPY audited (id) FROM STDIN", "audited audit"),
    Case("COPY (DELETE FROM quiet RETURNING *) TO STDOUT", "quiet"),
    Case("WITH gone AS (DELETE FROM quiet RETURNING id) SELECT * FROM gone", "quiet"),
    Case(
        "WITH a AS (UPDATE plain SET a = 3 RETURNING id), b AS (INSERT INTO quiet SELECT id FROM a)"
        " DELETE FROM tally",
        "plain quiet tally",
    ),
    Case("INSERT INTO quiet VALUES (2); DELETE FROM tally", "quiet tally"),
    Case("BEGIN; INSERT INTO quiet VALUES (2)", "quiet"),
    Case("SELECT id INTO new_table FROM plain", "DDL"),
    Case("CREATE TABLE new_table AS SELECT 1", "DDL"),
    Case("CREATE TEMP TABLE new_table AS SELECT bump()", "tally"),
    Case("CREATE TEMP TABLE new_table (id int)", ""),
    Case("CREATE TEMP TABLE new_table (id int); INSERT INTO new_table VALUES (1)", "*"),
    Case("INSERT INTO with_uuid (b) VALUES (1)", "with_uuid"),
    # Names.
    Case('UPDATE "Odd Name"."Odd Table" SET "Odd Column" = 2', "Odd Name.Odd Table"),
    Case('INSERT INTO "plain.plain" VALUES (1)', "plain.plain"),
    Case("UPDATE plain SET a = 4", "shop.plain", search_path="shop, public"),
    Case("UPDATE plain SET a = 4", "plain", search_path="public, shop"),
    Case("UPDATE plain SET a = 4", "other.plain", search_path='"other"'),
    Case("UPDATE other.plain SET a = 4", "other.plain", search_path="shop, public"),
    Case("UPDATE PLAIN SET a = 4", "plain"),
    Case("INSERT INTO only_here VALUES (1)", "shop.only_here", search_path="public, shop"),
    Case("SELECT public.callers_path()", "shop.plain", search_path="shop"),
    Case("SET search_path = shop; UPDATE plain SET a = 4", "*"),
    Case("SELECT set_config('search_path', 'shop', true); UPDATE plain SET a = 4", "*"),
    # Partitions and inheritance.
    more("INSERT INTO parted VALUES (5, 1)", "parted_1 parted_2_low parted_2_high"),
    Case("INSERT INTO parted_1 VALUES (5, 1)", "parted_1"),
    more("UPDATE parted SET part = 2 WHERE part = 1", "parted_1 parted_2_low parted_2_high"),
    more("UPDATE parted_2 SET id = 101 WHERE id = 2", "parted_2_low parted_2_high"),
    Case("DELETE FROM parted", "parted_1 parted_2_low parted_2_high"),
    Case("TRUNCATE parted", "parted_1 parted_2_low parted_2_high"),
    Case("DELETE FROM parted_2", "parted_2_low parted_2_high"),
    Case("UPDATE ancestor SET id = 5", "ancestor heir"),
    Case("INSERT INTO heir VALUES (1, 1)", "heir"),
    # Triggers.
    Case("UPDATE stamped SET note = 'y'", "stamped"),
    Case("INSERT INTO stamped VALUES (2)", "stamped"),
    Case("INSERT INTO audited VALUES (2, 2)", "audited audit"),
    Case("UPDATE audited SET a = 2", "audited audit"),
    Case("DELETE FROM audited", "audited audit"),
    Case("TRUNCATE audited", "audited"),
    Case("INSERT INTO nested VALUES (1)", "nested audited audit"),
    Case("DELETE FROM nested", "nested", exact=False),
    Case("INSERT INTO picky VALUES (1)", "picky tally"),
    Case("INSERT INTO late VALUES (1)", "late bottom_audit"),
    Case("INSERT INTO switched_off VALUES (1)", "switched_off"),
    # Foreign keys.
    Case("DELETE FROM top", "top middle bottom bottom_audit"),
    Case("UPDATE top SET name = 'x'", "top"),
    Case("UPDATE top SET id = id + 100", "top middle"),
    Case("UPDATE top SET (name, id) = ('x', id + 100)", "top middle"),
    more("INSERT INTO top VALUES (1) ON CONFLICT (id) DO UPDATE SET name = 'y'", "top"),
    Case("DELETE FROM middle", "middle bottom bottom_audit"),
    Case("INSERT INTO top VALUES (9)", "top"),
    more("TRUNCATE top CASCADE", "top middle bottom strict"),
    Case("DELETE FROM keys", "keys_low keys_high key_users"),
    Case("DELETE FROM keys_low", "keys_low key_users"),
    # Rules and views.
    more("INSERT INTO ruled VALUES (1)", "*"),
    Case("INSERT INTO simple_view VALUES (70, 1)", "plain"),
    Case("UPDATE view_of_view SET a = 5", "plain"),
    Case("DELETE FROM view_of_view", "plain"),
    Case("INSERT INTO joined_view VALUES (1, 1)", "audit"),
    Case("SELECT * FROM simple_view", ""),
    Case("SELECT * FROM writing_view", "tally"),
    Case("SELECT * FROM view_of_writing_view", "tally"),
    Case("SELECT 1 FROM plain WHERE id IN (SELECT n FROM writing_view)", "tally"),
    Case("REFRESH MATERIALIZED VIEW kept", "kept", exact=False),
    more("REFRESH MATERIALIZED VIEW kept_writing", "kept_writing tally"),
    # Functions.
    Case("SELECT bump()", "tally"),
    Case("SELECT bump_atomic()", "tally"),
    Case("SELECT bump_pl()", "tally"),
    Case("SELECT public . bump ( )", "tally"),
    Case('SELECT "bump"()', "tally"),
    Case("SELECT nested_bump()", "tally deeper"),
    Case("SELECT nested_bump(step => 2)", "tally deeper"),
    Case("SELECT looks_stable()", "tally"),
    Case("SELECT * FROM plain WHERE id = bump() LIMIT 1", "tally"),
    Case("SELECT * FROM bump() x", "tally"),
    Case("SELECT p.by_row FROM plain p LIMIT 1", "tally"),
    Case("SELECT (p).by_row FROM plain p LIMIT 1", "tally"),
    Case("SELECT id FROM plain ORDER BY bump()", "tally"),
    Case("SELECT lower(p) FROM plain p LIMIT 1", "tally"),
    Case("SELECT recursive(3)", "deeper"),
    Case("SELECT in_subscript()", "tally"),
    Case("SELECT by_assignment()", "tally"),
    Case("SELECT * FROM everywhere(1, 2)", "tally"),
    Case("SELECT total(id) FROM plain", "tally"),
    Case("SELECT by_default()", "tally"),
    Case("SELECT dynamic('tally')", "*"),
    Case("SELECT moves_path()", "*"),
    Case("SELECT sets_path()", "*"),
    Case("SELECT sets_other()", "plain"),
    Case("SELECT own_path()", "shop.plain"),
    Case("SELECT in_own_path()", "other.plain"),
    Case("SELECT shop.only_shop()", "shop.only_here"),
    Case("SELECT makes_table()", "DDL"),
    Case("SELECT query_to_xml('SELECT bump()', true, true, '')", "*"),
    Case("SELECT table_to_xml('writing_view', true, true, '')", "*"),
    Case("SELECT * FROM ts_stat('SELECT to_tsvector(bump()::text)')", "*"),
    Case("CALL proc(1)", "tally"),
    Case("CALL outer_proc()", "tally"),
    Case("DO $$ BEGIN UPDATE tally SET n = 5; END $$", "tally"),
    Case("DO 'BEGIN UPDATE deeper SET n = 5; END'", "deeper"),
    Case("DO 'BEGIN UPDATE tally SET n = 5; END'", "tally"),
    Case("DO $$ BEGIN EXECUTE 'UPDATE tally SET n = 5'; END $$", "DDL"),
    Case("INSERT INTO with_default (b) VALUES (1)", "with_default tally"),
    Case("INSERT INTO with_check VALUES (1)", "with_check tally"),
    more("SELECT * FROM with_policy", "tally"),
    Case("SELECT * FROM behind_view_policy", "*"),
    Case("INSERT INTO keyed_parts VALUES (1)", "keyed_parts_low tally"),
    Case("INSERT INTO keyed_parts_low VALUES (1)", "keyed_parts_low tally"),
    Case("UPDATE pair_top SET a = 2", "pair_top pair_low pair_lowest"),
    Case("SELECT other_strings()", "*"),
    Case("SELECT by_record()", "*"),
    Case("SELECT by_plain_record()", "tally"),
    Case("SELECT long_body()", "*"),
    Case("SELECT deep_20()", "tally"),
    Case("SELECT deep_300()", "*"),
    Case("SELECT * FROM nowhere", "*"),
    Case("WITH nowhere AS (SELECT 1) SELECT * FROM nowhere", ""),
    Case("WITH nowhere AS (SELECT 1) SELECT * FROM pg_temp.nowhere", "*"),
    # Long ones.
    Case(f"INSERT INTO plain VALUES {LONG}", "plain"),
    Case(f"INSERT INTO plain (id, a, b) VALUES {LONG} ON CONFLICT (id) DO NOTHING", "plain"),
    Case(f"INSERT INTO public.plain VALUES {LONG} RETURNING id", "plain"),
    Case(f"WITH x AS (SELECT 1) INSERT INTO plain VALUES {LONG}", "*"),
    Case(f"INSERT INTO plain VALUES {LONG} RETURNING bump()", "*"),
    Case(f"SELECT bump() WHERE 1 IN ({LONG_LIST})", "*"),
    Case(f"SELECT * FROM writing_view WHERE 1 IN ({LONG_LIST})", "tally"),
    Case(f"SELECT lower(p) FROM plain p WHERE 1 IN ({LONG_LIST})", "tally"),
    Case(f"DELETE FROM plain WHERE id IN ({LONG_LIST})", "*"),
    Case(f"SELECT 'say \"', bump() || '\"' WHERE 1 IN ({LONG_LIST})", "*"),
    Case(f"SELECT * FROM {'x' * 63}_cut WHERE 1 IN ({LONG_LIST})", "tally"),
    Case(f"CREATE VIEW new_view AS SELECT 1 WHERE 1 IN ({LONG_LIST})", "DDL"),
    Case(f"SELECT 1; DROP TABLE plain; SELECT 1 IN ({LONG_LIST})", "DDL"),
    Case(f"DO $$ BEGIN PERFORM 1 IN ({LONG_LIST}); END $$", "DDL"),
    Case(f"COMMENT ON TABLE plain IS '{LONG_LIST * 5}'", "DDL"),
    # Not understood.
    Case("SELEC 1", "DDL"),
    Case("SELECT FROM WHERE", "*"),
    # DDL.
    Case("CREATE TABLE new_table (id int)", "DDL"),
    Case("ALTER TABLE plain ADD COLUMN c int DEFAULT 1", "DDL"),
    Case("DROP TABLE quiet", "DDL"),
    Case("CREATE INDEX ON plain (a)", "DDL"),
    Case("GRANT SELECT ON plain TO PUBLIC", "DDL"),
    Case("COMMENT ON TABLE plain IS 'x'", "DDL"),
    Case("CREATE VIEW new_view AS SELECT 1", "DDL"),
    Case("CREATE FUNCTION new_function() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DDL"),
    Case("REINDEX TABLE plain", "DDL"),
    Case("UPDATE pg_catalog.pg_class SET relname = relname WHERE false", "DDL"),
]


@pytest.fixture(scope="module", params=["embedded", "system"])
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """PostgreSQL as the embedded package has it, and as the system has."""
    if request.param == "embedded":
        yield request.getfixturevalue("postgres")
    else:
        with EmbeddedPostgres(binaries=request.getfixturevalue("system_binaries")) as server:
            yield server


@pytest.fixture(scope="module")
def shop(server: EmbeddedPostgres) -> Iterator[str]:
    """The connection string of a database with ``SCHEMA``."""
    dsn = server.create_database(NAME)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SCHEMA)
    yield dsn
    with psycopg.connect(server.connection_string, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(NAME)))


@pytest.fixture(scope="module")
def catalogue(shop: str, load_catalogue: LoadCatalogue) -> Catalogue:
    return load_catalogue(shop)


def claim(catalogue: Catalogue, case: Case) -> str | frozenset[str]:
    """What is told of a statement, as ``Case.claim`` has it."""
    settings = ((b"search_path", case.search_path.encode()),) if case.search_path else ()
    written = catalogue.written(case.text.encode(), settings)
    if written.tables is None:
        return "DDL" if written.changes_catalogue else "*"
    assert not written.changes_catalogue
    names = (catalogue.name_of(oid).removeprefix("public.") for oid in written.tables)
    return frozenset(names)


def contents(connection: Connection) -> dict[str, str]:
    """All rows of each table, and where they are; without ``public.``."""
    tables = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relkind IN ('r', 'm') AND nspname !~ '^pg_|^information_schema'"
    ).fetchall()
    found = {}
    for schema, table in tables:
        rows = "SELECT string_agg(concat_ws(' ', xmin, ctid, t), chr(10) ORDER BY ctid) FROM ONLY"
        query = sql.SQL(f"{rows} {{}} t").format(sql.Identifier(schema, table))
        name = f"{schema}.{table}".removeprefix("public.")
        (found[name],) = connection.execute(query).fetchone() or ("",)
    return found


def changes(dsn: str, case: Case) -> frozenset[str]:
    """The tables that are not what they were after running a statement, which is rolled back."""
    with psycopg.connect(dsn) as connection:
        # Policies are for those who own nothing.
        if "with_policy" in case.text:
            connection.execute("ALTER TABLE with_policy FORCE ROW LEVEL SECURITY")
            connection.execute("CREATE ROLE policed; GRANT ALL ON SCHEMA public TO policed")
            connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO policed")
        before = contents(connection)
        if "with_policy" in case.text:
            connection.execute("SET LOCAL ROLE policed")
        if case.search_path:
            connection.execute(f"SET LOCAL search_path = {case.search_path}")  # type: ignore[arg-type]
        run(connection, case.text)
        connection.execute("RESET ROLE; SET CONSTRAINTS ALL IMMEDIATE; RESET search_path")
        after = contents(connection)
        connection.rollback()
    return frozenset(name for name in before if before[name] != after.get(name))


def run(connection: Connection, text: str) -> None:
    if not text.startswith("COPY"):
        connection.execute(text.encode())
        return
    with connection.cursor() as cursor, cursor.copy(text.encode()) as copy:
        if "STDIN" in text:
            copy.write("1234\n")
        else:
            list(copy)


def test_no_case_stands_here_twice() -> None:
    assert len({(case.text, case.search_path) for case in CASES}) == len(CASES) > 80


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.search_path}{case.text[:60]}")
def test_what_is_told_to_be_written_is_what_is_written(
    shop: str, catalogue: Catalogue, case: Case
) -> None:
    told = claim(catalogue, case)
    if case.claim in ("*", "DDL"):
        assert told == case.claim
        return
    names = {"Odd Name.Odd Table"} if case.claim.startswith("Odd") else set(case.claim.split())
    assert told == names
    changed = changes(shop, case)
    assert changed <= told
    assert changed == told or not case.exact


def test_the_same_is_told_again(catalogue: Catalogue) -> None:
    for text in (b"UPDATE plain SET a = 1", b"DO 'BEGIN DELETE FROM tally; END'"):
        first = catalogue.written(text, ())
        assert first.tables
        assert catalogue.written(text, ()) == first


def test_numbers_and_literals_make_no_difference_but_names_do(catalogue: Catalogue) -> None:
    def told(text: str) -> frozenset[int] | None:
        return catalogue.written(text.encode(), ()).tables

    assert told("UPDATE parted_1 SET id = 1") != told("UPDATE parted_2_low SET id = 1")
    assert told('DELETE FROM "plain.plain"') != told('DELETE FROM "plain"')
    assert told("DELETE FROM plain WHERE b = 'x'") == told("DELETE FROM plain WHERE b = 'yz'")


def test_a_path_or_a_role_that_is_not_understood_makes_it_anything(catalogue: Catalogue) -> None:
    for setting in ((b"search_path", b'"shop'), (b"standard_conforming_strings", b"off")):
        assert catalogue.written(b"UPDATE plain SET a = 1", (setting,)).tables is None


def test_names_beyond_ascii_are_known_in_utf8_alone(catalogue: Catalogue) -> None:
    text = "UPDATE plain SET a = 1 FROM quiet AS größe".encode()
    assert catalogue.written(text, ()).tables == {catalogue.oid_of(b"plain")}
    written = catalogue.written(text, ((b"client_encoding", b"LATIN1"),))
    assert (written.tables, written.changes_catalogue) == (None, False)


def test_bodies_are_parsed_some_at_a_time(shop: str, load_catalogue: LoadCatalogue) -> None:
    catalogue = load_catalogue(shop)
    tally = catalogue.oid_of(b"tally")
    told = [catalogue.written(b"SELECT deep_300()", ()).tables for _ in range(5)]
    assert told[0] is None
    assert told[-1] == {tally}
    assert catalogue.written(b"SELECT deep_20()", ()).tables == {tally}


def test_event_triggers_may_do_anything(
    postgres: EmbeddedPostgres, database: str, load_catalogue: LoadCatalogue
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE log (a int); CREATE MATERIALIZED VIEW m AS SELECT 1")
        texts = (b"CREATE TEMP TABLE t (a int)", b"REFRESH MATERIALIZED VIEW m")
        before = load_catalogue(database)
        assert all(before.written(text, ()).tables is not None for text in texts)
        connection.execute(
            "CREATE FUNCTION logs() RETURNS event_trigger LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO log VALUES (1); END $$;"
            "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION logs()"
        )
        after = load_catalogue(database)
        assert all(after.written(text, ()) == (None, True) for text in texts)
        assert after.written(b"INSERT INTO log VALUES (1)", ()).tables is not None


def test_what_operators_casts_and_domains_call_is_told_of_everything(
    database: str, load_catalogue: LoadCatalogue
) -> None:
    made = (
        "CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = int, FUNCTION = counts)",
        "CREATE DOMAIN counted AS int CHECK (counts(VALUE, 1) > 0)",
        "CREATE CAST (tally AS int) WITH FUNCTION counts(tally)",
    )
    for each in made:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(
                "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE tally (n int);"
                "CREATE FUNCTION counts(int, int) RETURNS int LANGUAGE plpgsql AS"
                " $$ BEGIN UPDATE tally SET n = n + 1; RETURN 1; END $$;"
                "CREATE FUNCTION counts(tally) RETURNS int LANGUAGE plpgsql AS"
                " $$ BEGIN UPDATE tally SET n = n + 1; RETURN 1; END $$"
            )
            assert load_catalogue(database).written(b"SELECT 1", ()).tables == frozenset()
            connection.execute(each.encode())
        catalogue = load_catalogue(database)
        assert catalogue.written(b"SELECT 1", ()).tables == {catalogue.oid_of(b"tally")}


@pytest.mark.parametrize("extension", ["uuid-ossp", "pgcrypto", "pg_trgm", "hstore", "citext"])
def test_well_known_extensions_do_not_make_everything_opaque(
    server: EmbeddedPostgres, load_catalogue: LoadCatalogue, extension: str
) -> None:
    name = f"test_{uuid4().hex}"
    dsn = server.create_database(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        known = "SELECT 1 FROM pg_available_extensions WHERE name = %s"
        if connection.execute(known, (extension,)).fetchone() is None:
            pytest.skip(f"this PostgreSQL has no {extension}")
        connection.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(extension)))
        connection.execute("CREATE TABLE t (id int, b text)")
    catalogue = load_catalogue(dsn)
    assert catalogue.written(b"SELECT * FROM t WHERE b = 'x'", ()) == (frozenset(), False)
    table = {catalogue.oid_of(b"t")}
    assert catalogue.written(b"INSERT INTO t VALUES (1)", ()).tables == table
    if extension == "uuid-ossp":
        assert catalogue.written(b"INSERT INTO t SELECT uuid_generate_v4()", ()).tables == table
    with psycopg.connect(server.connection_string, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_a_function_in_c_that_runs_queries_may_do_anything(
    server: EmbeddedPostgres, load_catalogue: LoadCatalogue
) -> None:
    with psycopg.connect(server.connection_string, autocommit=True) as connection:
        known = "SELECT 1 FROM pg_available_extensions WHERE name = 'tablefunc'"
        if connection.execute(known).fetchone() is None:
            pytest.skip("this PostgreSQL has no tablefunc")
        connection.execute("CREATE SCHEMA t_f; CREATE EXTENSION tablefunc SCHEMA t_f")
        catalogue = load_catalogue(server.connection_string)
        text = b"SELECT * FROM t_f.crosstab('SELECT f()') AS t (a text, b text)"
        assert catalogue.written(text, ()).tables is None
        connection.execute("DROP SCHEMA t_f CASCADE")
