"""Texts of one form make use of the same."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperdrive_client.sql.literals import form_of
from hyperdrive_client.sql.parse_tree import NotParsedError, statements_of, why_unavailable
from hyperdrive_client.sql.reads import Refused, reads_of

pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "parses")


def uses(text: str) -> object:
    """What a text makes use of; ``None`` if it can't be parsed."""
    try:
        return reads_of(statements_of(text.encode()))
    except Refused as error:
        return error.status, error.reason
    except NotParsedError:
        return None


NUMBERS = ("1", "23", "4.5", "0", ".5", "1e3", "B'1'", "X'1F'", "$1", "1from t --")
STRINGS = ("'a'", "'it''s'", "'--x'", "'/*'", "''", "'a\"b'", "'$$'", "'x\\'", "'é'", "'no'\n'w'")
ESCAPES = (
    "E'\\''",
    "U&'!006eow' UESCAPE '!'",
    "E'n\\157w'",
    "U&'\\006eow'",
    "$$now$$",
    "$x$'$x$",
    "/*'*/1",
    "--'\n1",
)
CLOCK = ("'now'", "'NO''W'", "'today'::date", "date'2024-01-01'", "now()")
NAMES = ("a.b", 'a "b"', '"a b"', "t1", '"now"', '"a""b"', '"1"', "\"x\"'y'")
LITERALS = st.sampled_from((*NUMBERS, *STRINGS, *ESCAPES, *CLOCK, *NAMES))
GLUE = st.sampled_from(("", " ", "\n", ", ", " + ", " || ", " AS ", "::text ", " FROM ", " -- x\n"))


@st.composite
def statements(draw: st.DrawFn) -> tuple[str, str]:
    """Two texts of the same build with other literals."""
    texts = ["SELECT ", "SELECT "]
    for _ in range(draw(st.integers(1, 4))):
        glue = draw(GLUE)
        first = draw(LITERALS)
        second = draw(st.one_of(st.just(first), LITERALS))
        texts = [texts[0] + first + glue, texts[1] + second + glue]
    end = draw(st.sampled_from(("1", " FROM t", " FROM t WHERE a = 3", "")))
    return texts[0] + end, texts[1] + end


@given(statements())
@example(("SELECT 'no'\n'w'::date", "SELECT 'a'\n'b'::date"))
@example(("SELECT 1from t", "SELECT 1 t"))
@example(("SELECT 'a' 'b'", 'SELECT "a" 1'))
def test_texts_of_one_form_make_use_of_the_same(texts: tuple[str, str]) -> None:
    first, second = texts
    if form_of(first.encode()) == form_of(second.encode()):
        found = uses(first), uses(second)
        assert None in found or found[0] == found[1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 234567"),
        ("SELECT a FROM t WHERE b = 1.5", "SELECT a FROM t WHERE b = 10"),
        ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = 'a longer one'"),
        ("SELECT \"a\" FROM t WHERE b = 'x'", "SELECT \"a\" FROM t WHERE b = 'yz'"),
        ('SELECT "a" FROM t1 LIMIT 1 OFFSET 2', 'SELECT "a" FROM t1 LIMIT 3 OFFSET 40'),
    ],
)
def test_literals_are_no_part_of_the_form(first: str, second: str) -> None:
    assert form_of(first.encode()) == form_of(second.encode())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("SELECT a FROM t1", "SELECT a FROM t2"),
        ('SELECT "1" FROM t', 'SELECT "2" FROM t'),
        ("SELECT $1", "SELECT $2"),
        ("SELECT 1", "SELECT '1'"),
        ('SELECT "1"', "SELECT 1"),
        ('SELECT a "b"', 'SELECT "a b"'),
        ('SELECT "\'", 1', "SELECT '', 1"),
        ("SELECT 'now'::date", "SELECT 'not'::date"),
        ("SELECT E'\\'', 1", "SELECT E'\\'', now() --'"),
        ("SELECT 'a\\', 'b'", "SELECT 'a\\', 'c'"),
        ("SELECT $$1$$", "SELECT $$2$$"),
        ("SELECT date --x\n", "SELECT date 'x'\n"),
    ],
)
def test_everything_else_is(first: str, second: str) -> None:
    assert form_of(first.encode()) != form_of(second.encode())
