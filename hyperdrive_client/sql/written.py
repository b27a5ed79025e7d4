"""What a statement's parse tree says of what it may write to: tables, and what it calls."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from .facts import facts_of
from .parse_tree import MAX_PARSED_BYTES, NotParsedError, plpgsql_of, statements_of
from .reads import Name
from .session_effects import skeleton_of

INSERT, DELETE, UPDATE, TRUNCATE, CASCADE = 4, 8, 16, 32, 64
"""What is done to a table; the first four as in pg_trigger.tgtype."""
ANY_ROW = INSERT | DELETE | UPDATE


class Target(NamedTuple):
    """A table or view, and what is done to it."""

    name: Name
    commands: int


class Call(NamedTuple):
    """A function by its name and number of arguments."""

    name: Name
    arguments: int


@dataclass(frozen=True, slots=True)
class Uses:
    """Of a text, or the body of a function."""

    targets: frozenset[Target] = frozenset()
    relations: frozenset[Name] = frozenset()
    """All that are named, targets among them; some are not relations (CTEs)."""
    calls: frozenset[Call] = frozenset()
    columns: frozenset[str] = frozenset()
    """Of qualified names: each may be a function of the row before it."""
    anything: bool = False
    """It can't be told what is written."""
    changes_catalogue: bool = False

    def __or__(self, other: Uses) -> Uses:
        return Uses(
            self.targets | other.targets,
            self.relations | other.relations,
            self.calls | other.calls,
            self.columns | other.columns,
            self.anything or other.anything,
            self.changes_catalogue or other.changes_catalogue,
        )


NOTHING = Uses()
ANYTHING = Uses(anything=True)
_DDL = Uses(anything=True, changes_catalogue=True)

_DML = {"InsertStmt": INSERT, "UpdateStmt": UPDATE, "DeleteStmt": DELETE, "MergeStmt": ANY_ROW}
# Statements that write to no table, whatever they say.
_NO_WRITES = frozenset(
    [
        "TransactionStmt",
        "VariableSetStmt",
        "VariableShowStmt",
        "FetchStmt",
        "ClosePortalStmt",
        "ListenStmt",
        "UnlistenStmt",
        "NotifyStmt",
        "DeallocateStmt",
        "DiscardStmt",
        "CheckPointStmt",
        "LockStmt",
        "VacuumStmt",
        "ConstraintsSetStmt",
        "PrepareStmt",
    ]
)
# Those of which the parts say what is written.
_SEARCHED = frozenset(
    [
        "SelectStmt",
        "ExplainStmt",
        "DeclareCursorStmt",
        "CopyStmt",
        "TruncateStmt",
        "RefreshMatViewStmt",
        "CallStmt",
        "ReturnStmt",
    ]
) | frozenset(_DML)

_HEAD = re.compile(
    rb"""\s*insert\s+into\s+(?:(NAME)\s*\.\s*)?(NAME)\s*(?:\(|values\b)""".replace(
        b"NAME", rb'"[^"]+"|[A-Za-z_\x80-\xff][\w$\x80-\xff]*'
    ),
    re.IGNORECASE,
)
# What a list of values has no need of.
_NOT_IN_VALUES = re.compile(rb"\b(?:select|with|update\s+\w|delete|merge|table)\b", re.IGNORECASE)


def uses_of(text: bytes) -> Uses:
    """Of a text that a client sends."""
    try:
        statements = statements_of(text)
    except NotParsedError:
        return ANYTHING
    found = NOTHING
    for statement in statements:
        found |= _uses_of_statement(statement)
    return found


def uses_of_long(text: bytes) -> Uses:
    """Of one that is too long to be parsed: an INSERT of many rows, by its beginning."""
    head = _HEAD.match(text[:1000])
    facts = facts_of(text)
    skeleton = skeleton_of(text) if len(text) <= MAX_PARSED_BYTES else None
    if (
        head is None
        or skeleton is None
        or facts.traces
        or b";" in skeleton.strip().rstrip(b";")
        or _NOT_IN_VALUES.search(skeleton)
        or not re.search(rb"\bvalues\b", skeleton, re.IGNORECASE)
    ):
        return ANYTHING
    conflicts = re.search(rb"\bconflict\b", skeleton, re.IGNORECASE)
    name = Name(_identifier(head[1] or b""), _identifier(head[2]))
    commands = INSERT | UPDATE if conflicts else INSERT
    return Uses(targets=frozenset((Target(name, commands),)), relations=frozenset((name,)))


def _identifier(text: bytes) -> str:
    name = text.decode("utf-8", "replace")
    return name[1:-1] if name.startswith('"') else name.lower()


def _uses_of_statement(statement: dict[str, Any]) -> Uses:
    ((kind, fields),) = statement.items()
    if kind == "TransactionStmt" and fields.get("kind") == "TRANS_STMT_COMMIT_PREPARED":
        return ANYTHING
    if kind in _NO_WRITES:
        return NOTHING
    if kind == "DoStmt":
        return _uses_of_do(fields)
    if kind == "ExecuteStmt":
        return ANYTHING
    if kind == "CreateStmt" and fields["relation"].get("relpersistence") == "t":
        return NOTHING
    if kind == "CreateTableAsStmt" and fields["into"]["rel"].get("relpersistence") == "t":
        return _search(fields["query"])
    if kind not in _SEARCHED:
        return _DDL
    found = _search(statement)
    if kind == "CopyStmt" and fields.get("is_from"):
        found |= _target(fields["relation"], INSERT)
    elif kind == "TruncateStmt":
        cascades = CASCADE if fields.get("behavior") == "DROP_CASCADE" else 0
        for each in fields["relations"]:
            found |= _target(each["RangeVar"], TRUNCATE | cascades)
    elif kind == "RefreshMatViewStmt":
        found |= _target(fields["relation"], ANY_ROW)
    return found


def _target(relation: dict[str, Any], commands: int) -> Uses:
    return Uses(targets=frozenset((Target(_name(relation), commands),)))


def _name(relation: dict[str, Any]) -> Name:
    return Name(relation.get("schemaname", ""), relation["relname"])


def _search(root: object) -> Uses:
    """Everything that is named below a node."""
    targets: set[Target] = set()
    relations: set[Name] = set()
    calls: set[Call] = set()
    columns: set[str] = set()
    changes_catalogue = False
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
            continue
        if not isinstance(node, dict):
            continue
        stack += node.values()
        for kind, commands in _DML.items():
            if kind in node:
                fields = node[kind]
                if "onConflictClause" in fields:
                    commands |= UPDATE
                targets.add(Target(_name(fields["relation"]), commands))
        if "relname" in node:
            relations.add(_name(node))
        if "funcname" in node:
            name = _qualified(node["funcname"])
            calls.add(Call(name, len(node.get("args", ()))))
        if "intoClause" in node:
            changes_catalogue = True
        if "ColumnRef" in node or "A_Indirection" in node:
            fields = node.get("ColumnRef", {}).get("fields") or []
            fields = fields[1:] or node.get("A_Indirection", {}).get("indirection") or []
            columns.update(each["String"]["sval"] for each in fields if "String" in each)
    return Uses(
        frozenset(targets),
        frozenset(relations),
        frozenset(calls),
        frozenset(columns),
        anything=changes_catalogue,
        changes_catalogue=changes_catalogue,
    )


def _qualified(names: list[dict[str, Any]]) -> Name:
    parts = [each["String"]["sval"] for each in names]
    return Name(parts[-2] if len(parts) > 1 else "", parts[-1])


# Functions.


def uses_of_sql(body: str) -> Uses:
    """Of the body of a function in SQL."""
    return uses_of(body.encode())


def uses_of_atomic(definition: str) -> Uses:
    """Of CREATE FUNCTION … BEGIN ATOMIC … END."""
    try:
        (statement,) = statements_of(definition.encode())
    except (NotParsedError, ValueError):
        return ANYTHING
    body = statement.get("CreateFunctionStmt", {}).get("sql_body")
    return _search(body) if body else ANYTHING


# What PL/pgSQL does that its expressions do not show.
_DYNAMIC = re.compile(
    r'"(?:PLpgSQL_stmt_dynexecute|PLpgSQL_stmt_dynfors|dynquery|PLpgSQL_stmt_commit'
    r'|PLpgSQL_stmt_rollback)"'
)
_EXPRESSION = re.compile(r'"query":("(?:[^"\\]|\\.)*"),"parseMode":(\d)')
# PLpgSQL_expr.parseMode, RawParseMode: a statement, an expression, and the kinds of assignment.
_STATEMENT, _SIMPLE = "0", "2"
_ASSIGNMENT = re.compile(
    r'[\w."$\s]*(?:\[[^][]*\]\s*(?:\.\s*[\w"]+\s*)*)*:?=(?!=)(.*)\Z', re.DOTALL
)


@lru_cache(maxsize=512)
def uses_of_plpgsql(definition: str) -> Uses:
    """Of CREATE FUNCTION … LANGUAGE plpgsql."""
    try:
        tree = plpgsql_of(definition.encode())
    except NotParsedError:
        return ANYTHING
    # The keys of the tree, since quotes within its strings are escaped.
    if re.search(_DYNAMIC, tree):
        return ANYTHING
    expressions = _EXPRESSION.findall(tree)
    if len(expressions) != tree.count('"PLpgSQL_expr":'):
        return ANYTHING
    found = NOTHING
    for query, mode in expressions:
        found |= _uses_of_expression(json.loads(query), mode)
    return found


def _uses_of_expression(text: str, mode: str) -> Uses:
    if mode == _STATEMENT:
        return uses_of(text.encode())
    if mode != _SIMPLE:
        assigned = _ASSIGNMENT.match(text)
        if assigned is None:
            return ANYTHING
        text = assigned[1]
    return uses_of(b"SELECT " + text.encode())


def _uses_of_do(fields: dict[str, Any]) -> Uses:
    arguments = {each["DefElem"]["defname"]: each["DefElem"]["arg"] for each in fields["args"]}
    language = arguments.get("language", {"String": {"sval": "plpgsql"}})
    body = arguments["as"]["String"]["sval"]
    tag = "$hyperdrive$"
    if language != {"String": {"sval": "plpgsql"}} or tag in body:
        return _DDL
    found = uses_of_plpgsql(
        f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS {tag}{body}{tag}"
    )
    # What DO is often for is DDL whose text is put together.
    return _DDL if found.anything else found
