"""A text without what does not decide its answer: comments, and how words are set apart."""

from __future__ import annotations

import re

# From left to right: a literal without escapes or a quoted name; comments and white space.
_TOKENS = re.compile(
    rb"""('[^'\\]*+'|"[^"]*+")|(?:\s|--[^\n\r]*+|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)+""", re.VERBOSE
)
# What the tokens above can't tell apart.
_UNCLEAR = re.compile(rb"""[\\\x00]|\$(?!\d)""")
_OPEN = re.compile(rb"""['"]|/\*|\*/|--""")
_HINT = re.compile(rb"/\*+\s*hyperdrive\s*:(.*?)\*/", re.IGNORECASE | re.DOTALL)


def folded(text: bytes) -> bytes:
    """``text`` without comments and with single spaces, but in literals and quoted names.

    A text in which those can't be told apart is given as it is.
    """
    if _UNCLEAR.search(text):
        return text
    rest = _TOKENS.sub(rb" ", text)
    if _OPEN.search(rest):
        return text
    return _TOKENS.sub(_kept, text).strip(b" ;")


def _kept(token: re.Match[bytes]) -> bytes:
    return token[1] or b" "


def hints_of(text: bytes) -> list[bytes]:
    """The words in ``/* hyperdrive: … */`` comments, in lower case."""
    if b"/*" not in text or b"hyperdrive" not in text.lower():
        return []
    return [word for found in _HINT.findall(text) for word in found.lower().split() or [b""]]
