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
    proxy = serve("--caching-disabled", HYPERDRIVE_URL_HYPERDRIVE=database)
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
    proxy = serve(
        "--drain-timeout", "3600", "--cache-mode", "off", HYPERDRIVE_URL_HYPERDRIVE=database
    )
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


def test_elsewhere_than_on_loopback_a_certificate_makes_tls_a_must(
    serve: Serve, certificates: Certificates, database: str
) -> None:
    proxy = serve(
        *("--listen", "0.0.0.0:0"),
        *("--ssl-cert-file", certificates.server, "--ssl-key-file", certificates.server_key),
        HYPERDRIVE_URL_HYPERDRIVE=database,
    )
    assert proxy.url.endswith("?sslmode=require")
    url = proxy.url.replace("0.0.0.0", "127.0.0.1")
    with psycopg.connect(url) as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="the proxy demands TLS"):
        psycopg.connect(url, sslmode="disable")


def test_tls_may_be_allowed_and_clients_certificates_asked_for(
    serve: Serve, certificates: Certificates, database: str
) -> None:
    files = ("--ssl-cert-file", certificates.server, "--ssl-key-file", certificates.server_key)
    proxy = serve(*files, "--ssl", "allow", HYPERDRIVE_URL_HYPERDRIVE=database)
    for mode in ("disable", "require"):
        psycopg.connect(proxy.url, sslmode=mode).close()
    authority = ("--ssl-ca-file", certificates.ca, "--clientcert", "verify-full")
    proxy = serve(*files, *authority, "--user", "postgres", HYPERDRIVE_URL_HYPERDRIVE=database)
    shown = {"sslcert": str(certificates.client), "sslkey": str(certificates.client_key)}
    psycopg.connect(proxy.url, **shown).close()
    with pytest.raises(psycopg.OperationalError, match="valid client certificate"):
        psycopg.connect(proxy.url)


def test_what_keeps_a_connection_is_logged(serve: Serve, database: str) -> None:
    proxy = serve("--any-database", "--pin-sequences", HYPERDRIVE_URL_HYPERDRIVE=database)
    with psycopg.connect(proxy.url, dbname="postgres", autocommit=True) as connection:
        connection.execute("LISTEN news")
        connection.execute("CREATE TEMP SEQUENCE s")
        connection.execute("SELECT nextval('s')")
    for reason in ("LISTEN", "sequence", "temporary object"):
        proxy.wait_for_error_line(f"keeps its origin connection: {reason}")


def test_the_caches_options_reach_the_proxy(serve: Serve, database: str) -> None:
    options = ("--cache-mode", "writes", "--max-age", "7", "--swr", "0", "--cache-memory", "2MB")
    others = ("--staleness-bound", "0.5", "--cache-function", "public.f")
    proxy = serve(*options, *others, HYPERDRIVE_URL_HYPERDRIVE=database)
    shown = cache_of(proxy)
    assert (shown["mode"], shown["max_age"]) == ("writes", "7.000")
    assert (shown["stale_while_revalidate"], shown["memory"]) == ("0.000", "2097152")


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        (("--max-age", "7"), "ttl"),
        (("--swr", "1"), "ttl"),
        (("--caching-disabled",), "off"),
        (("--caching-disabled", "--cache-mode", "off", "--max-age", "7"), "off"),
        (("--cache-memory", "2MB"), "off"),
    ],
)
def test_the_mode_follows_from_what_is_said(
    serve: Serve, database: str, options: tuple[str, ...], mode: str
) -> None:
    assert cache_of(serve(*options, HYPERDRIVE_URL_HYPERDRIVE=database))["mode"] == mode


def cache_of(proxy: Proxy) -> dict[str, str]:
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        return dict(connection.execute("SHOW hyperdrive.cache").fetchall())


def test_every_limit_has_an_option_but_for_three() -> None:
    options = {parameter.name for parameter in serve_command.params}
    without = {"login_timeout", "prepared_statements", "proxy_idle_timeout"}
    assert {field.name for field in fields(Limits)} - options == without


def test_hosted_limits_end_a_statement_after_a_minute(serve: Serve, database: str) -> None:
    proxy = serve("--hosted-limits", HYPERDRIVE_URL_HYPERDRIVE=database)
    assert value(proxy.url, "SHOW statement_timeout") == "1min"


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["NOSUCH"], {}, "HYPERDRIVE_URL_NOSUCH"),
        (["--binding", "postgresql://u:hush@h/d"], {}, "not a connection string"),
        (["--connection-string", "-"], {}, "standard input"),
        (["--connection-string", "mysql://u:hush@h/d"], {}, "only PostgreSQL"),
        (["--connection-string-env", "NOSUCH"], {}, "environment variable NOSUCH"),
        (["--auth", "trust", "--listen", "10.0.0.1:1", "--without-tls"], {}, "trust"),
        (["--config", "nosuch.toml"], {}, "nosuch.toml"),
        (["--password-file", "nosuch"], {}, "nosuch cannot be read"),
        (["--origin-connection-limit", "0"], {}, "at least 1"),
        (["--origin-connection-limit", "4", "--hosted-limits"], {}, "minimum is 5"),
        (["--max-age", "4000"], {}, "seconds from 0 to 3600"),
        (["--staleness-bound", "0.1"], {}, "staleness_bound is 0.1"),
        (["--listen", "127.0.0.1:7", "--auth", "trust"], {"PORT": "7"}, "where this proxy"),
        (["--unix-socket", "."], {"SOCKET": "1"}, "where this proxy"),
        (["--ssl-cert-file", "nosuch.pem"], {}, "nosuch.pem with the key in"),
        (["--ssl-cert-file", "x", "--unix-socket", "."], {}, "a Unix socket has no TLS"),
        (["--ssl-cert-file", "x", "--clientcert", "verify-ca"], {}, "needs ssl_ca_file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    run: Run, tmp_path: Path, arguments: list[str], variables: dict[str, str], expected: str
) -> None:
    origin = f"postgresql://u:hush@localhost:{variables.get('PORT', '5432')}/d"
    if "SOCKET" in variables:
        origin = f"host={tmp_path} user=u password=hush dbname=d"
    done = run("serve", *arguments, HYPERDRIVE_URL_HYPERDRIVE=origin)
    assert done.exit_code == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert expected in line
    assert "hush" not in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["DB", "--binding", "DB"],
        ["DB", "--connection-string-env", "X"],
        ["--connection-string", "-", "--connection-string-env", "X"],
        ["--listen", "127.0.0.1:1", "--unix-socket", "."],
        ["--listen", "127.0.0.1"],
        ["--listen", "127.0.0.1:65536"],
        ["--listen", "0.0.0.0:0"],
        ["--ssl", "require"],
        ["--ssl-key-file", "server.key"],
        ["--ssl-ca-file", "ca.pem"],
        ["--clientcert", "verify-ca"],
        ["--ssl-cert-file", "server.pem", "--without-tls"],
        ["--ssl-cert-file", "server.pem", "--ssl", "off"],
        ["--unix-socket", "nosuch"],
        ["--auth", "md5"],
        ["--pool-timeout", "soon"],
        ["--cache-mode", "on"],
        ["--cache-mode", "wal", "--caching-disabled"],
        ["--cache-memory", "64M"],
        ["--nosuch"],
    ],
)
def test_wrong_usage_ends_with_2(run: Run, arguments: list[str]) -> None:
    done = run("serve", *arguments, HYPERDRIVE_URL_HYPERDRIVE="postgresql://u:p@localhost/d")
    assert done.exit_code == 2, done.stderr
    assert done.stderr.startswith("Usage: hyperdrive serve")


def test_a_taken_port_is_said_in_one_line(run: Run, database: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--listen", f"127.0.0.1:{port}", HYPERDRIVE_URL_HYPERDRIVE=database)
    assert done.exit_code == 1
    assert re.fullmatch(rf"Error: .*127\.0\.0\.1:{port}.*\n", done.stderr)


def test_a_broken_wrangler_file_is_named_with_the_line(run: Run, wrangler_file: Path) -> None:
    wrangler_file.write_text(wrangler_file.read_text().replace('"0f7b1c9e"', "12"))
    done = run("serve")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: wrangler.jsonc:8: hyperdrive[0].id must be a string")


def test_resolve_says_which_source_won_and_no_password(
    run: Run, wrangler_file: Path, database: str
) -> None:
    password = str(urlsplit(database).password)
    done = run("resolve")
    assert done.exit_code == 0
    assert "source    wrangler.jsonc:9, localConnectionString" in done.stdout
    assert "password  given" in done.stdout
    assert password not in done.stdout + done.stderr
    done = run("resolve", "HYPERDRIVE", HYPERDRIVE_URL_HYPERDRIVE="postgresql://u@h:6543/d")
    assert "source    environment variable HYPERDRIVE_URL_HYPERDRIVE" in done.stdout
    assert "host      h:6543" in done.stdout
    assert "password  none" in done.stdout
    assert "sslmode   require" in done.stdout


def test_resolve_takes_a_file_and_an_environment(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(
        '[[env.staging.hyperdrive]]\nbinding = "DB"\nid = "1"\n'
        'localConnectionString = "postgresql://u:p@staging/d"\n'
    )
    done = run("resolve", "DB", "--config", "other.toml", "--env", "staging")
    assert "host      staging:5432" in done.stdout


def test_resolve_says_that_the_password_is_in_the_password_file(run: Run, tmp_path: Path) -> None:
    passwords = tmp_path / "pgpass"
    passwords.write_text("*:*:*:*:hush\n")
    passwords.chmod(0o600)
    done = run("resolve", HYPERDRIVE_URL_HYPERDRIVE="postgresql://u@h/d", PGPASSFILE=str(passwords))
    assert "password  in the password file" in done.stdout


def test_a_process_ends_with_1_a_line_and_its_warnings(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "resolve"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(WRANGLER_HYPERDRIVE_LOCAL_CONNECTION_STRING_HYPERDRIVE="mysql://u:p@h/d"),
    )
    assert (done.returncode, done.stdout) == (1, "")
    warning, error = done.stderr.splitlines()
    assert re.fullmatch(r"Warning: .*is deprecated; use CLOUDFLARE_.*", warning)
    assert re.fullmatch(r"Error: .*only PostgreSQL.*", error)


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").stdout == f"hyperdrive {hyperdrive_client.__version__}\n"
