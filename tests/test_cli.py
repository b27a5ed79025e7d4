"""The ``hyperdrive`` command, as the process that people start."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
from click.testing import CliRunner, Result

import hyperdrive_client
from hyperdrive_client.cli import main
from hyperdrive_client.cli import serve as serve_command
from hyperdrive_client.proxy.settings import Limits

if TYPE_CHECKING:
    from .conftest import Certificates

COMMAND = [sys.executable, "-m", "hyperdrive_client"]
VARIABLES = ("HYPERDRIVE_", "CLOUDFLARE_", "WRANGLER_", "PG")


def environment(**more: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(VARIABLES)}
    return kept | more


class Proxy(NamedTuple):
    """A running ``hyperdrive serve``; ``url`` is what it wrote to standard output."""

    process: subprocess.Popen[str]
    url: str
    announced: str
    """What it had written to standard error when it said the URL."""

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_for_error_line(self, text: str) -> None:
        assert self.process.stderr is not None
        assert any(text in line for line in self.process.stderr), f"it ended without {text!r}"

    def end(self) -> tuple[int, str]:
        """Wait for its end; its exit code and the rest of its output."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out + err


Serve = Callable[..., Proxy]
Run = Callable[..., Result]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start ``hyperdrive serve`` with these arguments and wait until it is ready."""
    processes = []

    def start(*arguments: object, stdin: str = "", **variables: str) -> Proxy:
        process = subprocess.Popen(
            [*COMMAND, "serve", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(**variables),
        )
        processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        url = process.stdout.readline().strip()
        assert url, process.communicate()[1]
        announced = ""
        while "Connection string for clients" not in announced:
            announced += process.stderr.readline()
        return Proxy(process, url, announced)

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command with these arguments to its end, in this process."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)

    def to_its_end(*arguments: str, stdin: str = "", **variables: str) -> Result:
        return CliRunner().invoke(
            main, arguments, input=stdin, env=variables, prog_name="hyperdrive"
        )

    return to_its_end


@pytest.fixture
def wrangler_file(tmp_path: Path, database: str) -> Path:
    """The seed page's file, with a connection string."""
    path = tmp_path / "wrangler.jsonc"
    path.write_text(
        f"""{{
  // required for database drivers to function
  "compatibility_flags": ["nodejs_compat"],
  "compatibility_date": "2024-09-23",
  "hyperdrive": [
    {{
      "binding": "HYPERDRIVE",
      "id": "0f7b1c9e",
      "localConnectionString": "{database}",
    }},
  ],
}}
"""
    )
    return path


def value(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


@pytest.mark.usefixtures("wrangler_file")
def test_serve_without_arguments_is_in_front_of_the_binding_hyperdrive(
    serve: Serve, database: str
) -> None:
    proxy = serve()
    assert value(proxy.url, "SELECT current_database()") == urlsplit(database).path[1:]
    assert value(proxy.url, "SHOW application_name") == "Cloudflare Hyperdrive"
    assert "wrangler.jsonc:9, localConnectionString" in proxy.announced
    assert urlsplit(proxy.url).path == urlsplit(database).path


@pytest.mark.parametrize("arguments", [("DB",), ("--binding", "DB")])
def test_serve_takes_the_name_of_a_binding(
    serve: Serve, database: str, arguments: tuple[str, ...]
) -> None:
    proxy = serve(*arguments, HYPERDRIVE_URL_DB=database)
    assert value(proxy.url, "SELECT 1") == 1


def test_the_connection_string_comes_from_standard_input(serve: Serve, database: str) -> None:
    proxy = serve("--connection-string", "-", stdin=f"{database}\n")
    assert value(proxy.url, "SELECT 1") == 1


def test_the_connection_string_comes_from_a_variable(serve: Serve, database: str) -> None:
    proxy = serve("--connection-string-env", "ORIGIN", ORIGIN=database)
    assert value(proxy.url, "SELECT 1") == 1


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.usefixtures("wrangler_file")
def test_the_origins_password_is_in_no_argument_and_no_output(serve: Serve, database: str) -> None:
    password = urlsplit(database).password
    assert password
    proxies = [
        serve("--binding", "HYPERDRIVE"),
        serve("--connection-string", "-", stdin=database),
        serve("--connection-string-env", "ORIGIN", ORIGIN=database),
    ]
    for proxy in proxies:
        with pytest.raises(psycopg.Error):
            value(proxy.url, "SELECT 1/0")
    arguments = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert any(b"--connection-string-env" in line for line in arguments)
    assert not any(password.encode() in line for line in arguments)
    for proxy in proxies:
        proxy.tell(signal.SIGTERM)
        code, output = proxy.end()
        assert code == 0
        assert password not in proxy.url + proxy.announced + output


def test_clients_credentials_are_fresh_for_each_proxy(serve: Serve, database: str) -> None:
    one, other = (urlsplit(serve(HYPERDRIVE_URL_HYPERDRIVE=database).url) for _ in range(2))
    assert one.username != other.username
    assert one.password != other.password
    assert one.password is not None
    assert len(one.password) >= 32


def test_user_and_password_file_are_the_clients_credentials(
    serve: Serve, database: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("pass/wörd\n")
    proxy = serve(
        "--user", "joe@home", "--password-file", "secret", HYPERDRIVE_URL_HYPERDRIVE=database
    )
    assert "without the password" in proxy.announced
    assert "joe%40home@127.0.0.1" in proxy.url
    with psycopg.connect(proxy.url, password="pass/wörd") as connection:
        assert connection.info.user == "joe@home"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(proxy.url, password="another")


def test_with_trust_clients_need_no_password(serve: Serve, database: str) -> None:
    proxy = serve("--auth", "trust", HYPERDRIVE_URL_HYPERDRIVE=database)
    assert urlsplit(proxy.url).password is None
    assert value(proxy.url, "SELECT 1") == 1


def test_listen_says_where(serve: Serve, database: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    proxy = serve("--listen", f"localhost:{port}", HYPERDRIVE_URL_HYPERDRIVE=database)
    assert f"listening  localhost:{port}" in proxy.announced
    assert value(proxy.url, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["", ".s.PGSQL.6432"])
def test_a_unix_socket_is_private_and_goes_with_the_proxy(
    serve: Serve, database: str, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = tmp_path_factory.mktemp("s")
    path = folder / (name or ".s.PGSQL.5432")
    proxy = serve("--unix-socket", folder / name, HYPERDRIVE_URL_HYPERDRIVE=database)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert value(proxy.url, "SELECT 1") == 1
    proxy.tell(signal.SIGTERM)
    code, output = proxy.end()
    assert (code, "Traceback" in output) == (0, False)
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_transactions_finish_and_refuses_new_work(
    serve: Serve, database: str, number: int
) -> None:
    proxy = serve(HYPERDRIVE_URL_HYPERDRIVE=database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    idle = psycopg.connect(proxy.url, autocommit=True)
    busy = psycopg.connect(proxy.url)
    busy.execute("INSERT INTO kept VALUES (1)")
    proxy.tell(number)
    proxy.wait_for_error_line("draining")
    with pytest.raises(psycopg.OperationalError) as refused:
        idle.execute("SELECT 1")
    assert refused.value.sqlstate == "57P01"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.url)
    busy.execute("INSERT INTO kept VALUES (2)")
    busy.commit()
    assert proxy.end() == (0, "")
    assert value(database, "SELECT count(*) FROM kept") == 2
    idle.close()
    busy.close()


def test_a_second_signal_ends_at_once(serve: Serve, database: str) -> None:
    proxy = serve("--drain-timeout", "3600", HYPERDRIVE_URL_HYPERDRIVE=database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    busy = psycopg.connect(proxy.url)
    busy.execute("INSERT INTO kept VALUES (1)")
    proxy.tell(signal.SIGTERM)
    proxy.wait_for_error_line("draining")
    assert proxy.process.poll() is None
    proxy.tell(signal.SIGTERM)
    assert proxy.end() == (0, "")
    with pytest.raises(psycopg.OperationalError):
        busy.execute("SELECT 1")
    busy.close()
    assert value(database, "SELECT count(*) FROM kept") == 0


def test_a_drain_does_not_wait_for_longer_than_it_may(serve: Serve, database: str) -> None:
    proxy = serve("--drain-timeout", "0.1", HYPERDRIVE_URL_HYPERDRIVE=database)
    busy = psycopg.connect(proxy.url)
    busy.execute("SELECT 1")
    proxy.tell(signal.SIGTERM)
    assert proxy.end()[0] == 0
    busy.close()


def test_limits_reach_the_proxy(serve: Serve, database: str) -> None:
    proxy = serve(
        *("--origin-connection-limit", "1", "--pool-timeout", "0.1"),
        *("--statement-timeout", "7.5"),
        HYPERDRIVE_URL_HYPERDRIVE=database,
    )
    with psycopg.connect(proxy.url) as one, psycopg.connect(proxy.url) as other:
        assert one.execute("SHOW statement_timeout").fetchone() == ("7500ms",)
        with pytest.raises(psycopg.Error) as waited:
            other.execute("SELECT 1")
        assert waited.value.sqlstate == "58000"


def test_every_limit_has_an_option_but_for_two() -> None:
    options = {parameter.name for parameter in serve_command.params}
    without = {"login_timeout", "prepared_statements"}
    assert {field.name for field in fields(Limits)} - options == without
