"""Statement texts without their literals: texts that differ in those alone are one form."""

from __future__ import annotations

import re

from .reads import has_clock_word

# Literals and numbers, and quoted names, in which a quote or a digit is none. The set in front is
# what makes the search fast.
_LITERALS = re.compile(
    rb"""["'0-9](?:
      (?<=")([^"]*")
    | (?<=')[^']*(')
    | (?<=[0-9])(?<![\w$\x80-\xff.][0-9])[0-9]*(?:\.[0-9]+)?(?![\w.$\x80-\xff])
    )""",
    re.VERBOSE,
)
# Where the above would be wrong: backslashes, dollar quotes, escapes, Unicode escapes, literals
# that continue on another line, comments.
_UNCLEAR = re.compile(
    rb"""[\\$'&/-](?:
      (?<=\\) | (?<=\$)(?![0-9]) | (?<=&)['"] | (?<=')\s*[\r\n]\s*' | (?<=-)- | (?<=/)\*
    )""",
    re.VERBOSE,
)


def form_of(text: bytes) -> bytes:
    """``text`` without its literals, but for what tells numbers from others, or as it is where that
    is not safe.

    Texts of one form make use of the same (``reads_of``). Comments
    make a text its own form.
    """
    if _UNCLEAR.search(text):
        return text
    if b"'" in text:
        if has_clock_word(text):
            return text
    elif b'"' not in text:
        return _LITERALS.sub(b"\x00", text)
    # Three parts for each: what is before it, a name, what it is.
    return b"\x00".join([part or b"" for part in _LITERALS.split(text)])
