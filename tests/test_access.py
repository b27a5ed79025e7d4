"""``hyperdrive resolve``, ``url``, ``env`` and ``psql``: how other programs get to a binding."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.bindings.store import Store
from hyperdrive_client.registry import Record, places

VARIABLES = ("HYPERDRIVE_", "CLOUDFLARE_", "WRANGLER_", "PG")
COMMAND = [sys.executable, "-m", "hyperdrive_client"]
VARIABLE = "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def own_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end_process: Callable[..., None]
) -> Iterator[None]:
    """A store, a runtime folder and a working directory of the test's own."""
    for name in os.environ:
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HYPERDRIVE_STORE", str(tmp_path / "store"))
    with tempfile.TemporaryDirectory(prefix="hyperdrive-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield
        for place in places():
            if record := place.running():
                end_process(record.pid)


@pytest.fixture
def hyperdrive() -> Run:
    """Run the command with these arguments to its end."""

    def run(*arguments: object, **variables: str) -> Any:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **variables},
            timeout=60,
        )

    return run


@pytest.fixture(params=["stored", "variable"])
def kind(
    request: pytest.FixtureRequest, database: str, hyperdrive: Run, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A binding DB that is stored, or one by a variable alone."""
    if request.param == "variable":
        monkeypatch.setenv(f"{VARIABLE}DB", database)
    else:
        Path("wrangler.json").write_text("{}")
        create(hyperdrive, database)
    return str(request.param)


def create(hyperdrive: Run, database: str) -> None:
    done = hyperdrive("create", "app", "--connection-string", database, "--binding", "DB")
    assert done.returncode == 0, done.stderr


def running() -> list[Record]:
    return [record for place in places() if (record := place.running())]


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in which hyperdrive is the command."""
    function = f'hyperdrive() {{ {shlex.join(COMMAND)} "$@"; }}\n'
    command = ["sh", "-euc", function + script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


CONNECT = f"{shlex.quote(sys.executable)} -c " + shlex.quote(
    "from hyperdrive_client import connect\n"
    "with connect('DB') as connection:\n"
    "    print(connection.execute('SELECT current_database()').fetchone()[0])\n"
)


def test_resolve_as_json_is_what_resolve_says_and_no_password(
    kind: str, hyperdrive: Run, database: str
) -> None:
    told = json.loads(hyperdrive("resolve", "DB", "--json").stdout)
    lines = hyperdrive("resolve", "DB").stdout.splitlines()
    assert dict(line.split(maxsplit=1) for line in lines) == told
    origin = parse_connection_string(database)
    assert told["database"] == origin.database
    assert told["password"] == "given"
    assert str(origin.password) not in json.dumps(told)
    assert running() == []


def test_url_is_for_any_driver_and_starts_the_proxy(kind: str, hyperdrive: Run) -> None:
    url = hyperdrive("url", "DB").stdout.strip()
    (record,) = running()
    assert url == record.tcp_door.connection_string
    with psycopg.connect(url) as connection:
        shown = connection.execute("SELECT current_setting('application_name')").fetchone()
        assert shown == ("Cloudflare Hyperdrive",)
    assert hyperdrive("url", "DB").stdout.strip() == url
    assert running() == [record]


def test_env_is_for_a_shell_a_file_and_a_program(kind: str, hyperdrive: Run) -> None:
    line = hyperdrive("env", "DB").stdout
    told = json.loads(hyperdrive("env", "DB", "--json").stdout)
    (url,) = told.values()
    assert told == {f"{VARIABLE}DB": url}
    assert line == f"export {VARIABLE}DB='{url}'\n"
    assert shell(f'eval "$(hyperdrive env DB)"; echo "${VARIABLE}DB"').stdout.strip() == url


def test_a_saved_env_file_leads_there_again(hyperdrive: Run, database: str) -> None:
    Path("wrangler.json").write_text("{}")
    create(hyperdrive, database)
    before = hyperdrive("env").stdout
    Path(".env").write_text(before)
    assert hyperdrive("stop", "--all").returncode == 0
    assert running() == []
    assert hyperdrive("env").stdout == before
    (record,) = running()
    assert record.port == Store().get("app").door.port


def test_env_means_all_bindings_of_the_file(hyperdrive: Run, database: str) -> None:
    items = [{"binding": name, "id": "1", "localConnectionString": database} for name in ("A", "B")]
    Path("wrangler.json").write_text(json.dumps({"hyperdrive": items}))
    found = json.loads(hyperdrive("env", "--json").stdout)
    assert [name.removeprefix(VARIABLE) for name in found] == ["A", "B"]
    done = hyperdrive("env", "A", "C")
    assert (done.returncode, done.stdout) == (1, "")
    assert 'the binding "C" leads nowhere' in done.stderr


def test_env_in_force_leads_to_the_same_proxy_and_never_to_one_before_it(
    kind: str, database: str
) -> None:
    done = shell(
        f'eval "$(hyperdrive env DB)"; first="${VARIABLE}DB"\n{CONNECT}\n'
        f'eval "$(hyperdrive env DB)"; test "$first" = "${VARIABLE}DB"\n{CONNECT}\n'
        'test "$(hyperdrive url DB)" = "$first"'
    )
    assert done.returncode == 0, done.stderr
    name = parse_connection_string(database).database
    assert [line.split()[0] for line in done.stdout.splitlines()] == [name, name]
    assert len(running()) == 1


def test_env_in_force_after_the_proxy_has_ended(kind: str) -> None:
    done = shell(
        f'eval "$(hyperdrive env DB)"; first="${VARIABLE}DB"; hyperdrive stop --all\n'
        f"hyperdrive env DB > again; echo \"export {VARIABLE}DB='$first'\" | diff - again"
    )
    if kind == "stored":
        assert done.returncode == 0, done.stderr
        assert len(running()) == 1
        return
    # Nobody knows any more what was behind it.
    assert done.returncode == 1
    assert f"environment variable {VARIABLE}DB leads to a proxy that has ended" in done.stderr
    assert running() == []


def test_connect_with_env_in_force_after_the_proxy_has_ended(kind: str) -> None:
    done = shell(f'eval "$(hyperdrive env DB)"; hyperdrive stop --all\n{CONNECT}')
    assert (done.returncode == 0) == (kind == "stored"), done.stderr
    assert len(running()) == (kind == "stored")
    if kind == "variable":
        assert "refused" in done.stderr


@pytest.mark.parametrize("stopped", [True, False])
def test_serve_with_env_in_force(stopped: bool, kind: str, database: str) -> None:
    """It serves the database itself, or says why not."""
    stop = "hyperdrive stop --all\n" if stopped else ""
    script = (
        f'eval "$(hyperdrive env DB)"\n{stop}'
        "timeout -s INT 3 " + shlex.join(COMMAND) + " serve --binding DB --listen 127.0.0.1:0"
    )
    done = shell(script)
    if kind == "variable":
        assert done.returncode == 1
        assert "the origin is a Hyperdrive itself" in done.stderr
        return
    origin = parse_connection_string(database)
    assert f"origin     127.0.0.1:{origin.addresses[0].port}/{origin.database}" in done.stderr


def test_serve_listens_where_env_has_said(hyperdrive: Run, database: str) -> None:
    Path("wrangler.json").write_text("{}")
    create(hyperdrive, database)
    url = hyperdrive("url", "DB").stdout.strip()
    busy = hyperdrive("serve", "--binding", "DB")
    assert (busy.returncode, busy.stdout) == (1, "")
    assert "in use" in busy.stderr
    hyperdrive("stop", "--all")
    command = [*COMMAND, "serve", "--binding", "DB"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline().strip() == url
        psycopg.connect(url).close()
        # That is the configuration's proxy as well as one that env would start.
        assert hyperdrive("env", "DB").stdout == f"export {VARIABLE}DB='{url}'\n"
        assert running() == []
    finally:
        process.kill()
        process.communicate()


def test_another_programs_port_is_not_given_out(hyperdrive: Run, database: str) -> None:
    Path("wrangler.json").write_text("{}")
    create(hyperdrive, database)
    with socket.create_server(("127.0.0.1", Store().get("app").door.port)):
        done = hyperdrive("url", "DB")
        assert (done.returncode, done.stdout) == (1, "")
        assert "another program listens at port" in done.stderr


def test_a_kept_proxy_does_not_end_unused(
    kind: str, hyperdrive: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY_IDLE_TIMEOUT", "0.2")
    url = hyperdrive("url", "DB").stdout.strip()
    (record,) = running()
    # One that is not kept ends meanwhile.
    monkeypatch.setenv("HYPERDRIVE_PROXY_IDLE_TIMEOUT", "0.3")
    origin = hyperdrive("resolve", "DB", "--json")
    assert origin.returncode == 0
    program = "from hyperdrive_client import connect; connect('DB').close()"
    subprocess.run([sys.executable, "-c", program], check=True)
    while len(running()) > 1:
        pass
    assert running() == [record]
    psycopg.connect(url).close()


@pytest.mark.parametrize("verb", ["url", "env"])
def test_where_there_is_to_be_no_proxy(verb: str, kind: str, hyperdrive: Run) -> None:
    done = hyperdrive(verb, "DB", HYPERDRIVE_PROXY="off")
    assert (done.returncode, done.stdout) == (1, "")
    assert "HYPERDRIVE_PROXY is off" in done.stderr


@pytest.mark.parametrize("name", ["A-B", "a b", "$(x)"])
def test_a_name_that_no_shell_has(name: str, hyperdrive: Run) -> None:
    done = hyperdrive("env", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no variable of a shell can have" in done.stderr


@pytest.mark.parametrize("verb", ["resolve", "url", "env", "psql"])
def test_a_name_that_leads_nowhere(verb: str, hyperdrive: Run) -> None:
    done = hyperdrive(verb, "NOWHERE")
    assert (done.returncode, done.stdout) == (1, "")
    assert "leads nowhere" in done.stderr or "psql is not in PATH" in done.stderr


def test_psql(kind: str, hyperdrive: Run, database: str) -> None:
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed")
    query = ("-XAtc", "SELECT current_database(), current_setting('application_name')")
    done = hyperdrive("psql", "DB", *query)
    name = parse_connection_string(database).database
    assert done.stdout.startswith(f"{name}|"), done.stderr
    assert hyperdrive("psql", "DB", "-XAtc", "SELECT 1/0").returncode == 1
    done = hyperdrive("psql", *query, HYPERDRIVE_URL_HYPERDRIVE=database)
    assert done.stdout.startswith(f"{name}|"), done.stderr
    assert hyperdrive("psql", "DB", PATH="/nowhere").returncode == 1
