"""Texts that are one question to the cache mean the same to PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from hyperdrive_client.sql.folded import folded, hints_of
from hyperdrive_client.sql.parse_tree import NotParsedError, statements_of

# What texts are made of: everything in which a comment, a blank or a quote is not what it seems.
PIECES = [
    "select",
    "1",
    "a",
    "$1",
    "'",
    "''",
    '"',
    '""',
    "'a  b'",
    '"a  b"',
    "'--'",
    '"/*"',
    "--",
    "-- x\n",
    "--'\n",
    "/*",
    "*/",
    "/* x */",
    "/*'*/",
    "/**/",
    "/* /* */ */",
    "/***/",
    "/*/*/",
    "/",
    "*",
    "-",
    "+",
    "+-",
    "*/*",
    "@-",
    "E'",
    "e'a\\'b'",
    "\\",
    "U&'",
    'U&"a"',
    "UESCAPE '!'",
    "B'1'",
    "N'x'",
    "$$",
    "$a$",
    "$$ -- $$",
    "a$b",
    " ",
    "  ",
    "\n",
    "\r",
    "\t",
    "\f",
    "\v",
    "\xa0",
    ";",
    ",",
    "(",
    ")",
    "as",
    "||",
    "::",
    ".",
    "from t",
]
texts = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)
# Almost the same: another blank or comment somewhere.
blanks = st.sampled_from([" ", "\n", "  ", "/* */", "-- x\n", "/*'*/", "-- '\n", "/*/**/*/", "\t"])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    pieces = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8))
    first = second = "select "
    for piece in pieces:
        apart = draw(st.booleans())
        first += piece + (draw(blanks) if apart else "")
        second += piece + (draw(blanks) if apart else "")
    return first, second


def tree(text: str) -> Any:
    """Without the places where things stand."""
    try:
        return _without_locations(statements_of(text.encode()))
    except NotParsedError:
        return None


def _without_locations(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            name: _without_locations(value)
            for name, value in node.items()
            if not name.endswith("location")
        }
    return [_without_locations(each) for each in node] if isinstance(node, list) else node


@given(pairs())
@example(("select 'a'\n'b'", "select 'a' 'b'"))
@example(("select 'a'--x\n'b'", "select 'a'/**/'b'"))
@example(("select 1 */*x*/ 2", "select 1 * 2"))
@example(("select 'it''s  '", "select 'it''s '"))
@example(('select "a""  b"', 'select "a"" b"'))
@example(("select $$ -- $$", "select $$"))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_texts_that_fold_to_the_same_have_the_same_tree(pair: tuple[str, str]) -> None:
    first, second = pair
    assume(first != second and folded(first.encode()) == folded(second.encode()))
    trees = tree(first), tree(second)
    assume(None not in trees)
    assert trees[0] == trees[1]


@given(texts)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_what_is_left_means_what_the_text_meant(text: str) -> None:
    text = f"select {text}"
    meant = tree(text)
    assume(meant is not None)
    left = tree(folded(text.encode()).decode())
    # Literals on lines of their own are one, and in one line an error.
    assert left in (meant, None)
    assert left is not None or "'" in text


@given(texts)
@settings(max_examples=500, deadline=None)
def test_folding_twice_is_folding_once(text: str) -> None:
    once = folded(text.encode())
    assert folded(once) == once


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b"select 1", b"select 1"),
        (b"  select\n\t1 ; ", b"select 1"),
        (b"select /* a */ 1 -- b", b"select 1"),
        (b"select/**/1", b"select 1"),
        (b"/* a */ -- b\n select 1", b"select 1"),
        (b"select '  -- a  /* '", b"select '  -- a  /* '"),
        (b'select "  -- a  /* "', b'select "  -- a  /* "'),
        (b"select 'it''s  '  ,  1", b"select 'it''s  ' , 1"),
        (b"select $1  ,  $2", b"select $1 , $2"),
        (b"select 1;", b"select 1"),
        (b"select ';'", b"select ';'"),
    ],
)
def test_comments_and_blanks_are_left_out(text: bytes, left: bytes) -> None:
    assert folded(text) == left


@pytest.mark.parametrize(
    "text",
    [
        b"select  E'\\''",
        b"select  'a\\'",
        b"select  $$ a $$",
        b"select  $a$ b $a$",
        b"select  /* a /* b */ c */ 1",
        b"select  /* open",
        b"select  'open",
        b'select  "open',
        b"select  U&'\\0041'",
        b"select  1 */ 2",
        b"select  a$b",
    ],
)
def test_what_is_not_clear_stays_as_it_is(text: bytes) -> None:
    assert folded(text) == text


def test_a_long_one_takes_no_time_out_of_proportion() -> None:
    for text in (
        b"/*" * 4000,
        b"/* " * 2500,
        b"'" * 7999,
        b"-- " * 2500,
        b"/*/" * 2500,
        b" " * 8000,
    ):
        folded(text)


class TestHints:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b"select 1", []),
            (b"/* hyperdrive: cache=off */ select 1", [b"cache=off"]),
            (b"select 1 /*hyperdrive:max_age=5 refresh*/", [b"max_age=5", b"refresh"]),
            (b"/* HYPERDRIVE : Cache=OFF */ select 1", [b"cache=off"]),
            (b"/* HyperDrive: cache=off */ select 1", [b"cache=off"]),
            (b"/* hyperdrive: a */ select /* hyperdrive: b */ 1", [b"a", b"b"]),
            (b"/* hyperdrive: */ select 1", [b""]),
            (b"/* from hyperdrive: cache=off */ select 1", []),
            (b"select 1 -- hyperdrive: cache=off", []),
        ],
    )
    def test_words(self, text: bytes, words: list[bytes]) -> None:
        assert hints_of(text) == words
