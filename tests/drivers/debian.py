"""``debian.py NAMES PACKAGE…``: packages of a newer Debian, unpacked into ``./root``.

They and all that they depend on, as far as the regular expression NAMES matches. Stable Debian has
no pgx 5, and no rust-postgres with ``query_typed``. What is taken from here is source code, Java
bytecode and Go's toolchain, which need no more of the machine than a kernel and a C library.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SUITE = "forky"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = ("Origin: Debian", "Label: Debian", "Created-By: Packages")


def main(names: str, *packages: str) -> None:
    if Path("root").is_dir():  # of an earlier call, which finished
        return
    if shutil.which("apt-get") is None or not KEYRING.is_file():
        sys.exit("Debian's apt-get and debian-archive-keyring are needed")
    os.environ["APT_CONFIG"] = str(_configure(Path("apt").resolve()))
    _run("apt-get", "update", "--error-on=any")
    steps = _run("apt-get", "install", "--simulate", *packages)
    found = re.findall(r"^Inst (\S+)", steps, re.MULTILINE)
    _run("apt-get", "download", *(name for name in found if re.fullmatch(names, name)), cwd="apt")
    shutil.rmtree("unfinished", ignore_errors=True)
    for archive in Path("apt").glob("*.deb"):
        _run("dpkg-deb", "--extract", str(archive), "unfinished")
    shutil.rmtree("apt")
    Path("unfinished").rename("root")


def _configure(folder: Path) -> Path:
    """Lists, status and downloads of apt's in ``folder``, so that root is not needed."""
    mirrors = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", *MIRROR).split()
    if not mirrors:
        sys.exit("apt's sources name no mirror of Debian")
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("state/lists/partial", "cache/archives/partial", "parts"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {mirrors[0]} {SUITE} main\n")
    configuration = folder / "apt.conf"
    configuration.write_text(
        f'Dir::State "{folder}/state";\n'
        f'Dir::State::status "{folder}/status";\n'
        f'Dir::Cache "{folder}/cache";\n'
        f'Dir::Etc::sourcelist "{sources}";\n'
        f'Dir::Etc::sourceparts "{folder}/parts";\n'
        'APT::Install-Recommends "false";\n'
        'APT::Sandbox::User "root";\n'
    )
    return configuration


def _run(*command: str, cwd: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:2])}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
