"""What is found in a tree; tests/proxy/cache/test_eligibility.py has the long table."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdrive_client.sql.parse_tree import Node, statements_of, why_unavailable
from hyperdrive_client.sql.reads import (
    Call,
    Cast,
    Name,
    Operator,
    Reads,
    Refused,
    has_clock_word,
    reads_of,
)

pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "parses")


def reads(text: str) -> Reads:
    return reads_of(statements_of(text.encode()))


def test_names_are_found_where_they_are() -> None:
    found = reads(
        "SELECT a.b, (c).d, s.f(x, 1), g(y), e::int[], 'z'::s.t FROM u JOIN s.v USING (id)"
        " WHERE a.b OPERATOR(s.@@) 3 ORDER BY h() USING <"
    )
    assert found.relations == {Name("", "u"), Name("s", "v")}
    assert found.calls == {
        Call(Name("s", "f"), 2),
        Call(Name("", "g"), 1),
        Call(Name("", "h"), 0),
    }
    assert found.operators == {
        Operator(Name("", "=")),
        Operator(Name("s", "@@"), right_is_number=True),
        Operator(Name("", "<")),
    }
    assert found.casts == {
        Cast(Name("pg_catalog", "int4"), constant=False, column="e"),
        Cast(Name("s", "t"), constant=True),
    }
    assert found.calls_of_one == {Cast(Name("", "g"), constant=False)}
    assert found.columns == {"b"}
    assert found.members == {"d"}
    assert found.only_tables


@pytest.mark.parametrize(
    ("text", "relations"),
    [
        ("WITH a AS (SELECT 1) SELECT * FROM a, s.a", "s.a"),
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", "a"),
        ("WITH RECURSIVE a AS (SELECT * FROM a) SELECT * FROM a", ""),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM b", "b"),
        ("WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", ""),
        ("SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) x, a", "a"),
        ("SELECT (WITH a AS (SELECT 1) SELECT count(*) FROM a), (SELECT 1 FROM a)", "a"),
        ("WITH a AS (SELECT 1) SELECT 1 UNION SELECT * FROM a", ""),
        ("(WITH a AS (SELECT 1) SELECT * FROM a) UNION SELECT * FROM a", "a"),
        ("WITH a AS (SELECT 1) SELECT (SELECT max(x) FROM a y(x))", ""),
        ("WITH a AS (WITH b AS (SELECT 1) SELECT * FROM b) SELECT * FROM a, b", "b"),
        ('WITH "A" AS (SELECT 1) SELECT * FROM a', "a"),
    ],
)
def test_a_with_query_hides_a_table_only_where_it_is_in_sight(text: str, relations: str) -> None:
    names = {f"{each.schema}.{each.name}".strip(".") for each in reads(text).relations}
    assert names == set(relations.split())


def test_a_constant_is_a_literal_or_a_parameter_or_an_array_of_them() -> None:
    found = reads(
        "SELECT '1'::a, $1::b, ARRAY['1', $2]::c, ('1' || '2')::d, '1'::e::f, ARRAY[x]::g"
    )
    constant = {cast.type.name: cast.constant for cast in found.casts}
    assert {name for name, is_constant in constant.items() if is_constant} == set("abce")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a::date FROM (SELECT b AS a FROM t) s",
        "SELECT a::date FROM t AS s(a)",
        "SELECT a::date FROM f() AS s(a)",
        "SELECT s.a::date FROM (t JOIN u ON true) AS s",
        "WITH s AS (SELECT 1) SELECT a::date FROM t",
    ],
)
def test_a_column_may_be_another_than_a_tables(text: str) -> None:
    assert not reads(text).only_tables


def test_a_kind_of_node_or_field_that_is_not_listed_is_refused_by_name() -> None:
    (statement,) = statements_of(b"SELECT a FROM t")
    with pytest.raises(Refused, match="Unheard is not known"):
        reads_of([_with(statement, "targetList", [{"Unheard": {}}])])
    with pytest.raises(Refused, match="unheard of SelectStmt is not known"):
        reads_of([_with(statement, "unheard", True)])


def _with(statement: Node, field: str, value: object) -> Node:
    changed: Node = json.loads(json.dumps(statement))
    changed["SelectStmt"][field] = value
    return changed


CLOCK_WORDS = ("now", "today", "tomorrow", "yesterday", "allballs")


@given(st.sampled_from(CLOCK_WORDS), st.data())
def test_a_clock_word_is_seen_in_any_case_and_between_any_marks(
    word: str, data: st.DataObject
) -> None:
    marks = st.text("0123456789 {}[](),.:;-+_'\"\\\n", max_size=3)
    quotes = st.sampled_from(("", "\\", '"', '""', '\\"'))
    letters = [data.draw(st.sampled_from((each, each.upper()))) for each in word]
    inner = letters[0] + "".join(data.draw(quotes) + each for each in letters[1:])
    assert has_clock_word((data.draw(marks) + inner + data.draw(marks)).encode())


@pytest.mark.parametrize("text", ["", "known", "snow", "nowhere", "todays", "n o w", "no", "2024"])
def test_other_words_are_none(text: str) -> None:
    assert not has_clock_word(text.encode())
