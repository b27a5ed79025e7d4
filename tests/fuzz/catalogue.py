"""What a cache believes of the origin here: plain selects read one table, and others write it."""

from __future__ import annotations

from hyperdrive_client.proxy.cache.catalogue import Verdict, Written
from hyperdrive_client.sql.facts import facts_of

TABLE = 1
_NO_VERDICT = Verdict("uncacheable", "no plain select", ())
_READ = Verdict("", "", (TABLE,))
_SETTINGS = tuple[tuple[bytes, bytes], ...]


class Catalogue:
    """In place of the real one: its texts need not be what PostgreSQL understands."""

    default_isolation = b"read committed"
    unguarded: dict[int, str] = {}  # noqa: RUF012

    def __init__(self, zone: str) -> None:
        self.session = {"TimeZone": zone}
        """What sessions begin with."""

    def verdict(self, text: bytes, settings: _SETTINGS) -> Verdict:
        plain = text.lower().startswith(b"select ") and facts_of(text).plain
        return _READ if plain and facts_of(text).reads else _NO_VERDICT

    def written(self, text: bytes, settings: _SETTINGS) -> Written:
        facts = facts_of(text)
        if facts.command or facts.reads:
            return Written(frozenset(), False)
        if text.lower().startswith((b"insert", b"update")):
            return Written(frozenset((TABLE,)), False)
        return Written(None, facts.takes_locks)

    def has_no_rows(self, oid: int) -> bool:
        return False

    def name_of(self, oid: int) -> str:
        return str(oid)
