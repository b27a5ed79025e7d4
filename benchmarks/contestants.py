"""What is compared: PostgreSQL itself, PgBouncer, and this package's proxy.

Each is reached on 127.0.0.1 with its own name as the user, and comes to the origin as that user,
so that ``pg_stat_activity`` tells whose connections are whose.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import psycopg

from hyperdrive_client import __version__
from hyperdrive_client.bindings.connection_string import parse_connection_string
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.origin.account import server_account
from hyperdrive_client.origin.configuration import Authentication
from hyperdrive_client.origin.folder import GuardedFolder
from hyperdrive_client.proxy.settings import Auth, CacheMode

REPOSITORY = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
DATABASE = "benchmark"
DIRECT, PGBOUNCER, HYPERDRIVE = "direct", "pgbouncer", "hyperdrive"
ORIGIN_CONNECTIONS = 20
# Debian's; the one from PyPI is built without TLS.
TLS_VERSION = 15

# The first PgBouncer that keeps clients' prepared statements in transaction mode.
_PREPARED_SINCE = (1, 21)
_START_SECONDS = 10.0
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """Where to connect and, for a proxy, the process whose CPU time and memory count."""

    name: str
    port: int
    password: str = field(repr=False)
    about: str
    pid: int | None = None
    keeps_prepared_statements: bool = True
    has_tls: bool = False

    @property
    def connection_string(self) -> str:
        """For psycopg; asks for encryption only where it is what is measured."""
        sslmode = "require" if self.has_tls else "disable"
        return (
            f"host={HOST} port={self.port} user='{self.name}' password='{self.password}' "
            f"dbname={DATABASE} sslmode={sslmode} gssencmode=disable"
        )


@dataclass(frozen=True, slots=True)
class Entrance:
    """How clients come in: what they prove, and the certificate with its key if there is TLS."""

    auth: Auth = "trust"
    certificate: Path | None = None

    def __str__(self) -> str:
        return f"{self.auth}, TLS" if self.certificate is not None else self.auth


OPEN = Entrance()


@contextmanager
def certificate() -> Iterator[Path]:
    """A self-signed certificate and its key in one file; needs the program openssl."""
    with TemporaryDirectory(prefix="hyperdrive-bench-") as folder:
        path = Path(folder) / "certificate.pem"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", path, "-out", "-"),
            ],
            stdout=(Path(folder) / "certificate").open("wb"),
            stderr=subprocess.DEVNULL,
            check=True,
        )
        path.write_bytes((Path(folder) / "certificate").read_bytes() + path.read_bytes())
        yield path


@contextmanager
def origin(entrance: Entrance = OPEN, **settings: str) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL with a database, and a superuser for each contestant with the same password."""
    # The poolers keep theirs while others run with a connection for each client.
    settings = {"max_connections": "500", **settings}
    auth: Authentication = "trust" if entrance.auth == "trust" else "scram-sha-256"
    with EmbeddedPostgres(
        version=None if entrance.certificate is None else TLS_VERSION,
        auth=auth,
        settings=settings,
        password=secrets.token_hex(),
        ssl_cert_file=entrance.certificate,
        ssl_key_file=entrance.certificate,
    ) as server:
        server.create_database(DATABASE)
        with psycopg.connect(server.connection_string, autocommit=True) as connection:
            for name in (DIRECT, PGBOUNCER, HYPERDRIVE):
                connection.execute(
                    f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{server.password}'"
                )
        yield server


def direct(server: EmbeddedPostgres, entrance: Entrance = OPEN) -> Contestant:
    """No proxy."""
    about = f"PostgreSQL {server.binaries.version} in {server.binaries.directory}"
    has_tls = entrance.certificate is not None
    return Contestant(DIRECT, server.port, server.password, about, has_tls=has_tls)


@contextmanager
def hyperdrive(
    server: EmbeddedPostgres,
    entrance: Entrance = OPEN,
    *,
    cache: CacheMode = "off",
    origin_port: int = 0,
) -> Iterator[Contestant]:
    """This package's proxy, as ``hyperdrive serve`` starts it: one worker, one process.

    ``origin_port`` is where it finds the origin, if that is not the server's own.
    """
    options = [f"--auth={entrance.auth}", f"--origin-connection-limit={ORIGIN_CONNECTIONS}"]
    options.append(f"--cache-mode={cache}")
    if entrance.certificate is not None:
        options.append(f"--ssl-cert-file={entrance.certificate}")
    serve = [sys.executable, "-m", "hyperdrive_client", "serve", "--connection-string=-"]
    address = f"{HOST}:{origin_port or server.port}/{DATABASE}?sslmode=disable"
    name = HYPERDRIVE if cache == "off" else f"cache {cache}"
    with TemporaryFile("w+") as log, ExitStack() as stack:
        process = subprocess.Popen(
            [*serve, f"--user={name}", *options],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # Ctrl-C is for us, who then end it in order.
            start_new_session=True,
        )
        stack.callback(_end, process)
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin as stdin:
            stdin.write(f"postgresql://{HYPERDRIVE}:{server.password}@{address}")
        line = process.stdout.readline().strip()
        if not line:
            log.seek(0)
            raise SystemExit(f"hyperdrive serve did not start: {log.read()}")
        client = parse_connection_string(line)
        shown = " ".join(each for each in options if "cert-file" not in each)
        about = f"hyperdrive-client {__version__}, one worker, {shown}"
        has_tls = entrance.certificate is not None
        yield Contestant(
            name,
            client.addresses[0].port,
            client.password or "",
            about,
            process.pid,
            has_tls=has_tls,
        )


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def find_pgbouncer() -> Path | None:
    """The program in ``PGBOUNCER``, else the one in ``PATH`` or ``/usr/sbin``."""
    named = os.environ.get("PGBOUNCER")
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"
    found = shutil.which(named or "pgbouncer", path=path)
    if found is not None:
        return Path(found).absolute()
    if named:
        raise SystemExit(f"PGBOUNCER={named}: there is no such program")
    return None


@contextmanager
def pgbouncer(
    server: EmbeddedPostgres, program: Path, entrance: Entrance = OPEN, *, origin_port: int = 0
) -> Iterator[Contestant]:
    """PgBouncer in transaction mode, as an ordinary user even for root (it refuses that one)."""
    version = _pgbouncer_version(program)
    keeps = version >= _PREPARED_SINCE
    folder = GuardedFolder(server_account())
    try:
        port = _free_port()
        # The secret as the server keeps it, which fits there as well: with the password itself
        # PgBouncer derives the keys anew for each client.
        with psycopg.connect(server.connection_string) as connection:
            found = connection.execute(
                "SELECT rolpassword FROM pg_authid WHERE rolname = %s", (PGBOUNCER,)
            ).fetchone()
        (folder.path / "users").write_text(f'"{PGBOUNCER}" "{found[0] if found else ""}"\n')
        settings = {
            "listen_addr": HOST,
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "trust" if entrance.auth == "trust" else "scram-sha-256",
            "auth_file": folder.path / "users",
            "pool_mode": "transaction",
            "default_pool_size": ORIGIN_CONNECTIONS,
            "max_client_conn": 11000,
        }
        if entrance.certificate is not None:
            pem = folder.path / "certificate.pem"
            pem.write_bytes(entrance.certificate.read_bytes())
            settings |= {
                "client_tls_sslmode": "require",
                "client_tls_cert_file": pem,
                "client_tls_key_file": pem,
            }
        if keeps:
            settings["max_prepared_statements"] = 200
        lines = [f"{name} = {value}" for name, value in settings.items()]
        database = f"{DATABASE} = host={HOST} port={origin_port or server.port}"
        ini = folder.path / "pgbouncer.ini"
        ini.write_text("\n".join(("[databases]", database, "[pgbouncer]", *lines, "")))
        folder.hand_over()
        process = folder.spawn(program, str(ini))
        shown = ", ".join(line for line in lines if str(folder.path) not in line)
        about = f"PgBouncer {'.'.join(map(str, version))}, one process, {shown}"
        has_tls = entrance.certificate is not None
        contestant = Contestant(
            PGBOUNCER, port, server.password, about, process.pid, keeps, has_tls
        )
        _wait_until_up(contestant, process, folder)
        yield contestant
    finally:
        # It has nothing to save, and newer versions wait for their clients when asked nicely.
        folder.kill()
        folder.remove()


def _pgbouncer_version(program: Path) -> tuple[int, ...]:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"PgBouncer (\d+)\.(\d+)\.(\d+)", done.stdout)
    if match is None:
        raise SystemExit(f"'{program} --version' names no version: {done.stdout}")
    return tuple(map(int, match.groups()))


def _wait_until_up(
    contestant: Contestant, process: subprocess.Popen[bytes], folder: GuardedFolder
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(contestant.connection_string).close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                log = folder.log.read_text(errors="replace")
                raise SystemExit(f"PgBouncer did not start: {error}\n{log}") from error
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
