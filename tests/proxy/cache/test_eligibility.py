"""The table: statements with their verdicts, in a database that has one of everything."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psycopg
import pytest

from hyperdrive_client.origin import Binaries, EmbeddedPostgres
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.cache.catalogue import Catalogue
from hyperdrive_client.sql.parse_tree import why_unavailable

pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "parses")

SCHEMA = """
CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION pg_trgm; CREATE EXTENSION isn;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance numeric(12,2), opened date,
  seen timestamptz, data jsonb, tags text[], active bool, uid uuid, parent int REFERENCES accounts);
CREATE TABLE orders (id int PRIMARY KEY, account_id int REFERENCES accounts, total numeric,
  placed timestamp, state mood, note varchar(40), quantity positive);
CREATE TABLE events (id int, at timestamp, kind text) PARTITION BY RANGE (id);
CREATE TABLE events_low PARTITION OF events FOR VALUES FROM (0) TO (100);
CREATE TABLE events_high PARTITION OF events FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
CREATE TABLE events_high_1 PARTITION OF events_high FOR VALUES FROM (100) TO (200);
CREATE TABLE animals (name text); CREATE TABLE dogs (breed text) INHERITS (animals);
CREATE TABLE "Mixed Case" ("The ""Weird"" One" int, "select" text);
CREATE TABLE größe (länge int);
CREATE TABLE words (word citext, attributes hstore, isbn isbn13);
CREATE UNLOGGED TABLE scratch (id int);
CREATE SEQUENCE counter;
CREATE TABLE secrets (id int); ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE TABLE kinds (id int, kind regclass); CREATE TABLE owners (id int, rights aclitem[]);
CREATE TABLE hours (id int, opens timetz); CREATE TABLE pairs (id int, value pair);
CREATE TABLE plain_hours (id int, opens time, says text, date date);
CREATE TABLE says (seen text);
CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE abroad (id int) SERVER elsewhere;
CREATE TABLE split (id int) PARTITION BY LIST (id);
CREATE TABLE split_here PARTITION OF split FOR VALUES IN (1);
CREATE FOREIGN TABLE split_abroad PARTITION OF split FOR VALUES IN (2) SERVER elsewhere;
CREATE VIEW rich AS SELECT id, owner, balance FROM accounts WHERE balance > 100;
CREATE VIEW richest AS SELECT r.owner, o.total FROM rich r JOIN orders o ON o.account_id = r.id;
CREATE VIEW fenced WITH (security_barrier) AS SELECT id FROM accounts WHERE owner <> 'x';
CREATE VIEW recent AS SELECT * FROM accounts WHERE seen > now() - interval '1 day';
CREATE VIEW over_recent AS SELECT id FROM recent;
CREATE VIEW secret_ids AS SELECT id FROM secrets;
CREATE VIEW all_events AS SELECT kind, count(*) FROM events GROUP BY kind;
CREATE VIEW over_tables AS SELECT relname FROM pg_class;
CREATE VIEW opened_days AS SELECT seen::date AS day FROM accounts;
CREATE RECURSIVE VIEW numbers (n) AS SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 5;
CREATE MATERIALIZED VIEW totals AS SELECT account_id, sum(total) FROM orders GROUP BY account_id;
CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
CREATE FUNCTION vouched(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 3';
CREATE FUNCTION vouched_volatile(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 3';
CREATE FUNCTION richest_owner() RETURNS text STABLE LANGUAGE sql
  AS 'SELECT owner FROM accounts ORDER BY balance DESC LIMIT 1';
CREATE FUNCTION wealth(accounts) RETURNS numeric STABLE LANGUAGE sql AS 'SELECT $1.balance';
CREATE VIEW doubled AS SELECT twice(id) FROM accounts;
CREATE SCHEMA tenant; CREATE TABLE tenant.accounts (id int, tenant text);
CREATE SCHEMA postgres; CREATE TABLE postgres.mine (id int);
CREATE SCHEMA shadow;
CREATE FUNCTION shadow.lower(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN now(); END';
CREATE FUNCTION shadow.upper(text, int DEFAULT 1) RETURNS text IMMUTABLE LANGUAGE sql
  AS 'SELECT $1';
CREATE FUNCTION shadow.equal(int, text) RETURNS bool LANGUAGE sql AS 'SELECT random() > 0.5';
CREATE OPERATOR shadow.= (LEFTARG = int, RIGHTARG = text, FUNCTION = shadow.equal);
CREATE TYPE shadow.text AS ENUM ('one');
INSERT INTO accounts SELECT g, 'owner ' || g, g * 10.5, date '2024-01-01' + g,
  timestamptz '2024-05-05 12:00+00' + g * interval '1 hour', '{"a": {"b": 1}}', '{x,y}', g % 2 = 0,
  '00000000-0000-0000-0000-000000000001', NULL FROM generate_series(1, 20) g;
INSERT INTO orders SELECT g, g % 20 + 1, g * 3, timestamp '2024-01-01' + g * interval '1 day',
  'ok', 'note', g FROM generate_series(1, 40) g;
INSERT INTO events SELECT g, '2024-01-01', 'k' || g % 3 FROM generate_series(0, 199) g;
INSERT INTO animals VALUES ('cat'); INSERT INTO dogs VALUES ('rex', 'boxer');
INSERT INTO "Mixed Case" VALUES (1, 'x'); INSERT INTO größe VALUES (3);
INSERT INTO words VALUES ('Word', 'a=>1', '978-0-11-000533-1'); INSERT INTO scratch VALUES (1);
INSERT INTO plain_hours VALUES (1, '10:00', 'now', '2024-01-01');
INSERT INTO tenant.accounts VALUES (1, 'x'); INSERT INTO postgres.mine VALUES (1);
INSERT INTO says VALUES ('now');
"""

Settings = tuple[tuple[bytes, bytes], ...]
TENANT: Settings = ((b"search_path", b"tenant, public"),)
SHADOW: Settings = ((b"search_path", b"shadow, public"),)
SHADOW_FIRST: Settings = ((b"search_path", b"shadow, public, pg_catalog"),)


class Row(NamedTuple):
    """``reason``: a part of it. ``tables``: names, without the schema if that is public."""

    text: str
    status: str = ""
    reason: str = ""
    tables: str = ""
    settings: Settings = ()


def kept(text: str, tables: str = "", settings: Settings = ()) -> Row:
    return Row(text, tables=tables, settings=settings)


def volatile(text: str, reason: str) -> Row:
    return Row(text, "volatile", reason)


def refused(text: str, reason: str, settings: Settings = ()) -> Row:
    return Row(text, "uncacheable", reason, settings=settings)


EVENTS = "events events_high events_high_1 events_low"

TABLE = [
    # One table
    kept("SELECT 1"),
    kept("SELECT owner FROM accounts WHERE id = 7", "accounts"),
    kept("select * from public.accounts order by id", "accounts"),
    kept("TABLE orders", "orders"),
    kept("SELECT FROM accounts", "accounts"),
    kept("SELECT a.* FROM accounts AS a WHERE a.id IN (1, 2, 3) ORDER BY 1", "accounts"),
    kept("SELECT name FROM ONLY animals", "animals dogs"),
    kept("SELECT name FROM animals ORDER BY name", "animals dogs"),
    kept("SELECT breed FROM dogs", "dogs"),
    kept("SELECT DISTINCT active FROM accounts ORDER BY active", "accounts"),
    kept("SELECT DISTINCT ON (active) id FROM accounts ORDER BY active, id", "accounts"),
    kept("SELECT id FROM accounts ORDER BY id LIMIT 3 OFFSET 2", "accounts"),
    kept("SELECT id FROM accounts ORDER BY id FETCH FIRST 3 ROWS WITH TIES", "accounts"),
    kept("SELECT id FROM accounts WHERE id BETWEEN 3 AND 5 ORDER BY id", "accounts"),
    kept("SELECT id FROM accounts WHERE owner LIKE 'owner 1%' ORDER BY id", "accounts"),
    kept("SELECT id FROM accounts WHERE owner ILIKE 'OWNER 1' OR owner ~ '2$'", "accounts"),
    kept("SELECT id FROM accounts WHERE owner SIMILAR TO 'owner (1|2)' ORDER BY id", "accounts"),
    kept("SELECT id FROM accounts WHERE id = ANY (ARRAY[1, 2]) ORDER BY id", "accounts"),
    kept("SELECT id FROM accounts WHERE parent IS NULL AND active IS TRUE ORDER BY id", "accounts"),
    kept("SELECT id FROM accounts WHERE owner IS DISTINCT FROM 'x' ORDER BY id", "accounts"),
    kept("SELECT id FROM accounts WHERE (id, active) = (2, true)", "accounts"),
    kept("SELECT id, CASE WHEN id > 3 THEN 'b' ELSE 's' END FROM accounts ORDER BY id", "accounts"),
    kept("SELECT CASE id WHEN 1 THEN 'one' END FROM accounts ORDER BY id", "accounts"),
    kept("SELECT coalesce(owner, ''), nullif(id, 3) FROM accounts ORDER BY id", "accounts"),
    kept("SELECT greatest(id, 3), least(id, 2) FROM accounts ORDER BY id", "accounts"),
    kept("SELECT data -> 'a' ->> 'b', data @> '{\"a\": {}}' FROM accounts", "accounts"),
    kept("SELECT tags[1], tags[1:2], tags || ARRAY['z'] FROM accounts", "accounts"),
    kept('SELECT owner COLLATE "C" FROM accounts ORDER BY owner COLLATE "C"', "accounts"),
    kept("SELECT a FROM accounts a ORDER BY a.id", "accounts"),
    kept("SELECT tableoid FROM accounts", "accounts"),
    kept("SELECT seen + interval '1 day', opened - 3 FROM accounts ORDER BY id", "accounts"),
    kept("SELECT id FROM accounts WHERE seen >= '2024-05-06' ORDER BY id", "accounts"),
    kept("SELECT count(*) FROM orders WHERE state = 'happy'", "orders"),
    kept("SELECT quantity FROM orders ORDER BY id", "orders"),
    kept("SELECT word, attributes -> 'a', isbn FROM words WHERE word = 'WORD'", "words"),
    kept("SELECT id FROM scratch", "scratch"),
    kept("SELECT account_id, sum FROM totals ORDER BY 1", "totals"),
    # Functions
    kept("SELECT count(*), sum(balance), avg(balance), max(seen) FROM accounts", "accounts"),
    kept("SELECT count(DISTINCT active) FILTER (WHERE id > 2) FROM accounts", "accounts"),
    kept("SELECT string_agg(owner, ',' ORDER BY id) FROM accounts", "accounts"),
    kept("SELECT array_agg(id ORDER BY id), bool_or(active) FROM accounts", "accounts"),
    kept("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) FROM accounts", "accounts"),
    kept("SELECT mode() WITHIN GROUP (ORDER BY active) FROM accounts", "accounts"),
    kept("SELECT rank(3) WITHIN GROUP (ORDER BY id) FROM accounts", "accounts"),
    kept("SELECT lower(owner), upper(owner), length(owner) FROM accounts ORDER BY id", "accounts"),
    kept(
        "SELECT substring(owner FROM 1 FOR 2), trim(owner), position('o' IN owner) FROM accounts",
        "accounts",
    ),
    kept(
        "SELECT overlay(owner PLACING 'x' FROM 1), pg_catalog.replace(owner, 'a', 'b')"
        " FROM accounts",
        "accounts",
    ),
    kept(
        "SELECT round(balance, 1), abs(id), id % 2, power(id, 2) FROM accounts ORDER BY id",
        "accounts",
    ),
    kept("SELECT * FROM generate_series(1, 3)"),
    kept("SELECT * FROM generate_series(1, 3) WITH ORDINALITY AS t(a, b)"),
    kept("SELECT * FROM ROWS FROM (generate_series(1, 3), unnest(ARRAY['a', 'b'])) AS t(a, b)"),
    kept("SELECT jsonb_array_elements('[1, 2]'), md5('x'), to_hex(255)"),
    kept("SELECT key, value FROM accounts, jsonb_each(data) ORDER BY id", "accounts"),
    kept(
        "SELECT jsonb_set(data, '{a}', '3'), jsonb_path_query_first(data, '$.a') FROM accounts",
        "accounts",
    ),
    kept("SELECT make_date(2024, 1, 2), make_interval(days => 3), to_timestamp(0)"),
    kept(
        "SELECT to_tsvector('english', owner) @@ to_tsquery('english', 'owner') FROM accounts",
        "accounts",
    ),
    kept("SELECT pg_size_pretty(10240::bigint)"),
    kept("SELECT max(word), min(word) FROM words", "words"),
    kept("SELECT vouched(3)"),
    kept("SELECT public.vouched(id) FROM accounts ORDER BY id", "accounts"),
    kept("SELECT vouched_volatile(3)"),
    # Window functions
    kept(
        "SELECT id, row_number() OVER (ORDER BY id), rank() OVER w FROM accounts"
        " WINDOW w AS (PARTITION BY active ORDER BY id)",
        "accounts",
    ),
    kept(
        "SELECT sum(id) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM accounts",
        "accounts",
    ),
    kept(
        "SELECT lag(id, 1) OVER (ORDER BY id), first_value(id) OVER (ORDER BY id) FROM accounts",
        "accounts",
    ),
    # Joins and subqueries
    kept(
        "SELECT a.id, o.id FROM accounts a JOIN orders o ON o.account_id = a.id ORDER BY 1, 2",
        "accounts orders",
    ),
    kept("SELECT count(*) FROM accounts LEFT JOIN orders USING (id)", "accounts orders"),
    kept("SELECT count(*) FROM accounts NATURAL JOIN orders", "accounts orders"),
    kept("SELECT count(*) FROM (accounts a CROSS JOIN orders o) AS j", "accounts orders"),
    kept("SELECT count(*) FROM accounts, orders, events", f"accounts orders {EVENTS}"),
    kept(
        "SELECT id FROM accounts a WHERE EXISTS (SELECT 1 FROM orders o WHERE o.id = a.id)"
        " ORDER BY id",
        "accounts orders",
    ),
    kept(
        "SELECT id FROM accounts WHERE id IN (SELECT account_id FROM orders) ORDER BY id",
        "accounts orders",
    ),
    kept(
        "SELECT id FROM accounts WHERE id > ALL (SELECT id - 30 FROM orders) ORDER BY id",
        "accounts orders",
    ),
    kept(
        "SELECT (SELECT max(id) FROM orders), ARRAY(SELECT id FROM accounts ORDER BY id)",
        "accounts orders",
    ),
    kept("SELECT * FROM (SELECT id AS number FROM accounts) s WHERE s.number < 3", "accounts"),
    kept(
        "SELECT a.id, l.total FROM accounts a, LATERAL (SELECT total FROM orders o"
        " WHERE o.account_id = a.id ORDER BY total LIMIT 1) l ORDER BY 1",
        "accounts orders",
    ),
    # Set operations, VALUES, grouping
    kept("SELECT id FROM accounts UNION SELECT id FROM orders ORDER BY 1", "accounts orders"),
    kept(
        "(SELECT id FROM accounts EXCEPT ALL SELECT id FROM orders) INTERSECT SELECT 1",
        "accounts orders",
    ),
    kept("VALUES (1, 'a'), (2, 'b')"),
    kept("SELECT v.n FROM (VALUES (1), (2)) v(n), accounts WHERE accounts.id = v.n", "accounts"),
    kept(
        "SELECT active, count(*) FROM accounts GROUP BY active HAVING count(*) > 1 ORDER BY 1",
        "accounts",
    ),
    kept(
        "SELECT active, grouping(active), count(*) FROM accounts GROUP BY ROLLUP (active)"
        " ORDER BY 1",
        "accounts",
    ),
    kept(
        "SELECT active, count(*) FROM accounts GROUP BY GROUPING SETS ((active), ()) ORDER BY 1",
        "accounts",
    ),
    # WITH
    kept("WITH a AS (SELECT id FROM orders) SELECT * FROM a ORDER BY 1", "orders"),
    kept("WITH accounts AS (SELECT 1 AS id) SELECT * FROM accounts"),
    kept("WITH accounts AS (SELECT * FROM accounts) SELECT count(*) FROM accounts", "accounts"),
    kept("WITH accounts AS (SELECT 1 AS id) SELECT count(*) FROM public.accounts", "accounts"),
    kept(
        "SELECT count(*) FROM (WITH orders AS (SELECT 1) SELECT * FROM orders) s, orders", "orders"
    ),
    kept("WITH a AS (SELECT 1 AS id), b AS (SELECT id FROM a) SELECT * FROM b"),
    kept(
        "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 5)"
        " SELECT sum(n) FROM t"
    ),
    kept(
        "WITH RECURSIVE t AS (SELECT id, parent FROM accounts WHERE id = 1 UNION SELECT a.id,"
        " a.parent FROM accounts a JOIN t ON a.parent = t.id) SELECT * FROM t",
        "accounts",
    ),
    kept(
        "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 5)"
        " SEARCH DEPTH FIRST BY n SET o SELECT n FROM t ORDER BY o"
    ),
    kept(
        "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n % 3 + 1 FROM t)"
        " CYCLE n SET looped USING path SELECT n FROM t WHERE NOT looped ORDER BY n"
    ),
    kept(
        "WITH a AS MATERIALIZED (SELECT id FROM accounts) SELECT count(*) FROM a x, a y", "accounts"
    ),
    # Views, partitions
    kept("SELECT * FROM rich ORDER BY id", "accounts"),
    kept("SELECT * FROM richest ORDER BY owner, total", "accounts orders"),
    kept("SELECT * FROM fenced ORDER BY id", "accounts"),
    kept("SELECT * FROM all_events ORDER BY kind", EVENTS),
    kept("SELECT * FROM numbers"),
    kept("SELECT * FROM opened_days ORDER BY day", "accounts"),
    kept("SELECT * FROM events WHERE id = 150", EVENTS),
    kept("SELECT count(*) FROM events_high", "events_high events_high_1"),
    kept("SELECT count(*) FROM events_low", "events_low"),
    # Names
    kept('SELECT "The ""Weird"" One", "select" FROM "Mixed Case"', "Mixed Case"),
    kept('SELECT "id" FROM "public"."accounts" ORDER BY "id"', "accounts"),
    kept("SELECT länge FROM größe", "größe"),
    kept('SELECT U&"\\0069d" FROM accounts ORDER BY 1', "accounts"),
    kept("SELECT id FROM ACCOUNTS ORDER BY ID", "accounts"),
    kept("SELECT tenant FROM tenant.accounts", "tenant.accounts"),
    kept("SELECT * FROM accounts", "tenant.accounts", TENANT),
    kept("SELECT count(*) FROM orders", "orders", TENANT),
    kept("SELECT id FROM mine", "postgres.mine"),
    kept("SELECT upper('x'), twice FROM (SELECT 1 AS twice) s"),
    kept("/* a comment */ SELECT id -- another\nFROM accounts ORDER BY id", "accounts"),
    kept("SELECT $$text$$, E'\\x41', 'it''s', B'101', X'1F', 1e3, .5"),
    kept("SELECT date FROM plain_hours", "plain_hours"),
    kept("SELECT p.date, p.opens FROM plain_hours p WHERE p.date > '2023-01-01'", "plain_hours"),
    # Casts
    kept(
        "SELECT id::text, owner::varchar(5), '3'::int, '{}'::jsonb FROM accounts ORDER BY id",
        "accounts",
    ),
    kept(
        "SELECT CAST(balance AS int), id::numeric(10, 2)::float8 FROM accounts ORDER BY id",
        "accounts",
    ),
    kept("SELECT date '2024-01-01', timestamp '2024-01-01 10:00', interval '3 days'"),
    kept("SELECT '2024-01-01'::timestamptz, time '10:00', ARRAY['2024-01-01']::date[]"),
    kept("SELECT seen::date, opened::timestamp FROM accounts ORDER BY id", "accounts"),
    kept(
        "SELECT a.seen::date, count(*) FROM accounts a JOIN orders o ON o.id = a.id GROUP BY 1"
        " ORDER BY 1",
        "accounts orders",
    ),
    kept(
        "SELECT 'ok'::mood, state::text, note::mood IS NULL FROM orders WHERE note = 'ok'", "orders"
    ),
    kept("SELECT '{a,b}'::text[], tags::varchar[] FROM accounts", "accounts"),
    kept(
        "SELECT uid::text, '00000000-0000-0000-0000-000000000001'::uuid FROM accounts", "accounts"
    ),
    kept("SELECT '[2024-01-01,2024-02-01)'::daterange, int4range(1, 3)"),
    kept("SELECT 'x'::citext, 'a=>1'::hstore"),
    kept("SELECT int4(balance), name(owner) FROM accounts ORDER BY id", "accounts"),
    # As ORMs write
    kept(
        'SELECT "accounts"."id", "accounts"."owner" FROM "accounts" WHERE "accounts"."active"'
        ' ORDER BY "accounts"."id" ASC LIMIT 21',
        "accounts",
    ),
    kept(
        'SELECT COUNT(*) AS "__count" FROM "orders" INNER JOIN "accounts" ON'
        ' ("orders"."account_id" = "accounts"."id") WHERE UPPER("accounts"."owner"::text) LIKE'
        " UPPER('%owner%')",
        "accounts orders",
    ),
    kept('SELECT (1) AS "a" FROM "accounts" WHERE "accounts"."id" = 1 LIMIT 1', "accounts"),
    kept(
        "SELECT accounts.id AS accounts_id, accounts.owner AS accounts_owner \nFROM accounts"
        " \nWHERE accounts.id = 3",
        "accounts",
    ),
    kept(
        "SELECT anon_1.accounts_id, orders_1.id FROM (SELECT accounts.id AS accounts_id FROM"
        " accounts ORDER BY id LIMIT 3) AS anon_1 LEFT OUTER JOIN orders AS orders_1 ON"
        " anon_1.accounts_id = orders_1.account_id ORDER BY 1, 2",
        "accounts orders",
    ),
    kept(
        "SELECT accounts.id FROM accounts WHERE accounts.owner = 'x'::VARCHAR LIMIT 3::INTEGER",
        "accounts",
    ),
    kept("SELECT accounts.id FROM accounts WHERE accounts.id IN (NULL) AND (1 != 1)", "accounts"),
    kept("SELECT EXISTS (SELECT 1 FROM accounts WHERE id = 3) AS anon_1", "accounts"),
    # No query, or not one
    Row("", "notaquery", "no statement"),
    Row(" ;  ", "notaquery", "no statement"),
    Row("INSERT INTO accounts (id) VALUES (99)", "notaquery", "INSERT"),
    Row("UPDATE accounts SET owner = 'x' WHERE false", "notaquery", "UPDATE"),
    Row("DELETE FROM accounts WHERE false", "notaquery", "DELETE"),
    Row("EXPLAIN SELECT 1", "notaquery", "ExplainStmt"),
    Row("SHOW search_path", "notaquery", "VariableShowStmt"),
    Row("EXECUTE prepared", "notaquery", "ExecuteStmt"),
    Row("DECLARE c CURSOR FOR SELECT 1", "notaquery", "DeclareCursorStmt"),
    Row("COPY accounts TO STDOUT", "notaquery", "CopyStmt"),
    Row("CREATE TABLE made AS SELECT 1", "notaquery", "CreateTableAsStmt"),
    Row("SELECT 1; SELECT 2", "multiplestatements", "2 statements"),
    Row("SELECT 1; DELETE FROM accounts WHERE false", "multiplestatements", "2 statements"),
    Row("SELEC 1", "parseerror", "syntax error"),
    Row("SELECT 'open", "parseerror", "unterminated"),
    Row("SELECT 1" + " " * 8192, "oversizedquery", "8192 bytes"),
    Row("SELECT " + "NOT " * 2000 + "true", "parseerror", "tree"),
    # The clock and other things that change
    volatile("SELECT now()", "now() is STABLE"),
    volatile("SELECT CURRENT_DATE", "CURRENT_DATE"),
    volatile("SELECT CURRENT_TIMESTAMP(3)", "CURRENT_TIMESTAMP"),
    volatile("SELECT LOCALTIME", "LOCALTIME"),
    volatile("SELECT current_user", "CURRENT_USER"),
    volatile("SELECT current_schema", "CURRENT_SCHEMA"),
    volatile("SELECT current_setting('work_mem')", "STABLE"),
    volatile("SELECT random()", "random() is VOLATILE"),
    volatile("SELECT pg_catalog.clock_timestamp()", "VOLATILE"),
    volatile("SELECT gen_random_uuid()", "VOLATILE"),
    volatile("SELECT nextval('counter')", "VOLATILE"),
    volatile("SELECT currval('counter'), lastval()", "VOLATILE"),
    volatile("SELECT pg_sleep(0)", "VOLATILE"),
    volatile("SELECT pg_advisory_lock(1)", "VOLATILE"),
    volatile("SELECT set_config('work_mem', '1MB', false)", "VOLATILE"),
    volatile("SELECT txid_current()", "txid_current()"),
    volatile("SELECT pg_backend_pid()", "STABLE"),
    volatile("SELECT version()", "STABLE"),
    volatile("SELECT id FROM accounts WHERE seen > now() - interval '1 day'", "now()"),
    volatile("SELECT age(seen) FROM accounts", "age() is STABLE"),
    volatile("SELECT extract(year FROM seen) FROM accounts", "extract() is STABLE"),
    volatile("SELECT date_trunc('day', seen) FROM accounts", "date_trunc() is STABLE"),
    volatile("SELECT to_char(seen, 'YYYY') FROM accounts", "to_char() is STABLE"),
    volatile("SELECT to_date('2024', 'YYYY')", "STABLE"),
    volatile("SELECT concat('a', 1)", "concat() is STABLE"),
    volatile("SELECT row_to_json(a) FROM accounts a", "STABLE"),
    volatile("SELECT json_agg(owner ORDER BY id) FROM accounts", "json_agg() is STABLE"),
    volatile("SELECT a.row_to_json FROM accounts a", "row_to_json() is STABLE"),
    volatile("SELECT richest_owner()", "public.richest_owner() is STABLE"),
    volatile("SELECT a.wealth FROM accounts a", "public.wealth() is STABLE"),
    volatile("SELECT (a).wealth FROM accounts a", "public.wealth() is STABLE"),
    volatile("SELECT * FROM accounts TABLESAMPLE system (50)", "TABLESAMPLE"),
    volatile("SELECT * FROM accounts ORDER BY random()", "random()"),
    volatile("SELECT id FROM accounts LIMIT (random() * 3)::int", "random()"),
    volatile("WITH a AS (SELECT now()) SELECT * FROM a", "now()"),
    volatile(
        "SELECT * FROM (SELECT 1) s JOIN LATERAL (SELECT clock_timestamp()) t ON true", "VOLATILE"
    ),
    volatile("SELECT count(*) FILTER (WHERE seen < now()) FROM accounts", "now()"),
    volatile(
        "SELECT sum(id) OVER (ORDER BY id ROWS (random() * 2)::int PRECEDING) FROM accounts",
        "random()",
    ),
    volatile("SELECT 'now'::timestamptz", "literal"),
    volatile("SELECT date 'Today'", "literal"),
    volatile("SELECT timestamp ' tomorrow '", "literal"),
    volatile("SELECT ARRAY['YESTERDAY']::date[]", "literal"),
    volatile("SELECT '{now}'::date[]", "literal"),
    volatile("SELECT '{n\\ow}'::date[]", "literal"),
    volatile("SELECT E'n\\157w'::date", "literal"),
    volatile("SELECT U&'\\006eow'::date", "literal"),
    volatile("SELECT 'no'\n'w'::date", "literal"),
    volatile("SELECT $$now$$::date", "literal"),
    volatile("SELECT id FROM accounts WHERE seen < 'now'", "literal"),
    volatile("SELECT '[now,)'::tstzrange", "literal"),
    volatile("SELECT 'allballs'::time", "literal"),
    volatile("SELECT ('no' || 'w')::date", "'now'"),
    volatile("SELECT 'nowx'::char(3)::date", "'now'"),
    volatile("SELECT owner::date FROM accounts", "'now'"),
    volatile("SELECT seen::timestamptz FROM says", "'now'"),
    volatile("SELECT p.says::date FROM plain_hours p", "'now'"),
    volatile("SELECT accounts.seen::date FROM accounts, says", "'now'"),
    volatile("SELECT seen::date FROM (SELECT owner AS seen FROM accounts) s", "'now'"),
    volatile("SELECT seen::date FROM (SELECT seen::text FROM accounts) s", "'now'"),
    volatile("WITH s(seen) AS (SELECT owner FROM accounts) SELECT seen::date FROM s", "'now'"),
    volatile("SELECT seen::date FROM accounts a(i, seen)", "'now'"),
    volatile("SELECT tags::timestamp[] FROM accounts", "'now'"),
    volatile("SELECT date(owner) FROM accounts", "date() is STABLE"),
    volatile("SELECT (owner).date FROM accounts", "date() is STABLE"),
    volatile("SELECT daterange(owner) FROM accounts", "'now'"),
    volatile("SELECT CAST(lower(owner) AS timestamp) FROM accounts", "'now'"),
    volatile("SELECT time with time zone '10:00'", "time with time zone"),
    volatile("SELECT opens::timetz FROM plain_hours", "time with time zone"),
    volatile("SELECT * FROM json_to_recordset('[]') AS t(a date)", "STABLE"),
    volatile("SELECT jsonb_populate_record(NULL::accounts, data) FROM accounts", "STABLE"),
    # What locks, writes, or is not understood
    refused("SELECT id FROM accounts FOR UPDATE", "locks rows"),
    refused("SELECT id FROM accounts FOR KEY SHARE SKIP LOCKED", "locks rows"),
    refused("SELECT * FROM (SELECT id FROM accounts FOR SHARE) s", "locks rows"),
    refused("SELECT 1 INTO made", "makes a table"),
    refused("WITH w AS (DELETE FROM accounts WHERE false RETURNING *) SELECT * FROM w", "DELETE"),
    refused("WITH w AS (INSERT INTO says VALUES ('x')) SELECT 1", "INSERT in WITH"),
    refused("SELECT xmin FROM accounts", "system column xmin"),
    refused("SELECT ctid, * FROM accounts", "system column ctid"),
    refused("SELECT xmlelement(name x)", "XmlExpr"),
    refused("SELECT * FROM xmltable('/a' PASSING '<a/>' COLUMNS b date)", "RangeTableFunc"),
    refused("SELECT json_value('{}', '$.a' RETURNING date)", "JsonFuncExpr"),
    refused("SELECT * FROM json_table('[]', '$[*]' COLUMNS (a date)) t", "JsonTable"),
    refused("SELECT json_object('a': 1)", "JsonObjectConstructor"),
    # What the tables are
    refused("SELECT * FROM pg_class", "system catalogue"),
    refused("SELECT relname FROM pg_catalog.pg_class", "system catalogue"),
    refused("SELECT * FROM pg_stat_activity", "system catalogue"),
    refused("SELECT * FROM information_schema.tables", "system catalogue"),
    refused("SELECT * FROM over_tables", "view public.over_tables: pg_catalog.pg_class"),
    refused("SELECT * FROM secrets", "policies"),
    refused("SELECT * FROM secret_ids", "view public.secret_ids: rows of public.secrets"),
    refused("SELECT * FROM abroad", "foreign table"),
    refused("SELECT * FROM split", "public.split_abroad is a foreign table"),
    refused("SELECT last_value FROM counter", "sequence"),
    refused("SELECT * FROM pg_temp.t", "no table pg_temp.t"),
    refused("SELECT * FROM nothing", "no table nothing"),
    refused("SELECT * FROM nowhere.accounts", "no table nowhere.accounts"),
    refused("SELECT * FROM postgres.public.accounts", "database"),
    refused("SELECT * FROM kinds", "regclass"),
    refused("SELECT * FROM owners", "aclitem"),
    refused("SELECT id FROM hours", "time with time zone"),
    refused("SELECT id FROM pairs", "composite"),
    volatile("SELECT * FROM recent", "view public.recent: now() is STABLE"),
    volatile("SELECT * FROM over_recent", "view public.over_recent: view public.recent: now()"),
    refused("SELECT * FROM doubled", "view public.doubled: public.twice()"),
    # What functions, operators, casts and types are
    refused("SELECT twice(3)", "public.twice()"),
    refused("SELECT similarity('a', 'b')", "public.similarity()"),
    refused("SELECT unknown_function(3)", "no function unknown_function"),
    refused("SELECT pg_partition_root('events')", "pg_partition_root()"),
    refused("SELECT makeaclitem(10, 10, 'SELECT', false)", "makeaclitem()"),
    refused("SELECT timetz_hash('10:00')", "timetz_hash()"),
    refused("SELECT 'accounts'::regclass", "regclass"),
    refused("SELECT 'postgres=r/postgres'::aclitem", "aclitem"),
    refused("SELECT owner::regtype FROM accounts", "regtype"),
    volatile("SELECT regclass(owner) FROM accounts", "regclass() is STABLE"),
    refused("SELECT id::positive FROM accounts", "positive"),
    refused("SELECT '(1,x)'::pair", "pair"),
    refused("SELECT owner::accounts FROM accounts", "accounts"),
    refused("SELECT (owner).accounts FROM accounts", "accounts"),
    Row("SELECT lower(owner) FROM accounts", "volatile", "shadow.lower() is VOLATILE", "", SHADOW),
    refused("SELECT upper(owner) FROM accounts", "shadow.upper()", SHADOW),
    kept("SELECT pg_catalog.lower(owner) FROM accounts ORDER BY id", "accounts", SHADOW),
    refused("SELECT id FROM accounts WHERE id = parent", "shadow.=", SHADOW),
    kept("SELECT id FROM accounts WHERE id = 3", "accounts", SHADOW),
    refused("SELECT id FROM accounts WHERE id IN (1, 2)", "shadow.=", SHADOW),
    refused("SELECT 1 FROM accounts JOIN orders USING (id)", "shadow.=", SHADOW),
    refused("SELECT CASE id WHEN 1 THEN 2 END FROM accounts", "shadow.=", SHADOW),
    refused("SELECT id IN (SELECT id FROM orders) FROM accounts", "shadow.=", SHADOW),
    kept("SELECT id FROM accounts WHERE id OPERATOR(pg_catalog.=) 3", "accounts", SHADOW),
    kept("SELECT id::text FROM accounts ORDER BY id", "accounts", SHADOW),
    refused("SELECT owner % 'x' FROM accounts", "public.%"),
    refused("SELECT id % account_id FROM orders", "public.%"),
    kept("SELECT id OPERATOR(pg_catalog.%) account_id FROM orders ORDER BY id", "orders"),
    kept("SELECT 'one'::text", "", SHADOW_FIRST),
    refused("SELECT 1", "standard_conforming_strings", ((b"standard_conforming_strings", b"off"),)),
    refused("SELECT 1", "search_path", ((b"search_path", b'"open'),)),
]


class Origin(NamedTuple):
    """A database with all of the above."""

    connection_string: str
    catalogue: Catalogue


@pytest.fixture(scope="module")
def embedded(
    postgres: EmbeddedPostgres, load_catalogue: Callable[..., Catalogue]
) -> Iterator[Origin]:
    yield from _database(postgres, load_catalogue)


@pytest.fixture(scope="module")
def clock() -> Iterator[Path]:
    """A file: seconds in it move the clock of ``with_clock``."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "clock")
        file.write_text("0")
        file.parent.chmod(0o755)
        yield file


@pytest.fixture(scope="module")
def with_clock(
    clock: Path, system_binaries: Binaries, load_catalogue: Callable[..., Catalogue]
) -> Iterator[Origin]:
    """At the system's PostgreSQL, which is another version, with a clock that can be moved."""
    if shutil.which("cc") is None:
        pytest.skip("no clock that can be moved: the cc command is not installed")
    source = Path(__file__).with_name("clock.c")
    library = clock.with_name("clock.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    programs = clock.with_name("bin")
    programs.mkdir()
    (programs / "initdb").symlink_to(system_binaries.directory / "initdb")
    postgres = programs / "postgres"
    real = system_binaries.directory / "postgres"
    postgres.write_text(f'#!/bin/sh\nCLOCK={clock} LD_PRELOAD={library} exec {real} "$@"\n')
    postgres.chmod(0o755)
    with EmbeddedPostgres(binaries=Binaries(programs, system_binaries.version, "test")) as server:
        yield from _database(server, load_catalogue)


@pytest.fixture(params=["embedded", "with_clock"])
def origin(request: pytest.FixtureRequest) -> Origin:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Origin)
    return found


def _database(
    server: EmbeddedPostgres, load_catalogue: Callable[..., Catalogue]
) -> Iterator[Origin]:
    url = server.create_database("eligibility")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA)
    yield Origin(url, load_catalogue(url, "public.vouched", "public.vouched_volatile"))
    with psycopg.connect(server.connection_string, autocommit=True) as connection:
        connection.execute("DROP DATABASE eligibility WITH (FORCE)")


def test_every_statement_has_the_verdict_of_the_table(origin: Origin) -> None:
    wrong = []
    for row in TABLE:
        found = origin.catalogue.verdict(row.text.encode(), row.settings)
        tables = [origin.catalogue.name_of(oid).removeprefix("public.") for oid in found.tables]
        expected = sorted(_tables(row))
        as_expected = (found.status, sorted(tables)) == (row.status, expected)
        if not as_expected or row.reason not in found.reason:
            wrong.append((row.text, found.status, found.reason, tables))
        assert bool(found.status) == bool(found.reason)
    assert not wrong


def test_the_table_has_every_status_and_no_statement_twice() -> None:
    assert len(TABLE) >= 150
    assert {row.status for row in TABLE} == {
        "",
        "multiplestatements",
        "notaquery",
        "oversizedquery",
        "parseerror",
        "uncacheable",
        "volatile",
    }
    assert max(Counter((row.text, row.settings) for row in TABLE).values()) == 1


def test_what_is_kept_is_the_same_bytes_when_the_rest_of_the_world_has_changed(
    origin: Origin,
) -> None:
    before = answers(origin)
    refused = [text for text, answer in before.items() if b"SERROR\x00" in answer]
    assert not refused, "they have to be statements that PostgreSQL answers"
    with psycopg.connect(origin.connection_string, autocommit=True) as other:
        change_the_world(other)
        after = answers(origin)
    assert not [text for text in before if before[text] != after[text]]


def test_what_is_kept_is_the_same_bytes_half_a_year_later(with_clock: Origin, clock: Path) -> None:
    def dates() -> tuple[object, ...]:
        cursor = connection.execute("SELECT now()::text, '10:00'::timetz::text")
        return cursor.fetchone() or ()

    with psycopg.connect(with_clock.connection_string, autocommit=True) as connection:
        connection.execute("SET timezone = 'Europe/Berlin'")
        dates_before, before = dates(), answers(with_clock)
        clock.write_text(str(182 * 86_400 + 13_579))
        try:
            dates_after, after = dates(), answers(with_clock)
        finally:
            clock.write_text("0")
    assert all(a != b for a, b in zip(dates_before, dates_after, strict=True))
    assert not [text for text in before if before[text] != after[text]]


def answers(origin: Origin) -> dict[tuple[str, Settings], bytes]:
    """What the server answers to each statement that is kept, on a connection of its own."""
    rows = [row for row in TABLE if not row.status]
    with psycopg.connect(origin.connection_string, autocommit=True) as connection:
        return {(row.text, row.settings): answer(connection, row) for row in rows}


def change_the_world(connection: psycopg.Connection) -> None:
    """All that an answer may not depend on: the clock, other sessions, roles and tables."""
    for statement in (
        "CREATE TABLE unrelated AS SELECT g FROM generate_series(1, 5000) g",
        "DELETE FROM unrelated WHERE g % 3 = 0",
        "VACUUM ANALYZE unrelated",
        "SELECT nextval('counter'), setval('counter', 1000)",
        "SET timezone = 'Asia/Tokyo'",
        "SET datestyle = 'German'",
        "SET search_path = tenant, shadow",
        "SELECT setseed(0.3), pg_catalog.set_config('work_mem', '64kB', false)",
        "CREATE ROLE somebody",
        "SET ROLE somebody",
        "SELECT pg_advisory_lock(7)",
        "RESET ROLE",
        "CREATE TEMPORARY TABLE accounts (id int)",
        "GRANT somebody TO CURRENT_USER",
        "COMMENT ON TABLE public.accounts IS 'x'",
        "UPDATE public.kinds SET id = 3",
        "INSERT INTO public.hours VALUES (1, '10:00+01')",
        "DROP ROLE somebody",
        "SELECT pg_sleep_until(date_trunc('second', clock_timestamp()) + interval '1.01 second')",
    ):
        connection.execute(statement)


def answer(connection: psycopg.Connection, row: Row) -> bytes:
    """All bytes of the server's answer to a statement in the simple protocol."""
    for name, value in row.settings:
        connection.execute("SELECT set_config(%s, %s, false)", (name.decode(), value.decode()))
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as raw:
        raw.setblocking(True)
        raw.sendall(m.query(row.text.encode()))
        data = b""
        while data[-6:-1] != b"Z\x00\x00\x00\x05":
            data += raw.recv(65536)
    for name, _ in row.settings:
        connection.execute(f"RESET {name.decode()}")
    return data


def _tables(row: Row) -> list[str]:
    """Names with a blank in them are alone in their row."""
    if row.tables == "Mixed Case":
        return [row.tables]
    return row.tables.split()
