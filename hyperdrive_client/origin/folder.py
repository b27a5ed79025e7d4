"""The temporary folder of an embedded server, and the programs that run in it."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

from hyperdrive_client.errors import OriginStartError
from hyperdrive_client.origin import guardian
from hyperdrive_client.origin.account import Account


class GuardedFolder:
    """A folder with mode 0700 for one server that runs as ``account``.

    A guardian process ends what runs in it and removes it: with :meth:`remove`, at the
    interpreter's exit, and when this process is killed. Paths: ``path``, and ``log``, what the
    programs wrote.

    Raises :class:`OriginStartError` if the folder or its guardian cannot be made.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        parent = account.temporary_directory()
        try:
            self.path = Path(tempfile.mkdtemp(prefix="hyperdrive-origin-", dir=parent))
            self._guardian = _start_guardian(self.path)
        except OSError as error:
            raise OriginStartError(
                f"no folder in {parent} for the embedded PostgreSQL: {error}"
            ) from error
        self.log = self.path / "log"
        _folders.add(self)
        atexit.register(self.remove)

    @property
    def pid(self) -> int | None:
        """The process id of the program that was started last, None once it has ended."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def hand_over(self) -> None:
        """Give all that is in the folder to the server's account, which alone writes there."""
        self._account.take(self.path)

    def spawn(self, program: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program as the server's account, in the guardian's process group."""
        import fcntl  # not on Windows

        # Inherited by every process of the server: see guardian.wait_until_alone().
        lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            with open(self.log, "ab", opener=_open_log) as log:
                self._process = subprocess.Popen(
                    [program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.path,
                    env=_environment(),
                    pass_fds=(lock,),
                    process_group=self._guardian.pid,
                    **self._account.popen_arguments(),
                )
        finally:
            os.close(lock)
        return self._process

    def wait_until_alone(self) -> bool:
        """Wait until no process of the server is left; false if that takes too long."""
        return guardian.wait_until_alone(str(self.path), guardian.PATIENCE_SECONDS)

    def shut_down(self) -> None:
        """End the server that was started last, as an administrator does (SIGINT)."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(guardian.PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the program that was started last, and wait for it and its children to end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.wait_until_alone()

    def remove(self) -> None:
        """End what runs here and remove the folder; nothing if that is done.

        Does nothing in a forked child either: the server is the parent's.
        """
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.remove)
        self.let_go()
        self._guardian.wait()
        if self.path.exists():  # somebody killed the guardian
            self.shut_down()
            shutil.rmtree(self.path, ignore_errors=True)
        if self._process is not None:
            self._process.wait()

    def let_go(self) -> None:
        """Close this process's end of the pipe that the guardian watches."""
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()


_folders: weakref.WeakSet[GuardedFolder] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child that outlives its parent would keep the parent's servers up."""
    for folder in _folders:
        folder.let_go()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go_in_child)


def _start_guardian(folder: Path) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, folder],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            process_group=0,
        )
    except OSError:
        folder.rmdir()
        raise


def _environment() -> dict[str, str]:
    """No PG* variables, and no secrets of ours for another account; messages in English.

    A given time zone spares initdb the search for the system's.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _open_log(path: str, flags: int) -> int:
    """To root the folder is another account's: follow no link in it."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
