"""Tables, views and functions, and the texts that read and write their registers' versions.

Every row of an answer is pairs of a register's name and its version; ``sum:TABLE`` stands before
a sum over all registers of a table. A new version is only written over an older one, so a write
that the origin gets to late does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple

from .wire import Answer

KEYS = 6
"""Registers of each table."""
ZONES = {"UTC": ("+00", 0), "Asia/Tokyo": ("+09", 540), "Asia/Kathmandu": ("+05:45", 345)}
"""TimeZone: how PostgreSQL writes its offset, and that in minutes."""
TENANTS = ("tenant_a", "tenant_b")
TABLES = (
    "plain",
    "pair_a",
    "pair_b",
    "part",
    "derived",
    "head",
    "line",
    "source",
    "audit",
    "ruled",
    "ruled_copy",
    "log",
    "wide",
    "swap_live",
    "swap_spare",
    "zoned",
    "tenant_a.tenant",
    "tenant_b.tenant",
)
PUBLICATION = f"CREATE PUBLICATION hyperdrive_cache FOR TABLE {', '.join(TABLES)}, base"

_ROWS = "(id bigint PRIMARY KEY, name text NOT NULL, version bigint NOT NULL DEFAULT 0)"
_FILL = "INSERT INTO {0} (id, name) SELECT id, '{1}.' || id FROM generate_series(0, {2}) AS id;"


ROLES = " ".join(f"CREATE ROLE {tenant};" for tenant in TENANTS)
"""They are the server's, not the database's."""


def schema() -> str:
    """Statements that make everything, to be run once as the superuser."""
    simple = ("plain", "pair_a", "pair_b", "source", "audit", "ruled", "ruled_copy", "zoned")
    roles = ", ".join(TENANTS)
    parts = [f"CREATE TABLE {name} {_ROWS};" for name in simple]
    parts += [
        f"CREATE SCHEMA {tenant}; CREATE TABLE {tenant}.tenant {_ROWS};"
        f"GRANT ALL ON SCHEMA {tenant} TO {roles}; GRANT ALL ON {tenant}.tenant TO {roles};"
        + _FILL.format(f"{tenant}.tenant", tenant, KEYS - 1)
        for tenant in TENANTS
    ]
    parts += [_FILL.format(name, name, KEYS - 1) for name in simple]
    parts.append(_MORE)
    parts += [_FILL.format(name, name, KEYS - 1) for name in ("part", "derived")]
    parts += [f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {roles};"]
    return "\n".join(parts)


_MORE = f"""
CREATE TABLE part (LIKE plain, bucket bigint NOT NULL DEFAULT 0, PRIMARY KEY (id, bucket))
    PARTITION BY LIST (bucket);
ALTER TABLE part ALTER version SET DEFAULT 0;
CREATE TABLE part_0 PARTITION OF part FOR VALUES IN (0);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE base {_ROWS};
CREATE TABLE derived (more text, PRIMARY KEY (id)) INHERITS (base);
CREATE TABLE head (id bigint PRIMARY KEY, name text, code bigint UNIQUE);
CREATE TABLE line (id bigint PRIMARY KEY, name text,
    code bigint REFERENCES head (code) ON UPDATE CASCADE);
INSERT INTO head SELECT id, 'head.' || id, -id FROM generate_series(0, {KEYS - 1}) AS id;
INSERT INTO line SELECT id, 'line.' || id, -id FROM generate_series(0, {KEYS - 1}) AS id;
CREATE TABLE log (version bigint PRIMARY KEY);
INSERT INTO log VALUES (0);
CREATE TABLE wide (id bigint PRIMARY KEY, c0 bigint);
INSERT INTO wide VALUES (0, 0);
CREATE TABLE swap_live {_ROWS};
CREATE TABLE swap_spare {_ROWS};
INSERT INTO swap_live VALUES (0, 'swap.0');
INSERT INTO swap_spare VALUES (0, 'swap.0');
ALTER TABLE zoned ADD stamp timestamptz
    GENERATED ALWAYS AS (to_timestamp(946684800 + version)) STORED;

CREATE VIEW plain_view AS SELECT id, name, version FROM plain;
CREATE VIEW pair_view AS SELECT a.id, a.name, a.version, b.name AS other, b.version AS same
    FROM pair_a a JOIN pair_b b USING (id);
CREATE VIEW shape AS SELECT 'shape.0'::text AS name, 0::bigint AS version;
CREATE VIEW ruled_view AS SELECT id, name, version FROM ruled WHERE id >= 0;
CREATE RULE follow AS ON UPDATE TO ruled DO ALSO
    UPDATE ruled_copy SET version = NEW.version WHERE id = NEW.id AND version < NEW.version;
CREATE RULE instead AS ON UPDATE TO ruled_view DO INSTEAD
    UPDATE ruled SET version = NEW.version WHERE id = OLD.id AND version < NEW.version;

CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE audit SET version = NEW.version WHERE id = NEW.id AND version < NEW.version;
    RETURN NULL; END $$;
CREATE TRIGGER follow AFTER UPDATE ON source FOR EACH ROW EXECUTE FUNCTION follow();
CREATE FUNCTION bump_sql(k bigint, v bigint) RETURNS bigint LANGUAGE sql AS
    'UPDATE plain SET version = v WHERE id = k AND version < v RETURNING version';
CREATE FUNCTION bump_plpgsql(k bigint, v bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    PERFORM bump_sql(k, v); END $$;
CREATE FUNCTION bump_dynamic(k bigint, v bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE format('UPDATE %I SET version = $1 WHERE id = $2 AND version < $1', 'plain')
        USING v, k; END $$;
CREATE PROCEDURE bump_procedure(k bigint, v bigint) LANGUAGE plpgsql AS $$ BEGIN
    UPDATE plain SET version = v WHERE id = k AND version < v; END $$;
"""


class Question(NamedTuple):
    """``text`` has parameters ``$1`` and so on; ``expected``: the registers in its answer."""

    text: str
    parameters: tuple[int, ...]
    expected: frozenset[str]
    table: str

    @property
    def literal(self) -> str:
        """The text with the parameters in it."""
        text = self.text
        for number, value in enumerate(self.parameters, 1):
            text = text.replace(f"${number}", str(value))
        return text


@dataclass(slots=True)
class Place:
    """What decides what a text means in a session."""

    tenant: str = ""
    zone: str = "UTC"


_ONE = "SELECT name, version FROM {0} WHERE id = $1"
_ONE_MORE = "SELECT t.version, t.name FROM {0} AS t WHERE t.id = $1 ORDER BY 1"
_PAIRS = (
    "SELECT name, version, other, same FROM pair_view WHERE id = $1",
    "SELECT a.name, a.version, b.name, b.version FROM pair_a a, pair_b b "
    "WHERE a.id = b.id AND b.id = $1",
    "SELECT name, version FROM pair_a WHERE id = $1 UNION ALL "
    "SELECT name, version FROM pair_b WHERE id = $1",
    "WITH pairs AS (SELECT * FROM pair_a UNION SELECT * FROM pair_b) "
    "SELECT name, version FROM pairs WHERE id = $1",
)
_SINGLE = {
    "log": (
        "SELECT 'log.0', max(version) FROM log",
        "SELECT 'log.0', version FROM log ORDER BY version DESC LIMIT 1",
    ),
    "shape": ("SELECT name, version FROM shape",),
    "swap": ("SELECT name, version FROM swap_live",),
    "wide": ("SELECT * FROM wide",),
}
_BY_KEY = {
    "plain": (_ONE.format("plain"), _ONE_MORE.format("plain"), _ONE.format("plain_view")),
    "pair_a": (_ONE.format("pair_a"),),
    "pair_b": (_ONE.format("pair_b"),),
    "part": (
        _ONE.format("part"),
        "SELECT name, version FROM part_0 WHERE id = $1 UNION ALL "
        "SELECT name, version FROM part_1 WHERE id = $1",
    ),
    "derived": (_ONE.format("base"), _ONE.format("derived")),
    "source": (_ONE.format("source"),),
    "audit": (_ONE.format("audit"),),
    "ruled": (_ONE.format("ruled"), _ONE.format("ruled_view")),
    "ruled_copy": (_ONE.format("ruled_copy"),),
    "line": ("SELECT name, code FROM line WHERE id = $1",),
    "zoned": ("SELECT name, version, stamp FROM zoned WHERE id = $1",),
}
_TOGETHER = {
    ("head", "line"): "SELECT h.name, h.code, l.name, l.code FROM head h JOIN line l USING (code) "
    "WHERE h.id = $1",
    ("source", "audit"): "SELECT s.name, s.version, (SELECT a.name FROM audit a WHERE a.id = s.id),"
    " (SELECT a.version FROM audit a WHERE a.id = s.id) FROM source s WHERE s.id = $1",
}
_WHOLE = ("plain", "part", "derived", "ruled")
_HOT = ("plain", "pair", "pair", "part", "derived", "cascade", "trigger", "ruled", "ruled_copy")
_COLD = ("log", "shape", "swap", "wide", "zoned", "whole", "sum", "tenant")


def key(random: Random) -> int:
    """Small ones more often."""
    return min(int(random.paretovariate(2.2)) - 1, KEYS - 1)


def question(random: Random, place: Place) -> Question:
    """Any question that the session can ask."""
    table = random.choice(_HOT if random.random() < 0.7 else _COLD)
    if table == "tenant" and not place.tenant:
        table = "plain"
    if table == "whole":
        table = random.choice(_WHOLE)
        text = f"SELECT name, version FROM {table} ORDER BY id"
        return Question(text, (), names(table), table)
    if table == "sum":
        table = random.choice(_WHOLE)
        text = f"SELECT 'sum:{table}', sum(version)::bigint, count(*) FROM {table}"
        return Question(text, (), frozenset(), table)
    if table in _SINGLE:
        return Question(random.choice(_SINGLE[table]), (), frozenset((f"{table}.0",)), table)
    return _about(random, table, key(random), place)


def _about(random: Random, table: str, number: int, place: Place) -> Question:
    together: tuple[str, ...] = ()
    if table == "pair":
        together, text = ("pair_a", "pair_b"), random.choice(_PAIRS)
        if random.random() < 0.3:
            table = random.choice(together)
    elif table == "cascade":
        together, text = ("head", "line"), _TOGETHER["head", "line"]
        table = "line" if random.random() < 0.4 else table
    elif table == "trigger":
        together, text = ("source", "audit"), _TOGETHER["source", "audit"]
        table = random.choice(("source", "audit", "trigger"))
    elif table == "tenant":
        together, text = (place.tenant,), _ONE.format("tenant")
    if table in _BY_KEY:
        together, text = (table,), random.choice(_BY_KEY[table])
    return Question(text, (number,), frozenset(f"{each}.{number}" for each in together), table)


def names(table: str) -> frozenset[str]:
    return frozenset(f"{table}.{number}" for number in range(KEYS))


class Contents(NamedTuple):
    """What an answer says, and what is wrong with it whatever was written."""

    seen: dict[str, int]
    sums: list[tuple[frozenset[str], int]]
    wrong: str


def contents(asked: Question, answer: Answer, place: Place) -> Contents:
    """Read an answer."""
    if asked.table == "wide":
        numbers = [int(name[1:]) for name, _, _ in answer.columns if name != "id"]
        return Contents({"wide.0": max(numbers, default=-1)}, [], "")
    seen: dict[str, int] = {}
    sums = []
    wrong = ""
    for row in answer.rows:
        if asked.table == "zoned" and row[2] != stamp(row[1], place.zone):
            wrong = f"wrong settings: {row} in {place.zone}"
        words = [value for value in row if isinstance(value, str)]
        figures = [value for value in row if isinstance(value, int)]
        for name, version in zip(words, figures, strict=False):
            if name.startswith("sum:"):
                sums.append((names(name[4:]), version))
                if figures[1] != KEYS:
                    wrong = f"torn: {figures[1]} rows of {KEYS}"
            elif name in seen:
                wrong = f"torn: {name} is there twice"
            else:
                seen[name] = max(version, 0)  # head and line begin below 0
    if asked.expected != seen.keys():
        wrong = f"another's answer: {sorted(seen)} where {sorted(asked.expected)} was asked for"
    return Contents(seen, sums, wrong)


def stamp(version: str | int | None, zone: str) -> str:
    """How PostgreSQL writes a version's time in a zone."""
    written, minutes = ZONES[zone]
    time = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes, seconds=int(version or 0))
    return f"{time:%Y-%m-%d %H:%M:%S}{written}"


class Change(NamedTuple):
    """A write: its registers, and its statements, given the new version.

    ``copied``: the one statement is a COPY, and reads the version.
    """

    registers: frozenset[str]
    statements: Callable[[int], Sequence[str]]
    in_transaction: bool = False
    """It is only right in an explicit transaction."""
    is_ddl: bool = False
    copied: bool = False


_SET = "UPDATE {0} SET version = {{v}} WHERE id = {{k}} AND version < {{v}}"
_SINGLES = {
    "plain": (
        _SET.format("plain"),
        _SET.format("plain"),
        _SET.format("plain_view"),
        "SELECT bump_sql({k}, {v})",
        "SELECT bump_plpgsql({k}, {v})",
        "SELECT bump_sql(id, {v}) FROM plain WHERE id = {k}",
        "CALL bump_procedure({k}, {v})",
        "WITH w AS (UPDATE plain SET version = {v} WHERE id = {k} AND version < {v} RETURNING id) "
        "SELECT count(*) FROM w",
        "INSERT INTO plain VALUES ({k}, 'plain.{k}', {v}) ON CONFLICT (id) DO UPDATE "
        "SET version = excluded.version WHERE plain.version < excluded.version",
        "MERGE INTO plain USING (SELECT {k} AS key) AS s ON id = key WHEN MATCHED "
        "AND version < {v} THEN UPDATE SET version = {v}",
    ),
    "opaque": (
        "SELECT bump_dynamic({k}, {v})",
        "DO $$ BEGIN UPDATE plain SET version = {v} WHERE id = {k} AND version < {v}; END $$",
    ),
    "part": (
        _SET.format("part"),
        "UPDATE part SET version = {v}, bucket = 1 - bucket WHERE id = {k} AND version < {v}",
    ),
    "derived": (_SET.format("base"), _SET.format("derived")),
    "source": (_SET.format("source"),),
    "ruled": (_SET.format("ruled"), _SET.format("ruled_view")),
    "head": ("UPDATE head SET code = {v} WHERE id = {k} AND code < {v}",),
    "zoned": (_SET.format("zoned"),),
    "log": ("INSERT INTO log VALUES ({v})",),
}
_REGISTERS = {
    "opaque": ("plain",),
    "source": ("source", "audit"),
    "ruled": ("ruled", "ruled_copy"),
    "head": ("head", "line"),
}
_WRITTEN = (
    "plain",
    "plain",
    "plain",
    "pair",
    "pair",
    "part",
    "derived",
    "source",
    "ruled",
    "head",
    "zoned",
    "log",
    "log",
    "tenant",
    "tenant",
)


def change(random: Random, place: Place) -> Change:
    """Any write that a session can make; DDL and what is opaque only now and then."""
    luck = random.random()
    if luck < 0.005:
        return _ddl(random)
    if luck < 0.03:
        return _refill()
    table = "opaque" if luck < 0.045 else random.choice(_WRITTEN)
    number = key(random)
    if table == "pair":
        return Change(
            frozenset((f"pair_a.{number}", f"pair_b.{number}")),
            lambda v: [_SET.format(name).format(k=number, v=v) for name in ("pair_a", "pair_b")],
            in_transaction=True,
        )
    if table == "tenant":
        tenant = random.choice(TENANTS)
        text = _SET.format("tenant" if place.tenant == tenant else f"{tenant}.tenant")
        registers = frozenset((f"{tenant}.{number}",))
    elif table == "log":
        if random.random() < 0.5:
            return Change(frozenset(("log.0",)), lambda v: ["COPY log FROM STDIN"], copied=True)
        text, registers = _SINGLES["log"][0], frozenset(("log.0",))
    else:
        text = random.choice(_SINGLES[table])
        written = _REGISTERS.get(table, (table,))
        registers = frozenset(f"{name}.{number}" for name in written)
    return Change(registers, lambda v: [text.format(k=number, v=v)])


def _refill() -> Change:
    statements = lambda v: ["TRUNCATE log", f"INSERT INTO log VALUES ({v})"]  # noqa: E731
    return Change(frozenset(("log.0",)), statements, in_transaction=True)


def _ddl(random: Random) -> Change:
    made = random.choice((_view, _column, _swap))
    register, statements = made()
    return Change(frozenset((register,)), statements, in_transaction=True, is_ddl=True)


Statements = Callable[[int], Sequence[str]]


def _view() -> tuple[str, Statements]:
    text = (
        "CREATE OR REPLACE VIEW public.shape AS "
        "SELECT 'shape.0'::text AS name, {}::bigint AS version"
    )
    return "shape.0", lambda v: [text.format(v)]


def _column() -> tuple[str, Statements]:
    return "wide.0", lambda v: [f"ALTER TABLE wide ADD c{v} bigint DEFAULT 0"]


def _swap() -> tuple[str, Statements]:
    return "swap.0", lambda v: [
        f"UPDATE swap_spare SET version = {v}",
        "ALTER TABLE swap_live RENAME TO swap_other",
        "ALTER TABLE swap_spare RENAME TO swap_live",
        "ALTER TABLE swap_other RENAME TO swap_spare",
    ]


def noise(random: Random) -> Iterator[str]:
    """DDL that changes no version."""
    yield "CREATE INDEX IF NOT EXISTS noise ON plain (version)"
    yield "DROP INDEX IF EXISTS noise"
    if random.random() < 0.3:
        yield "ANALYZE plain"
