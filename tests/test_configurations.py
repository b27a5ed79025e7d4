"""``hyperdrive create``, ``list``, ``get``, ``update``, ``delete``, ``restart`` and ``rotate``."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

from hyperdrive_client import connect
from hyperdrive_client.bindings import Origin, parse_connection_string
from hyperdrive_client.bindings.store import Store
from hyperdrive_client.cli import main
from hyperdrive_client.client.console import console
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy import trial
from hyperdrive_client.registry import places

VARIABLES = ("HYPERDRIVE_", "CLOUDFLARE_", "WRANGLER_", "PG")
COMMAND = [sys.executable, "-m", "hyperdrive_client"]
PASSWORD = "pa ss/wörd'2"
"""Of the origin's user; in no form may it be seen."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def own_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end_process: Callable[..., None]
) -> Iterator[Path]:
    """A store, a runtime folder and a working directory of the test's own; the runtime folder."""
    for name in os.environ:
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HYPERDRIVE_STORE", str(tmp_path / "store"))
    with tempfile.TemporaryDirectory(prefix="hyperdrive-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
        for place in places():
            if record := place.running():
                end_process(record.pid)


@pytest.fixture
def hyperdrive() -> Run:
    """Run the command with these arguments to its end."""

    def run(*arguments: object, stdin: str = "", **variables: str) -> Any:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, **variables},
            timeout=60,
        )

    return run


@pytest.fixture
def origin(database: str) -> Iterator[Origin]:
    """An origin whose user has a password that is nobody else's."""
    server = parse_connection_string(database)
    role = f"user_{server.database}"
    with psycopg.connect(database, autocommit=True) as connection:
        password = sql.Literal(PASSWORD)
        made = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), password)
        connection.execute(made)
        yield Origin(server.addresses, role, server.database, PASSWORD, sslmode="disable")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (role,)
        )
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.connection_string


def in_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in this process, where constants may be others."""
    done = CliRunner().invoke(main, arguments)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def stored() -> list[str]:
    return [each.name for each in Store().all()]


def error_of(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def parts_of(origin: Origin) -> dict[str, str]:
    address = origin.addresses[0]
    return {
        "--origin-host": address.host,
        "--origin-port": str(address.port),
        "--database": origin.database,
        "--origin-user": origin.user,
        "--origin-password": PASSWORD,
    }


def flat(options: dict[str, str]) -> list[str]:
    return [word for pair in options.items() for word in pair]


def test_create_list_get_update_delete(hyperdrive: Run, origin: Origin, url: str) -> None:
    assert (hyperdrive("list").stdout, json.loads(hyperdrive("list", "--json").stdout)) == ("", [])
    made = hyperdrive("create", "my-first", "--connection-string", url)
    assert made.returncode == 0, made.stderr
    (kept,) = Store().all()
    assert json.loads(made.stdout) == {"hyperdrive": [{"binding": "my_first", "id": kept.id}]}
    assert kept.origin == origin
    assert f"Testing the connection to 127.0.0.1:{origin.addresses[0].port}" in made.stderr
    heads, row = (line.split() for line in hyperdrive("list").stdout.splitlines())
    assert heads[:4] == ["id", "name", "user", "host"]
    assert row[:4] == [kept.id, "my-first", origin.user, "127.0.0.1"]
    shown = json.loads(hyperdrive("get", "my-first").stdout)
    assert json.loads(hyperdrive("list", "--json").stdout) == [shown]
    assert json.loads(hyperdrive("get", kept.id).stdout) == shown == kept.shown()
    changed = json.loads(hyperdrive("update", kept.id, "--name", "second").stdout)
    assert changed["name"] == "second"
    assert changed["modified_on"] > changed["created_on"] == shown["created_on"]
    gone = hyperdrive("delete", "second", "--json")
    assert json.loads(gone.stdout) == changed
    assert f'Deleted configuration "second" ({kept.id})' in gone.stderr
    assert stored() == []


def test_create_from_parts_and_with_every_setting(hyperdrive: Run, origin: Origin) -> None:
    options = {**parts_of(origin), "--max-age": "30", "--swr": "0"}
    options |= {"--origin-connection-limit": "7", "--origin-scheme": "postgres"}
    done = hyperdrive("create", "app", *flat(options), "--json")
    shown = json.loads(done.stdout)
    assert shown["origin"]["scheme"] == "postgres"
    assert shown["origin"]["user"] == origin.user
    assert shown["caching"] == {"disabled": False, "max_age": 30, "stale_while_revalidate": 0}
    assert shown["origin_connection_limit"] == 7


@pytest.mark.parametrize("option", ["--connection-string", "--origin-password"])
def test_a_secret_from_standard_input(
    option: str, hyperdrive: Run, origin: Origin, url: str
) -> None:
    options = {option: "-"}
    if option == "--origin-password":
        options = parts_of(origin) | options
    secret = url if option == "--connection-string" else PASSWORD
    assert hyperdrive("create", "app", *flat(options), stdin=f"{secret}\n").returncode == 0
    assert Store().get("app").origin.password == PASSWORD
    done = hyperdrive("create", "other", *flat(options), stdin="")
    assert "nothing on standard input" in error_of(done, 2)


def test_update_changes_what_is_given_and_nothing_else(
    hyperdrive: Run, origin: Origin, url: str
) -> None:
    hyperdrive("create", "app", "--connection-string", url, "--max-age", "30")
    before = Store().get("app")

    def updated(*options: str) -> dict[str, Any]:
        done = hyperdrive("update", "app", *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    assert updated("--swr", "5")["caching"]["max_age"] == 30
    assert updated("--caching-disabled")["caching"] == {"disabled": True}
    assert updated("--no-caching-disabled")["caching"]["max_age"] == 60
    assert updated("--max-age", "9")["caching"]["max_age"] == 9
    assert updated("--origin-connection-limit", "8")["origin_connection_limit"] == 8
    assert updated("--host", "localhost")["origin"]["host"] == "localhost"
    after = Store().get("app")
    assert (after.id, after.door, after.created_on) == (before.id, before.door, before.created_on)
    assert (after.origin.user, after.origin.password) == (origin.user, PASSWORD)


def test_only_a_change_of_the_origin_connects_to_it(hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url)
    assert "Testing" not in hyperdrive("update", "app", "--max-age", "5").stderr
    assert "Testing" in hyperdrive("update", "app", "--sslmode", "require").stderr


def test_what_the_environment_says_of_password_files_is_no_change(
    hyperdrive: Run, url: str
) -> None:
    hyperdrive("create", "app", "--connection-string", url, PGPASSFILE="elsewhere")
    made = Store().get("app").origin
    done = hyperdrive("update", "app", "--max-age", 5, PGPASSFILE="elsewhere")
    assert "Testing" not in done.stderr
    assert (Store().get("app").origin, made.passfile) == (made, None)


def test_a_certificates_path_is_right_in_every_folder(hyperdrive: Run, url: str) -> None:
    done = hyperdrive("create", "app", "--connection-string", f"{url}&sslrootcert=ca.pem")
    assert done.returncode == 0, done.stderr
    assert Store().get("app").origin.sslrootcert == str(Path("ca.pem").absolute())


# What cannot be.

ORIGIN = ["--origin-host", "h", "--database", "d", "--origin-user", "u", "--origin-password", "p"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--connection-string", "x", "--host", "h"], "--connection-string and --origin-host ex"),
        (
            ["--connection-string", "x", "--database", "d", "--user", "u", "--password", "p"],
            "--connection-string and --database, --origin-user, --origin-password exclude",
        ),
        (["--connection-string", "x", "--scheme", "postgres"], "and --origin-scheme exclude"),
        (["--connection-string", "x", "--port", "1"], "and --origin-port exclude"),
        ([*ORIGIN, "--caching-disabled", "--max-age", "5"], "--caching-disabled and --max-age"),
        ([*ORIGIN, "--caching-disabled", "--swr", "5"], "--caching-disabled and --max-age or --sw"),
        ([], "--origin-host is missing: give that, or --connection-string"),
        (ORIGIN[2:], "--origin-host is missing"),
        (ORIGIN[:2] + ORIGIN[4:], "--database is missing"),
        (ORIGIN[:4] + ORIGIN[6:], "--origin-user is missing"),
        ([*ORIGIN, "--sslmode", "verify-full"], "--sslmode verify-full needs --ca-certificate-id"),
        ([*ORIGIN, "--ca-certificate-id", "system"], "authorities need --sslmode verify-full"),
        (
            [*ORIGIN, "--ca-certificate-id", "system", "--sslmode", "verify-ca"],
            "authorities need --sslmode verify-full",
        ),
        ([*ORIGIN, "--sslmode", "disable"], "'disable' is not one of 'require'"),
        ([*ORIGIN, "--max-age", "0"], "0 is not in the range 1<=x<=3600"),
        ([*ORIGIN, "--swr", "3601"], "3601 is not in the range 0<=x<=3600"),
        ([*ORIGIN, "--origin-connection-limit", "4"], "4 is not in the range x>=5"),
        ([*ORIGIN, "--port", "70000"], "70000 is not in the range 1<=x<=65535"),
        ([*ORIGIN, "--binding", "a-b"], "--binding: expected letters, digits and _"),
        ([*ORIGIN, "--binding", ""], "--binding: expected letters, digits and _"),
    ],
)
def test_options_that_cannot_be_are_named(options: list[str], told: str, hyperdrive: Run) -> None:
    done = hyperdrive("create", "app", *options)
    assert told in " ".join(error_of(done, 2).split())
    assert not Store().folder.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([*ORIGIN[:6]], "a configuration needs a password"),
        (["--connection-string", "postgres://u@h/d"], "a configuration needs a password"),
        (["--connection-string", "mysql://u:hunter2@h/d"], 'the protocol "mysql" is not Postgre'),
        (["--connection-string", "u:hunter2@h/d"], "has no protocol"),
        (["--connection-string", "postgres://u:hunter2@/d"], "has no host"),
        (["--connection-string", "postgres://u:hunter2@h"], "has no database"),
        (["--connection-string", "postgres://:hunter2@h/d"], "has no user"),
        ([*ORIGIN, "--ca-certificate-id", "no.pem"], "--ca-certificate-id: there is no file"),
        ([*ORIGIN, "--mtls-certificate-id", "no.pem"], "--mtls-certificate-id: there is no file"),
        ([*ORIGIN, "--update-config"], "--update-config: there is no wrangler file"),
        ([*ORIGIN, "--config", "no.json"], "there is no wrangler file"),
    ],
)
def test_what_cannot_be_created(options: list[str], told: str, hyperdrive: Run) -> None:
    text = error_of(hyperdrive("create", "app", *options))
    assert told in text
    assert "hunter2" not in text
    assert "Testing" not in text
    assert not Store().folder.exists()


def test_nothing_to_change_is_an_error(hyperdrive: Run) -> None:
    assert "Nothing to change" in error_of(hyperdrive("update", "app"), 2)


@pytest.mark.parametrize("verb", ["get", "update", "delete", "restart", "rotate"])
def test_an_id_that_does_not_exist(verb: str, hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url)
    before = Store().file.read_bytes()
    options = ["--max-age", "5"] if verb == "update" else []
    text = error_of(hyperdrive(verb, "ap", *options))
    assert 'no configuration with the id or the name "ap"' in text
    assert 'did you mean "app"?' in text
    assert Store().file.read_bytes() == before


def test_a_name_that_exists(hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url)
    hyperdrive("create", "other", "--connection-string", url)
    before = Store().file.read_bytes()
    for done in (
        hyperdrive("create", "app", "--connection-string", url),
        hyperdrive("update", "other", "--name", "app"),
    ):
        assert 'already a configuration with the name "app"' in error_of(done)
        assert "Testing" not in done.stderr
    assert Store().file.read_bytes() == before


def test_one_of_two_that_create_a_name_at_once_wins(url: str) -> None:
    command = [*COMMAND, "create", "app", "--connection-string", url]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    (loser,) = (err for out, err in said if not out)
    assert 'already a configuration with the name "app"' in loser
    assert stored() == ["app"]


@pytest.mark.parametrize("damage", ["{", '{"version": 9, "configurations": []}', "open"])
@pytest.mark.parametrize("verb", ["create", "list", "get", "update", "delete", "rotate"])
def test_a_store_that_is_wrong(verb: str, damage: str, hyperdrive: Run) -> None:
    Store().folder.mkdir(0o700)
    Store().file.write_text("{}" if damage == "open" else damage)
    Store().file.chmod(0o644 if damage == "open" else 0o600)
    before = Store().file.read_bytes()
    words = {"create": ["app", *ORIGIN], "list": [], "update": ["app", "--swr", "1"]}
    text = error_of(hyperdrive(verb, *words.get(verb, ["app"])))
    assert str(Store().file) in text
    assert Store().file.read_bytes() == before


# Origins that can't be used.


@pytest.fixture
def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture
def unwilling() -> Iterator[int]:
    """The port of a server that lets everyone in and answers no query well."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            client, _ = server.accept()
            with client:
                if len(client.recv(4096)) == 8:
                    client.sendall(b"N")  # no TLS
                    if not client.recv(4096):
                        continue
                client.sendall(b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I")
                client.recv(4096)
                client.sendall(m.error_response("XX000", "the disk is on fire", severity="FATAL"))
                return

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    thread.join(30)
    server.close()


@pytest.fixture
def no_more(origin: Origin, database: str) -> str:
    """The origin's host, where its user may not open a connection."""
    with psycopg.connect(database, autocommit=True) as connection:
        role = sql.Identifier(origin.user)
        connection.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 0").format(role))
    return "localhost"


@pytest.mark.parametrize(
    ("code", "told", "option", "value"),
    [
        (2008, "no host of this name", "--origin-host", "nowhere.invalid"),
        (2010, "has not answered within 1 s", "--origin-port", "silent"),
        (2011, "refuses connections", "--origin-port", "closed_port"),
        (2012, "does not support TLS. If that is right, add ?sslmode", "--sslmode", "require"),
        (2013, "not accept the user or the password", "--origin-password", "wrong-one"),
        (2013, "not accept the user or the password", "--origin-user", "nobody"),
        (2014, 'has no database "nothing"', "--database", "nothing"),
        (2015, "too many connections for role", "--origin-host", "no_more"),
        (2016, "the test query failed: the disk is on fire", "--origin-port", "unwilling"),
    ],
)
@pytest.mark.parametrize("verb", ["create", "update"])
def test_an_origin_that_cannot_be_used(
    verb: str,
    code: int,
    told: str,
    option: str,
    value: str,
    hyperdrive: Run,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    hyperdrive("create", "app", "--connection-string", origin.connection_string)
    before = Store().file.read_bytes()
    if option == "--origin-port" or value == "no_more":
        value = str(request.getfixturevalue(value))
    options = {option: value}
    if verb == "create":
        options = parts_of(origin) | options
    if told.endswith("within 1 s"):
        monkeypatch.setattr(trial, "TIMEOUT", 1.0)
        done = in_process(verb, "bad" if verb == "create" else "app", *flat(options))
    else:
        done = hyperdrive(verb, "bad" if verb == "create" else "app", *flat(options))
    text = error_of(done)
    assert told in text
    assert f"(error {code})" in text
    assert "wrong-one" not in text
    assert Store().file.read_bytes() == before


def test_ctrl_c_while_the_connection_is_tried_saves_nothing(silent: int) -> None:
    command = [*COMMAND, "create", "app", "--connection-string"]
    process = subprocess.Popen(
        [*command, f"postgres://u:hunter2@127.0.0.1:{silent}/d"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    assert "Testing" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (1, "")
    assert "Traceback" not in err
    assert not Store().folder.exists()


# Wrangler files.


@pytest.mark.parametrize(
    ("options", "name"), [(["--update-config"], "my_db"), (["--binding", "DB"], "DB")]
)
def test_the_binding_is_added_and_leads_to_the_configuration(
    options: list[str], name: str, hyperdrive: Run, url: str
) -> None:
    Path("wrangler.jsonc").write_text('{\n  // mine\n  "name": "app",\n}\n')
    done = hyperdrive("create", "my-db", "--connection-string", url, *options)
    assert f"Added the binding {name} to " in done.stderr
    text = Path("wrangler.jsonc").read_text()
    assert text.startswith('{\n  // mine\n  "name": "app",\n  "hyperdrive": [')
    resolved = json.loads(hyperdrive("resolve", name, "--json").stdout)
    assert resolved["source"].startswith('configuration "my-db"')


def test_an_environment_of_the_file_gets_the_binding(hyperdrive: Run, url: str) -> None:
    file = Path("wrangler.json")
    for given, variables in ((["--env", "b"], {}), ([], {"CLOUDFLARE_ENV": "b"})):
        file.write_text('{"env": {"a": {}, "b": {}}}')
        options = ["--connection-string", url, "--binding", "DB", *given]
        assert hyperdrive("create", f"x{len(given)}", *options, **variables).returncode == 0
        content = json.loads(file.read_text())
        assert content["env"]["b"]["hyperdrive"][0]["binding"] == "DB"
        assert (content["env"]["a"], "hyperdrive" in content) == ({}, False)


def test_without_a_terminal_nobody_is_asked_and_nothing_added(hyperdrive: Run, url: str) -> None:
    Path("wrangler.json").write_text("{}")
    done = hyperdrive("create", "app", "--connection-string", url, stdin="y\n")
    assert "For wrangler.json:" in done.stderr
    assert Path("wrangler.json").read_text() == "{}"


def test_at_a_terminal_the_binding_is_offered(url: str) -> None:
    Path("wrangler.json").write_text("{}")
    leader, follower = os.openpty()
    command = [*COMMAND, "create", "app", "--connection-string", url]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    while b"[Y/n]" not in said:
        assert select.select([leader], [], [], 30)[0]
        said += os.read(leader, 4096)
    os.write(leader, b"\n")
    assert process.wait(30) == 0
    os.close(leader)
    assert '"binding": "app"' in Path("wrangler.json").read_text()


def test_toml_is_shown_what_to_paste_and_never_changed(hyperdrive: Run, url: str) -> None:
    Path("wrangler.toml").write_text('name = "app"\n')
    done = hyperdrive("create", "one", "--connection-string", url, "--update-config")
    text = error_of(done)
    assert "wrangler.toml is TOML, which is never changed" in text
    assert "Testing" not in text
    assert stored() == []
    done = hyperdrive("create", "one", "--connection-string", url, "--binding", "DB")
    assert done.stdout == f'[[hyperdrive]]\nbinding = "DB"\nid = "{Store().get("one").id}"\n'
    assert Path("wrangler.toml").read_text() == 'name = "app"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"hyperdrive": [{"binding": "DB", "id": "1"}]}', 'already a binding "DB"'),
        ("{,}", "not valid JSON"),
    ],
)
def test_a_wrangler_file_that_cannot_take_it_is_an_error_before_all_else(
    text: str, told: str, hyperdrive: Run, url: str
) -> None:
    Path("wrangler.json").write_text(text)
    done = hyperdrive("create", "one", "--connection-string", url, "--binding", "DB")
    assert told in error_of(done)
    assert "Testing" not in done.stderr
    assert stored() == []
    assert Path("wrangler.json").read_text() == text


# Running proxies.


def door_of(hyperdrive: Run) -> str:
    done = hyperdrive("url", "app")
    assert done.returncode == 0, done.stderr
    return str(done.stdout.strip())


def setting(connection: psycopg.Connection, name: str) -> str:
    found = dict(connection.execute("SHOW hyperdrive.pool").fetchall())
    return str(found[name])


def test_update_leaves_clients_and_new_ones_get_the_new_settings_at_the_same_door(
    hyperdrive: Run, url: str
) -> None:
    hyperdrive("create", "app", "--connection-string", url)
    door = door_of(hyperdrive)
    with psycopg.connect(door, autocommit=True) as old:
        assert setting(old, "origin_connection_limit") == "20"
        old.execute("BEGIN")
        old.execute("SELECT set_config('my.mark', 'here', true)")
        done = hyperdrive("update", "app", "--origin-connection-limit", "6")
        assert done.returncode == 0, done.stderr
        # It was to run until somebody stops it, so its successor is there already.
        with psycopg.connect(door, autocommit=True) as new:
            assert setting(new, "origin_connection_limit") == "6"
        shown = old.execute("SELECT current_setting('my.mark')").fetchone()
        assert shown == ("here",)
        old.execute("COMMIT")
        assert setting(old, "origin_connection_limit") == "20"
    assert door_of(hyperdrive) == door
    assert [place.is_kept for place in places() if place.running()] == [True]


def test_a_retired_proxy_ends_with_its_last_client(hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url)
    door = door_of(hyperdrive)
    (place,) = (place for place in places() if place.running())
    record = place.running()
    assert record is not None
    is_there = os.pidfd_open(record.pid)
    with psycopg.connect(door) as client:
        assert hyperdrive("update", "app", "--max-age", "5").returncode == 0
        assert not select.select([is_there], [], [], 0)[0]
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert select.select([is_there], [], [], 30)[0]
    os.close(is_there)


def test_rotate_is_for_new_connections(hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url)
    before = door_of(hyperdrive)
    with psycopg.connect(before, autocommit=True) as old:
        done = hyperdrive("rotate", "app")
        assert (done.returncode, done.stdout) == (0, "")
        assert old.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(before)
        after = door_of(hyperdrive)
        psycopg.connect(after).close()
    ports = {parse_connection_string(each).addresses[0].port for each in (before, after)}
    assert len(ports) == 1
    assert before != after


def test_restart_ends_origin_connections_once_nobody_uses_them(hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url, "--caching-disabled")
    backend = "SELECT inet_client_port()"  # of the connection to the origin
    with psycopg.connect(door_of(hyperdrive), autocommit=True) as client:
        first = client.execute(backend).fetchone()
        client.execute("BEGIN")
        assert client.execute(backend).fetchone() == first
        done = hyperdrive("restart", "app")
        assert done.returncode == 0, done.stderr
        assert client.execute(backend).fetchone() == first
        client.execute("COMMIT")
        assert client.execute(backend).fetchone() != first
    assert Store().get("app").restarted_on is not None


def test_reconnect_at_the_console(hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url, "--caching-disabled")
    door = door_of(hyperdrive)
    with psycopg.connect(door, autocommit=True) as client:
        first = client.execute("SELECT inet_client_port()").fetchone()
        with console(parse_connection_string(door)) as connection:
            assert connection.execute("RECONNECT").statusmessage == "RECONNECT"
        client.execute("SELECT 1")  # nobody had it, and it is lent once more if that comes first
        assert client.execute("SELECT inet_client_port()").fetchone() != first


def test_restart_without_a_proxy_is_recorded(hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url)
    assert json.loads(hyperdrive("restart", "app", "--json").stdout)["restarted_on"]


def test_delete_lets_clients_stay(hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url)
    door = door_of(hyperdrive)
    with psycopg.connect(door, autocommit=True) as client:
        assert hyperdrive("delete", "app").returncode == 0
        assert client.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(door)


def test_a_proxy_that_is_not_kept_is_not_replaced(hyperdrive: Run, url: str) -> None:
    hyperdrive("create", "app", "--connection-string", url)
    with connect("app") as client:
        assert hyperdrive("update", "app", "--max-age", "5").returncode == 0
        assert [place for place in places() if place.running()] == []
        assert client.execute("SELECT 1").fetchone() == (1,)
    with connect("app", autocommit=True) as client:
        cache = dict(client.execute("SHOW hyperdrive.cache").fetchall())
    assert cache["mode"] == "ttl"


def test_the_origins_password_is_in_the_store_alone(
    hyperdrive: Run, origin: Origin, url: str, own_folders: Path, tmp_path: Path
) -> None:
    Path("wrangler.jsonc").write_text("{}")
    options = ["--connection-string", "-", "--binding", "DB"]
    said = [hyperdrive("create", "app", *options, stdin=url)]
    said += [hyperdrive(*words.split()) for words in ("url DB", "env", "list", "get app")]
    with psycopg.connect(door_of(hyperdrive)) as client:
        client.execute("SELECT 1")
        with pytest.raises(psycopg.Error):
            client.execute("SELECT 1/0")
        said += [
            hyperdrive(*words.split())
            for words in (
                "list --json",
                "status --json",
                "resolve DB",
                "resolve DB --json",
                "update app --max-age 5",
                "restart app",
                "logs DB",
                "rotate app",
            )
        ]
        wrong = f"{PASSWORD}-not"
        said.append(hyperdrive("update", "app", "--password", "-", stdin=wrong))
        assert "error 2013" in said[-1].stderr
        forms = re.compile("|".join(map(re.escape, {PASSWORD, url.split("@")[0].split(":")[-1]})))
        files = [
            path
            for folder in (tmp_path, own_folders)
            for path in folder.rglob("*")
            if path.is_file()
        ]
        assert sum(path.name == "log" for path in files) >= 1
        holders = []
        for path in files:
            text = path.read_text()
            if any(form in text for form in (PASSWORD, json.dumps(PASSWORD)[1:-1])) or forms.search(
                text
            ):
                holders.append(path)
        assert holders == [Store().file]
        assert Store().file.stat().st_mode & 0o777 == 0o600
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                told = process.read_bytes() + process.with_name("environ").read_bytes()
            except OSError:
                continue
            assert not forms.search(told.decode(errors="replace")), process
    said.append(hyperdrive("delete", "app"))
    for done in said:
        assert not forms.search(done.stdout + done.stderr), done.args
    assert not forms.search(Store().file.read_text())


# For shells.


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("hyperdrive ro", ["rotate"]),
        ("hyperdrive get ", ["app"]),
        ("hyperdrive update a", ["app"]),
        ("hyperdrive delete x", []),
        ("hyperdrive url ", ["DB", "HYPERDRIVE", "app"]),
        ("hyperdrive env DB H", ["HYPERDRIVE"]),
        ("hyperdrive create app --origin-c", ["--origin-connection-limit"]),
    ],
)
def test_the_shell_completes(words: str, found: list[str], hyperdrive: Run) -> None:
    from hyperdrive_client.bindings.configuration import Configuration, Door

    origin = parse_connection_string("postgres://u:p@h/d")
    added = Configuration("1" * 32, "app", "postgres", origin, Door(20000, "u", "p"))
    Store().add(lambda others: added)
    Path("wrangler.json").write_text('{"hyperdrive": [{"binding": "DB", "id": "1"}]}')
    *before, _last = words.split(" ")
    program = "from hyperdrive_client.cli import main; main(prog_name='hyperdrive')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "_HYPERDRIVE_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(before)),
        },
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [f"plain,{each}" for each in found]
    Store().file.chmod(0o644)  # a store that is wrong completes nothing, and says nothing
    hyperdrive("get", "app")


@pytest.mark.parametrize(
    "verb", ["create", "list", "get", "update", "delete", "restart", "rotate", "url", "env", "psql"]
)
def test_help(verb: str, hyperdrive: Run) -> None:
    done = hyperdrive(verb, "--help")
    assert done.returncode == 0
    assert f"hyperdrive_client {verb}" in done.stdout or f"hyperdrive {verb}" in done.stdout
