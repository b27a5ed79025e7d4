"""Which objects of the catalogue names mean, by a session's settings.

PostgreSQL, "The Schema Search Path". Temporary objects are looked for first there; sessions that
have any are not served from the cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from ...sql.reads import Name, Refused
from .catalogue_contents import Contents, Function, Relation, Type

Settings = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values: what a session has that is not the default."""

Found = TypeVar("Found")

_DECIDING = frozenset(
    b"search_path role session_authorization standard_conforming_strings client_encoding".split()
)
_ENTRY = re.compile(r"""\s*(?:"((?:[^"]|"")*)"|([^\s,"]+))\s*(?:,|\Z)""")
MAX_NAME_BYTES = 63


class Names:
    """The search_path of one kind of session."""

    def __init__(self, contents: Contents, settings: Settings) -> None:
        given = {name: value.decode("utf-8", "replace") for name, value in settings}
        own = contents.session["user"]
        role = given.get(b"role", "none")
        user = role if role != "none" else given.get(b"session_authorization", own)
        path = given.get(b"search_path", contents.session["search_path"])
        self._contents = contents
        self.settings = settings
        self._is_own = user in (own, "default")
        self.refusal = ""
        """Why no statement of such sessions is understood."""
        strings = given.get(
            b"standard_conforming_strings",
            contents.session.get("standard_conforming_strings", "on"),
        )
        if strings.lower() not in ("on", "true", "yes", "1"):
            self.refusal = "standard_conforming_strings is off"
        encodings = contents.session["server_encoding"], given.get(b"client_encoding", "UTF8")
        self.in_utf8 = all(each.upper() in ("UTF8", "UTF-8", "UNICODE") for each in encodings)
        """Names in texts are as in the catalogue, though they are not ASCII."""
        self.schemas = self._schemas(path, own if user == "default" else user)
        """Where unqualified names are looked for, in order."""

    def _schemas(self, path: str, user: str) -> tuple[str, ...]:
        entries = _entries(path)
        if entries is None:
            self.refusal = "the search_path is not understood"
            return ()
        names = [user if entry == "$user" else entry for entry in entries]
        if "pg_catalog" not in names:
            names.insert(0, "pg_catalog")
        usable = self._contents.usable_schemas
        # Of other roles' rights nothing is known.
        known = [name for name in names if name in usable and (usable[name] or not self._is_own)]
        return tuple(dict.fromkeys(known))

    def relation(self, name: Name) -> Relation | None:
        """``Refused`` if rights of another role decide which one it is."""
        places = (name.schema,) if name.schema else self.schemas
        found = (self._contents.relations.get((place, name.name)) for place in places)
        return self._first(name, [each for each in found if each is not None])

    def type(self, name: Name) -> Type | None:
        """``Refused`` if rights of another role decide which one it is."""
        places = (name.schema,) if name.schema else self.schemas
        found = (self._contents.types.get((place, name.name)) for place in places)
        return self._first(name, [each for each in found if each is not None])

    def functions(self, name: Name) -> Iterable[Function]:
        """All that the name may mean, whatever the arguments."""
        places = (name.schema,) if name.schema else self.schemas
        return (
            each
            for place in places
            for each in self._contents.functions.get((place, name.name), ())
        )

    def odd_operators(self, name: Name) -> Iterable[tuple[str, str, str]]:
        """Full names of operators that are not fine, and the categories of their operands."""
        places = (name.schema,) if name.schema else self.schemas
        known = self._contents.odd_operators
        return (
            (f"{place}.{name.name}", *operands)
            for place in places
            for operands in known.get((place, name.name), ())
        )

    def _first(self, name: Name, found: list[Found]) -> Found | None:
        if len(found) > 1 and not self._is_own:
            raise Refused("uncacheable", f"the role's rights decide which {name.name} is meant")
        return found[0] if found else None


def deciding(settings: Settings) -> Settings:
    """Those of the settings that decide what names mean."""
    return tuple(each for each in settings if each[0] in _DECIDING)


def _entries(path: str) -> list[str] | None:
    """The schemas of a search_path's value; ``None`` if it is not understood."""
    entries = []
    at = 0
    while at < len(path):
        found = _ENTRY.match(path, at)
        if found is None:
            return None
        quoted, bare = found.groups()
        name = bare.lower() if bare is not None else quoted.replace('""', '"')
        if len(name.encode()) > MAX_NAME_BYTES or not (bare is None or bare.isascii()):
            return None
        entries.append(name)
        at = found.end()
    return entries
