"""Whether the answer to a statement may be kept, and which tables decide it.

What is not known to depend on nothing but those tables, the text, the parameters and the session's
settings is not kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ...sql.parse_tree import NotParsedError, statements_of
from ...sql.reads import Call, Cast, Name, Operator, Reads, Refused, reads_of
from .catalogue_contents import SYSTEM_SCHEMAS, Contents, Function, Relation, Type, UserCast
from .name_resolution import Names

# Their text depends on the value alone, or on settings too, but never on the clock or the
# catalogue: a cast from any text to them is safe.
_PLAIN_TYPE_NAMES = """
bool bytea char name int8 int2 int4 text oid json point lseg path box polygon float4 float8 money
macaddr inet cidr bpchar varchar interval bit varbit numeric uuid tsvector tsquery jsonb jsonpath
int4range int8range numrange int4multirange int8multirange nummultirange line circle macaddr8 pg_lsn
"""
_PLAIN_TYPES = frozenset(_PLAIN_TYPE_NAMES.split())
# The clock shows in them where the text they are made from says so.
_DATE_TYPES = frozenset(("date", "time", "timestamp", "timestamptz"))
# The zone of a time without one is that of today.
_CLOCK_TYPES = frozenset(("timetz",))
# Their text depends on names in the catalogue.
_CATALOGUE_TYPE = re.compile("reg|aclitem")
_HARMLESS_PG_FUNCTIONS = frozenset(("pg_size_pretty", "pg_size_bytes"))
_UNUSABLE_KINDS = {"f": "a foreign table", "S": "a sequence"}
_JSON = (114, 3802)


class Eligibility:
    """Judges statements by one state of the catalogue.

    ``functions``: the full names of those that may be called, by the user's word.
    """

    def __init__(self, contents: Contents, functions: Collection[str]) -> None:
        self._contents = contents
        self._functions = frozenset(functions)
        self._views: dict[int, frozenset[int]] = {}
        self._refused: dict[int, tuple[str, str]] = {}
        self._in_views = Names(contents, ((b"search_path", b"pg_catalog"),))
        self._oddly_cast = {
            self._element(cast.target)
            for cast in contents.casts
            if cast.method == "f" and not cast.fine
        }
        self._refusal = self._refusal_by_casts() or self._refusal_by_comparisons()
        self._numbers_become_text = any(
            cast.makes_text_of_numbers and cast.context == "i" for cast in contents.casts
        )

    def tables(self, text: bytes, form: bytes, names: Names) -> frozenset[int]:
        """OIDs of all tables that decide the answer. ``Refused``, ``NotParsedError``.

        ``form``: the text without its literals.
        """
        for refusal in (names.refusal, self._refusal):
            if refusal:
                raise Refused("uncacheable", refusal)
        if not form.isascii() and not names.in_utf8:
            reason = "there are names that are not ASCII, and not in UTF-8 here and in the database"
            raise Refused("uncacheable", reason)
        try:
            return self._tables(reads_of(statements_of(text)), names)
        except RecursionError as error:
            raise NotParsedError("it is nested too deeply") from error

    def _tables(self, reads: Reads, names: Names) -> frozenset[int]:
        relations = [self._relation(name, names) for name in reads.relations]
        for call in reads.calls:
            self._check_call(call, names)
        for column in reads.columns:
            found = names.functions(Name("", column))
            if any(each.of_rows and each.fewest <= 1 <= each.most for each in found):
                self._check_call(Call(Name("", column), 1), names)
        for member in reads.members:
            self._check_member(Name("", member), names)
        for operator in reads.operators:
            self._check_operator(operator, names)
        for cast in reads.casts:
            self._check_cast(cast, names, relations if reads.only_tables else [])
        for cast in reads.calls_of_one:
            if names.type(cast.type) is not None:
                self._check_cast(cast, names, [])
        return frozenset().union(*(self._tables_of(relation) for relation in relations))

    # Relations

    def _relation(self, name: Name, names: Names) -> Relation:
        relation = names.relation(name)
        if relation is None:
            shown = f"{name.schema}.{name.name}" if name.schema else name.name
            raise Refused("uncacheable", f"there is no table {shown} in the catalogue")
        return relation

    def _tables_of(self, relation: Relation) -> frozenset[int]:
        found = self._views.get(relation.oid)
        if found is not None:
            return found
        refused = self._refused.get(relation.oid)
        if refused is not None:
            raise Refused(*refused)
        try:
            found = self._tables_behind(relation)
        except Refused as error:
            self._refused[relation.oid] = error.status, error.reason
            raise
        self._views[relation.oid] = found
        return found

    def _tables_behind(self, relation: Relation) -> frozenset[int]:
        self._check_relation(relation)
        if relation.row_security:
            reason = f"rows of {relation.full_name} are subject to policies (row security)"
            raise Refused("uncacheable", reason)
        if relation.kind == "v":
            return self._tables_of_view(relation)
        family = self._contents.family(relation.oid)
        for oid in family[1:]:
            # What is missing is temporary, and then another session's: not read.
            if child := self._contents.by_oid.get(oid):
                self._check_relation(child)
        return frozenset(family)

    def _check_relation(self, relation: Relation) -> None:
        name = relation.full_name
        if relation.schema in SYSTEM_SCHEMAS:
            raise Refused("uncacheable", f"{name} belongs to the system catalogue")
        if relation.kind in _UNUSABLE_KINDS:
            raise Refused("uncacheable", f"{name} is {_UNUSABLE_KINDS[relation.kind]}")
        for oid in relation.types:
            if reason := self._trouble_with_column(oid):
                raise Refused("uncacheable", f"{name} has a column of {reason}")

    def _tables_of_view(self, relation: Relation) -> frozenset[int]:
        definition = self._contents.views.get(relation.oid, "").encode()
        try:
            return self._tables(reads_of(statements_of(definition)), self._in_views)
        except Refused as error:
            raise Refused(error.status, f"view {relation.full_name}: {error.reason}") from error
        except NotParsedError as error:
            reason = f"view {relation.full_name} is not understood: {error}"
            raise Refused("uncacheable", reason) from error

    def _trouble_with_column(self, oid: int) -> str:
        """What is wrong with columns of a type; empty if nothing is."""
        kind = self._contents.types_by_oid.get(oid)
        if kind is None:
            return "a composite type"
        if kind.element or kind.base:
            return self._trouble_with_column(kind.element or kind.base)
        if kind.own and kind.name in _CLOCK_TYPES:
            return "type time with time zone, whose input depends on the date"
        if kind.own and _CATALOGUE_TYPE.match(kind.name):
            return f"type {kind.name}, whose text depends on the catalogue"
        if oid in self._contents.oddly_compared:
            return f"type {kind.name}, which a user's functions compare"
        if kind.own or kind.kind == "e" or (kind.kind == "b" and kind.fine):
            return ""
        return f"type {kind.schema}.{kind.name}, which is a user's own"

    # Functions

    def _check_call(self, call: Call, names: Names) -> None:
        found = [
            each
            for each in names.functions(call.name)
            if each.fewest <= call.arguments <= each.most
        ]
        if not found:
            if call.arguments == 1 and names.type(call.name) is not None:
                return
            raise Refused("uncacheable", f"there is no function {call.name.name} in the catalogue")
        own_name = any(each.own for each in found)
        for function in found:
            self._check_function(function, own_name)
        if all(each.unsteady for each in found):
            raise Refused("uncacheable", f"{call.name.name}() depends on the catalogue or the date")

    def _check_function(self, function: Function, own_name: bool) -> None:
        full_name = f"{function.schema}.{function.name}"
        if full_name in self._functions:
            return
        shown = function.name if function.own else full_name
        if function.volatility != "i":
            kind = "VOLATILE" if function.volatility == "v" else "STABLE"
            raise Refused("volatile", f"{shown}() is {kind}")
        if function.own:
            if function.name.startswith("pg_") and function.name not in _HARMLESS_PG_FUNCTIONS:
                raise Refused("uncacheable", f"{shown}() may depend on the server's state")
        elif not (own_name and function.fine):
            # An immutable function may still read tables: nobody checks.
            raise Refused("uncacheable", f"{shown}() is no function of PostgreSQL's own")

    def _check_member(self, name: Name, names: Names) -> None:
        if any(True for _ in names.functions(name)):
            self._check_call(Call(name, 1), names)
        if names.relation(name) is not None:
            raise Refused("uncacheable", f"(…).{name.name} may be a cast to the row of a table")
        if names.type(name) is not None:
            self._check_cast(Cast(name, constant=False), names, [])

    def _check_operator(self, operator: Operator, names: Names) -> None:
        for shown, *operands in names.odd_operators(operator.name):
            numbers = (operator.left_is_number, operator.right_is_number)
            # A number never becomes a string unasked, so that this one is not meant.
            if not self._numbers_become_text and any(
                category == "S" and number
                for category, number in zip(operands, numbers, strict=True)
            ):
                continue
            raise Refused("uncacheable", f"the operator {shown} calls a function of a user")

    # Casts

    def _check_cast(self, cast: Cast, names: Names, tables: list[Relation]) -> None:
        kind = names.type(cast.type)
        if kind is None:
            raise Refused("uncacheable", f"a cast to {cast.type.name}, which may be a table's row")
        element = self._contents.types_by_oid[kind.element or kind.oid]
        if element.oid in self._oddly_cast:
            raise Refused("uncacheable", f"a cast to {kind.name} calls a function of a user")
        if element.own and element.name in _CLOCK_TYPES:
            raise Refused("volatile", "a time with time zone has the zone of today")
        if self._is_plain(element):
            return
        if element.own and element.kind in "brm" and not _CATALOGUE_TYPE.match(element.name):
            if cast.constant or self._is_date(cast, element, tables):
                return
            reason = f"a cast to {kind.name} of what may be text, which may say 'now'"
            raise Refused("volatile", reason)
        raise Refused("uncacheable", f"a cast to {kind.name} depends on more than the value")

    def _element(self, oid: int) -> int:
        """OID of the type of an array's elements; of no array, the type itself."""
        kind = self._contents.types_by_oid.get(oid)
        return (kind and kind.element) or oid

    def _is_plain(self, kind: Type) -> bool:
        if kind.own:
            return kind.name in _PLAIN_TYPES
        fine = kind.fine and kind.oid not in self._contents.oddly_compared
        return kind.kind == "e" or (kind.kind == "b" and fine)

    def _is_date(self, cast: Cast, target: Type, tables: list[Relation]) -> bool:
        """Whether what is cast is a column, and a date in each of the tables that have it."""
        if not cast.column or target.name not in _DATE_TYPES:
            return False
        dates = self._contents.dates
        found = [
            dates[table.oid, cast.column] for table in tables if (table.oid, cast.column) in dates
        ]
        return bool(found) and all(found)

    def _refusal_by_casts(self) -> str:
        """Why nothing is kept: a cast that no statement names calls a function of a user."""
        for cast in self._contents.casts:
            if self._is_hidden(cast) and not self._is_harmless(cast):
                target = self._contents.types_by_oid.get(cast.target)
                to = f" to {target.name}" if target else ""
                return f"a user has made an implicit cast{to}, and its function may do anything"
        return ""

    def _refusal_by_comparisons(self) -> str:
        """Why nothing is kept: a user's function compares values that any expression may have."""
        types = map(self._contents.types_by_oid.get, self._contents.oddly_compared)
        found = next((each.name for each in types if each and each.own), "")
        return found and f"a user's functions compare values of type {found}"

    def _is_hidden(self, cast: UserCast) -> bool:
        # Those to JSON are called for values within rows and arrays.
        return cast.context == "i" or cast.target in _JSON

    def _is_harmless(self, cast: UserCast) -> bool:
        source = self._contents.types_by_oid.get(cast.source)
        target = self._contents.types_by_oid.get(cast.target)
        if source is None or target is None:
            return False
        if cast.method == "f":
            return cast.fine
        return self._is_plain(target)
