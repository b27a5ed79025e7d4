from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import (
    URL,
    CreateEnginePlugin,
    Engine,
    MetaData,
    Table,
    create_engine,
    engine_from_config,
    event,
    exc,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import plugins, registry
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

import hyperdrive_client
from hyperdrive_client import AsyncConnection, Connection, connect
from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.integrations.sqlalchemy import (
    AsyncHyperdrivePool,
    HyperdriveDialect,
    HyperdriveDialectAsync,
    HyperdrivePool,
)
from hyperdrive_client.origin import EmbeddedPostgres

SCHEMES = ["hyperdrive", "postgresql+hyperdrive"]


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]


def driver_connection(engine: Engine) -> Any:
    with engine.connect() as connection:
        return connection.connection.driver_connection


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_engine_connects_to_a_binding(scheme: str, binding: str) -> None:
    engine = create_engine(f"{scheme}://{binding}")
    assert type(engine.dialect) is HyperdriveDialect
    with engine.connect() as connection:
        assert type(connection.connection.driver_connection) is Connection
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


@pytest.mark.parametrize("scheme", [*SCHEMES, "postgresql+hyperdrive_async"])
async def test_an_async_engine_connects_to_a_binding(scheme: str, binding: str) -> None:
    engine = create_async_engine(f"{scheme}://{binding}")
    assert type(engine.dialect) is HyperdriveDialectAsync
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        assert type(raw.driver_connection) is AsyncConnection
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


def test_the_orm_inserts_selects_and_rolls_back(empty_binding: str) -> None:
    engine = create_engine(f"hyperdrive://{empty_binding}")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Note(body="one"), Note(body="two")])
        session.commit()
        session.add(Note(body="three"))
        session.flush()
        session.rollback()
        found = session.scalars(select(Note.body).order_by(Note.id)).all()
        assert found == ["one", "two"]
    engine.dispose()


async def test_the_orm_inserts_selects_and_rolls_back_with_asyncio(empty_binding: str) -> None:
    engine = create_async_engine(f"hyperdrive://{empty_binding}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_sessionmaker(engine)() as session:
        session.add_all([Note(body="one"), Note(body="two")])
        await session.commit()
        session.add(Note(body="three"))
        await session.flush()
        await session.rollback()
        found = (await session.scalars(select(Note.body).order_by(Note.id))).all()
        assert found == ["one", "two"]
    await engine.dispose()


def test_a_url_with_a_user_port_or_postgres_dsn_is_an_origin(postgres_dsn: str) -> None:
    engine = create_engine(make_url(postgres_dsn).set(drivername="hyperdrive"))
    connection = driver_connection(engine)
    # The same proxy serves it, so the origin was understood to be the same.
    with connect(postgres_dsn) as other:
        assert connection.info.port == other.info.port
    engine.dispose()


def test_a_url_that_leads_to_a_running_proxy_is_connected_to_straight(postgres_dsn: str) -> None:
    with hyperdrive_client.Proxy(postgres_dsn, mode="thread") as proxy:
        engine = create_engine(make_url(proxy.connection_string).set(drivername="hyperdrive"))
        assert driver_connection(engine).info.port == proxy.port
        engine.dispose()


def test_every_part_of_an_origin_may_hold_anything() -> None:
    password = r"""a b'c"\d@e:f/g?h#i%j=k&lé"""
    url = URL.create(
        "hyperdrive", "u v", password, "h", 6543, "d/e", {"sslmode": "verify-full", "env": "x"}
    )
    engine = create_engine(url.render_as_string(hide_password=False))
    arguments, parameters = engine.dialect.create_connect_args(engine.url)
    assert parameters.keys() == {"env", "context"}
    origin = parse_connection_string(arguments[0])
    assert (origin.user, origin.password, origin.database) == ("u v", password, "d/e")
    assert (origin.addresses[0].port, origin.sslmode) == (6543, "verify-full")


def test_the_engines_url_never_holds_the_origins_password(binding: str, postgres_dsn: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}")
    driver_connection(engine)
    password = make_url(postgres_dsn).password
    assert password
    assert (
        str(engine.url) == engine.url.render_as_string(hide_password=False) == "hyperdrive://MyDb"
    )
    assert engine.dialect.create_connect_args(engine.url)[0] == ["MyDb"]
    engine.dispose()


def test_a_url_without_a_host_means_the_binding_hyperdrive(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine("hyperdrive://")
    monkeypatch.setenv("HYPERDRIVE_URL_HYPERDRIVE", postgres_dsn)
    assert driver_connection(engine).info.dbname == make_url(postgres_dsn).database
    engine.dispose()


def test_the_query_names_the_wrangler_file_and_its_environment(
    postgres_dsn: str, tmp_path: Path
) -> None:
    config = tmp_path / "my wrangler.toml"
    config.write_text(
        '[[env.e.hyperdrive]]\nbinding = "DB"\nid = "x"\n'
        f'localConnectionString = "{postgres_dsn}"\n'
    )
    query = {"config": str(config), "env": "e", "application_name": "web"}
    engine = create_engine(URL.create("hyperdrive", host="DB", query=query))
    info = driver_connection(engine).info
    assert info.dbname == make_url(postgres_dsn).database
    assert info.parameter_status("application_name") == "web"
    engine.dispose()


def test_a_wrong_binding_is_an_error_of_the_driver_that_sqlalchemy_wraps() -> None:
    with pytest.raises(exc.InterfaceError, match='"mydb" leads nowhere') as caught:
        create_engine("hyperdrive://mydb").connect()
    assert isinstance(caught.value.orig, hyperdrive_client.BindingError)
    assert isinstance(caught.value.orig, psycopg.InterfaceError)


async def test_a_wrong_binding_is_that_error_with_asyncio_too() -> None:
    with pytest.raises(exc.InterfaceError, match='"NOWHERE" leads nowhere'):
        await create_async_engine("hyperdrive://NOWHERE").connect()


def test_a_proxy_that_cannot_start_is_an_operational_error(
    binding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "process")
    monkeypatch.setenv("HYPERDRIVE_PYTHON", "/missing/python")
    with pytest.raises(exc.OperationalError, match="HYPERDRIVE_PROXY=off"):
        create_engine(f"hyperdrive://{binding}").connect()


def test_it_is_postgresql_to_what_looks_it_up_by_name() -> None:
    for dialect in (HyperdriveDialect, HyperdriveDialectAsync):
        assert (dialect.name, dialect.driver) == ("postgresql", "psycopg")
        assert vars(dialect)["supports_statement_cache"] is True
        assert dialect.get_async_dialect_cls(make_url("hyperdrive://X")) is HyperdriveDialectAsync
    assert registry.load("hyperdrive") is registry.load("postgresql.hyperdrive")


def test_the_provisioning_of_its_tests_is_postgresqls(run_python: Callable[..., None]) -> None:
    # In a process of its own: sqlalchemy.testing changes how pytest reports assertions.
    run_python("""if True:
        import sys
        from hyperdrive_client.integrations.sqlalchemy import HyperdriveDialect
        HyperdriveDialect.load_provisioning()
        assert "sqlalchemy.dialects.postgresql.provision" in sys.modules
    """)


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT", "SERIALIZABLE"])
def test_an_engine_learns_what_psycopgs_dialect_learns_with_one_query(
    binding: str, postgres_dsn: str, isolation_level: str | None
) -> None:
    queries: list[Any] = []

    class Recording(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **others: Any) -> Any:
            queries.append(query)
            return super().execute(query, *arguments, **others)

    arguments: dict[str, Any] = {"isolation_level": isolation_level} if isolation_level else {}
    stock = create_engine(make_url(postgres_dsn).set(drivername="postgresql+psycopg"), **arguments)
    ours = create_engine(
        f"hyperdrive://{binding}", connect_args={"cursor_factory": Recording}, **arguments
    )
    stock.connect().close()
    ours.connect().close()
    assert len(queries) == 1
    for name in ("server_version_info", "default_schema_name", "_backslash_escapes"):
        assert getattr(ours.dialect, name) == getattr(stock.dialect, name)
    assert isolation_levels(ours) == isolation_levels(stock)
    stock.dispose()
    ours.dispose()


def isolation_levels(engine: Engine) -> list[str]:
    """The engine's own, one that a connection asks for, and then the engine's again."""
    asked = engine.execution_options(isolation_level="REPEATABLE READ")
    levels = []
    for each in (engine, asked, engine):
        with each.connect() as connection:
            levels.append(connection.scalar(text("SHOW transaction_isolation")))
    assert levels[1] == "repeatable read"
    return levels


def test_backslash_escapes_are_seen_at_start_up(binding: str) -> None:
    options = {"options": "-c standard_conforming_strings=off"}
    engine = create_engine(f"hyperdrive://{binding}", connect_args=options)
    engine.connect().close()
    assert vars(engine.dialect)["_backslash_escapes"] is True
    engine.dispose()


HSTORES = text("SELECT 'a=>1'::hstore, ARRAY['b=>2'::hstore]")


def test_native_hstore_is_for_those_who_ask(empty_binding: str) -> None:
    with connect(empty_binding) as connection:
        connection.execute("CREATE EXTENSION hstore")
    plain = create_engine(f"hyperdrive://{empty_binding}")
    native = create_engine(f"hyperdrive://{empty_binding}", use_native_hstore=True)
    assert fetch_one(plain, HSTORES) == ('"a"=>"1"', '{"\\"b\\"=>\\"2\\""}')
    for _ in range(2):  # the second connection, too, knows it
        assert fetch_one(native, HSTORES) == ({"a": "1"}, [{"b": "2"}])
        native.pool.dispose()
    plain.dispose()


async def test_native_hstore_is_there_with_asyncio_too(empty_binding: str) -> None:
    engine = create_async_engine(f"hyperdrive://{empty_binding}", use_native_hstore=True)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE EXTENSION hstore"))
    await engine.dispose()
    engine = create_async_engine(f"hyperdrive://{empty_binding}", use_native_hstore=True)
    async with engine.connect() as connection:
        assert tuple((await connection.execute(HSTORES)).one()) == ({"a": "1"}, [{"b": "2"}])
    await engine.dispose()


def test_who_asks_for_native_hstore_where_there_is_none_gets_along(empty_binding: str) -> None:
    engine = create_engine(f"hyperdrive://{empty_binding}", use_native_hstore=True)
    assert fetch_one(engine, text("SELECT 1")) == (1,)
    assert not vars(engine.dialect)["_has_native_hstore"]
    engine.dispose()


def fetch_one(engine: Engine, statement: Any) -> tuple[Any, ...]:
    with engine.connect() as connection:
        return tuple(connection.execute(statement).one())


@pytest.mark.parametrize(
    ("arguments", "variable", "size", "overflow"),
    [
        ({}, "", 5, 0),
        ({"pool_size": 2}, "", 2, 0),
        ({"pool_size": 2, "max_overflow": 3}, "", 2, 3),
        ({}, "3", 3, 0),
        ({"pool_size": 8, "max_overflow": 1}, "9", 8, 1),
        ({"pool_size": 8, "max_overflow": 1, "max_pool_size": 9}, "", 8, 1),
    ],
)
def test_a_pool_within_the_limit_is_as_large_as_asked(
    arguments: dict[str, int],
    variable: str,
    size: int,
    overflow: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYPERDRIVE_MAX_POOL_SIZE", variable)
    for engine in (
        create_engine("hyperdrive://X", **arguments),
        create_async_engine("hyperdrive://X", **arguments).sync_engine,
    ):
        assert isinstance(engine.pool, HyperdrivePool)
        assert (engine.pool.size(), engine.pool._max_overflow) == (size, overflow)
        # An engine that is disposed of goes on with such a pool.
        engine.dispose()
        assert isinstance(engine.pool, HyperdrivePool)
        assert (engine.pool.size(), engine.pool._max_overflow) == (size, overflow)


@pytest.mark.parametrize(
    ("arguments", "asked", "size", "overflow"),
    [
        ({"pool_size": 20}, "20", 5, 0),
        ({"max_overflow": 10}, "15", 5, 0),
        ({"pool_size": 3, "max_overflow": 10}, "13", 3, 2),
        ({"pool_size": 0}, "any number of", 5, 0),
        ({"pool_size": 3, "max_overflow": -1}, "any number of", 3, 2),
    ],
)
def test_a_larger_pool_is_capped_with_a_warning(
    arguments: dict[str, int], asked: str, size: int, overflow: int
) -> None:
    with pytest.warns(UserWarning, match=f"a pool of {asked} connections is capped at 5") as caught:
        engine = create_engine("hyperdrive://X", **arguments)
    assert [warning.filename for warning in caught] == [__file__]
    assert isinstance(engine.pool, HyperdrivePool)
    assert (engine.pool.size(), engine.pool._max_overflow) == (size, overflow)
    with pytest.warns(UserWarning, match=f"a pool of {asked} connections is capped at 5"):
        asynchronous = create_async_engine("hyperdrive://X", **arguments)
    assert isinstance(asynchronous.pool, AsyncHyperdrivePool)


def test_null_pool_closes_each_connection(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}", poolclass=NullPool)
    assert driver_connection(engine).closed


def test_static_pool_keeps_one_connection(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}", poolclass=StaticPool)
    assert driver_connection(engine) is driver_connection(engine)
    engine.dispose()


def test_a_larger_pool_of_another_class_is_the_users_choice() -> None:
    engine = create_engine("hyperdrive://X", poolclass=QueuePool, pool_size=20)
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.size() == 20


def test_a_creator_connects_in_its_own_way(binding: str) -> None:
    engine = create_engine("hyperdrive://", creator=lambda: connect(binding))
    assert isinstance(engine.pool, HyperdrivePool)
    assert fetch_one(engine, text("SELECT 1")) == (1,)
    engine.dispose()


async def test_an_async_creator_connects_in_its_own_way(binding: str) -> None:
    async def create() -> AsyncConnection[Any]:
        return await AsyncConnection.connect(binding)

    engine = create_async_engine("hyperdrive://", async_creator=create)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


def test_settings_of_a_file_may_be_text(binding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"sqlalchemy.url": f"hyperdrive://{binding}", "sqlalchemy.max_pool_size": "7"}
    engine = engine_from_config(settings)
    assert isinstance(engine.pool, HyperdrivePool)
    assert engine.pool.size() == 7


def test_no_more_connections_are_open_than_the_limit(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}", pool_timeout=0.2)
    connections = [engine.connect() for _ in range(5)]
    with pytest.raises(exc.TimeoutError):
        engine.connect()
    for connection in connections:
        connection.close()
    engine.dispose()


def test_threads_share_an_engine(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}")
    results: list[Any] = []

    def work() -> None:
        with engine.connect() as connection:
            results.append(connection.scalar(text("SELECT 1")))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 8
    engine.dispose()


def test_a_connection_that_is_lost_is_replaced(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}", pool_pre_ping=True)
    driver_connection(engine).close()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


def test_listeners_can_change_what_is_connected_to(binding: str) -> None:
    engine = create_engine("hyperdrive://Other")

    @event.listens_for(engine, "do_connect")
    def redirect(dialect: Any, record: Any, arguments: list[Any], parameters: Any) -> None:
        arguments[:] = [binding]

    assert not driver_connection(engine).closed
    engine.dispose()


def test_listeners_may_connect_with_the_dialects_driver(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}")

    @event.listens_for(engine, "do_connect")
    def begin(dialect: Any, record: Any, arguments: list[Any], parameters: Any) -> Any:
        connection = dialect.dbapi.connect(*arguments, **parameters)
        connection.execute("SELECT 1")
        return connection

    assert type(driver_connection(engine)) is Connection
    assert engine.dialect.default_schema_name == "public"
    engine.dispose()


async def test_listeners_may_connect_with_the_async_dialects_driver(binding: str) -> None:
    engine = create_async_engine(f"hyperdrive://{binding}")

    @event.listens_for(engine.sync_engine, "do_connect")
    def begin(dialect: Any, record: Any, arguments: list[Any], parameters: Any) -> Any:
        return dialect.dbapi.connect(*arguments, **parameters)

    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        assert type(raw.driver_connection) is AsyncConnection
    await engine.dispose()


def test_a_password_from_a_listener_is_refused_in_clear_words(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}")

    @event.listens_for(engine, "do_connect")
    def log_in(dialect: Any, record: Any, arguments: list[Any], parameters: Any) -> None:
        parameters["password"] = "a token"

    with pytest.raises(exc.InterfaceError, match="password can't be given beside a binding"):
        engine.connect()


def test_a_password_file_is_read_for_each_connection_to_the_origin(
    postgres_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    role = f"role_{uuid4().hex}"

    def rotate(token: str) -> None:
        admin.execute(f"ALTER ROLE {role} PASSWORD '{token}'")
        file.write_text(f"*:*:*:{role}:{token}\n")
        file.chmod(0o600)

    def sessions() -> Any:
        found = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [role])
        return found.fetchone()

    with psycopg.connect(postgres_dsn, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN")
        rotate("first")
        url = make_url(postgres_dsn)._replace(
            drivername="hyperdrive", username=role, password=None, query={"passfile": str(file)}
        )
        engine = create_engine(url)
        with engine.connect() as one, engine.connect() as other:
            one.execute(text("SELECT 1"))
            assert sessions() == (1,)
            rotate("second")
            other.execute(text("SELECT 1"))
            assert sessions() == (2,)
        engine.dispose()
        admin.execute(f"DROP ROLE {role}")


def test_what_is_set_lasts_like_on_any_connection(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}", pool_size=1)
    with engine.begin() as connection:
        connection.execute(text("SET statement_timeout = '12s'"))
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "12s"
        connection.execute(text("SET statement_timeout = '34s'"))
        connection.rollback()
        assert connection.scalar(text("SHOW statement_timeout")) == "12s"
    engine.dispose()


def test_what_is_set_at_each_connect_holds_on_each(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}")

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.execute("SET search_path = pg_catalog")
        connection.commit()

    both = engine.connect(), engine.connect()
    for connection in both:
        for _ in range(2):
            assert connection.scalar(text("SHOW search_path")) == "pg_catalog"
            connection.commit()
        connection.close()
    engine.dispose()


def test_an_isolation_level_ends_with_the_checkout(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}", pool_size=1)
    shown = text("SHOW transaction_isolation")
    for level in ("SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"):
        with engine.connect().execution_options(isolation_level=level) as connection:
            expected = "READ COMMITTED" if level == "AUTOCOMMIT" else level
            assert connection.scalar(shown) == expected.lower()
        with engine.connect() as connection:
            assert connection.get_isolation_level() == "READ COMMITTED"
            assert connection.scalar(shown) == "read committed"
    engine.dispose()


def test_a_read_only_transaction_refuses_to_write(empty_binding: str) -> None:
    engine = create_engine(f"hyperdrive://{empty_binding}")
    read_only = engine.execution_options(postgresql_readonly=True)
    with (
        read_only.connect() as connection,
        pytest.raises(exc.InternalError, match="read-only transaction"),
    ):
        connection.execute(text("CREATE TABLE t ()"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t ()"))
    engine.dispose()


def test_a_result_is_streamed_by_a_cursor_of_the_server(binding: str) -> None:
    engine = create_engine(f"hyperdrive://{binding}")
    rows = text("SELECT generate_series(1, 2500)")
    with engine.connect() as connection:
        result = connection.execution_options(stream_results=True).execute(rows)
        assert isinstance(result.cursor, psycopg.ServerCursor)
        assert result.scalars().all() == list(range(1, 2501))
    engine.dispose()


async def test_a_result_is_streamed_with_asyncio(binding: str) -> None:
    engine = create_async_engine(f"hyperdrive://{binding}")
    async with engine.connect() as connection:
        rows = await connection.stream_scalars(text("SELECT generate_series(1, 2500)"))
        assert [row async for row in rows] == list(range(1, 2501))
    await engine.dispose()


def test_many_rows_are_inserted_at_once_and_return_their_keys_in_order(empty_binding: str) -> None:
    engine = create_engine(f"hyperdrive://{empty_binding}")
    Base.metadata.create_all(engine)
    statements: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        statements.append(statement)

    with Session(engine) as session:
        notes = [Note(body=str(number)) for number in range(2500)]
        session.add_all(notes)
        session.commit()
        assert len(statements) == 3  # 1,000 rows each
        assert [note.id for note in session.scalars(select(Note).order_by(Note.id))] == [
            note.id for note in notes
        ]
    engine.dispose()


def test_a_prepared_transaction_is_committed_by_another_connection() -> None:
    with EmbeddedPostgres(settings={"max_prepared_transactions": "2"}) as server:
        engine = create_engine(
            make_url(server.connection_string).set(drivername="hyperdrive"), pool_size=2
        )
        Base.metadata.create_all(engine)
        with engine.connect() as connection, connection.begin_twophase("a") as transaction:
            connection.execute(insert(Note).values(body="one"))
            transaction.prepare()
            with engine.connect() as other:
                assert other.recover_twophase() == ["a"]
                assert other.scalars(select(Note.body)).all() == []
                other.rollback()
            transaction.commit()
        with engine.connect() as connection:
            assert connection.recover_twophase() == []
            assert connection.scalars(select(Note.body)).all() == ["one"]
        engine.dispose()


def test_tables_are_reflected(empty_binding: str) -> None:
    engine = create_engine(f"hyperdrive://{empty_binding}")
    Base.metadata.create_all(engine)
    assert inspect(engine).get_table_names() == ["note"]
    table = Table("note", MetaData(), autoload_with=engine)
    assert [column.name for column in table.primary_key] == ["id"]
    engine.dispose()


def test_plugins_of_the_url_are_sqlalchemys(binding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Plugin(CreateEnginePlugin):
        def __init__(self, url: URL, arguments: dict[str, Any]) -> None:
            asked.append(url.query["plugin"])

        def update_url(self, url: URL) -> URL:
            return url

    monkeypatch.setitem(plugins.impls, "noted", lambda: Plugin)
    engine = create_engine(f"hyperdrive://{binding}?plugin=noted")
    assert asked == ["noted"]
    assert fetch_one(engine, text("SELECT 1")) == (1,)
    engine.dispose()


def test_a_url_may_name_several_hosts() -> None:
    engine = create_engine("hyperdrive://u:p@/app?host=one:5433&host=two:5434")
    arguments, _ = engine.dialect.create_connect_args(engine.url)
    addresses = parse_connection_string(arguments[0]).addresses
    assert [(each.host, each.port) for each in addresses] == [("one", 5433), ("two", 5434)]


def test_a_forked_child_begins_with_an_empty_pool(
    binding: str, run_python: Callable[..., None]
) -> None:
    run_python(
        """if True:
        import os, sys
        from sqlalchemy import create_engine, text
        engine = create_engine("hyperdrive://" + sys.argv[1])

        def socket():
            with engine.connect() as connection:
                assert connection.scalar(text("SELECT 1")) == 1
                return os.fstat(connection.connection.driver_connection.fileno()).st_ino

        others = [engine.connect() for _ in range(4)]  # in use, by other threads say
        parents = socket()
        child = os.fork()
        if child == 0:
            assert engine.pool.checkedout() == 0
            assert socket() != parents
            again = [engine.connect() for _ in range(4)]
            engine.dispose()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert socket() == parents
        for connection in others:
            assert connection.scalar(text("SELECT 1")) == 1
            connection.close()
        engine.dispose()
    """,
        binding,
    )


async def test_an_async_engine_can_be_used_by_many_tasks(binding: str) -> None:
    engine: AsyncEngine = create_async_engine(f"hyperdrive://{binding}")

    async def work() -> Any:
        async with engine.connect() as connection:
            return await connection.scalar(text("SELECT 1"))

    assert await asyncio.gather(*(work() for _ in range(8))) == [1] * 8
    await engine.dispose()
