"""What the suites connect to: PostgreSQL, the proxy in front of it, a session pooler."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from suites import HOST, USER

from hyperdrive_client.bindings.connection_string import Address, Origin
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.origin.account import server_account
from hyperdrive_client.origin.folder import GuardedFolder
from hyperdrive_client.proxy.settings import Limits, Settings
from hyperdrive_client.proxy.spawn import from_json, to_json

# Long enough for whoever waits his turn; who waits for himself is told soon.
POOL_TIMEOUT = 5.0
START_SECONDS = 10.0
STOP_SECONDS = 10.0
# psycopg2 and SQLAlchemy test two-phase commit where it is allowed.
ORIGIN_SETTINGS = {"max_prepared_transactions": "10"}


@contextmanager
def origin(database: str, schema: str = "") -> Iterator[EmbeddedPostgres]:
    """A new PostgreSQL with ``database``, and in it what the SQL ``schema`` makes."""
    with EmbeddedPostgres(auth="trust", settings=ORIGIN_SETTINGS) as server:
        if database != server.database:
            server.create_database(database)
        if schema:
            with psycopg.connect(_conninfo(server.port, database), autocommit=True) as connection:
                connection.execute(schema)
        yield server


@dataclass(slots=True)
class Proxy:
    """A running proxy. ``report`` is its own, and there once it has ended."""

    port: int
    report: dict[str, Any]


@contextmanager
def rotating_proxy(
    server: EmbeddedPostgres, database: str, limit: int, report: Path
) -> Iterator[Proxy]:
    """The proxy in front of ``server``, with ``limit`` origin connections that take turns."""
    settings = Settings(
        Origin((Address(HOST, server.port),), USER, database, "", sslmode="disable"),
        USER,
        "",
        auth="trust",
        any_database=True,
        limits=Limits(origin_connection_limit=limit, pool_timeout=POOL_TIMEOUT, idle_timeout=0),
    )
    command = [sys.executable, str(Path(__file__).with_name("rotating_proxy.py")), str(report)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        print(to_json(settings), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline())
        proxy = Proxy(from_json(answer["settings"]).port, {})
        # The first session opens the origin connections.
        psycopg.connect(_conninfo(proxy.port, database)).close()
        yield proxy
        for _ in range(2):  # the second time: at once
            process.send_signal(signal.SIGTERM)
        if process.wait(STOP_SECONDS) != 0:
            raise SystemExit(f"the proxy ended with status {process.returncode}")
        proxy.report = json.loads(report.read_text())
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def find_pgbouncer() -> Path | None:
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    return None if found is None else Path(found)


@contextmanager
def session_pooler(server: EmbeddedPostgres, program: Path) -> Iterator[int]:
    """The port of a PgBouncer with ``pool_mode = session`` in front of ``server``."""
    folder = GuardedFolder(server_account())
    try:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        users, ini = folder.path / "users", folder.path / "pgbouncer.ini"
        users.write_text(f'"{USER}" ""\n')
        ini.write_text(
            f"[databases]\n* = host={HOST} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = session\n"
            "ignore_startup_parameters = extra_float_digits,jit,search_path\n"
        )
        folder.hand_over()
        folder.spawn(program, str(ini))
        _wait_until_up(_conninfo(port, server.database))
        yield port
    finally:
        folder.kill()
        folder.remove()


def _wait_until_up(conninfo: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(conninfo).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _conninfo(port: int, database: str) -> str:
    return f"host={HOST} port={port} user={USER} dbname={database} sslmode=disable"
