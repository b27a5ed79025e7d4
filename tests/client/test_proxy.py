from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from hyperdrive_client import AsyncProxy, BindingError, ConfigurationError, Proxy, ProxyStartError
from hyperdrive_client.client import local_proxy
from hyperdrive_client.client.local_proxy import LocalProxy, Mode
from hyperdrive_client.origin import EmbeddedPostgres

BACKEND = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"

# By itself, pg_backend_pid() is the process id that the proxy gave out.
PROCESS = "SELECT pid FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_it_is_ready_within_the_block_and_gone_after_it(mode: Mode, postgres_dsn: str) -> None:
    with Proxy(postgres_dsn, mode=mode) as proxy:
        host, port = proxy.host, proxy.port
        with psycopg.connect(proxy.connection_string) as connection:
            assert connection.execute(BACKEND).fetchone() == ("Cloudflare Hyperdrive",)
    assert not accepts(host, port)


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_forked_child_does_not_close_it(
    mode: Mode, postgres_dsn: str, run_python: Callable[..., list[str]]
) -> None:
    source = """if True:
        import os, sys
        import psycopg
        from hyperdrive_client import Proxy

        with Proxy(sys.argv[1], mode=sys.argv[2]) as proxy:
            child = os.fork()
            if child == 0:
                proxy.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            with psycopg.connect(proxy.connection_string) as connection:
                print(*connection.execute("SELECT 1").fetchone())
    """
    assert run_python(source, postgres_dsn, mode) == ["1"]


def test_its_fields_are_those_of_a_hyperdrive_binding(postgres: EmbeddedPostgres) -> None:
    with Proxy(postgres.connection_string, mode="thread") as proxy:
        with psycopg.connect(
            host=proxy.host,
            port=proxy.port,
            user=proxy.user,
            password=proxy.password,
            dbname=proxy.database,
        ) as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("postgres",)
        assert proxy.connectionString == proxy.connection_string
        assert proxy.database == "postgres"
        assert proxy.user != "postgres"
        assert proxy.origin.addresses[0].port == postgres.port != proxy.port


def test_each_has_credentials_of_its_own(postgres_dsn: str) -> None:
    with Proxy(postgres_dsn, mode="thread") as one, Proxy(postgres_dsn, mode="thread") as other:
        assert (one.user, one.password) != (other.user, other.password)
        wrong = one.connection_string.replace(one.password, other.password)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)


def test_trust_lets_anyone_in_who_reaches_it(postgres_dsn: str) -> None:
    with (
        Proxy(postgres_dsn, mode="thread", auth="trust") as proxy,
        psycopg.connect(host=proxy.host, port=proxy.port, user="me", dbname=proxy.database) as conn,
    ):
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_it_starts_and_closes_when_told_and_more_than_once(postgres_dsn: str) -> None:
    proxy = Proxy(postgres_dsn, mode="thread")
    proxy.close()
    proxy.start()
    before = proxy.connection_string
    proxy.start()
    assert proxy.connection_string == before
    proxy.close()
    proxy.close()
    with proxy:
        assert proxy.connection_string != before
        psycopg.connect(proxy.connection_string).close()


def test_before_its_start_it_has_no_address(postgres_dsn: str) -> None:
    proxy = Proxy(postgres_dsn)
    assert proxy.origin.database == "postgres"
    with pytest.raises(ProxyStartError, match=r"call start\(\) first"):
        _ = proxy.connection_string


def test_it_takes_a_binding(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_HYPERDRIVE", postgres_dsn)
    with Proxy(mode="thread") as proxy:
        assert proxy.origin.connection_string.startswith(postgres_dsn)
    config = tmp_path / "wrangler.toml"
    config.write_text(
        f'[[env.e.hyperdrive]]\nbinding = "DB"\nid = "x"\nlocalConnectionString = "{postgres_dsn}"'
    )
    with Proxy("DB", mode="thread", config=config, env="e") as proxy:
        assert proxy.database == "postgres"
    with pytest.raises(BindingError):
        Proxy("NOWHERE").start()


def test_its_repr_shows_no_password(postgres: EmbeddedPostgres) -> None:
    proxy = Proxy(postgres.connection_string, mode="thread")
    assert repr(proxy) == "Proxy(not started)"
    with proxy:
        assert repr(proxy) == f"Proxy({proxy.host}:{proxy.port})"
        shown = f"{proxy!r} {proxy.origin!r} {vars(proxy)['_local']!r} {proxy._door()!r}"
        assert proxy.password not in shown
    assert postgres.password not in shown


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_it_listens_on_a_unix_socket(mode: Mode, postgres_dsn: str) -> None:
    with TemporaryDirectory() as folder:  # its path is short enough for a socket's
        with Proxy(postgres_dsn, mode=mode, unix_socket=f"{folder}/.s.PGSQL.6543") as proxy:
            assert (proxy.host, proxy.port) == (folder, 6543)
            with psycopg.connect(proxy.connection_string) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        assert not os.listdir(folder)


@pytest.mark.parametrize("name", ["proxy.sock", ".s.PGSQL.", ".s.PGSQL.x"])
def test_a_socket_that_libpq_cannot_find_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"must be \.s\.PGSQL\. and a port number"):
        Proxy("DB", unix_socket=tmp_path / name)


def test_it_listens_on_the_port_that_it_is_given(postgres_dsn: str) -> None:
    with Proxy(postgres_dsn, mode="thread") as other:
        free = other.port
    with Proxy(postgres_dsn, mode="thread", host="localhost", port=free) as proxy:
        assert (proxy.host, proxy.port) == ("localhost", free)
        with pytest.raises(ProxyStartError, match=f"can't listen on .*:{free}"):
            Proxy(postgres_dsn, mode="thread", port=free).start()


def test_it_opens_no_more_origin_connections_than_told(postgres_dsn: str) -> None:
    with Proxy(postgres_dsn, mode="thread", origin_connection_limit=1) as proxy:
        connections = [psycopg.connect(proxy.connection_string) for _ in range(3)]
        backends = set()
        for connection in connections:
            backends.add(connection.execute(PROCESS).fetchone())
            connection.commit()
            connection.close()
        assert len(backends) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"mode": "shared"}, "mode is 'shared'"),
        ({"auth": "md5"}, "auth is 'md5'"),
        ({"port": 70000}, "port is 70000"),
        ({"origin_connection_limit": 0}, "origin_connection_limit is 0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], text: str, postgres_dsn: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Proxy(postgres_dsn, **{"mode": "thread", **arguments}).start()


def test_a_hyperdrive_needs_no_proxy_in_front_of_it(postgres_dsn: str) -> None:
    with Proxy(postgres_dsn, mode="thread") as proxy:
        for target in (
            SimpleNamespace(connectionString=postgres_dsn),
            proxy,
            proxy.connection_string,
        ):
            with pytest.raises(ConfigurationError, match="is a Hyperdrive itself"):
                Proxy(target).start()


@pytest.mark.parametrize("mode", ["process", "thread"])
async def test_the_asynchronous_one_does_the_same(mode: Mode, postgres_dsn: str) -> None:
    proxy = AsyncProxy(postgres_dsn, mode=mode)
    await proxy.close()
    async with proxy:
        await proxy.start()
        host, port = proxy.host, proxy.port
        async with await psycopg.AsyncConnection.connect(proxy.connection_string) as connection:
            cursor = await connection.execute("SELECT 1")
            assert await cursor.fetchone() == (1,)
    assert not accepts(host, port)
    await proxy.close()
    assert repr(proxy) == "AsyncProxy(not started)"


async def test_a_start_that_is_cancelled_leaves_nothing_running(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, made = threading.Event(), threading.Event(), []

    class Slow(LocalProxy):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            begun.set()
            assert go_on.wait(30)
            super().__init__(*arguments, **settings)
            made.append(self)

    monkeypatch.setattr("hyperdrive_client.client.proxy.LocalProxy", Slow)
    proxy = AsyncProxy(postgres_dsn, mode="thread")
    starting = asyncio.create_task(proxy.start())
    await asyncio.to_thread(begun.wait, 30)
    starting.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    (local,) = made
    assert not local.is_running
    assert local not in local_proxy._all
