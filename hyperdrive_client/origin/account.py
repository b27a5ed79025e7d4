"""The operating system's account that an embedded server runs as."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from hyperdrive_client.errors import OriginStartError

# A Unix socket's path has at most 103 bytes (macOS; 107 on Linux), and a folder's name and
# ".s.PGSQL.65535" come after this.
_LONGEST_PARENT = 60


class PopenArguments(TypedDict):
    """The arguments of :class:`subprocess.Popen` that change the account."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group id; both None: the account of this process."""

    uid: int | None = None
    gid: int | None = None

    def popen_arguments(self) -> PopenArguments:
        """Make a child process run as this account, with no other groups."""
        groups: list[int] | None = None if self.uid is None else []
        return {"user": self.uid, "group": self.gid, "extra_groups": groups}

    def take(self, folder: Path) -> None:
        """Give ``folder`` and all that is in it to this account."""
        if self.uid is None or self.gid is None:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can_run(self, program: Path) -> bool:
        """Whether ``program --version`` succeeds as this account."""
        try:
            done = subprocess.run(
                [program, "--version"], capture_output=True, cwd="/", **self.popen_arguments()
            )
        except OSError:
            return False
        return done.returncode == 0

    def temporary_directory(self) -> Path:
        """The temporary directory, or ``/tmp`` if this account cannot reach that one, or it is
        too long for a Unix socket's path.

        Raises :class:`OriginStartError` if neither will do.
        """
        choices = [Path(tempfile.gettempdir()).resolve(), Path("/tmp")]
        for choice in choices:
            if len(os.fsencode(choice)) <= _LONGEST_PARENT and self._reaches(choice):
                return choice
        raise OriginStartError(
            f"no temporary directory for the embedded PostgreSQL: {choices[0]} is too long for a "
            "Unix socket or closed to the account the server runs as. Set TMPDIR to another one."
        )

    def _reaches(self, directory: Path) -> bool:
        if self.uid is None:
            return directory.is_dir()
        return all(self._may_search(parent) for parent in (directory, *directory.parents))

    def _may_search(self, directory: Path) -> bool:
        status = directory.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & 0o100)
        if status.st_gid == self.gid:
            return bool(status.st_mode & 0o010)
        return bool(status.st_mode & 0o001)


def server_account() -> Account:
    """This process's account; for root, which PostgreSQL refuses, ``postgres`` or else ``nobody``.

    Raises :class:`OriginStartError` if root has neither to turn to.
    """
    if os.geteuid() != 0:
        return Account()
    import pwd  # not on Windows

    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise OriginStartError(
        "PostgreSQL refuses to run as root, and there is neither a user 'postgres' nor 'nobody' "
        "to run it as. Add one, or run this as an ordinary user."
    )
