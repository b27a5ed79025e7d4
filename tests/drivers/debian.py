"""Packages of a newer Debian than the machine's, unpacked into a folder instead of installed.

Stable Debian has rust-postgres without ``query_typed`` and no pgx 5. What is taken from here is
source code, Java bytecode and Go's own toolchain, which need no more of the machine than a kernel
and a C library.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

SUITE = "forky"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = ("Origin: Debian", "Label: Debian", "Created-By: Packages")


class MissingError(Exception):
    """What a driver needs and this machine does not have, in words for the person who runs it."""


def unpack(folder: Path, packages: list[str], wanted: str) -> Path:
    """``packages`` and those that they depend on, as far as ``wanted`` matches their names.

    Returns the folder that is their ``/``. Nothing is done if an earlier call finished there.
    Raises :class:`MissingError` if this is not Debian or its archive cannot be reached.
    """
    root = folder / "root"
    if root.is_dir():
        return root
    if not (shutil.which("apt-get") and Path(KEYRING).is_file()):
        raise MissingError("Debian's apt-get and debian-archive-keyring are needed")
    apt = _Apt(folder / "apt")
    apt.update()
    names = [name for name in apt.closure(packages) if re.fullmatch(wanted, name)]
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for archive in apt.download(names):
        run("dpkg-deb", "--extract", str(archive), str(unfinished))
    shutil.rmtree(folder / "apt")
    return unfinished.rename(root)


def install(program: str, package: str) -> str:
    """Where ``program`` is on PATH, installed with ``package`` if it is not there and root may.

    Raises :class:`MissingError` if it is not there then.
    """
    if shutil.which(program) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        run("apt-get", "update", "--quiet")
        run("apt-get", "install", "--yes", "--no-install-recommends", package)
    found = shutil.which(program)
    if found is None:
        raise MissingError(f"{program} is not on PATH; Debian has it in {package}")
    return found


def run(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """The command's standard output. Raises :class:`MissingError` if it fails."""
    completed = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode != 0:
        raise MissingError(f"{' '.join(command[:2])}: {completed.stderr.strip()[-2000:]}")
    return completed.stdout


class _Apt:
    """apt-get with lists, status and downloads of its own, so that root is not needed."""

    def __init__(self, folder: Path) -> None:
        mirrors = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *MIRROR).split()
        if not mirrors:
            raise MissingError("apt's sources name no mirror of Debian")
        self._downloads = folder / "downloads"
        for name in ("state/lists/partial", "cache/archives/partial", "parts", "downloads"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(
            f"deb [signed-by={KEYRING}] {mirrors[0]} {SUITE} main\n"
        )
        (folder / "apt.conf").write_text(
            f'Dir::State "{folder}/state";\n'
            f'Dir::State::status "{folder}/status";\n'
            f'Dir::Cache "{folder}/cache";\n'
            f'Dir::Etc::sourcelist "{folder}/sources.list";\n'
            f'Dir::Etc::sourceparts "{folder}/parts";\n'
            'APT::Install-Recommends "false";\n'
            'APT::Sandbox::User "root";\n'
        )
        self._environment = {"APT_CONFIG": str(folder / "apt.conf")}

    def update(self) -> None:
        run("apt-get", "update", "--error-on=any", environment=self._environment)

    def closure(self, packages: list[str]) -> list[str]:
        steps = run("apt-get", "install", "--simulate", *packages, environment=self._environment)
        return re.findall(r"^Inst (\S+)", steps, re.MULTILINE)

    def download(self, names: list[str]) -> list[Path]:
        run("apt-get", "download", *names, cwd=self._downloads, environment=self._environment)
        return sorted(self._downloads.glob("*.deb"))
