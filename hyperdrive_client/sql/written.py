"""What a statement's parse tree says of what it may write to: tables, and what it calls."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

from .facts import facts_of
from .parse_tree import MAX_PARSED_BYTES, Node, NotParsedError, plpgsql_of, statements_of
from .reads import Call, Name
from .session_effects import calls, skeleton_of, without_non_calls

INSERT, DELETE, UPDATE, TRUNCATE, CASCADE = 4, 8, 16, 32, 64
"""What is done to a table; the first four as in pg_trigger.tgtype."""
ANY_ROW = INSERT | DELETE | UPDATE

# PostgreSQL cuts longer names.
_MAX_NAME_BYTES = 63


class Target(NamedTuple):
    """A table or view, and what is done to it."""

    name: Name
    commands: int
    alone: bool = False
    """Without what inherits from it (ONLY)."""
    columns: frozenset[str] | None = None
    """Those that an UPDATE sets; ``None``: any."""


@dataclass(frozen=True, slots=True)
class Uses:
    """Of a text, or the body of a function."""

    targets: frozenset[Target] = frozenset()
    relations: frozenset[Name] = frozenset()
    """All that are named, targets among them."""
    queries: frozenset[str] = frozenset()
    """Names of WITH queries, which some of ``relations`` may be."""
    calls: frozenset[Call] = frozenset()
    columns: frozenset[str] = frozenset()
    """Of qualified names: each may be a function of the row before it."""
    words: frozenset[str] = frozenset()
    """Of a text that was not parsed: each may be a relation or a function."""
    anything: bool = False
    """It can't be told what is written."""
    changes_catalogue: bool = False
    fires_events: bool = False
    """It is a command of those for which event triggers are."""
    moves_names: bool = False
    """It may change the search_path or the role, and by that what names mean."""
    by_literals: bool = False
    """Texts that differ in literals may have other uses."""

    def __or__(self, other: Uses) -> Uses:
        return Uses(**{each: getattr(self, each) | getattr(other, each) for each in _USES})


_USES: Final = tuple(each.name for each in fields(Uses))
NOTHING = Uses()
ANYTHING = Uses(anything=True)
DDL = Uses(anything=True, changes_catalogue=True)

_DML = {"InsertStmt": INSERT, "UpdateStmt": UPDATE, "DeleteStmt": DELETE, "MergeStmt": 0}
_MERGE = {"CMD_INSERT": INSERT, "CMD_UPDATE": UPDATE, "CMD_DELETE": DELETE}
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
        "PLAssignStmt",
    ]
) | frozenset(_DML)
# Settings on which the meaning of names depends, or of the text itself.
_NAMING = frozenset(("search_path", "role", "session_authorization", "standard_conforming_strings"))


def uses_of(text: bytes) -> Uses:
    """Of a text that a client sends."""
    try:
        return uses_of_statements(statements_of(text))
    except NotParsedError:
        return _not_understood(text)


def _not_understood(text: bytes) -> Uses:
    return Uses(anything=True, changes_catalogue=facts_of(text).takes_locks)


def uses_of_statements(statements: list[Node]) -> Uses:
    """Of the statements of one text."""
    found = NOTHING
    for statement in statements:
        found |= _uses_of_statement(statement)
    if found.moves_names and len(statements) > 1:
        kinds = {kind for statement in statements for kind in statement}
        return found if kinds <= _NO_WRITES else found | ANYTHING
    return found


def _uses_of_statement(statement: Node) -> Uses:
    ((kind, fields),) = statement.items()
    if kind == "TransactionStmt" and fields["kind"] == "TRANS_STMT_COMMIT_PREPARED":
        return DDL
    if kind in _NO_WRITES:
        return Uses(moves_names=_moves_names(kind, fields))
    if kind == "DoStmt":
        return _uses_of_do(fields)
    if kind == "ExecuteStmt":
        return ANYTHING
    if _makes_temporary(kind, fields):
        return _search(fields.get("query")) | Uses(fires_events=True)
    if kind not in _SEARCHED:
        return DDL
    found = _search(statement)
    if kind == "CopyStmt" and fields.get("is_from"):
        found |= _target(fields["relation"], INSERT)
    elif kind == "TruncateStmt":
        cascades = CASCADE if fields.get("behavior") == "DROP_CASCADE" else 0
        for each in fields["relations"]:
            found |= _target(each["RangeVar"], TRUNCATE | cascades)
    elif kind == "RefreshMatViewStmt":
        found |= _target(fields["relation"], ANY_ROW) | Uses(fires_events=True)
    return found


def _moves_names(kind: str, fields: Node) -> bool:
    if kind == "VariableSetStmt":
        return fields.get("name") in _NAMING or fields["kind"] == "VAR_RESET_ALL"
    return kind == "DiscardStmt" and fields["target"] == "DISCARD_ALL"


def _makes_temporary(kind: str, fields: Node) -> bool:
    if kind == "CreateStmt":
        relation = fields["relation"]
    elif kind == "CreateTableAsStmt":
        relation = fields["into"]["rel"]
    else:
        return False
    return relation.get("relpersistence") == "t" and "schemaname" not in relation


def _target(relation: Node, commands: int, columns: frozenset[str] | None = None) -> Uses:
    target = Target(_name(relation), commands, "inh" not in relation, columns)
    return Uses(targets=frozenset((target,)))


def _name(relation: Node) -> Name:
    return Name(relation.get("schemaname", ""), relation["relname"])


def _search(root: object) -> Uses:
    """Everything that is named below a node."""
    targets: set[Target] = set()
    relations: set[Name] = set()
    queries: set[str] = set()
    calls: set[Call] = set()
    columns: set[str] = set()
    anything = moves_names = by_literals = False
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            stack += node.values()
            if "relname" in node:
                relations.add(_name(node))
            elif "ctename" in node:
                queries.add(node["ctename"])
            elif "funcname" in node:
                calls.add(_call(node))
                if node["funcname"][-1] == {"String": {"sval": "set_config"}}:
                    by_literals = True
                    moves_names = moves_names or _sets_names(node)
            elif len(node) == 1:
                ((kind, fields),) = node.items()
                if kind in _DML:
                    targets.add(_dml_target(kind, fields))
                elif kind in ("ColumnRef", "A_Indirection"):
                    columns |= _members(kind, fields)
                elif kind.endswith("Stmt") and kind not in _SEARCHED:
                    anything = True
            anything = anything or "intoClause" in node
    return Uses(
        frozenset(targets),
        frozenset(relations),
        frozenset(queries),
        frozenset(calls),
        frozenset(columns),
        anything=anything,
        changes_catalogue=anything,
        moves_names=moves_names,
        by_literals=by_literals,
    )


def _call(node: Node) -> Call:
    parts = [each["String"]["sval"] for each in node["funcname"]]
    count = len(node.get("args", ()))
    if "agg_within_group" in node:
        count += len(node["agg_order"])
    return Call(Name(parts[-2] if len(parts) > 1 else "", parts[-1]), count)


def _sets_names(call: Node) -> bool:
    """Of a call of set_config: it may set what names mean."""
    first = call.get("args", [{}])[0]
    name = first.get("A_Const", {}).get("sval", {}).get("sval")
    return name is None or name.lower() in _NAMING


def _dml_target(kind: str, fields: Node) -> Target:
    relation = fields["relation"]
    commands = _DML[kind]
    changed = fields.get("targetList", []) if kind == "UpdateStmt" else []
    conflict = fields.get("onConflictClause", {})
    if conflict.get("action") == "ONCONFLICT_UPDATE":
        commands |= UPDATE
        changed = conflict["targetList"]
    for each in fields.get("mergeWhenClauses", ()):
        clause = each["MergeWhenClause"]
        command = _MERGE.get(clause.get("commandType", ""), 0)
        commands |= command
        if command == UPDATE:
            changed = changed + clause["targetList"]
    columns = frozenset(each["ResTarget"]["name"] for each in changed)
    return Target(_name(relation), commands, "inh" not in relation, columns)


def _members(kind: str, fields: Node) -> set[str]:
    parts = fields["fields"][1:] if kind == "ColumnRef" else fields["indirection"]
    return {each["String"]["sval"] for each in parts if "String" in each}


# Texts that are too long to be parsed.

_HEAD = re.compile(
    rb"""\s*insert\s+into\s+(?:(NAME)\s*\.\s*)?(NAME)\s*(?:\(|values\b)""".replace(
        b"NAME", rb'"[^"]+"|[A-Za-z_\x80-\xff][\w$\x80-\xff]*'
    ),
    re.IGNORECASE,
)
# What a list of values has no need of.
_NOT_IN_VALUES = re.compile(rb"\b(?:select|with|update\s+\w|delete|merge|table)\b", re.IGNORECASE)
# Parameters and casts to plain types, and what is left of lists without them, and of rows.
_VALUE = re.compile(
    rb"(?<![\w$\x80-\xff])\$\d+|::(?:time(?:stamp)?\s+with(?:out)?\s+time\s+zone|\w+)(?=[\s,)])",
    re.IGNORECASE,
)
_LIST = re.compile(rb",[\s,]*+")
_ROWS = re.compile(rb"(?:\(\s?,\),)+")
_WORD = re.compile(rb"[\w$\x80-\xff]+")
_MEMBER = re.compile(rb"\.\s*([\w$\x80-\xff]+)")
# In quotes, beside literals and comments, in which a quote is none.
_QUOTED = re.compile(rb"""'[^']*'|--[^\n\r]*|/\*.*?\*/|"((?:[^"]|"")*)\"""", re.DOTALL)


def uses_of_long(text: bytes) -> Uses:
    """Of one that is too long to be parsed: an INSERT of many rows, by its beginning, or a read
    that calls what goes by the names of PostgreSQL's own functions."""
    skeleton = skeleton_of(text) if len(text) <= MAX_PARSED_BYTES else None
    if skeleton is None:
        return _not_understood(text)
    skeleton = _ROWS.sub(b"(,),", _LIST.sub(b",", _VALUE.sub(b"", skeleton)))
    facts = facts_of(skeleton.replace(b'"', b'""'))
    if facts.reads:
        return Uses(words=_words([*_WORD.findall(skeleton), *_QUOTED.findall(text)]))
    head = _HEAD.match(text[:1000])
    if (
        head is None
        or facts.traces
        or b";" in skeleton.strip().rstrip(b";")
        or _NOT_IN_VALUES.search(skeleton)
        or not re.search(rb"\bvalues\b", skeleton, re.IGNORECASE)
    ):
        return _not_understood(text)
    conflicts = re.search(rb"\bconflict\b", skeleton, re.IGNORECASE)
    name = Name(_identifier(head[1] or b""), _identifier(head[2]))
    target = Target(name, INSERT | UPDATE if conflicts else INSERT)
    words = [called for _, called in calls(without_non_calls(skeleton))]
    words += _MEMBER.findall(skeleton) + _QUOTED.findall(text)
    return Uses(frozenset((target,)), frozenset((name,)), words=_words(words))


def _words(words: list[bytes]) -> frozenset[str]:
    """As they are and in lower case, which they have without quotes; cut as PostgreSQL does."""
    names = {word.replace(b'""', b'"')[:_MAX_NAME_BYTES] for word in words}
    names |= {name.lower() for name in names}
    return frozenset(name.decode("utf-8", "ignore") for name in names)


def _identifier(text: bytes) -> str:
    # Letters beyond ASCII keep their case.
    name = text[1:-1] if text.startswith(b'"') else text.lower()
    return name.decode("utf-8", "replace")


# Functions.


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
# Of records the tree has no defaults.
_RECORD = re.compile(r'"PLpgSQL_rec":\{"refname":("(?:[^"\\]|\\.)*")')
_DEFAULT = r"""(?<![\w$."])"?{}"?\s+(?:constant\s+)?NAME(?:\s*\.\s*NAME)*(?:\s+not\s+null)?
  \s*(?::?=|\bdefault\b)""".replace("NAME", r'(?:"[^"]+"|[\w$]+)')
_COMMENT = re.compile(r"--[^\n\r]*|/\*.*?\*/", re.DOTALL)
# The parser knows no tables: rows of them are records to it, and the types of columns any.
_ROW_TYPE = re.compile(r'(?:(?:"[^"]+"|[\w$]+)\s*\.\s*)?(?:"[^"]+"|[\w$]+)\s*%\s*rowtype\b', re.I)
_COLUMN_TYPE = re.compile(r'(?:(?:"[^"]+"|[\w$]+)\s*\.\s*)*(?:"[^"]+"|[\w$]+)\s*%\s*type\b', re.I)


def uses_of_plpgsql(definition: str) -> Uses:
    """Of CREATE FUNCTION … LANGUAGE plpgsql."""
    definition = _COLUMN_TYPE.sub("text", _ROW_TYPE.sub("record", definition))
    try:
        tree = plpgsql_of(definition.encode())
        # The keys of the tree, since quotes within its strings are escaped.
        if _DYNAMIC.search(tree) or _has_record_with_default(definition, tree):
            return ANYTHING
        expressions = _EXPRESSION.findall(tree)
        if len(expressions) != tree.count('"PLpgSQL_expr":'):
            return ANYTHING
        found = NOTHING
        for query, mode in expressions:
            found |= uses_of_statements(statements_of(json.loads(query).encode(), int(mode)))
    except NotParsedError:
        return ANYTHING
    return found


def _has_record_with_default(definition: str, tree: str) -> bool:
    names = {re.escape(json.loads(name)) for name in _RECORD.findall(tree)}
    pattern = re.compile(_DEFAULT.format(f"(?:{'|'.join(names)})"), re.IGNORECASE | re.VERBOSE)
    texts = (definition, _COMMENT.sub(" ", definition))
    return bool(names) and any(pattern.search(text) for text in texts)


def _uses_of_do(fields: Node) -> Uses:
    arguments: dict[str, Any] = {
        each["DefElem"]["defname"]: each["DefElem"]["arg"] for each in fields["args"]
    }
    language = arguments.get("language", {"String": {"sval": "plpgsql"}})
    body = arguments["as"]["String"]["sval"]
    tag = "$hyperdrive$"
    if language != {"String": {"sval": "plpgsql"}} or tag in body:
        return DDL | Uses(by_literals=True)
    found = uses_of_plpgsql(
        f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS {tag}{body}{tag}"
    )
    # What DO is often for is DDL whose text is put together.
    return (DDL if found.anything else found) | Uses(by_literals=True)
