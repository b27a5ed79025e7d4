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
    if _missing(language) and language.debian and os.geteuid() == 0 and shutil.which("apt-get"):
        _run(("apt-get", "update", "-q"))
        _run(("apt-get", "install", "-q", "-y", "--no-install-recommends", *language.debian))
    if missing := _missing(language):
        raise NotInstalledError(f"not on the PATH: {', '.join(missing)}")


def _missing(language: Language) -> list[str]:
    return [tool for tool in language.tools if shutil.which(tool) is None]


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
