"""``hyperdrive doctor``, at PostgreSQL 18, and at the system's with one slot and no logical WAL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner, Result

from hyperdrive_client import ConfigurationError, HyperdriveError, Proxy, doctor
from hyperdrive_client.bindings import Address, Origin, parse_connection_string
from hyperdrive_client.cli import main
from hyperdrive_client.doctor import Report
from hyperdrive_client.origin import Binaries, EmbeddedPostgres

OPTIONS = "WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = false)"
NO_KEY = "no primary key, so UPDATE and DELETE would fail if published"

Sql = Callable[..., list[tuple[object, ...]]]


def at(url: str) -> Sql:
    """Run statements there, one after the other; the rows of the last."""

    def run(*statements: str) -> list[tuple[object, ...]]:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def sql(database: str) -> Sql:
    return at(database)


@pytest.fixture
def origin(database: str) -> Origin:
    return parse_connection_string(database)


@pytest.fixture
def user(postgres: EmbeddedPostgres, database: str) -> Iterator[Origin]:
    """The origin of a user without any rights."""
    name = f"user_{uuid4().hex}"
    run = at(postgres.connection_string)
    run(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    yield replace(parse_connection_string(database), user=name, password="secret")
    at(database)(f"DROP OWNED BY {name}")
    run(f"DROP ROLE {name}")


def missing(report: Report) -> list[str]:
    return [each.what for each in report.missing]


def published(sql: Sql) -> list[str]:
    rows = sql(
        "SELECT tablename::text FROM pg_publication_tables WHERE pubname = 'hyperdrive_cache' "
        "ORDER BY 1"
    )
    return [str(name) for (name,) in rows]


def test_without_the_publication_wal_is_not_possible(origin: Origin, sql: Sql) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    report = doctor.examine(origin)
    assert missing(report) == ["the publication hyperdrive_cache"]
    assert report.missing[0].remedy == "hyperdrive doctor --setup"
    assert (report.modes, report.default_mode) == (("writes", "ttl"), "off")
    assert report.followed == ()
    assert report.others == {"not listed yet, hyperdrive doctor --setup adds it": ("public.t",)}
    assert sql("SELECT count(*) FROM pg_publication") == [(0,)]


def test_a_setup_makes_wal_possible_and_a_second_one_changes_nothing(
    origin: Origin, sql: Sql
) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY)", 'CREATE TABLE "Odd ""name""" (id int PRIMARY KEY)')
    done = doctor.set_up(origin)
    assert done == 'created the publication hyperdrive_cache with public."Odd ""name""", public.t'
    report = doctor.examine(origin)
    assert (report.missing, report.dangers) == ((), ())
    assert (report.modes, report.default_mode) == (("wal", "writes", "ttl"), "wal")
    assert report.followed == ('public."Odd ""name"""', "public.t")
    assert doctor.set_up(origin) == "the publication hyperdrive_cache: nothing to add"
    sql("CREATE TABLE later (id int PRIMARY KEY)")
    assert doctor.set_up(origin) == "the publication hyperdrive_cache: added public.later"
    assert published(sql) == ['Odd "name"', "later", "t"]


def test_the_publication_has_every_kind_of_change_and_no_table_that_is_not_listed(
    origin: Origin, sql: Sql
) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    doctor.set_up(origin)
    sql("CREATE TABLE without_key (n int)", "INSERT INTO without_key VALUES (1)")
    sql("UPDATE without_key SET n = 2")
    assert sql(
        "SELECT puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot "
        "FROM pg_publication"
    ) == [(False, True, True, True, True, False)]


def test_a_setup_of_an_empty_database_makes_a_publication_to_add_to(
    origin: Origin, sql: Sql
) -> None:
    assert "without any table" in doctor.set_up(origin)
    assert doctor.examine(origin).default_mode == "wal"
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    assert doctor.set_up(origin).endswith("added public.t")


def test_a_setup_takes_the_tables_that_are_named(origin: Origin, sql: Sql) -> None:
    sql(*(f"CREATE TABLE {name} (id int PRIMARY KEY)" for name in "abc"))
    doctor.set_up(origin, ["public.b"])
    assert published(sql) == ["b"]
    assert doctor.set_up(origin, ["public.b", "public.c"]).endswith("added public.c")
    assert published(sql) == ["b", "c"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("public.nosuch", "there is no table public.nosuch"),
        ("t", "there is no table t: expected schema.name"),
        ("a.b.c.d", "there is no table a.b.c.d"),
        ("", "there is no table : expected"),
        ("public.without_key", f"public.without_key can't be published: {NO_KEY}"),
        ("public.parts", "public.parts_1 can't be published: no primary key, so"),
        ("public.v", "there is no table public.v"),
        ("pg_catalog.pg_class", "there is no table pg_catalog.pg_class"),
    ],
)
def test_a_table_that_can_t_be_published_is_refused_and_nothing_is_created(
    origin: Origin, sql: Sql, name: str, expected: str
) -> None:
    sql(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE without_key (id int)",
        "CREATE VIEW v AS SELECT 1 AS n",
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)",
        "ALTER TABLE parts_1 REPLICA IDENTITY NOTHING",
    )
    with pytest.raises(ConfigurationError) as refused:
        doctor.set_up(origin, ["public.t", name])
    assert expected in str(refused.value)
    assert sql("SELECT count(*) FROM pg_publication") == [(0,)]


def test_what_can_t_be_followed_is_told_with_its_reason(origin: Origin, sql: Sql) -> None:
    sql(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE without_key (id int)",
        "CREATE TABLE later_key (id int PRIMARY KEY DEFERRABLE)",
        "CREATE TABLE nothing (id int PRIMARY KEY)",
        "ALTER TABLE nothing REPLICA IDENTITY NOTHING",
        "CREATE TABLE whole_rows (id int)",
        "ALTER TABLE whole_rows REPLICA IDENTITY FULL",
        "CREATE TABLE by_index (id int NOT NULL UNIQUE)",
        "ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id_key",
        "CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY)",
        "CREATE TABLE secured (id int PRIMARY KEY)",
        "ALTER TABLE secured ENABLE ROW LEVEL SECURITY",
        "CREATE MATERIALIZED VIEW made AS SELECT 1 AS n",
        "CREATE EXTENSION postgres_fdw",
        "CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw",
        "CREATE FOREIGN TABLE abroad (id int) SERVER elsewhere",
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child () INHERITS (parent)",
    )
    doctor.set_up(origin)
    report = doctor.examine(origin)
    assert (report.missing, report.dangers) == ((), ())
    names = ("by_index", "parent", "t", "whole_rows")
    assert report.followed == tuple(f"public.{name}" for name in names)
    # As PostgreSQL sees it.
    for name in ("t", "whole_rows", "by_index", "child", "nothing", "later_key", "without_key"):
        sql(f"INSERT INTO {name} VALUES (1)", f"UPDATE {name} SET id = 2", f"DELETE FROM {name}")
    assert report.others == {
        NO_KEY: tuple(
            f"public.{name}" for name in ("child", "later_key", "nothing", "without_key")
        ),
        "foreign, never cached": ("public.abroad",),
        "a materialized view, not in the WAL: cached in writes and ttl only": ("public.made",),
        "row-level security, never cached": ("public.secured",),
        "unlogged, so not in the WAL: cached in writes and ttl only": ("public.unlogged",),
    }


def test_a_partitioned_table_with_a_key_brings_its_partitions_along(
    origin: Origin, sql: Sql
) -> None:
    sql(
        "CREATE TABLE p (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
        "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) PARTITION BY LIST (id)",
        "CREATE TABLE p2_1 PARTITION OF p2 FOR VALUES IN (1)",
    )
    assert doctor.set_up(origin).endswith("with public.p")
    sql("CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3)")
    report = doctor.examine(origin)
    assert report.followed == ("public.p1", "public.p2_1", "public.p3")
    assert (report.others, report.notes, report.dangers) == ({}, (), ())
    assert doctor.set_up(origin).endswith("nothing to add")


def test_partitions_whose_root_has_no_key_are_listed_one_by_one(origin: Origin, sql: Sql) -> None:
    sql(
        "CREATE TABLE p (id int, k int) PARTITION BY LIST (k)",
        "CREATE TABLE p1 (k int, id int PRIMARY KEY)",
        "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1)",
        "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)",
    )
    assert doctor.set_up(origin).endswith("with public.p1")
    report = doctor.examine(origin)
    assert report.others == {NO_KEY: ("public.p2",)}
    assert report.notes == (
        "the partitions of public.p are listed one by one: new ones need hyperdrive doctor --setup",
    )
    sql("INSERT INTO p VALUES (1, 1), (2, 2)", "UPDATE p SET id = 3", "DELETE FROM p")


def test_a_key_that_was_dropped_is_a_danger_until_it_is_repaired(origin: Origin, sql: Sql) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    doctor.set_up(origin)
    sql("ALTER TABLE t DROP CONSTRAINT t_pkey")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        sql("UPDATE t SET id = 2")
    (danger,) = doctor.examine(origin).dangers
    assert "public.t is published and has no key any more" in danger.what
    statement, _, _ = danger.remedy.partition(";")
    sql(statement.replace("…", "id"), "UPDATE t SET id = 2")
    assert doctor.examine(origin).dangers == ()


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_setup_takes_a_table_out_whose_key_was_dropped(
    origin: Origin, sql: Sql, partitioned: bool
) -> None:
    sql("CREATE TABLE other (id int PRIMARY KEY)")
    if partitioned:
        sql(
            "CREATE TABLE t (id int, PRIMARY KEY (id)) PARTITION BY LIST (id)",
            "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
            "CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)",
        )
    else:
        sql("CREATE TABLE t (id int PRIMARY KEY)")
    doctor.set_up(origin)
    sql("INSERT INTO t VALUES (1)")
    sql(
        "ALTER TABLE t1 REPLICA IDENTITY NOTHING"
        if partitioned
        else "ALTER TABLE t DROP CONSTRAINT t_pkey"
    )
    done = doctor.set_up(origin)
    assert "took out, for want of a key or of all rows, public.t" in done
    sql("UPDATE t SET id = 1")
    assert published(sql) == (["other", "t2"] if partitioned else ["other"])
    assert doctor.examine(origin).dangers == ()


@pytest.mark.parametrize(
    "publication",
    [
        "FOR TABLE t WITH (publish = 'insert, update, delete')",
        "FOR TABLE t WITH (publish_via_partition_root = true)",
        f"FOR TABLE t WHERE (id > 5) {OPTIONS}",
    ],
)
def test_a_publication_that_leaves_something_out_is_told_and_repaired(
    origin: Origin, sql: Sql, publication: str
) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    sql(f"CREATE PUBLICATION hyperdrive_cache {publication}")
    report = doctor.examine(origin)
    assert report.default_mode == "off"
    assert len(report.missing) == 1
    doctor.set_up(origin)
    assert doctor.examine(origin).missing == ()
    assert published(sql) == ["t"]


def test_a_publication_by_roots_with_some_rows_of_a_partitioned_table_is_repaired(
    origin: Origin, sql: Sql
) -> None:
    sql("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    sql("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    sql(
        "CREATE PUBLICATION hyperdrive_cache FOR TABLE p WHERE (id > 3) "
        "WITH (publish_via_partition_root)"
    )
    doctor.set_up(origin)
    report = doctor.examine(origin)
    assert report.default_mode == "wal"
    assert report.followed == ("public.p1",)


@pytest.mark.parametrize("tables", ["ALL TABLES", "TABLES IN SCHEMA public"])
def test_a_publication_of_tables_that_are_not_listed_is_a_danger(
    origin: Origin, sql: Sql, tables: str
) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    sql(f"CREATE PUBLICATION hyperdrive_cache FOR {tables} {OPTIONS}")
    (danger,) = doctor.examine(origin).dangers
    assert "for all tables, or for all of a schema" in danger.what
    if "SCHEMA" in tables:
        sql("CREATE TABLE u (id int PRIMARY KEY)")
        doctor.set_up(origin)
        assert doctor.examine(origin).dangers == (danger,)
    doctor.remove(origin)
    doctor.set_up(origin)
    assert doctor.examine(origin).dangers == ()


def test_what_a_user_lacks_is_had_by_what_is_said(user: Origin, sql: Sql) -> None:
    sql(f"GRANT CREATE, USAGE ON SCHEMA public TO {user.user}", "CREATE TABLE theirs (id int)")
    sql("ALTER TABLE theirs ADD PRIMARY KEY (id)", f"GRANT SELECT ON theirs TO {user.user}")
    sql("CREATE TABLE hidden (id int PRIMARY KEY)")
    at(user.connection_string)("CREATE TABLE mine (id int PRIMARY KEY)")
    report = doctor.examine(user)
    assert missing(report) == [
        f"{user.user} may not replicate",
        "the publication hyperdrive_cache",
    ]
    with pytest.raises(HyperdriveError, match="permission denied for database"):
        doctor.set_up(user)
    for each in report.missing:
        sql(each.remedy.partition(";")[0])
    doctor.set_up(user)
    report = doctor.examine(user)
    assert (report.missing, report.followed) == ((), ("public.mine",))
    assert report.others == {"owned by postgres, who alone may publish it": ("public.theirs",)}


def test_the_tables_of_a_publication_that_is_another_s_are_told(
    user: Origin, origin: Origin, sql: Sql
) -> None:
    sql("CREATE TABLE p (id int) PARTITION BY LIST (id)")
    sql("CREATE TABLE p1 PARTITION OF p (PRIMARY KEY (id)) FOR VALUES IN (1)")
    doctor.set_up(origin)
    report = doctor.examine(user)
    assert missing(report) == [f"{user.user} may not replicate"]
    assert (report.dangers, report.followed) == ((), ("public.p1",))
    assert "public.p " in report.notes[0]


def test_a_removal_leaves_nothing(origin: Origin, sql: Sql) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    doctor.set_up(origin)
    assert doctor.remove(origin) == "dropped the publication hyperdrive_cache"
    assert sql("SELECT count(*) FROM pg_publication") == [(0,)]
    assert doctor.remove(origin) == "there is no publication hyperdrive_cache"


def test_an_examination_leaves_nothing(origin: Origin, sql: Sql) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    doctor.set_up(origin)
    before = sql("SELECT pg_current_xact_id()::text::int8, count(*) FROM pg_class")
    slots = sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")
    doctor.examine(origin)
    after = sql("SELECT pg_current_xact_id()::text::int8, count(*) FROM pg_class")
    assert before[0][1] == after[0][1]
    assert slots == []


def test_functions_of_others_do_not_run_with_its_rights(
    origin: Origin, user: Origin, sql: Sql
) -> None:
    sql(f"GRANT CREATE, USAGE ON SCHEMA public TO {user.user}")
    at(user.connection_string)(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE FUNCTION public.format(text, name, name) RETURNS text LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'it runs'; END$$",
    )
    doctor.set_up(origin)
    assert doctor.examine(origin).followed == ("public.t",)


def test_without_the_parser_nothing_is_cached(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor.set_up(origin)
    monkeypatch.setattr(doctor, "why_unavailable", lambda: "the package is not installed")
    report = doctor.examine(origin)
    assert (report.modes, report.default_mode) == ((), "off")
    assert "the package is not installed" in missing(report)[0]


def test_several_addresses_must_lead_to_one_server(origin: Origin) -> None:
    doctor.set_up(origin)
    several = replace(origin, addresses=origin.addresses * 2)
    (lacking,) = doctor.examine(several).missing
    assert "several addresses" in lacking.what
    assert doctor.examine(replace(several, target_session_attrs="primary")).missing == ()


def test_a_server_that_refuses_replication_is_named(
    origin: Origin, postgres: EmbeddedPostgres
) -> None:
    with EmbeddedPostgres(
        hba=["host replication all 127.0.0.1/32 reject"], settings={"max_wal_senders": "0"}
    ) as server:
        report = doctor.examine(parse_connection_string(server.connection_string))
    assert missing(report)[0] == "no free walsender: 0 of 0 are in use"
    assert missing(report)[-1].startswith("no connection for replication: ")


@pytest.fixture(scope="module")
def server(system_binaries: Binaries) -> Iterator[EmbeddedPostgres]:
    """The system's PostgreSQL, as it is when nobody has set it up; with one slot."""
    settings = {"wal_level": "replica", "max_replication_slots": "1"}
    with EmbeddedPostgres(binaries=system_binaries, settings=settings) as server:
        yield server


def test_a_server_that_is_not_set_up_is_by_what_is_said(server: EmbeddedPostgres) -> None:
    origin = parse_connection_string(server.connection_string)
    run = at(server.connection_string)
    run("CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY)")
    doctor.set_up(origin)
    (level,) = doctor.examine(origin).missing
    assert level.what == "wal_level is replica, logical is needed"
    run(level.remedy.partition(";")[0])
    server.restart()
    report = doctor.examine(origin)
    assert (report.missing, report.followed) == ((), ("public.t",))
    assert f"PostgreSQL {server.binaries.version}" in report.origin
    run("SELECT pg_create_logical_replication_slot('a', 'pgoutput')")
    slot = doctor.examine(origin)
    assert (slot.slots, missing(slot)) == ((1, 1), ["no free replication slot: 1 of 1 are in use"])
    run(slot.missing[0].remedy.partition(";")[0])
    server.restart()
    assert doctor.examine(origin).missing == ()
    run("SELECT pg_drop_replication_slot('a')")
    doctor.remove(origin)


def test_a_replica_has_ttl_at_most(server: EmbeddedPostgres) -> None:
    run = at(server.connection_string)
    run("CHECKPOINT")
    server.kill()
    signal_file = server.data_directory / "standby.signal"
    signal_file.touch()
    server.start()
    origin = parse_connection_string(server.connection_string)
    try:
        report = doctor.examine(origin)
        with pytest.raises(HyperdriveError, match="read-only transaction"):
            doctor.set_up(origin)
    finally:
        signal_file.unlink()
        server.restart()
    assert "a replica" in report.origin
    assert report.modes == ("ttl",)
    assert "a primary: this is a replica" in missing(report)


# The command.


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str) -> Callable[..., Result]:
    """Run ``hyperdrive doctor`` where the binding leads to the database."""
    monkeypatch.chdir(tmp_path)

    def to_its_end(*arguments: str, url: str = database) -> Result:
        variables = {"HYPERDRIVE_URL_HYPERDRIVE": url}
        return CliRunner().invoke(
            main, ["doctor", *arguments], env=variables, prog_name="hyperdrive"
        )

    return to_its_end


def test_the_exit_code_says_whether_wal_is_possible(run: Callable[..., Result], sql: Sql) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int)")
    done = run()
    assert done.exit_code == 1
    assert "missing  the publication hyperdrive_cache" in done.stdout
    assert "           hyperdrive doctor --setup" in done.stdout
    done = run("--setup", "--table", "public.t")
    assert done.exit_code == 0
    assert done.stderr == "created the publication hyperdrive_cache with public.t\n"
    assert "cache    wal is possible" in done.stdout
    assert "tables   1 in the publication: public.t" in done.stdout
    assert f"         not in it ({NO_KEY}): public.u" in done.stdout
    assert "walsender (" in done.stdout
    sql("ALTER TABLE t DROP CONSTRAINT t_pkey")
    done = run("--binding", "HYPERDRIVE")
    assert (done.exit_code, "DANGER   public.t is published" in done.stdout) == (1, True)
    assert run("--remove").exit_code == 0


def test_as_json_it_is_the_report(run: Callable[..., Result], origin: Origin) -> None:
    run("--setup")
    told = json.loads(run("--json").stdout)
    assert told["default_mode"] == "wal"
    assert told.keys() == set(Report.__dataclass_fields__)


def test_many_tables_are_counted(run: Callable[..., Result], sql: Sql) -> None:
    sql(*(f"CREATE TABLE t{number:02} (id int)" for number in range(25)))
    assert "public.t19 and 5 more" in run().stdout


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("NOSUCH",), 1, "HYPERDRIVE_URL_NOSUCH"),
        (("postgresql://u:hush@127.0.0.1:1/d?sslmode=disable",), 1, "the origin says: "),
        (("--setup", "--remove"), 2, "exclude each other"),
        (("--table", "public.t"), 2, "--table is for --setup"),
        (("A", "--binding", "B"), 2, "exclude each other"),
    ],
)
def test_what_is_wrong_is_said(
    run: Callable[..., Result], arguments: tuple[str, ...], code: int, expected: str
) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert expected in done.stderr
    assert "hush" not in done.stderr


def test_a_wrong_password_is_the_server_s_words_and_not_shown(
    run: Callable[..., Result], origin: Origin
) -> None:
    done = run(url=replace(origin, password="hush").connection_string)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert "password authentication failed" in line
    assert "hush" not in line


def test_a_proxy_is_no_origin(run: Callable[..., Result], database: str) -> None:
    with Proxy(database, mode="thread") as proxy:
        done = run(url=proxy.connection_string)
    assert done.exit_code == 1
    assert "name the PostgreSQL server behind it" in done.stderr


def test_an_address_without_a_server_is_an_error(unused_tcp_port: int) -> None:
    nowhere = Origin((Address("127.0.0.1", unused_tcp_port),), "u", "d", sslmode="disable")
    with pytest.raises(HyperdriveError, match="the origin says: "):
        doctor.examine(nowhere)
