"""What the cache of a proxy can be at an origin, what it lacks there, and its publication.

``examine`` only reads. ``set_up`` and ``remove`` change the publication, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import args_row

from .bindings import Origin
from .errors import ConfigurationError, HyperdriveError
from .proxy.settings import PUBLICATION
from .sql.parse_tree import why_unavailable

FIRST_VERSION = 140000
"""Of PostgreSQL, as ``server_version_num`` has it, for the mode ``wal``."""

_PRIMARY = ("primary", "read-write")
_CONNECT_TIMEOUT = "15"
_OPTIONS = "publish = 'insert, update, delete, truncate', publish_via_partition_root = false"
# A name that is shown is one that a person reads.
_SHOWN_TABLES = 20


class _Service(NamedTuple):
    """What differs where nobody is a superuser."""

    role: str
    """It exists there, and nowhere else."""
    wal_level: str
    replication: str
    """With the role in the place of {}."""


_SERVICES = (
    _Service(
        "rds_replication",
        "set rds.logical_replication = 1 in the instance's parameter group, then restart it",
        "GRANT rds_replication TO {};",
    ),
    _Service(
        "cloudsqlsuperuser",
        "set the instance's flag cloudsql.logical_decoding = on, which restarts it",
        "ALTER ROLE {} REPLICATION;",
    ),
    _Service(
        "azure_pg_admin",
        "set the server's parameter wal_level to logical, then restart it",
        "ALTER ROLE {} REPLICATION;",
    ),
)
_ANYWHERE = _Service(
    "",
    "ALTER SYSTEM SET wal_level = logical;  -- as a superuser; then restart the server",
    "ALTER ROLE {} REPLICATION;  -- as a superuser",
)


class _Server(NamedTuple):
    version: int
    version_text: str
    is_replica: bool
    wal_level: str
    has_any_standby: bool
    """Whoever follows the WAL counts as a standby for which commits wait."""
    role: str
    """As SQL writes it; so is the database's name."""
    database: str
    may_replicate: bool
    may_create: bool
    slots: int
    max_slots: int
    walsenders: int
    max_walsenders: int
    roles: list[str]

    @property
    def service(self) -> _Service:
        return next((each for each in _SERVICES if each.role in self.roles), _ANYWHERE)


_SERVER = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
    pg_is_in_recovery(), current_setting('wal_level'),
    current_setting('synchronous_standby_names') LIKE '%%*%%',
    quote_ident(current_user), quote_ident(current_database()),
    (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user)
        OR EXISTS (SELECT FROM pg_roles
            WHERE rolname = 'rds_replication' AND pg_has_role(oid, 'MEMBER')),
    has_database_privilege(current_database(), 'CREATE'),
    (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int,
    (SELECT count(*) FROM pg_stat_replication), current_setting('max_wal_senders')::int,
    ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname = ANY (%s))
"""


class _Publication(NamedTuple):
    owner: str
    is_owned: bool
    is_complete: bool
    """It has every kind of change, and those of partitions by their own names."""
    is_open: bool
    """Tables that are made later are in it, too."""


_PUBLICATIONS = """
SELECT quote_ident(pg_get_userbyid(pubowner)), pg_has_role(pubowner, 'USAGE'),
    pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT pubviaroot,
    puballtables OR EXISTS (SELECT FROM pg_depend WHERE refclassid = p.tableoid
        AND refobjid = p.oid AND classid = to_regclass('pg_publication_namespace'))
FROM pg_publication p WHERE pubname = %s
"""


class _Table(NamedTuple):
    oid: int
    name: str
    """As SQL writes it, with its schema; so is the owner's name."""
    kind: str
    persistence: str
    has_row_security: bool
    has_key: bool
    """What PostgreSQL calls a replica identity."""
    owner: str
    is_owned: bool
    is_readable: bool
    is_published: bool
    is_listed: bool
    """Itself, not the table that it is a partition of."""
    is_filtered: bool
    """Only some of its rows."""
    ancestors: list[int]
    """What it is a partition of, and itself, the topmost last; empty for what is no partition."""

    @property
    def holds_rows(self) -> bool:
        return self.kind != "p"

    @property
    def is_in_wal(self) -> bool:
        return self.kind == "r" and self.persistence == "p"

    @property
    def rejects_updates(self) -> bool:
        return self.is_published and self.is_in_wal and not self.has_key

    def objection(self) -> str:
        """Why it is not to be published; empty if it is."""
        if self.kind == "f":
            return "foreign, never cached"
        if self.kind == "m":
            return "a materialized view, not in the WAL: cached in writes and ttl only"
        if self.persistence == "u":
            return "unlogged, so not in the WAL: cached in writes and ttl only"
        if self.has_row_security:
            return "row-level security, never cached"
        if not self.has_key:
            return "no primary key, so UPDATE and DELETE would fail if published"
        if not self.is_owned:
            return f"owned by {self.owner}, who alone may publish it"
        return ""


# What a partition's changes are published by is its own key. An index that is deferrable is none.
_TABLES = """
SELECT c.oid::int8, format('%%I.%%I', n.nspname, c.relname), c.relkind::text,
    c.relpersistence::text, c.relrowsecurity,
    CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false ELSE EXISTS (
        SELECT FROM pg_index WHERE indrelid = c.oid AND indisvalid AND indimmediate
            AND CASE c.relreplident WHEN 'i' THEN indisreplident ELSE indisprimary END) END,
    quote_ident(pg_get_userbyid(c.relowner)), pg_has_role(c.relowner, 'USAGE'),
    has_any_column_privilege(c.oid, 'SELECT'), published.tablename IS NOT NULL,
    listed.prrelid IS NOT NULL, coalesce(listed.is_filtered, false),
    CASE WHEN c.relispartition OR c.relkind = 'p'
        THEN ARRAY(SELECT relid::oid::int8 FROM pg_partition_ancestors(c.oid)) ELSE '{}' END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN (SELECT DISTINCT schemaname, tablename FROM pg_publication_tables
    WHERE pubname = %(name)s) published ON schemaname = n.nspname AND tablename = c.relname
LEFT JOIN (SELECT prrelid, to_jsonb(r) ->> 'prqual' IS NOT NULL AS is_filtered
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = prpubid
    WHERE pubname = %(name)s) listed ON prrelid = c.oid
WHERE c.relkind IN ('r', 'p', 'f', 'm') AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%%'
ORDER BY 2
"""


@dataclass(frozen=True, slots=True)
class Missing:
    """What stands against something, and what to do: SQL, or words."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    """What ``examine`` has found; names are as SQL writes them."""

    origin: str
    """For people: version, primary or replica, role."""
    modes: tuple[str, ...]
    """Those that a proxy's cache can have, ``off`` not among them."""
    default_mode: str
    """What ``auto`` means here."""
    missing: tuple[Missing, ...]
    """For ``wal``."""
    dangers: tuple[Missing, ...]
    """What the publication does to the writers of its tables."""
    followed: tuple[str, ...]
    """Tables whose changes the WAL brings."""
    others: dict[str, tuple[str, ...]]
    """The other tables that the role may read, by the reason."""
    notes: tuple[str, ...]
    slots: tuple[int, int]
    """In use, and at most."""
    walsenders: tuple[int, int]


def examine(origin: Origin) -> Report:
    """Say what the cache can be at an origin, by its answers to questions that change nothing.

    Raises ``ConfigurationError`` if it is a proxy, and ``HyperdriveError`` if it can't be asked.
    """
    with _connected(origin) as connection:
        server, publication, tables = _facts(connection)
        missing = [
            *_missing(server),
            *_missing_in_publication(publication, server, tables),
            *_missing_on_the_way(origin, server),
            *_missing_here(),
        ]
    modes: tuple[str, ...] = ("writes", "ttl") if missing else ("wal", "writes", "ttl")
    if server.is_replica:
        modes = ("ttl",)
    if why_unavailable():
        modes = ()
    return Report(
        f"PostgreSQL {server.version_text}, a {'replica' if server.is_replica else 'primary'}, "
        f"database {server.database}, as {server.role}",
        modes,
        "off" if missing else "wal",
        tuple(missing),
        tuple(_dangers(publication, tables)),
        tuple(table.name for table in tables if table.is_published and table.is_in_wal),
        _others(tables),
        tuple(_notes(tables)),
        (server.slots, server.max_slots),
        (server.walsenders, server.max_walsenders),
    )


def set_up(origin: Origin, names: Sequence[str] = ()) -> str:
    """Make the publication, or add to it and repair it; return what was done, in words.

    ``names``: the tables to add, as ``schema.name`` in SQL's way; without any, all that can be.
    Raises as ``examine`` does, and ``ConfigurationError`` for a table that can't be published.
    """
    with _connected(origin) as connection, connection.transaction():
        _, publication, tables = _facts(connection)
        wanted = [_named(name, connection, tables) for name in names] if names else _wanted(tables)
        # A transaction that holds a table for long would hold up everybody behind us.
        connection.execute("SET LOCAL lock_timeout = '10s'")
        if publication is None:
            only = f" FOR TABLE {_list(wanted)}" if wanted else ""
            _execute(connection, f"CREATE PUBLICATION {PUBLICATION}{only} WITH ({_OPTIONS})")
            return f"created the publication {PUBLICATION} {_with(wanted)}"
        done = []
        broken = {oid for table in tables if table.rejects_updates for oid in _lineage(table)}
        listed = [table for table in tables if table.is_listed]
        if dropped := [each for each in listed if each.oid in broken or each.is_filtered]:
            _execute(connection, f"ALTER PUBLICATION {PUBLICATION} DROP TABLE {_list(dropped)}")
            done.append(f"took out, for want of a key or of all rows, {_names(dropped)}")
        if not publication.is_complete:  # which some rows of a partitioned table do not allow
            _execute(connection, f"ALTER PUBLICATION {PUBLICATION} SET ({_OPTIONS})")
            done.append("repaired")
        kept = {each.oid for each in listed if each not in dropped}
        if added := [each for each in wanted if each.oid not in kept]:
            _execute(connection, f"ALTER PUBLICATION {PUBLICATION} ADD TABLE {_list(added)}")
            done.append(f"added {_names(added)}")
        return f"the publication {PUBLICATION}: {'; '.join(done) or 'nothing to add'}"


def remove(origin: Origin) -> str:
    """Drop the publication; return what was done, in words. Raises as ``examine`` does."""
    with _connected(origin) as connection:
        existed = _facts(connection)[1] is not None
        _execute(connection, f"DROP PUBLICATION IF EXISTS {PUBLICATION}")
    return f"{'dropped the' if existed else 'there is no'} publication {PUBLICATION}"


def described(report: Report) -> Iterator[str]:
    """The lines of a report for people."""
    yield f"origin   {report.origin}"
    if "wal" in report.modes:
        yield "cache    wal is possible, and is what a proxy does unless it is told otherwise"
    else:
        yield "cache    wal is not possible; unless it is told otherwise, a proxy caches nothing"
    if others := [mode for mode in report.modes if mode != "wal"]:
        yield f"         by name: {', '.join(others)} (--cache-mode, HYPERDRIVE_CACHE)"
    for kind, found in (("missing", report.missing), ("DANGER", report.dangers)):
        for each in found:
            yield f"{kind:<8} {each.what}"
            yield f"           {each.remedy}"
    yield f"tables   {len(report.followed)} in the publication{_some(report.followed)}"
    for reason, names in report.others.items():
        yield f"         not in it ({reason}){_some(names)}"
    for note in report.notes:
        yield f"note     {note}"
    (slots, max_slots), (walsenders, max_walsenders) = report.slots, report.walsenders
    yield (
        f"costs    in wal each proxy has 1 connection of its own, 1 walsender ({walsenders} of "
        f"{max_walsenders} in use) and 1 temporary"
    )
    yield f"         slot ({slots} of {max_slots} in use); every walsender decodes all of the WAL"


@contextmanager
def _connected(origin: Origin) -> Iterator[psycopg.Connection]:
    try:
        with psycopg.connect("", autocommit=True, **_parameters(origin)) as connection:
            if connection.info.parameter_status("hyperdrive.proxy"):
                raise ConfigurationError(
                    "that is a Hyperdrive proxy: name the PostgreSQL server behind it"
                )
            # Functions of others must not run with the rights of whoever sets this up.
            connection.execute("SET search_path = pg_catalog")
            yield connection
    except psycopg.Error as error:
        if isinstance(error, HyperdriveError):
            raise
        raise HyperdriveError(f"the origin says: {_in_one_line(error)}") from None


def _parameters(origin: Origin) -> dict[str, Any]:
    # PGHOSTADDR would lead past the host that is meant.
    return {"hostaddr": "", "connect_timeout": _CONNECT_TIMEOUT, **origin.libpq_parameters()}


def _refusal_to_replicate(origin: Origin) -> str:
    try:
        parameters = {**_parameters(origin), "replication": "database"}
        with psycopg.connect("", autocommit=True, **parameters) as connection:
            connection.execute("IDENTIFY_SYSTEM")
    except psycopg.Error as error:
        return _in_one_line(error)
    return ""


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _facts(
    connection: psycopg.Connection,
) -> tuple[_Server, _Publication | None, list[_Table]]:
    roles = [service.role for service in _SERVICES]
    with connection.cursor(row_factory=args_row(_Server)) as cursor:
        server = cursor.execute(_SERVER, (roles,)).fetchone()
    with connection.cursor(row_factory=args_row(_Publication)) as cursor:
        publication = cursor.execute(_PUBLICATIONS, (PUBLICATION,)).fetchone()
    with connection.cursor(row_factory=args_row(_Table)) as cursor:
        tables = cursor.execute(_TABLES, {"name": PUBLICATION}).fetchall()
    assert server is not None
    return server, publication, tables


def _missing(server: _Server) -> Iterator[Missing]:
    if server.version < FIRST_VERSION:
        yield Missing("PostgreSQL 14 or later", "upgrade the server")
    if server.is_replica:
        yield Missing("a primary: this is a replica", "name the primary as the origin")
    if server.wal_level != "logical":
        yield Missing(
            f"wal_level is {server.wal_level}, logical is needed", server.service.wal_level
        )
    if server.has_any_standby:
        yield Missing(
            "synchronous_standby_names has a *: commits would wait for the cache, which keeps "
            "nothing, instead of a standby",
            "name the standbys there",
        )
    if not server.may_replicate:
        yield Missing(
            f"{server.role} may not replicate", server.service.replication.format(server.role)
        )
    for what, used, most, setting in (
        ("replication slot", server.slots, server.max_slots, "max_replication_slots"),
        ("walsender", server.walsenders, server.max_walsenders, "max_wal_senders"),
    ):
        if used >= most:
            yield Missing(
                f"no free {what}: {used} of {most} are in use",
                f"ALTER SYSTEM SET {setting} = {most + 10};  -- then restart the server; or end "
                "one that nobody needs (pg_replication_slots, pg_stat_replication)",
            )


def _missing_in_publication(
    publication: _Publication | None, server: _Server, tables: Sequence[_Table]
) -> Iterator[Missing]:
    if publication is None:
        grant = f"GRANT CREATE ON DATABASE {server.database} TO {server.role};  -- and then: "
        yield Missing(
            f"the publication {PUBLICATION}",
            f"{'' if server.may_create else grant}hyperdrive doctor --setup",
        )
        return
    if not publication.is_complete:
        yield Missing(
            f"the publication {PUBLICATION} leaves out changes, or partitions' names",
            f"ALTER PUBLICATION {PUBLICATION} SET ({_OPTIONS});",
        )
    for table in tables:
        if table.is_filtered:
            yield Missing(
                f"of {table.name} only some rows are published", "hyperdrive doctor --setup"
            )


def _dangers(publication: _Publication | None, tables: Sequence[_Table]) -> Iterator[Missing]:
    for table in tables:
        if table.rejects_updates:
            yield Missing(
                f"{table.name} is published and has no key any more: PostgreSQL rejects every "
                "UPDATE and DELETE there",
                f"ALTER TABLE {table.name} ADD PRIMARY KEY (…);  -- or take it out: "
                "hyperdrive doctor --setup",
            )
    if publication is not None and publication.is_open:
        yield Missing(
            f"the publication {PUBLICATION} is for all tables, or for all of a schema: in those "
            "that are made without a key PostgreSQL will reject every UPDATE and DELETE",
            "hyperdrive doctor --remove, then hyperdrive doctor --setup",
        )


def _missing_on_the_way(origin: Origin, server: _Server) -> Iterator[Missing]:
    if len(origin.addresses) > 1 and origin.target_session_attrs not in _PRIMARY:
        yield Missing(
            "the origin has several addresses: all connections must lead to one server",
            "target_session_attrs=primary in its connection string",
        )
    if server.may_replicate and (refusal := _refusal_to_replicate(origin)):
        yield Missing(
            f"no connection for replication: {refusal}",
            "name the server itself, not a pooler in front of it, and allow such connections in "
            "pg_hba.conf",
        )


def _missing_here() -> Iterator[Missing]:
    if reason := why_unavailable():
        yield Missing(
            f"no statement can be understood, so none is cached: {reason}",
            "pip install postgast, in the version that hyperdrive-client requires",
        )


def _others(tables: Sequence[_Table]) -> dict[str, tuple[str, ...]]:
    others: dict[str, tuple[str, ...]] = {}
    for table in tables:
        is_followed = table.is_published and table.is_in_wal
        if table.holds_rows and table.is_readable and not is_followed:
            reason = table.objection() or "not listed yet, hyperdrive doctor --setup adds it"
            others[reason] = (*others.get(reason, ()), table.name)
    return others


def _notes(tables: Sequence[_Table]) -> Iterator[str]:
    names = {table.oid: table.name for table in tables}
    listed = {table.oid for table in tables if table.is_listed}
    roots = {
        table.ancestors[-1]
        for table in tables
        if table.is_listed and listed & _lineage(table) == {table.oid} and table.ancestors
    }
    for root in sorted(roots - listed):
        yield (
            f"the partitions of {names.get(root, root)} are listed one by one: new ones need "
            "hyperdrive doctor --setup"
        )


def _wanted(tables: Sequence[_Table]) -> list[_Table]:
    """Partitioned tables bring their partitions along, those of later too, if all have keys."""
    without_key = {
        oid for table in tables if table.is_in_wal and not table.has_key for oid in table.ancestors
    }
    roots = {
        table.oid
        for table in tables
        if table.kind == "p"
        and table.ancestors[-1] == table.oid
        and not table.objection()
        and table.oid not in without_key
    }
    return [
        table
        for table in tables
        if table.oid in roots
        or (table.is_in_wal and not table.objection() and roots.isdisjoint(table.ancestors))
    ]


def _named(name: str, connection: psycopg.Connection, tables: Sequence[_Table]) -> _Table:
    try:
        row = connection.execute("SELECT to_regclass(%s)::oid::int8", (name,)).fetchone()
    except (psycopg.ProgrammingError, psycopg.NotSupportedError):
        row = None
    table = next((each for each in tables if row == (each.oid,)), None)
    if table is None:
        raise ConfigurationError(f"there is no table {name}: expected schema.name")
    partitions = [each for each in tables if table.oid in each.ancestors and each.is_in_wal]
    for each in (table, *partitions):
        if objection := each.objection():
            raise ConfigurationError(f"{each.name} can't be published: {objection}")
    return table


def _lineage(table: _Table) -> set[int]:
    return {table.oid, *table.ancestors}


def _execute(connection: psycopg.Connection, statement: str) -> None:
    connection.execute(statement.encode())


def _list(tables: Iterable[_Table]) -> str:
    return ", ".join(f"ONLY {table.name}" for table in tables)


def _names(tables: Iterable[_Table]) -> str:
    return ", ".join(table.name for table in tables)


def _with(tables: Sequence[_Table]) -> str:
    return f"with {_names(tables)}" if tables else "without any table: there is none with a key"


def _some(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN_TABLES} more" if len(names) > _SHOWN_TABLES else ""
    return f": {', '.join(names[:_SHOWN_TABLES])}{more}"
