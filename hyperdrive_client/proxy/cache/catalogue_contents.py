"""The origin's catalogue, as far as it decides what statements read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .catalogue_queries import QUERIES

Answers = Mapping[str, list[tuple[bytes | None, ...]]]
"""Rows by the name of their query in ``QUERIES``."""

SYSTEM_SCHEMAS = frozenset(("pg_catalog", "information_schema", "pg_toast"))


class Relation(NamedTuple):
    """A row of pg_class; ``kind`` and ``persistence`` are its letters."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    row_security: bool
    odd_storage: bool
    """Not PostgreSQL's own heap."""
    types: tuple[int, ...]
    """OIDs of the types of its columns."""

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"


class Function(NamedTuple):
    schema: str
    name: str
    fewest: int
    most: int
    """Arguments."""
    volatility: str
    """i, s or v."""
    own: bool
    """PostgreSQL's."""
    fine: bool
    """Its result depends on its arguments alone, by a word that is to be trusted."""
    unsteady: bool
    """Has to do with types whose text depends on more than the value."""
    of_rows: bool
    """May be written like a column of a row."""


class Type(NamedTuple):
    oid: int
    schema: str
    name: str
    kind: str
    base: int
    """Of a domain, else 0."""
    element: int
    """Of an array, else 0."""
    own: bool
    fine: bool


class UserCast(NamedTuple):
    source: int
    target: int
    context: str
    method: str
    fine: bool
    makes_text_of_numbers: bool


class ForeignKey(NamedTuple):
    """One pair of columns of a foreign key."""

    table: int
    """OID of the one that refers."""
    on_delete: str
    on_update: str
    """Letters of pg_constraint.confdeltype and confupdtype."""
    referenced: str
    """The column that is referred to; empty if it changes with others."""
    column: str


class Body(NamedTuple):
    """A function or procedure that a user or an extension has made."""

    oid: int
    schema: str
    name: str
    fewest: int
    most: int
    """Arguments."""
    kind: str
    """Letter of pg_proc.prokind."""
    language: str
    volatility: str
    extension: str
    of_rows: bool
    search_path: str
    """Its own; empty if it has none."""
    definer: str
    """Whose rights it has; empty: the caller's."""
    moves_names: bool
    """It has other settings of its own that decide what names or literals mean."""
    text: str
    """SQL of a function in SQL; a CREATE FUNCTION where that is in PL/pgSQL or atomic."""
    atomic: bool
    calls: tuple[int, ...]
    """OIDs of users' functions in defaults of its arguments, or that an aggregate is made of."""


class Contents:
    """What ``QUERIES`` bring, by name and by OID."""

    def __init__(self, answers: Answers) -> None:
        rows = {name: [_texts(row) for row in answers[name]] for name in QUERIES}
        self.session = dict(rows["session"])
        self.usable_schemas = {name: usable == "true" for name, usable in rows["schemas"]}
        """Name → whether the user of the origin may look into it."""
        self.relations: dict[tuple[str, str], Relation] = {}
        self.by_oid: dict[int, Relation] = {}
        for row in rows["relations"]:
            relation = _relation(row)
            self.relations[relation.schema, relation.name] = self.by_oid[relation.oid] = relation
        self._children: defaultdict[int, list[int]] = defaultdict(list)
        for parent, child in rows["inheritance"]:
            self._children[int(parent)].append(int(child))
        self.views = {int(oid): definition for oid, definition in rows["views"]}
        """OID → definition, in which all names are qualified but those of pg_catalog; materialized
        views among them."""
        self.dates: dict[tuple[int, str], bool] = {
            (int(oid), name): is_date == "true" for oid, name, is_date in rows["dates"]
        }
        """OID and column → whether it is a date or a timestamp; if another's of that name is."""
        self.functions: defaultdict[tuple[str, str], list[Function]] = defaultdict(list)
        for row in rows["functions"]:
            function = _function(row)
            self.functions[function.schema, function.name].append(function)
        self.odd_operators: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        """Schema and name of users' operators that are not fine → categories of their operands."""
        for schema, name, left, right in rows["operators"]:
            self.odd_operators[schema, name].append((left, right))
        self.types_by_oid = {each.oid: each for each in map(_type, rows["types"])}
        self.types = {(each.schema, each.name): each for each in self.types_by_oid.values()}
        self.casts = [_cast(row) for row in rows["casts"]]
        self.triggers: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        """OID of a table → OIDs of functions, and for which commands (pg_trigger.tgtype)."""
        for table, function_oid, when in rows["triggers"]:
            self.triggers[int(table)].append((int(function_oid), int(when)))
        self.foreign_keys: defaultdict[int, list[ForeignKey]] = defaultdict(list)
        """OID of a table → those that refer to it."""
        for table, other, on_delete, on_update, column, own in rows["foreign_keys"]:
            key = ForeignKey(int(other), on_delete, on_update, column, own)
            self.foreign_keys[int(table)].append(key)
        self.with_rules = frozenset(int(oid) for (oid,) in rows["rules"])
        self.bodies = {int(row[0]): _body(row) for row in rows["bodies"]}
        self.bodies_by_name: defaultdict[tuple[str, str], list[Body]] = defaultdict(list)
        for body in self.bodies.values():
            self.bodies_by_name[body.schema, body.name].append(body)
        self.hidden_calls: defaultdict[int, list[int]] = defaultdict(list)
        """OID of a table → users' functions that writing to it calls; of 0: that anything may."""
        self.policy_calls: defaultdict[int, list[int]] = defaultdict(list)
        """OID of a table → users' functions that reading from it may call."""
        for table, function_oid, is_policy in rows["hidden_calls"]:
            self.hidden_calls[int(table)].append(int(function_oid))
            if is_policy == "true":
                self.policy_calls[int(table)].append(int(function_oid))
        for partitioned in [each for each in self.hidden_calls if self._is_partitioned(each)]:
            # A row that is put right into a partition is held against the partitioned table's key.
            for partition in self.family(partitioned)[1:]:
                self.hidden_calls[partition] += self.hidden_calls[partitioned]
        self.oddly_compared = frozenset(int(oid) for (oid,) in rows["comparisons"])
        """OIDs of types that users' own functions compare."""

    def _is_partitioned(self, oid: int) -> bool:
        relation = self.by_oid.get(oid)
        return relation is not None and relation.kind == "p"

    def family(self, oid: int) -> tuple[int, ...]:
        """A table, its partitions, and what inherits from it, and so on."""
        found = {oid: None}
        queue = [oid]
        while queue:
            for child in self._children.get(queue.pop(), ()):
                if child not in found:
                    found[child] = None
                    queue.append(child)
        return tuple(found)


def _body(row: list[str]) -> Body:
    oid, schema, name, fewest, most, kind, language, volatility, extension, of_rows = row[:10]
    return Body(
        int(oid),
        schema,
        name,
        int(fewest),
        int(most),
        kind,
        language,
        volatility,
        extension,
        of_rows == "true",
        row[10],
        row[11],
        row[12] == "true",
        row[13],
        row[14] == "true",
        tuple(int(each) for each in row[15].split()),
    )


def _texts(row: Iterable[bytes | None]) -> list[str]:
    # What does not decode is no name that a statement could have.
    return [(value or b"").decode("utf-8", "replace") for value in row]


def _relation(row: list[str]) -> Relation:
    oid, schema, name, kind, persistence, row_security, odd_storage, types = row
    return Relation(
        int(oid),
        schema,
        name,
        kind,
        persistence,
        row_security == "true",
        odd_storage == "true",
        tuple(int(each) for each in types.split()),
    )


def _function(row: list[str]) -> Function:
    schema, name, fewest, most, volatility, *flags = row
    return Function(
        schema, name, int(fewest), int(most), volatility, *(flag == "true" for flag in flags)
    )


def _type(row: list[str]) -> Type:
    oid, schema, name, kind, base, element, own, fine = row
    return Type(
        int(oid), schema, name, kind, int(base), int(element), own == "true", fine == "true"
    )


def _cast(row: list[str]) -> UserCast:
    source, target, context, method, *flags = row
    return UserCast(int(source), int(target), context, method, *(flag == "true" for flag in flags))
