"""What may leave something behind is never taken for harmless, however it is written."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperdrive_client.sql.facts import facts_of
from hyperdrive_client.sql.session_effects import (
    MAX_SCANNED_BYTES,
)

Token = tuple[str, bytes]

_WORD = re.compile(rb"[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*")
_STRING = re.compile(rb"(e|b|x|n|u&)?'", re.IGNORECASE)
_QUOTED = re.compile(rb'(u&)?"', re.IGNORECASE)
_DOLLAR = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$")
_OTHER = re.compile(rb"\$\d+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+|.", re.DOTALL)
_SPACE = re.compile(rb"(?:[ \t\n\r\f\v]|--[^\n\r]*)+")
_CONTINUED = re.compile(
    rb"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*'"
)  # fmt: skip


def leaves_something(text: bytes) -> bool:
    """Whether it may, or may move a sequence, whose last value the session remembers."""
    facts = facts_of(text)
    return facts.traces != 0 or facts.advances


class Unterminated(Exception):
    """PostgreSQL rejects the text as a whole."""


def tokens(text: bytes, *, standard_conforming_strings: bool) -> list[Token]:
    """PostgreSQL's lexer (scan.l), as far as it tells texts apart from what is in them."""
    found: list[Token] = []
    position = 0
    while position < len(text):
        if space := _SPACE.match(text, position):
            position = space.end()
        elif text.startswith(b"/*", position):
            position = _after_comment(text, position)
        elif string := _STRING.match(text, position):
            prefix = (string[1] or b"").lower()
            escapes = prefix == b"e" or (prefix in b"n" and not standard_conforming_strings)
            position = _after_string(text, string.end(), escapes=escapes)
            found.append(("literal", b""))
        elif quoted := _QUOTED.match(text, position):
            end = _after_pairs(text, quoted.end(), b'"')
            name = text[quoted.end() : end - 1].replace(b'""', b'"')
            found.append(("unicode name" if quoted[1] else "name", name))
            position = end
        elif dollar := _DOLLAR.match(text, position):
            end = text.find(dollar[0], dollar.end())
            if end < 0:
                raise Unterminated
            position = end + len(dollar[0])
            found.append(("literal", b""))
        elif word := _WORD.match(text, position):
            position = word.end()
            found.append(("name", word[0].lower()))
        else:
            other = _OTHER.match(text, position)
            assert other is not None
            position = other.end()
            found.append(("other", other[0]))
    return found


def _after_comment(text: bytes, position: int) -> int:
    depth = 0
    for mark in re.compile(rb"/\*|\*/").finditer(text, position):
        depth += 1 if mark[0] == b"/*" else -1
        if not depth:
            return mark.end()
    raise Unterminated


def _after_pairs(text: bytes, position: int, quote: bytes) -> int:
    """Behind the quote that ends what begins at ``position``; two in a row do not end it."""
    while True:
        position = text.find(quote, position) + 1
        if not position:
            raise Unterminated
        if not text.startswith(quote, position):
            return position
        position += 1


def _after_string(text: bytes, position: int, *, escapes: bool) -> int:
    while True:
        if escapes:
            inside = re.compile(rb"(?:[^'\\]|''|\\.)*'(?!')", re.DOTALL).match(text, position)
            if inside is None:
                raise Unterminated
            position = inside.end()
        else:
            position = _after_pairs(text, position, b"'")
        more = _CONTINUED.match(text, position)
        if more is None:
            return position
        position = more.end()


def acts_on_the_session(found: list[Token]) -> bool:
    """Whether a statement is SET, or set_config or a name in Unicode escapes is called."""
    for index, (kind, text) in enumerate(found):
        after = [each for each in found[index + 1 : index + 4] if each != ("name", b"uescape")]
        after = after[1:] if kind == "unicode name" and after[:1] == [("literal", b"")] else after
        called = after[:1] == [("other", b"(")]
        if called and (kind == "unicode name" or (kind, text) == ("name", b"set_config")):
            return True
        starts = index == 0 or found[index - 1] == ("other", b";")
        if starts and (kind, text) == ("name", b"set"):
            return True
    return False


PIECES = (
    *("'", "''", "\\", "\\'", "E'", "e'", "N'", "B'", "U&'", '"', '""', 'U&"', "u&", "&"),
    *("$$", "$a$", "$1", "$", "é", "é$a$", "a$", "a$1", "/*", "*/", "/", "*", "--", "-"),
    *("\n", "\r", " ", "\t", "\f", "\v", ";", "(", ")", ",", ".", "1", "1.", "0x1F", "x", "select"),
    *("uescape", "'!'", "[", "]", "=", "+", "lower(", "pg_catalog.", "q."),
)
SOUP = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
DEEDS = st.sampled_from(
    ("set_config(", "SET_CONFIG\n(", '"set_config"(', "set_config/**/(", ";set ", 'U&"!0073"(')
)


@given(SOUP, DEEDS, SOUP)
@example(r"E'\'', ", "set_config(", "1) -- '")
@example("'\\', ", "set_config(", "1), '\\'")
@example("1 /* /* */ ' */, ", "set_config(", "1) /* ' */")
@example("$$'$$, ", "set_config(", "1), $$'$$")
@example("$a$ $b$ ' $a$, ", "set_config(", "1), $a$ ' $a$")
@example("E'a'\n'\\'', ", "set_config(", "1) -- '")
@example('"\'", ', "set_config(", '1) AS "\'"')
@example("1 -- '\n, ", "set_config(", "1) -- '")
@example("1 -- '\r, ", "set_config(", "1) -- '")
@example("1 /*/ ' */, ", "set_config(", "1) /*/ ' */")
@example("é$a$ ' $a$, ", "set_config(", "1), '")
def test_no_text_hides_a_deed_that_postgresql_would_see(before: str, deed: str, after: str) -> None:
    text = f"SELECT {before}{deed}{after}".encode()
    for setting in (True, False):
        try:
            acts = acts_on_the_session(tokens(text, standard_conforming_strings=setting))
        except Unterminated:
            continue
        assert leaves_something(text) or not acts


@given(st.binary(max_size=200) | SOUP.map(str.encode))
def test_any_bytes_are_judged(text: bytes) -> None:
    assert facts_of(text).traces >= 0


BLANKS = st.text(" \t\n\r\f\v", max_size=3)
COMMENTS = (
    st.text(max_size=8).map(lambda text: f"--{text}".replace("\n", "").replace("\r", "") + "\n")
    | st.text(max_size=8).map(lambda text: f"/*{text.replace('*', '').replace('/', '')}*/")
    | st.just("/* /* nested */ */")
)
GAPS = st.lists(BLANKS | COMMENTS, max_size=3).map("".join)
CASES = st.sampled_from((str.lower, str.upper, str.title))


@given(
    st.sampled_from(
        (
            "SELECT|set_config|(|'a.b'|,|'x'|,|false|)",
            "SELECT|1|,|pg_catalog|.|set_config|(|'a.b'|,|'x'|,|false|)",
            "SELECT|pg_advisory_lock|(|1|)",
            "SELECT|*|FROM|t|WHERE|pg_try_advisory_lock|(|id|)",
            "VALUES|(|nextval|(|'s'|)|)",
            "WITH|x|AS|(|SELECT|setseed|(|0|)|)|SELECT|1",
            "BEGIN|;|SET|a.b|=|'x'|;|COMMIT",
            "SELECT|1|;|LISTEN|channel",
            "SELECT|1|INTO|TEMP|t",
            "SELECT|1|INTO|t",
            "DECLARE|c|CURSOR|WITH|HOLD|FOR|SELECT|1",
            "UPDATE|pg_settings|SET|setting|=|1",
            'UPDATE|"pg_settings"|SET|setting|=|1',
            "SELECT|my_function|(|)",
        )
    ),
    CASES,
    st.data(),
)
def test_gaps_and_case_change_nothing(statement: str, case: object, data: st.DataObject) -> None:
    assert callable(case)
    words = [word if word.startswith('"') else case(word) for word in statement.split("|")]
    # Between words there must be a gap.
    text = data.draw(GAPS) + "".join(word + (data.draw(GAPS) or " ") for word in words)
    assert leaves_something(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        # Statements that are made to change the session.
        "SET search_path TO x",
        "SET SESSION AUTHORIZATION x",
        "SET ROLE x",
        "SET SESSION search_path = x",
        "SET TIME ZONE 'UTC'",
        "SET NAMES 'latin1'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "set",
        "RESET ALL",
        "DISCARD ALL",
        "LISTEN c",
        "UNLISTEN *",
        "LOAD 'x'",
        "PREPARE p AS SELECT 1",
        "DEALLOCATE ALL",
        "EXECUTE p",
        "CREATE TEMP TABLE t (a int)",
        "CREATE TABLE pg_temp.t (a int)",
        "DO 'x'",
        "CALL p()",
        "EXPLAIN ANALYZE EXECUTE p",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
        "DROP TABLE t",
        "unknown",
        '"select" 1',
        # Settings whose first name is also a word of SET's grammar.
        "SET local.x = 1",
        "SET LOCAL . x = 1",
        "SET transaction.x TO 1",
        "SET constraints/**/.x = 1",
        "SET local = 1",
        # Temporary tables, and tables that search_path can make temporary.
        "SELECT 1 INTO t",
        "SELECT 1 INTO pg_temp.t",
        "SELECT 1 AS insert INTO t",
        "WITH x AS (SELECT 1) SELECT (1) merge INTO t",
        "SELECT count(*) INTO TABLE t FROM x",
        # The view that is a SET in disguise.
        "UPDATE pg_settings SET setting = 'x'",
        "UPDATE pg_catalog.pg_settings SET setting = 'x'",
        'UPDATE ONLY "pg_settings" SET setting = 1',
        "UPDATE U&\"pg!005fsettings\" UESCAPE '!' SET setting = 1",
        "WITH x AS (UPDATE pg_settings SET setting = 'x' RETURNING 1) SELECT 1",
        # Functions that are not known, in every notation.
        "SELECT f()",
        "SELECT f ()",
        "SELECT public.lower('A')",
        "SELECT public . lower ('A')",
        'SELECT "public".lower(1)',
        'SELECT "pg_catalog ".lower(1)',
        "SELECT é1.lower(1)",
        "SELECT a$1.lower(1)",
        'SELECT "lower"(1)',
        'SELECT U&"lower"(1)',
        "SELECT é(1)",
        "SELECT lower\N{NO-BREAK SPACE}(1)",
        "SELECT lower\N{ZERO WIDTH SPACE}(1)",
        "SELECT set_config\N{NO-BREAK SPACE}(1)",
        "SELECT x$lower(1)",
        "SELECT * FROM t TABLESAMPLE f(1)",
        "SELECT * FROM ROWS FROM (f())",
        "SELECT * FROM a JOIN f() ON true",
        "SELECT 1 OPERATOR(public.+) 1",
        "TABLE t ORDER BY f(1)",
        "SELECT query_to_xml('SELECT set_config(1)')",
        "SELECT lo_open(1, 2)",
        "SELECT dblink('x')",
        "COPY (SELECT set_config('a.b', 'x', false)) TO STDOUT",
        "COPY t FROM STDIN WHERE f(a)",
        "INSERT INTO t (a) VALUES (f(1))",
        "INSERT INTO t SELECT f(1)",
        "INSERT INTO t AS f (a) SELECT set_config(1)",
        "MERGE INTO t USING f(1) ON true WHEN MATCHED THEN DELETE",
        "FETCH ALL IN f(1)",
        "SELECT 1 AS a, f(1)",
        "SELECT 1 AS a UNION SELECT f(1)",
        "SELECT a::int, f(1)",
        "SELECT a::numeric(10, f(1))",
        "WITH t (a) AS (SELECT f(1)) SELECT 1",
        "SELECT count(*) FILTER (WHERE f(1)) OVER (PARTITION BY f(1))",
        "SELECT 1 FROM t ORDER BY (f(1))",
        "INSERT INTO t VALUES (1) ON CONFLICT (f(a)) DO NOTHING",
        "SELECT 1 FROM a JOIN (SELECT f(1)) AS b ON true",
        # Keywords that are names of functions elsewhere.
        *(
            f"SELECT {name}(1)"
            for name in ("is", "key", "by", "over", "filter", "join", "conflict")
        ),
        *(
            f"SELECT {name}(a, b)"
            for name in ("join", "partition", "zone", "set", "update", "rows")
        ),
        "SELECT a FROM t JOIN u ON conflict(t.a, u.a)",
        "SELECT (1), over (2)",
        # A quoted name that looks like the grammar around a name.
        """SELECT 1 "as ", set_config('a', 'b', false) "(x\"""",
        """SELECT 1 "with", set_config('a', 'b', false) "a (x\"""",
        # Not to be told apart without knowing the server's settings, or not at all.
        "SELECT 'a\\b'",
        "SELECT $$a$$",
        "SELECT /* /* a */ */ 1",
        "SELECT 'a",
        "SELECT 1 /* a",
        "SELECT 1 \x00",
    ],
)
def test_what_is_not_known_to_be_harmless_is_a_yes(text: str) -> None:
    assert leaves_something(text.encode())
    assert leaves_something(f"SELECT 1; {text}".encode())
    assert leaves_something(f"{text}; SELECT 1".encode())


@pytest.mark.parametrize(
    "encoding",
    ["big5", "cp949", "gb18030", "gbk", "shift_jis", "shift_jis_2004"],
)
def test_a_character_is_never_taken_for_the_end_of_a_name(encoding: str) -> None:
    """In these a character's last byte can be ASCII: the call is one of a user's own function."""
    by_last_byte = {}
    for code in [*range(0x80, 0xD800), *range(0xE000, 0x10000)]:
        character = chr(code).encode(encoding, "ignore")
        if character and character[0] >= 0x80:
            by_last_byte[character[-1]] = character
            # Nothing within a literal or a comment can end it.
            assert not set(character) & set(b"'\"-/*$&(). \t\n\r\f\v")
    assert any(byte < 0x80 for byte in by_last_byte)
    for character in by_last_byte.values():
        assert leaves_something(b"SELECT " + character + b"lower(1)")
        assert leaves_something(b"SELECT " + character + b"select(1)")


ORDINARY = [
    "",
    ";",
    " ; -- nothing\n",
    "SELECT 1",
    "select 1;",
    "SELECT 1; SELECT 2",
    "(SELECT 1) UNION (SELECT 2)",
    "BEGIN",
    "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
    "START TRANSACTION",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "COMMIT AND CHAIN",
    "COMMIT PREPARED 'x'",
    "SAVEPOINT a",
    "RELEASE SAVEPOINT a",
    "ROLLBACK TO SAVEPOINT a",
    "SET LOCAL lock_timeout = '1s'",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET CONSTRAINTS ALL DEFERRED",
    'SET LOCAL "a"."b" TO 1',
    "SHOW transaction isolation level",
    "LOCK TABLE t IN SHARE MODE",
    "TRUNCATE t, u RESTART IDENTITY CASCADE",
    "VACUUM t",
    "ANALYZE t",
    "TABLE t",
    "DECLARE c CURSOR FOR SELECT 1",
    'DECLARE "hold" SCROLL CURSOR FOR SELECT 1',
    "FETCH FORWARD 100 FROM c",
    "MOVE 1 IN c",
    "CLOSE c",
    "COPY t FROM STDIN",
    'COPY "t" ("a", "b c") FROM STDIN BINARY',
    "COPY public.t (a, b) FROM STDIN WITH (FORMAT csv)",
    "COPY (SELECT a FROM t) TO STDOUT",
    "SELECT 'set_config(1)', \"set_config(1)\", /* set_config(1) */ 1 -- set_config(1)",
    "SELECT 'it''s', \"a\"\"b\", E'plain', N'n', B'1', X'1F'",
    "SELECT $1, $2::text",
    "SELECT a -> 'b', a #>> '{c,d}', a @> '{}' FROM t WHERE a ? 'x'",
    "SELECT pg_catalog.lower('A'), PG_CATALOG . Lower ('B')",
    "SELECT a FROM t WHERE a IN (1, 2) AND b = ANY ($1) OR NOT (c) AND EXISTS (SELECT 1)",
    "SELECT coalesce(a, 1), greatest(1, 2), extract(year FROM b), trim(both ' ' FROM c) FROM t",
    "SELECT CAST(a AS VARCHAR(50)), a::numeric(10, 2), b::pg_catalog.varchar(3) FROM t",
    "SELECT CASE WHEN (a) THEN (b) ELSE (c) END FROM t",
    "SELECT array[1], array(SELECT 1), row(1, 2)",
    "SELECT count(*) FILTER (WHERE a), row_number() OVER (PARTITION BY (b) ORDER BY (c)) FROM t",
    "SELECT a, sum(b) FROM t GROUP BY (a) HAVING (sum(b) > 1) ORDER BY (a) LIMIT (1) OFFSET (2)",
    "SELECT 1 FROM a JOIN (SELECT x FROM b) AS c USING (x) LEFT JOIN LATERAL (TABLE d) e ON (a)",
    "SELECT a.x FROM a LEFT OUTER JOIN (b AS b_1 JOIN c AS c_1 ON b_1.x = c_1.x) ON a.x = b_1.x",
    "WITH a AS (SELECT 1), b AS MATERIALIZED (SELECT 2), c AS NOT MATERIALIZED (SELECT 3) SELECT 1",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "WITH a AS (INSERT INTO t (x) VALUES (1) RETURNING x) SELECT x FROM a",
    "INSERT INTO t (a, b) VALUES (1, $1), (2, $2) RETURNING t.id",
    "INSERT INTO public.t DEFAULT VALUES",
    'INSERT INTO "my schema"."my table" ("a b") VALUES (1)',
    "INSERT INTO t SELECT 1 ON CONFLICT (a, b) DO UPDATE SET a = excluded.a WHERE (t.b)",
    "MERGE INTO t USING (SELECT 1 AS a) AS s ON (t.a = s.a) WHEN MATCHED THEN DELETE",
    "UPDATE t SET a = a + 1 FROM (VALUES (1)) AS v(id) WHERE t.id = v.id",
    "DELETE FROM t USING u WHERE (t.a = u.a)",
    "SELECT a FROM t FOR UPDATE SKIP LOCKED",
    "SELECT temp, temporary, prepared, hold, \"into\" FROM t",
    "SELECT 1 FROM t WHERE a LIKE ('x' || '%') AND (a, b) OVERLAPS (c, d)",
    "SELECT ü, ß.x FROM straße AS ß",
    "INSERT INTO straße (ü) VALUES (1)",
    "SELECT pg_advisory_xact_lock(1), pg_sleep(0)",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_statement_is_a_no(text: str) -> None:
    assert not facts_of(text.encode()).traces
    assert not facts_of(f"SELECT 1; {text}; SELECT 2".encode()).traces


def test_a_statement_of_transactions_alone_may_follow_another() -> None:
    assert not facts_of(b"BEGIN; SET LOCAL a.b = 1; SELECT 1; COMMIT").traces
    assert leaves_something(b"BEGIN; SET LOCAL a.b = 1; SET a.b = 1; COMMIT")


def test_a_text_that_is_too_long_to_be_looked_at_is_a_yes() -> None:
    text = b"SELECT 1".ljust(MAX_SCANNED_BYTES)
    assert not facts_of(text).traces
    assert leaves_something(text + b" ")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("start", "part", "end"),
    [
        *((b"SELECT ", part, b"") for part in (b"a", b"1", b"a.", b"a .", b" ", b"(", b"( ")),
        *((b"SELECT ", part, b"") for part in (b"as ", b"::", b"::a ", b"order by ", b"with ")),
        *((b"SELECT ", part, b"") for part in (b"/*", b"'", b'"', b"'\\", b"-", b"join (", b"$1")),
        *((b"SELECT ", part, b"") for part in (b"\xc3\xa9", b"\xc3as ", b"on conflict(", b") ")),
        (b"SELECT 1", b"1", b"a"),
        (b"SELECT /", b"*", b""),
        (b"SELECT as", b" ", b"x"),
        (b"SELECT as ", b"a", b" x"),
        (b"SELECT join (", b"x ", b""),
        (b"SELECT on conflict (", b"x", b""),
        (b"", b";", b""),
        (b"", b"begin;", b""),
    ],
)
def test_no_text_takes_longer_than_its_length_allows(start: bytes, part: bytes, end: bytes) -> None:
    """A few milliseconds each; with a step per pair of bytes it would be minutes."""
    length = MAX_SCANNED_BYTES - len(start) - len(end)
    text = start + (part * length)[:length] + end
    assert facts_of(text).traces == facts_of(text.upper()).traces
