from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from hyperdrive_client.bindings import (
    Address,
    BindingWarning,
    Origin,
    parse_connection_string,
    password_for,
)

PasswordFile = Callable[..., Path]


@pytest.fixture
def password_file(tmp_path: Path) -> PasswordFile:
    def write(*lines: str, mode: int = 0o600) -> Path:
        path = tmp_path / "pgpass"
        path.write_bytes("\n".join(lines).encode())
        path.chmod(mode)
        return path

    return write


def origin(passfile: Path, user: str = "me", database: str = "app") -> Origin:
    return Origin((), user, database, passfile=str(passfile))


def test_a_password_of_its_own_wins(password_file: PasswordFile) -> None:
    own = parse_connection_string(
        f"postgresql://me:own@db/app?passfile={password_file('*:*:*:*:file')}"
    )
    assert password_for(own, own.addresses[0]) == "own"


def test_each_address_has_its_own_password(password_file: PasswordFile) -> None:
    me = origin(password_file("one:5432:app:me:first", "two:6432:app:me:second"))
    assert password_for(me, Address("one")) == "first"
    assert password_for(me, Address("two", 6432)) == "second"
    assert password_for(me, Address("two")) is None


@pytest.mark.parametrize("folder", ["/tmp", "/var/run/postgresql"])
def test_a_default_socket_is_localhost(password_file: PasswordFile, folder: str) -> None:
    assert password_for(origin(password_file("localhost:*:*:*:pw")), Address(folder)) == "pw"


def test_another_socket_is_looked_up_by_its_folder(password_file: PasswordFile) -> None:
    me = origin(password_file("localhost:*:*:*:wrong", "/my/sockets:*:*:*:pw"))
    assert password_for(me, Address("/my/sockets")) == "pw"


def test_the_file_is_found_by_its_default_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    me = Origin((), "me", "app")
    assert password_for(me, Address("db")) is None
    path = tmp_path / ".pgpass"
    path.write_text("*:*:*:*:pw\n")
    path.chmod(0o600)
    assert password_for(me, Address("db")) == "pw"


def test_pgpassfile_names_the_file(password_file: PasswordFile) -> None:
    path = password_file("*:*:*:*:pw")
    me = parse_connection_string("postgresql://me@db/app", environ={"PGPASSFILE": str(path)})
    assert password_for(me, Address("db")) == "pw"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610])
@pytest.mark.skipif(os.name == "nt", reason="Windows protects the folder")
def test_a_file_that_others_may_use_is_ignored(password_file: PasswordFile, mode: int) -> None:
    path = password_file("*:*:*:*:hunter2", mode=mode)
    with pytest.warns(BindingWarning, match="0600") as caught:
        assert password_for(origin(path), Address("db")) is None
    assert str(path) in str(caught[0].message)
    assert "hunter2" not in str(caught[0].message)


def test_what_is_not_a_plain_file_is_ignored(tmp_path: Path) -> None:
    with pytest.warns(BindingWarning, match="not a plain file"):
        assert password_for(origin(tmp_path), Address("db")) is None


def test_a_missing_file_is_no_password(tmp_path: Path) -> None:
    assert password_for(origin(tmp_path / "none"), Address("db")) is None


class PasswordServer:
    """A PostgreSQL that asks every client for its password in clear, and remembers them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.passwords: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as stream:
                length = int.from_bytes(stream.read(4), "big")
                if length == 0:
                    return
                stream.read(length - 4)
                connection.sendall(b"R\0\0\0\x08\0\0\0\x03")  # AuthenticationCleartextPassword
                if stream.read(1) == b"p":
                    length = int.from_bytes(stream.read(4), "big")
                    self.passwords.append(stream.read(length - 4).removesuffix(b"\0"))

    def asked_by_libpq(self, parameters: dict[str, str]) -> str | None:
        """Return the password that libpq sends, ``None`` if it has none."""
        self.passwords.clear()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**parameters, gssencmode="disable")  # type: ignore[arg-type]
        return self.passwords[0].decode() if self.passwords else None

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(bytes(4))
        self._thread.join()
        self._listener.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PasswordServer]:
    server = PasswordServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("line", "user", "database"),
    [
        ("127.0.0.1:PORT:app:me:pw", "me", "app"),
        ("*:*:*:*:pw", "me", "app"),
        ("*:*:*:*:pw\r", "me", "app"),
        ("127.0.0.1:PORT:app:other:no\n*:PORT:*:me:pw", "me", "app"),
        ("*:*:*:*:first\n*:*:*:*:second", "me", "app"),
        ("#*:*:*:*:no\n*:*:*:*:pw", "me", "app"),
        (" #*:*:*:*:no\n*:*:*:*:pw", "me", "app"),
        ("*:*:*:*:p\\:w\\\\x", "me", "app"),
        ("*:*:*:*:pw:more", "me", "app"),
        ("*:*:*:*:pw\\", "me", "app"),
        ("*:*:*:*:\\p\\w", "me", "app"),
        ("*:*:*:*: pw ", "me", "app"),
        ("*:*:*:*:pässwörd", "me", "app"),
        ("*:*:*:*:", "me", "app"),
        ("*:*:*:*", "me", "app"),
        ("*:*:*:m\\:e:pw", "m:e", "app"),
        ("*:*:a\\\\p:me:pw", "me", "a\\p"),
        ("*:*:\\a\\p\\p:me:pw", "me", "app"),
        ("*:*:*app:me:no", "me", "app"),
        ("*:*:\\*:me:no", "me", "app"),
        ("*:*:\\*:me:pw", "me", "*"),
        ("127.0.0.2:*:*:*:no", "me", "app"),
        ("*:1:*:*:no", "me", "app"),
        ("*:*:APP:me:no", "me", "app"),
        ("\n\n*:*:*:*:pw\n", "me", "app"),
    ],
)
def test_lines_are_read_as_libpq_reads_them(
    server: PasswordServer, password_file: PasswordFile, line: str, user: str, database: str
) -> None:
    path = password_file(line.replace("PORT", str(server.port)))
    address = Address("127.0.0.1", server.port)
    me = Origin((address,), user, database, sslmode="disable", passfile=str(path))
    assert password_for(me, address) == server.asked_by_libpq(me.libpq_parameters())
