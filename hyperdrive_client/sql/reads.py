"""What a statement that reads makes use of, by PostgreSQL's own parse tree.

Names only: what they mean is for the catalogue to say. Only kinds of nodes and fields that are
listed here are understood; whatever else is in a tree is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .parse_tree import Node

Status = str
"""As Hyperdrive names what it does not cache ("Query caching")."""


def _any_case(letters: str) -> str:
    return "".join(rf'["\\]*[{letter.upper()}{letter}]' for letter in letters)


# What becomes a date or a time by the clock (PostgreSQL, "Special Values"). Digits and punctuation
# end a word, and the input of arrays, rows and ranges drops quotes and backslashes within one. The
# set in front makes the search fast, as IGNORECASE would not.
_CLOCK_WORD = re.compile(
    (
        "[AaNnTtYy](?<![A-Za-z][A-Za-z])(?:"
        + "|".join(
            f"(?<=[{word[0].upper()}{word[0]}]){_any_case(word[1:])}"
            for word in ("now", "today", "tomorrow", "yesterday", "allballs")
        )
        + ")(?![A-Za-z])"
    ).encode()
)


def has_clock_word(data: bytes) -> bool:
    """Whether ``data``, a literal or a parameter, may be taken for a date that depends on the
    clock: now, today, tomorrow, yesterday, allballs."""
    return _CLOCK_WORD.search(data) is not None


class Refused(Exception):
    """An answer to this statement is not to be kept."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Name(NamedTuple):
    """``schema`` is empty where the search_path decides."""

    schema: str
    name: str


class Call(NamedTuple):
    name: Name
    arguments: int


class Operator(NamedTuple):
    name: Name
    left_is_number: bool = False
    """A literal."""
    right_is_number: bool = False


class Cast(NamedTuple):
    """``constant``: of a literal or a parameter, so that its text can be looked at.

    ``column``: the name of the column that is cast, if it is one.
    """

    type: Name
    constant: bool
    column: str = ""


@dataclass(slots=True)
class Reads:
    """What one statement makes use of."""

    relations: set[Name] = field(default_factory=set)
    """Tables, views and the like; WITH queries are not among them."""
    calls: set[Call] = field(default_factory=set)
    operators: set[Operator] = field(default_factory=set)
    casts: set[Cast] = field(default_factory=set)
    """Written as such."""
    calls_of_one: set[Cast] = field(default_factory=set)
    """Calls with one argument, which are casts if the name is a type's."""
    columns: set[str] = field(default_factory=set)
    """Of a table by its name; written the same way as a function of its row."""
    members: set[str] = field(default_factory=set)
    """Of any other value; written the same way as a function of it."""
    only_tables: bool = True
    """Each column belongs, under its own name, to one of ``relations``."""


# Kind → field → what is in it: "" a scalar, "*" nodes with their kind, else one node of that kind.
_NODES: Final[dict[str, dict[str, str]]] = {
    "A_ArrayExpr": {"elements": "*", "list_start": "", "list_end": ""},
    "A_Const": dict.fromkeys(("ival", "fval", "boolval", "sval", "bsval", "isnull"), ""),
    "A_Expr": {
        "kind": "",
        "name": "",
        "lexpr": "*",
        "rexpr": "*",
        "rexpr_list_start": "",
        "rexpr_list_end": "",
    },
    "A_Indices": {"is_slice": "", "lidx": "*", "uidx": "*"},
    "A_Indirection": {"arg": "*", "indirection": "*"},
    "A_Star": {},
    "Alias": {"aliasname": "", "colnames": "*"},
    "BoolExpr": {"boolop": "", "args": "*"},
    "BooleanTest": {"arg": "*", "booltesttype": ""},
    "CTECycleClause": {
        "cycle_col_list": "*",
        "cycle_mark_column": "",
        "cycle_mark_value": "*",
        "cycle_mark_default": "*",
        "cycle_path_column": "",
    },
    "CTESearchClause": {
        "search_col_list": "*",
        "search_breadth_first": "",
        "search_seq_column": "",
    },
    "CaseExpr": {"arg": "*", "args": "*", "defresult": "*"},
    "CaseWhen": {"expr": "*", "result": "*"},
    "CoalesceExpr": {"args": "*"},
    "CollateClause": {"arg": "*", "collname": ""},
    "ColumnDef": {"colname": "", "typeName": "TypeName", "is_local": "", "collClause": "*"},
    "ColumnRef": {"fields": "*"},
    "CommonTableExpr": {
        "ctename": "",
        "aliascolnames": "*",
        "ctematerialized": "",
        "ctequery": "*",
        "search_clause": "CTESearchClause",
        "cycle_clause": "CTECycleClause",
    },
    "FuncCall": {
        "funcname": "",
        "args": "*",
        "agg_order": "*",
        "agg_filter": "*",
        "over": "WindowDef",
        "agg_within_group": "",
        "agg_star": "",
        "agg_distinct": "",
        "func_variadic": "",
        "funcformat": "",
    },
    "GroupingFunc": {"args": "*"},
    "GroupingSet": {"kind": "", "content": "*"},
    "JoinExpr": {
        "jointype": "",
        "isNatural": "",
        "larg": "*",
        "rarg": "*",
        "usingClause": "*",
        "join_using_alias": "Alias",
        "quals": "*",
        "alias": "Alias",
    },
    "List": {"items": "*"},
    "MinMaxExpr": {"op": "", "args": "*"},
    "NamedArgExpr": {"arg": "*", "name": "", "argnumber": ""},
    "NullTest": {"arg": "*", "nulltesttype": "", "argisrow": ""},
    "ParamRef": {"number": ""},
    "RangeFunction": {
        "lateral": "",
        "ordinality": "",
        "is_rowsfrom": "",
        "functions": "*",
        "alias": "Alias",
        "coldeflist": "*",
    },
    "RangeSubselect": {"lateral": "", "subquery": "*", "alias": "Alias"},
    "RangeVar": {
        "schemaname": "",
        "relname": "",
        "inh": "",
        "relpersistence": "",
        "alias": "Alias",
    },
    "ResTarget": {"name": "", "val": "*"},
    "RowExpr": {"args": "*", "row_format": "", "colnames": "*"},
    "SelectStmt": {
        "distinctClause": "*",
        "targetList": "*",
        "fromClause": "*",
        "whereClause": "*",
        "groupClause": "*",
        "groupDistinct": "",
        "havingClause": "*",
        "windowClause": "*",
        "valuesLists": "*",
        "sortClause": "*",
        "limitOffset": "*",
        "limitCount": "*",
        "limitOption": "",
        "withClause": "WithClause",
        "op": "",
        "all": "",
        "larg": "SelectStmt",
        "rarg": "SelectStmt",
    },
    "SortBy": {"node": "*", "sortby_dir": "", "sortby_nulls": "", "useOp": ""},
    "String": {"sval": ""},
    "SubLink": {"subLinkType": "", "testexpr": "*", "operName": "", "subselect": "*"},
    "TypeCast": {"arg": "*", "typeName": "TypeName"},
    "TypeName": {"names": "", "typmods": "*", "typemod": "", "arrayBounds": ""},
    "WindowDef": {
        "name": "",
        "refname": "",
        "partitionClause": "*",
        "orderClause": "*",
        "frameOptions": "",
        "startOffset": "*",
        "endOffset": "*",
    },
    "WithClause": {"ctes": "*", "recursive": ""},
}
_IN_PLAIN_WORDS: Final = {
    "InsertStmt": "INSERT",
    "UpdateStmt": "UPDATE",
    "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE",
}
# They change without any write to their row (VACUUM FULL moves it), or by a lock alone.
_UNSTEADY_COLUMNS: Final = frozenset(("ctid", "xmin", "xmax", "cmin", "cmax"))
_EQUAL: Final = Operator(Name("", "="))
_OPERATORS_BY_KIND: Final = {
    "AEXPR_BETWEEN": ("<=", ">="),
    "AEXPR_NOT_BETWEEN": ("<", ">"),
    "AEXPR_BETWEEN_SYM": ("<=", ">="),
    "AEXPR_NOT_BETWEEN_SYM": ("<", ">"),
}


def reads_of(statements: list[Node]) -> Reads:
    """What these statements of one text (``parse_tree.statements_of``) make use of.

    ``Refused`` if that is not one query, or has something that is not understood.
    """
    if len(statements) > 1:
        raise Refused("multiplestatements", f"{len(statements)} statements in one text")
    if not statements:
        raise Refused("notaquery", "there is no statement in the text")
    ((kind, fields),) = statements[0].items()
    if kind != "SelectStmt":
        raise Refused("notaquery", f"{_IN_PLAIN_WORDS.get(kind, kind)} is not a query")
    walk = _Walk()
    walk.visit(kind, fields)
    return walk.reads


class _Walk:
    """Through one tree; ``_with`` are the names of the WITH queries in sight."""

    def __init__(self) -> None:
        self.reads = Reads()
        self._with: frozenset[str] = frozenset()

    def visit(self, kind: str, fields: Node) -> None:
        note = _NOTES.get(kind)
        if note is not None:
            note(self, fields)
        if kind == "SelectStmt":
            self._visit_select(fields)
        else:
            self._visit_fields(kind, fields)

    def _visit_select(self, fields: Node) -> None:
        outside = self._with
        clause = fields.get("withClause", {})
        queries = [each["CommonTableExpr"] for each in clause.get("ctes", ())]
        if clause.get("recursive"):
            self._with |= {query["ctename"] for query in queries}
        for query in queries:
            self.visit("CommonTableExpr", query)
            self._with |= {query["ctename"]}
        self._visit_fields("SelectStmt", {k: v for k, v in fields.items() if k != "withClause"})
        self._with = outside

    def _visit_fields(self, kind: str, fields: Node) -> None:
        known = _NODES.get(kind)
        if known is None:
            raise Refused("uncacheable", f"{kind} is not known to be safe")
        for name, value in fields.items():
            content = "" if name == "location" else known.get(name)
            if content is None:
                raise Refused("uncacheable", f"{name} of {kind} is not known to be safe")
            if content == "*":
                self._visit_nodes(value)
            elif content:
                self.visit(content, value)

    def _visit_nodes(self, value: Node | list[Node]) -> None:
        for node in value if isinstance(value, list) else (value,):
            for kind, fields in node.items():
                self.visit(kind, fields)

    def note_select(self, fields: Node) -> None:
        if "intoClause" in fields:
            raise Refused("uncacheable", "SELECT INTO makes a table")
        if "lockingClause" in fields:
            raise Refused("uncacheable", "it locks rows (FOR UPDATE, FOR SHARE …)")

    def note_with_query(self, fields: Node) -> None:
        (kind,) = fields["ctequery"]
        if kind != "SelectStmt":
            raise Refused("uncacheable", f"it writes: {_IN_PLAIN_WORDS.get(kind, kind)} in WITH")
        self.reads.only_tables = False
        if "cycle_clause" in fields:
            self.reads.operators |= {_EQUAL, Operator(Name("", "<>"))}

    def note_relation(self, fields: Node) -> None:
        if "catalogname" in fields:
            raise Refused("uncacheable", "the name of a relation has a database in it")
        name = Name(fields.get("schemaname", ""), fields["relname"])
        alias = fields.get("alias", {})
        if "colnames" in alias:
            self.reads.only_tables = False
        if name.schema or name.name not in self._with:
            self.reads.relations.add(name)

    def note_source(self, fields: Node) -> None:
        self.reads.only_tables = False

    def note_join(self, fields: Node) -> None:
        if "usingClause" in fields or "isNatural" in fields:
            self.reads.operators.add(_EQUAL)
        if "alias" in fields or "join_using_alias" in fields:
            self.reads.only_tables = False

    def note_call(self, fields: Node) -> None:
        name = _qualified(fields["funcname"], "function")
        arguments = fields.get("args", [])
        count = len(arguments)
        if "agg_within_group" in fields:
            count += len(fields["agg_order"])
        self.reads.calls.add(Call(name, count))
        if count == 1 and arguments:
            self.reads.calls_of_one.add(Cast(name, _is_constant(arguments[0])))

    def note_cast(self, fields: Node) -> None:
        arg = fields["arg"]
        type_name = _type_name(fields["typeName"])
        self.reads.casts.add(Cast(type_name, _is_constant(arg), _column(arg)))

    def note_column_type(self, fields: Node) -> None:
        self.reads.casts.add(Cast(_type_name(fields["typeName"]), constant=False))

    def note_column(self, fields: Node) -> None:
        names = [_text(each) for each in fields["fields"]]
        if names[-1] in _UNSTEADY_COLUMNS:
            reason = f"the system column {names[-1]} changes without a write to its row"
            raise Refused("uncacheable", reason)
        if len(names) > 3:
            raise Refused("uncacheable", "the name of a column has a database in it")
        if len(names) > 1 and names[-1]:
            self.reads.columns.add(names[-1])

    def note_indirection(self, fields: Node) -> None:
        self.reads.members |= {name for name in map(_text, fields["indirection"]) if name}

    def note_expression(self, fields: Node) -> None:
        kind = fields.get("kind", "")
        found = _OPERATORS_BY_KIND.get(kind)
        if found is not None:
            self.reads.operators |= {Operator(Name("", each)) for each in found}
            return
        numbers = (_is_number(fields.get(side, {})) for side in ("lexpr", "rexpr"))
        self.reads.operators.add(Operator(_qualified(fields["name"], "operator"), *numbers))

    def note_subquery(self, fields: Node) -> None:
        if "operName" in fields:
            self.reads.operators.add(Operator(_qualified(fields["operName"], "operator")))
        elif "testexpr" in fields:
            self.reads.operators.add(_EQUAL)

    def note_case(self, fields: Node) -> None:
        if "arg" in fields:
            self.reads.operators.add(_EQUAL)

    def note_sort(self, fields: Node) -> None:
        if "useOp" in fields:
            self.reads.operators.add(Operator(_qualified(fields["useOp"], "operator")))

    def note_constant(self, fields: Node) -> None:
        text = fields.get("sval", {}).get("sval", "")
        if has_clock_word(text.encode()):
            raise Refused("volatile", "a literal has a word in it that may mean the current time")

    def refuse_value_function(self, fields: Node) -> None:
        name = fields["op"].removeprefix("SVFOP_").removesuffix("_N")
        raise Refused("volatile", f"{name} is not the same in every statement or session")

    def refuse_sample(self, fields: Node) -> None:
        raise Refused("volatile", "TABLESAMPLE takes other rows each time")


_NOTES: Final[dict[str, Callable[[_Walk, Node], None]]] = {
    "A_Const": _Walk.note_constant,
    "A_Expr": _Walk.note_expression,
    "A_Indirection": _Walk.note_indirection,
    "CaseExpr": _Walk.note_case,
    "ColumnDef": _Walk.note_column_type,
    "ColumnRef": _Walk.note_column,
    "CommonTableExpr": _Walk.note_with_query,
    "FuncCall": _Walk.note_call,
    "JoinExpr": _Walk.note_join,
    "RangeFunction": _Walk.note_source,
    "RangeSubselect": _Walk.note_source,
    "RangeTableSample": _Walk.refuse_sample,
    "RangeVar": _Walk.note_relation,
    "SQLValueFunction": _Walk.refuse_value_function,
    "SelectStmt": _Walk.note_select,
    "SortBy": _Walk.note_sort,
    "SubLink": _Walk.note_subquery,
    "TypeCast": _Walk.note_cast,
}


def _text(node: Node) -> str:
    """A name; empty for what is none (``*``, a subscript)."""
    text: str = node.get("String", {}).get("sval", "")
    return text


def _qualified(names: list[Node], what: str) -> Name:
    parts = [_text(each) for each in names]
    if len(parts) > 2:
        raise Refused("uncacheable", f"the name of a {what} has a database in it")
    return Name(parts[0] if len(parts) == 2 else "", parts[-1])


def _type_name(fields: Node) -> Name:
    return _qualified(fields["names"], "type")


def _is_constant(node: Node) -> bool:
    """Literals and parameters, and arrays of them: all that decides the value can be looked at."""
    if "A_ArrayExpr" in node:
        return all(_is_constant(each) for each in node["A_ArrayExpr"].get("elements", ()))
    return "A_Const" in node or "ParamRef" in node


def _is_number(node: Node) -> bool:
    constant = node.get("A_Const", {})
    return "ival" in constant or "fval" in constant


def _column(node: Node) -> str:
    """Its name, if it is a column."""
    return _text(node["ColumnRef"]["fields"][-1]) if "ColumnRef" in node else ""
