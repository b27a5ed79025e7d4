"""A parsed configuration file that remembers its lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The way to a value: object keys and array indexes, as in ("hyperdrive", 0, "binding").
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """``value`` is what ``json`` or ``tomllib`` make of the file named ``source``.

    ``lines`` count from 1.
    """

    source: str
    value: object
    lines: Mapping[KeyPath, int]

    def place(self, path: KeyPath) -> str:
        """Return ``source:line`` of a key, or of the nearest thing around it that has a line."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.source}:{self.lines.get(path, 1)}"
