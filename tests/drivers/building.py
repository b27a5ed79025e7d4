"""A language's folder made ready to run, outside of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .catalogue import Language

HERE = Path(__file__).parent
BUILD_SECONDS = 1200.0


class NotInstalledError(Exception):
    """What a driver needs is not on this machine and could not be put there."""


def build(language: Language, folder: Path) -> Path:
    """Copy the language's programs below ``folder`` and build them; where they are.

    Raises ``NotInstalledError``.
    """
    _install(language)
    copy = folder / language.folder
    shutil.copytree(HERE / language.folder, copy, dirs_exist_ok=True)
    for command in language.build:
        _run(command, copy)
    return copy


def _install(language: Language) -> None:
    if language.debian and os.geteuid() == 0 and shutil.which("apt-get") and _lacks(language):
        _run(("apt-get", "update", "-q"))
        _run(("apt-get", "install", "-q", "-y", "--no-install-recommends", *language.debian))
    missing = [tool for tool in language.tools if shutil.which(tool) is None]
    if missing:
        raise NotInstalledError(f"not on the PATH: {', '.join(missing)}")


def _lacks(language: Language) -> bool:
    """Whether a program is missing, or a package of those that have no program."""
    if not all(map(shutil.which, language.tools)):
        return True
    libraries = [name for name in language.debian if name.startswith("lib") or "-dev" in name]
    if not libraries:
        return False
    return subprocess.run(("dpkg", "-s", *libraries), capture_output=True).returncode != 0


def _run(command: tuple[str, ...], folder: Path | None = None) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise NotInstalledError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
