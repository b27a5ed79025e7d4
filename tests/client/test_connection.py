from __future__ import annotations

import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types import TypeInfo

from hyperdrive_client import (
    BindingError,
    ConfigurationError,
    Connection,
    Proxy,
    ProxyStartError,
    connect,
)
from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.origin import EmbeddedPostgres

BACKEND = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def is_through_a_proxy(connection: psycopg.Connection) -> bool:
    row = connection.execute(BACKEND).fetchone()
    assert row is not None
    return row == ("Cloudflare Hyperdrive",)


def test_an_origin_is_reached_through_a_proxy(mode: str, postgres_dsn: str) -> None:
    with connect(postgres_dsn) as connection:
        assert isinstance(connection, psycopg.Connection)
        assert type(connection) is Connection
        assert is_through_a_proxy(connection)
        assert connection.execute("SELECT %s::int + 1", [41]).fetchone() == (42,)


def test_transactions_commit_and_roll_back(in_thread: None, database: str) -> None:
    with connect(database) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        connection.execute("INSERT INTO t VALUES (2)")
        connection.rollback()
        with connection.transaction():
            connection.execute("INSERT INTO t VALUES (3)")
    with pytest.raises(psycopg.errors.DivisionByZero), connect(database) as connection:
        connection.execute("INSERT INTO t VALUES (4)")
        connection.execute("SELECT 1 / 0")
    with connect(database) as connection:
        assert connection.execute("SELECT n FROM t ORDER BY n").fetchall() == [(1,), (3,)]


def test_psycopgs_arguments_pass_through(postgres_dsn: str) -> None:
    with connect(
        postgres_dsn,
        autocommit=True,
        prepare_threshold=None,
        row_factory=dict_row,
        cursor_factory=psycopg.ClientCursor,
        application_name="my name",
        options="-c search_path=pg_catalog",
        client_encoding="latin1",
        connect_timeout=10,
    ) as connection:
        assert connection.autocommit
        assert connection.prepare_threshold is None
        assert isinstance(connection.cursor(), psycopg.ClientCursor)
        assert connection.info.encoding == "iso8859-1"
        assert connection.info.parameter_status("application_name") == "my name"
        assert connection.execute("SHOW search_path").fetchone() == {"search_path": "pg_catalog"}


def test_a_connection_knows_types_of_the_database(in_thread: None, database: str) -> None:
    with connect(database) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('sad')")
        info = TypeInfo.fetch(connection, "mood")
        assert info is not None
        assert info.name == "mood"


@pytest.mark.parametrize(
    "overrides",
    [{"host": "127.0.0.1"}, {"hostaddr": "127.0.0.1"}, {"user": "x"}, {"sslmode": "require"}],
)
def test_what_would_lead_past_the_proxy_is_refused(
    overrides: dict[str, Any], postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = overrides
    for mode in ("on", "off"):
        monkeypatch.setenv("HYPERDRIVE_PROXY", mode)
        with pytest.raises(ConfigurationError, match=f"^{name} can't be given"):
            connect(postgres_dsn, **overrides)


def test_an_argument_that_is_none_is_not_given(postgres_dsn: str) -> None:
    nothing: dict[str, Any] = dict.fromkeys(("host", "password", "sslmode", "application_name"))
    with connect(postgres_dsn, **nothing) as connection:
        assert is_through_a_proxy(connection)


def test_the_environment_does_not_lead_past_the_proxy(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(postgres_dsn):
        # These are for the origin, if for anyone; 192.0.2.1 is nobody's (RFC 5737).
        monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
        monkeypatch.setenv("PGHOST", "192.0.2.1")
        monkeypatch.setenv("PGUSER", "nobody")
        monkeypatch.setenv("PGSSLMODE", "require")
        monkeypatch.setenv("PGCHANNELBINDING", "require")
        with connect(postgres_dsn, connect_timeout=5) as connection:
            assert is_through_a_proxy(connection)


@pytest.mark.parametrize("arguments", [(), ("",), (None,), ("HYPERDRIVE",)])
def test_nothing_means_the_binding_hyperdrive(
    arguments: tuple[str], postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_HYPERDRIVE", postgres_dsn)
    with connect(*arguments) as connection:
        assert is_through_a_proxy(connection)


def test_a_binding_is_found_in_a_wrangler_file(postgres_dsn: str, tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text(
        f'[[env.staging.hyperdrive]]\nbinding = "DB"\nid = "x"\n'
        f'localConnectionString = "{postgres_dsn}"\n'
    )
    for path in (config, str(config)):
        with connect("DB", config=path, env="staging") as connection:
            assert is_through_a_proxy(connection)


def test_a_binding_that_leads_nowhere_is_an_error_of_psycopg() -> None:
    with pytest.raises(BindingError, match='"NOWHERE" leads nowhere') as caught:
        connect("NOWHERE")
    assert isinstance(caught.value, psycopg.InterfaceError)


@pytest.mark.parametrize("word", ["off", "OFF"])
def test_without_a_proxy_the_origin_is_reached_directly(
    word: str, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", word)
    with connect(postgres.connection_string) as connection:
        assert not is_through_a_proxy(connection)
        assert connection.info.port == postgres.port


@pytest.mark.parametrize("word", ["on", ""])
def test_the_proxy_can_be_asked_for(
    word: str, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", word)
    with connect(postgres_dsn) as connection:
        assert is_through_a_proxy(connection)


def test_another_word_for_the_proxy_is_an_error(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "no")
    with pytest.raises(
        ConfigurationError,
        match="HYPERDRIVE_PROXY is 'no': expected on, shared, process, thread or off",
    ):
        connect(postgres_dsn)


def test_hosted_bindings_are_connected_straight(postgres: EmbeddedPostgres) -> None:
    fields = {
        "host": postgres.host,
        "port": postgres.port,
        "user": postgres.user,
        "password": postgres.password,
        "database": postgres.database,
    }
    for hosted in (
        fields,
        SimpleNamespace(**fields),
        SimpleNamespace(connectionString=postgres.connection_string),
    ):
        with connect(hosted, application_name="hosted") as connection:
            assert not is_through_a_proxy(connection)
            assert connection.info.port == postgres.port


def test_a_proxys_own_url_needs_no_second_proxy(mode: str, postgres_dsn: str) -> None:
    with Proxy(postgres_dsn, mode="thread") as proxy:
        for target in (
            proxy.connection_string,
            proxy.connection_string.replace("127.0.0.1", "localhost"),
            proxy,
        ):
            with connect(target) as connection:
                assert connection.info.port == proxy.port
                assert connection.execute("SELECT 1").fetchone() == (1,)


def script(path: Path, command: str) -> Path:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return path


def test_a_proxy_that_cannot_start_is_an_error_that_names_the_way_out(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pythons = {
        "No such file": tmp_path / "missing",
        "exit code 3": script(tmp_path / "exits", "exit 3"),
        "said b'hello": script(tmp_path / "babbles", "read line; echo hello"),
    }
    # Not the origin of the other tests, whose proxy is running.
    target = postgres_dsn.removesuffix("/postgres") + "/template1"
    for reason, python in pythons.items():
        monkeypatch.setenv("HYPERDRIVE_PYTHON", str(python))
        with pytest.raises(ProxyStartError, match=reason) as caught:
            connect(target)
        assert str(caught.value).count("HYPERDRIVE_PROXY=off") == 1
        assert isinstance(caught.value, psycopg.OperationalError)


def test_an_origin_that_is_down_is_not_an_error_of_the_proxy(in_thread: None) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with (
            pytest.raises(psycopg.OperationalError) as caught,
            connect(f"postgresql://u:secret@127.0.0.1:{port}/d") as connection,
        ):
            connection.execute("SELECT 1")
    assert not isinstance(caught.value, ProxyStartError)
    assert "secret" not in str(caught.value)


def test_no_password_is_shown(postgres: EmbeddedPostgres) -> None:
    with connect(postgres.connection_string) as connection:
        password = connection.info.password
        shown = f"{connection!r} {connection.info.dsn}"
    assert password
    assert password not in shown
    assert postgres.password not in shown
    assert postgres.password != password


def test_subclasses_connect_as_themselves(postgres_dsn: str) -> None:
    class Mine(Connection[psycopg.rows.TupleRow]):
        pass

    with Mine.connect(postgres_dsn) as connection:
        assert type(connection) is Mine


def test_a_missing_libpq_names_the_extra(run_python: Callable[..., list[str]]) -> None:
    source = """if True:
        import os, sys
        os.environ["PSYCOPG_IMPL"] = "python"
        import ctypes.util
        ctypes.util.find_library = lambda name: None
        import hyperdrive_client
        try:
            hyperdrive_client.connect
        except ImportError as error:
            print("hyperdrive-client[binary]" in str(error))
    """
    assert run_python(source) == ["True"]


def test_importing_it_starts_nothing(run_python: Callable[..., list[str]]) -> None:
    source = """if True:
        import sys, threading, hyperdrive_client
        before = len(sys.modules)
        hyperdrive_client.connect, hyperdrive_client.ConnectionPool
        assert len(sys.modules) > before
        print(threading.active_count(), "hyperdrive_client.proxy" in sys.modules)
    """
    assert run_python(source) == ["1", "False"]


def test_a_straight_connection_loads_no_proxy(
    run_python: Callable[..., list[str]], postgres_dsn: str
) -> None:
    parameters = parse_connection_string(postgres_dsn).libpq_parameters()
    source = """if True:
        import sys, hyperdrive_client
        user, password, host, port, database = sys.argv[1:]
        hosted = dict(user=user, password=password, host=host, port=port, database=database)
        with hyperdrive_client.connect(hosted) as connection:
            print(connection.info.dbname, "hyperdrive_client.proxy" in sys.modules)
    """
    names = ("user", "password", "host", "port", "dbname")
    assert run_python(source, *(parameters[name] for name in names)) == ["postgres", "False"]


class TestReports:
    def test_why_it_was_pinned(self, in_thread: None, database: str) -> None:
        with connect(database, autocommit=True) as connection:
            assert connection.last_pin is None
            connection.execute("LISTEN a")
            connection.execute("CREATE TEMP TABLE t ()")
            connection.execute("SELECT 1")
            assert connection.last_pin == "temporary object, LISTEN"

    def test_what_it_waited_for(self, database: str) -> None:
        with (
            Proxy(database, mode="thread", origin_connection_limit=1) as proxy,
            connect(proxy.connection_string) as first,
            connect(proxy.connection_string) as second,
        ):
            assert first.last_wait is not None
            assert re.fullmatch(r"opening an origin connection, \d\.\d{3} s", first.last_wait)
            assert second.last_wait is None
            first.execute("CREATE TABLE t ()")
            with ThreadPoolExecutor(1) as threads:
                answer = threads.submit(second.execute, "SELECT 1")
                while not proxy.stats().waiting:
                    pass
                first.commit()
                answer.result()
            assert second.last_wait is not None
            assert second.last_wait.startswith("all 1 origin connections in use, ")

    def test_without_a_proxy_there_are_none(
        self, monkeypatch: pytest.MonkeyPatch, postgres_dsn: str
    ) -> None:
        monkeypatch.setenv("HYPERDRIVE_PROXY", "off")
        with connect(postgres_dsn) as connection:
            assert (connection.last_pin, connection.last_wait) == (None, None)


class TestAProxyThatIsNotKnownAsOne:
    """``hyperdrive serve`` on another host."""

    def test_it_is_connected_to_straight(self, mode: str, foreign_url: str) -> None:
        for _ in range(2):
            with connect(foreign_url, autocommit=True) as connection:
                port = int(foreign_url.split(":")[3].split("/")[0])
                assert connection.info.port == port
                connection.execute("LISTEN a")
                connection.execute("SELECT 1")
                assert connection.last_pin == "LISTEN"

    def test_by_many_at_once(self, in_thread: None, foreign_url: str) -> None:
        def reach(_: int) -> int:
            with connect(foreign_url) as connection:
                return connection.info.port

        with ThreadPoolExecutor(8) as threads:
            assert len(set(threads.map(reach, range(16)))) == 1

    def test_a_proxy_in_front_of_it_says_what_is_wrong(self, foreign_url: str) -> None:
        with (
            Proxy(foreign_url, mode="thread") as proxy,
            pytest.raises(psycopg.OperationalError, match="is a Hyperdrive proxy itself"),
        ):
            psycopg.connect(proxy.connection_string)
