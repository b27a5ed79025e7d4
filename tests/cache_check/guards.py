"""The rules that keep the cache right, and how each is taken out of a proxy's process."""

from __future__ import annotations

from collections.abc import Callable

GUARDS: dict[str, Callable[[], None]] = {}


def remove(name: str) -> None:
    """In this process, before a proxy starts in it."""
    GUARDS[name]()
