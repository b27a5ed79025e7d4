"""The name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean "X"?'`` for the known name nearest to ``word``, else ``''``."""
    import difflib  # only errors need it

    folded = {name.casefold(): name for name in known}
    for match in difflib.get_close_matches(word.casefold(), folded, n=1):
        return f'; did you mean "{folded[match]}"?'
    return ""
