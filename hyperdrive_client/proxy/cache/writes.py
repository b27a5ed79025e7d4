"""Which tables a statement may write to, by the origin's catalogue: itself and all that follows."""

from __future__ import annotations

from typing import NamedTuple

from ...sql.reads import Name, Refused
from ...sql.written import (
    ANYTHING,
    CASCADE,
    DELETE,
    INSERT,
    NOTHING,
    TRUNCATE,
    UPDATE,
    Call,
    Target,
    Uses,
    uses_of,
    uses_of_atomic,
    uses_of_plpgsql,
    uses_of_sql,
)
from .catalogue_contents import Body, Contents, Relation
from .name_resolution import Names

# PostgreSQL's own that run a text as a query, or queries on views: what those call is not known.
_RUNS_QUERIES = frozenset(
    [
        "query_to_xml",
        "query_to_xml_and_xmlschema",
        "query_to_xmlschema",
        "cursor_to_xml",
        "cursor_to_xmlschema",
        "table_to_xml",
        "table_to_xml_and_xmlschema",
        "schema_to_xml",
        "schema_to_xml_and_xmlschema",
        "database_to_xml",
        "database_to_xml_and_xmlschema",
        "ts_stat",
        "ts_rewrite",
        "pg_import_system_collations",
    ]
)
# Extensions whose functions in C write to no table, the volatile ones either.
_HARMLESS_EXTENSIONS = frozenset(
    [
        "btree_gin",
        "btree_gist",
        "citext",
        "cube",
        "earthdistance",
        "fuzzystrmatch",
        "hstore",
        "intarray",
        "isn",
        "ltree",
        "pg_trgm",
        "pgcrypto",
        "seg",
        "unaccent",
        "uuid-ossp",
        "vector",
    ]
)
# What a foreign key does to those who refer: CASCADE, SET NULL, SET DEFAULT.
_ON_DELETE = {"c": DELETE, "n": UPDATE, "d": UPDATE}


class Written(NamedTuple):
    """What a statement may write to."""

    tables: frozenset[int] | None
    """OIDs; ``None``: any table."""
    changes_catalogue: bool
    """It may be DDL."""


class Writes:
    """Of one state of the catalogue."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._bodies: dict[int, Uses] = {}
        self._views: dict[int, Uses] = {}

    def of(self, uses: Uses, names: Names) -> Written:
        """Of a statement that has these uses, in a session in which names mean what they do."""
        if uses.anything or names.refusal:
            return Written(None, uses.changes_catalogue)
        following = _Following(self, self._contents)
        following.anywhere(names)
        following.uses(uses, names)
        tables = None if following.anything else frozenset(following.tables)
        return Written(tables, following.changes_catalogue)

    def of_body(self, body: Body) -> Uses:
        """What the function's body uses."""
        found = self._bodies.get(body.oid)
        if found is None:
            found = self._bodies[body.oid] = _uses_of_body(body)
        return found

    def of_view(self, oid: int) -> Uses:
        """What a view's definition uses."""
        found = self._views.get(oid)
        if found is None:
            text = self._contents.views.get(oid, "")
            found = self._views[oid] = uses_of(text.encode()) if text else ANYTHING
        return found


def _uses_of_body(body: Body) -> Uses:
    if body.kind == "a" or body.language in ("c", "internal"):
        is_harmless = body.extension in _HARMLESS_EXTENSIONS or (
            body.extension and body.volatility != "v"
        )
        return NOTHING if is_harmless else ANYTHING
    if body.atomic:
        return uses_of_atomic(body.text)
    if body.language == "plpgsql":
        return uses_of_plpgsql(body.text)
    return uses_of_sql(body.text) if body.language == "sql" else ANYTHING


class _Following:
    """Everything that one statement leads to, each thing once."""

    def __init__(self, writes: Writes, contents: Contents) -> None:
        self._writes = writes
        self._contents = contents
        self.tables: set[int] = set()
        self.anything = self.changes_catalogue = False
        self._done: set[tuple[object, ...]] = set()
        self._system = Names(contents, ((b"search_path", b"pg_catalog"),))

    def _first_time(self, *what: object) -> bool:
        if what in self._done:
            return False
        self._done.add(what)
        return True

    def anywhere(self, names: Names) -> None:
        """What operators and casts call, since which those are is not looked at."""
        self._hidden_calls(0, names)

    def uses(self, uses: Uses, names: Names, session: Names | None = None) -> None:
        """``names`` are what is named there means; ``session``, where it runs in another's."""
        self.anything = self.anything or uses.anything
        self.changes_catalogue = self.changes_catalogue or uses.changes_catalogue
        for call in uses.calls:
            self._call(call, names, session or names)
        for column in uses.columns:
            self._column(column, names, session or names)
        for target in uses.targets:
            self._target(target, names)
        for name in uses.relations:
            relation = self._relation(name, names)
            if relation is not None:
                self._read(relation, names)

    # Functions.

    def _call(self, call: Call, names: Names, session: Names) -> None:
        name = call.name
        if name.name in _RUNS_QUERIES and name.schema in ("", "pg_catalog"):
            self.anything = True
        places = (name.schema,) if name.schema else names.schemas
        bodies = [
            body
            for place in places
            for body in self._contents.bodies_by_name.get((place, name.name), ())
            if body.fewest <= call.arguments <= body.most
        ]
        for body in bodies:
            self._run(body, session)
        if not bodies and not any(
            (place, name.name) in self._contents.functions for place in places
        ):
            self.anything = True

    def _column(self, column: str, names: Names, session: Names) -> None:
        for place in names.schemas:
            for body in self._contents.bodies_by_name.get((place, column), ()):
                if body.of_rows and body.fewest <= 1 <= body.most:
                    self._run(body, session)

    def _run(self, body: Body, names: Names) -> None:
        if body.search_path:
            path = body.search_path.encode()
            names = Names(self._contents, ((b"search_path", path),))
            if names.refusal:
                self.anything = True
        if self._first_time(body.oid, names.schemas):
            self.uses(self._writes.of_body(body), names)

    def _hidden_calls(self, oid: int, names: Names) -> None:
        for function in self._contents.hidden_calls.get(oid, ()):
            body = self._contents.bodies.get(function)
            if body is None:
                self.anything = True
            else:
                self._run(body, names)

    # Relations.

    def _relation(self, name: Name, names: Names) -> Relation | None:
        try:
            return names.relation(name)
        except Refused:
            self.anything = True
            return None

    def _read(self, relation: Relation, names: Names) -> None:
        """A view's functions run when it is read, a policy's as well."""
        if not self._first_time("read", relation.oid, names.schemas):
            return
        for oid in self._contents.family(relation.oid):
            self._hidden_calls(oid, names)
        if relation.kind == "v" and relation.oid in self._contents.views:
            self.uses(self._writes.of_view(relation.oid), self._system, names)

    def _target(self, target: Target, names: Names) -> None:
        relation = self._relation(target.name, names)
        if relation is None or relation.kind not in "rpvm":
            # A temporary table perhaps, or one elsewhere.
            self.anything = True
            return
        self._write(relation, target.commands, names)

    def _write(self, relation: Relation, commands: int, names: Names) -> None:
        if not self._first_time("write", relation.oid, commands, names.schemas):
            return
        if relation.oid in self._contents.with_rules:
            self.anything = True
        if relation.kind == "v":
            self._write_view(relation, commands, names)
        family = self._contents.family(relation.oid)
        if commands & UPDATE and len(family) > 1:
            # A row may move from one partition to another.
            commands |= INSERT | DELETE
        for oid in family:
            self.tables.add(oid)
            self._hidden_calls(oid, names)
            for function, when in self._contents.triggers.get(oid, ()):
                if when & commands:
                    self._run(self._contents.bodies[function], names)
            for other, on_delete, on_update in self._contents.foreign_keys.get(oid, ()):
                self._cascade(other, commands, on_delete, on_update, names)

    def _write_view(self, view: Relation, commands: int, names: Names) -> None:
        """What a view that can be written to passes on; INSTEAD OF triggers are triggers."""
        uses = self._writes.of_view(view.oid)
        self.uses(uses, self._system, names)
        for name in uses.relations:
            relation = self._relation(name, self._system)
            if relation is not None and relation.kind in "rpvm":
                self._write(relation, commands, names)

    def _cascade(
        self, other: int, commands: int, on_delete: str, on_update: str, names: Names
    ) -> None:
        relation = self._contents.by_oid.get(other)
        if relation is None:
            self.anything = True
            return
        follows = 0
        if commands & DELETE:
            follows |= _ON_DELETE.get(on_delete, 0)
        if commands & UPDATE and on_update in _ON_DELETE:
            follows |= UPDATE
        if commands & TRUNCATE and commands & CASCADE:
            follows |= TRUNCATE | CASCADE
        if follows:
            self._write(relation, follows, names)
