"""Which tables a statement may write to, by the origin's catalogue: itself and all that follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...sql.parse_tree import NotParsedError, statements_of
from ...sql.reads import Call, Name, Refused
from ...sql.written import (
    ANYTHING,
    CASCADE,
    DELETE,
    INSERT,
    NOTHING,
    TRUNCATE,
    UPDATE,
    Target,
    Uses,
    uses_of,
    uses_of_atomic,
    uses_of_plpgsql,
)
from .catalogue_contents import SYSTEM_SCHEMAS, Body, Contents, ForeignKey, Relation
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
        "postgis",
        "seg",
        "unaccent",
        "uuid-ossp",
        "vector",
    ]
)
# Of a body or a view, and of all that are parsed for one statement, since everybody else waits.
_MAX_BODY_BYTES = 8 * 1024
_MAX_PARSED_BYTES = 32 * 1024
_LEAST_BYTES = 256
# What a foreign key does to those who refer: CASCADE, SET NULL, SET DEFAULT.
_ON_DELETE = {"c": DELETE, "n": UPDATE, "d": UPDATE}
# pg_trigger.tgtype: per row, and before it.
_BEFORE_ROW = 1 | 2
_INSTEAD = 64


class Written(NamedTuple):
    """What a statement may write to."""

    tables: frozenset[int] | None
    """OIDs; ``None``: any table."""
    changes_catalogue: bool
    """It may be DDL."""


class Writes:
    """Of one state of the catalogue."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.has_event_triggers = contents.session["event_triggers"] != "0"
        self._bodies: dict[int, Uses] = {}
        self._views: dict[int, Uses] = {}
        self._bases: dict[int, Name | None] = {}
        self._left = 0
        self.is_unfinished = False
        """There was more to be parsed for the last statement than it is worth; some of it was."""

    def of(self, uses: Uses, names: Names) -> Written:
        """Of a statement that has these uses, in a session in which names mean what they do."""
        if uses.anything or names.refusal:
            return Written(None, uses.changes_catalogue)
        self._left, self.is_unfinished = _MAX_PARSED_BYTES, False
        following = _Following(self)
        try:
            following.hidden_calls(self.contents.hidden_calls.get(0, ()), names)
            following.uses(uses, names, names, is_text=True)
        except RecursionError:
            return Written(None, following.changes_catalogue)
        tables = None if following.anything else frozenset(following.tables)
        return Written(tables, following.changes_catalogue)

    def of_body(self, body: Body) -> Uses:
        """What the function's body uses."""
        found = self._bodies.get(body.oid)
        if found is None:
            if not self._may_parse(body.text):
                return ANYTHING
            found = self._bodies[body.oid] = _uses_of_body(body)
        return found

    def of_view(self, oid: int) -> Uses:
        """What a view's definition uses."""
        found = self._views.get(oid)
        if found is None:
            text = self.contents.views.get(oid, "")
            if not text or not self._may_parse(text):
                return ANYTHING
            found = self._views[oid] = uses_of(text.encode())
        return found

    def _may_parse(self, text: str) -> bool:
        size = len(text.encode())
        if size > _MAX_BODY_BYTES:
            return False
        self._left -= max(size, _LEAST_BYTES)
        self.is_unfinished = self.is_unfinished or self._left < 0
        return self._left >= 0

    def base_of_view(self, oid: int) -> Name | None:
        """The relation that PostgreSQL writes to in place of a view; ``None``: it does not."""
        if oid not in self._bases:
            self._bases[oid] = _base_of(self.contents.views.get(oid, ""))
        return self._bases[oid]


def _uses_of_body(body: Body) -> Uses:
    if body.kind == "a":
        return NOTHING
    if body.language in ("c", "internal"):
        is_harmless = body.extension in _HARMLESS_EXTENSIONS or (
            body.extension and body.volatility == "i"
        )
        return NOTHING if is_harmless else ANYTHING
    if body.atomic:
        return uses_of_atomic(body.text)
    if body.language == "plpgsql":
        return uses_of_plpgsql(body.text)
    return uses_of(body.text.encode()) if body.language == "sql" else ANYTHING


def _base_of(definition: str) -> Name | None:
    try:
        (statement,) = statements_of(definition.encode())
        (source,) = statement["SelectStmt"]["fromClause"]
        relation = source["RangeVar"]
    except (NotParsedError, ValueError, KeyError):
        return None
    return Name(relation.get("schemaname", ""), relation["relname"])


class _Following:
    """Everything that one statement leads to, each thing once.

    Of two ``Names``, the first are those of the text that is looked at, the second those of the
    session that runs it, by which the bodies of functions are understood.
    """

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._contents = writes.contents
        self.tables: set[int] = set()
        self.anything = self.changes_catalogue = False
        self._moves_names = False
        self._done: set[tuple[object, ...]] = set()
        self._system = Names(writes.contents, ((b"search_path", b"pg_catalog"),))

    def _first_time(self, *what: object) -> bool:
        if what in self._done:
            return False
        self._done.add(what)
        return True

    def uses(self, uses: Uses, names: Names, session: Names, *, is_text: bool = False) -> None:
        """``is_text``: of a text that a client sends."""
        self.anything = self.anything or uses.anything
        self.changes_catalogue = self.changes_catalogue or uses.changes_catalogue
        if uses.fires_events and self._writes.has_event_triggers:
            self.anything = self.changes_catalogue = True
        if uses.moves_names:
            # What a text says behind that is not understood.
            self._moves_names = True
            self.anything = self.anything or bool(self.tables or self._done)
        for call in uses.calls:
            self._call(call, names, session)
        for column in uses.columns:
            self._column(column, names, session)
        for target in uses.targets:
            self._target(target, names, session)
        for name in uses.relations:
            relation = self._relation(name, names)
            if relation is not None:
                self._read(relation, session)
            elif is_text and (name.schema or name.name not in uses.queries):
                # A temporary view may call anything.
                self.anything = True
        if uses.words:
            self._words(uses.words, session)

    def _words(self, words: frozenset[str], session: Names) -> None:
        for relation in self._contents.by_oid.values():
            if relation.name in words:
                self._read(relation, session)
        for body in self._contents.bodies.values():
            if body.name in words:
                self._run(body, session)

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

    def _run(self, body: Body, session: Names) -> None:
        if body.search_path or body.definer:
            session = self._own_names(body, session)
            self.anything = self.anything or bool(session.refusal)
        if not self._first_time(body.oid, session.settings):
            return
        uses = self._writes.of_body(body)
        if self._moves_names or uses.moves_names or body.moves_names:
            self.anything = True
        self.uses(uses, session, session)
        self.hidden_calls(body.calls, session)

    def _own_names(self, body: Body, session: Names) -> Names:
        settings = dict(session.settings)
        if body.search_path:
            settings[b"search_path"] = body.search_path.encode()
        if body.definer:
            settings[b"role"] = body.definer.encode()
        return Names(self._contents, tuple(settings.items()))

    def hidden_calls(self, functions: Iterable[int], session: Names) -> None:
        for function in functions:
            body = self._contents.bodies.get(function)
            if body is None:
                self.anything = True
            elif body.language not in ("c", "internal") or not body.extension:
                # What types, operators and aggregates of an extension are made of reads at most.
                self._run(body, session)

    # Relations.

    def _relation(self, name: Name, names: Names) -> Relation | None:
        try:
            return names.relation(name)
        except Refused:
            self.anything = True
            return None

    def _read(self, relation: Relation, session: Names) -> None:
        """A view's functions run when it is read, a policy's as well."""
        if not self._first_time("read", relation.oid, session.settings):
            return
        for oid in self._contents.family(relation.oid):
            self.hidden_calls(self._contents.policy_calls.get(oid, ()), session)
        if relation.kind == "v" and relation.oid in self._contents.views:
            self.uses(self._writes.of_view(relation.oid), self._system, session)

    def _target(self, target: Target, names: Names, session: Names) -> None:
        relation = self._relation(target.name, names)
        if relation is None or relation.kind not in "rpvm":
            # A temporary table perhaps, or one elsewhere.
            self.anything = True
        elif relation.schema in SYSTEM_SCHEMAS:
            self.anything = self.changes_catalogue = True
        else:
            alone = target.alone or (relation.kind != "p" and target.commands == INSERT)
            self._write(relation, target.commands, target.columns, session, alone=alone)

    def _write(
        self,
        relation: Relation,
        commands: int,
        columns: frozenset[str] | None,
        session: Names,
        *,
        alone: bool = False,
    ) -> None:
        """``columns`` are those that an UPDATE sets; ``None``: any."""
        if not self._first_time("write", relation.oid, commands, columns, session.settings, alone):
            return
        self.anything = self.anything or self._moves_names
        if relation.oid in self._contents.with_rules:
            self.anything = True
        if relation.kind == "p" and commands & UPDATE:
            # A row may move from one partition to another.
            commands |= INSERT | DELETE
        for oid in (relation.oid,) if alone else self._contents.family(relation.oid):
            self._write_one(oid, commands, columns, session)
        if relation.kind == "v":
            self._write_view(relation, commands, session)
        elif relation.kind == "m":
            self.uses(self._writes.of_view(relation.oid), self._system, session)

    def _write_one(
        self, oid: int, commands: int, columns: frozenset[str] | None, session: Names
    ) -> None:
        relation = self._contents.by_oid.get(oid)
        if relation is None or relation.kind == "f":
            self.anything = True
            return
        if relation.kind in "rm":
            self.tables.add(oid)
        self.hidden_calls(self._contents.hidden_calls.get(oid, ()), session)
        for function, when in self._contents.triggers.get(oid, ()):
            if when & commands & (INSERT | DELETE | UPDATE | TRUNCATE):
                self._run(self._contents.bodies[function], session)
                if when & _BEFORE_ROW == _BEFORE_ROW:
                    # It may set more of them.
                    columns = None
        for key in self._contents.foreign_keys.get(oid, ()):
            self._cascade(key, commands, columns, session)

    def _write_view(self, view: Relation, commands: int, session: Names) -> None:
        """What a view passes on, where no trigger stands in for that."""
        self._read(view, session)
        instead = 0
        for _, when in self._contents.triggers.get(view.oid, ()):
            if when & _INSTEAD:
                instead |= when
        commands &= ~(instead & (INSERT | DELETE | UPDATE))
        if not commands:
            return
        base = self._writes.base_of_view(view.oid)
        if base is None:
            self.anything = True
        else:
            self._target(Target(base, commands), self._system, session)

    def _cascade(
        self, key: ForeignKey, commands: int, columns: frozenset[str] | None, session: Names
    ) -> None:
        relation = self._contents.by_oid.get(key.table)
        if relation is None:
            self.anything = True
            return
        if commands & TRUNCATE and commands & CASCADE:
            self._write(relation, TRUNCATE | CASCADE, None, session)
        on_delete = _ON_DELETE.get(key.on_delete, 0) if commands & DELETE else 0
        is_set = columns is None or not key.referenced or key.referenced in columns
        on_update = UPDATE if commands & UPDATE and is_set and key.on_update in _ON_DELETE else 0
        if on_delete | on_update:
            # SET NULL and SET DEFAULT are for all columns of the key.
            columns = frozenset((key.column,)) if key.on_update not in "nd" else None
            self._write(relation, on_delete | on_update, columns, session)
