"""How a statement has fared with the proxy's cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What the proxy says of the session's last statement."""

    status: str
    """Hyperdrive's names: ``hit``, ``miss``, ``uncacheable``, ``volatile``, ``transaction``,
    ``disabled``, ``multiplestatements``, ``notaquery``, ``oversizedquery``, ``oversizedresult`` or
    ``parseerror``."""
    reason: str
    """In words, and of a hit its age; empty where the status says it all."""

    @classmethod
    def of(cls, reported: str | None) -> Self | None:
        """From the value of the parameter ``hyperdrive.cache``."""
        if reported is None:
            return None
        status, _, reason = reported.partition(": ")
        return cls(status, reason)
