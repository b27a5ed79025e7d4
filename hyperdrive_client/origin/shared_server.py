"""One embedded server that several processes use, such as the workers of one test run.

A keeper, a process of its own, owns the server. Whoever comes first starts it; every user holds a
shared lock on a file as long as it uses the server, and the keeper stops the server when it gets
that lock for itself. The system drops a lock with its process, so the server outlives no killed
user either, and it does not end with the one that happened to start it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperdrive_client.errors import OriginStartError

__all__ = ["shared_postgres"]

# The keeper imports what this process would import, and nothing from the working directory.
_KEEPER = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); "
    "from hyperdrive_client.origin.shared_server import main; main(*sys.argv[1:])"
)
# In the folder.
_USERS = "users"  # locked: shared by the users, exclusively by the keeper at the end
_TURN = "turn"  # locked by the one who looks for the server, and perhaps starts it
_KEPT = "kept"  # locked by the keeper as long as it lives
_SERVER = "server"  # the connection string while there is a server


@contextmanager
def shared_postgres(folder: Path, max_connections: int = 100) -> Iterator[str]:
    """The connection string of the server that all who give the same ``folder`` share.

    ``folder`` is made with mode 0700 if it is not there. In one process it may be used once at a
    time. ``max_connections`` is for whoever starts the server.

    Raises :class:`OriginStartError`.
    """
    import fcntl  # not on Windows

    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / _USERS).open("a+b") as users:
        # Not flock(): a forked child would share the lock, and could outlive its parent.
        fcntl.lockf(users, fcntl.LOCK_SH)
        with (folder / _TURN).open("ab") as turn:
            fcntl.lockf(turn, fcntl.LOCK_EX)
            server = folder / _SERVER
            if not (server.exists() and _is_kept(folder)):
                server.unlink(missing_ok=True)
                _start_keeper(folder, max_connections)
            connection_string = server.read_text()
        yield connection_string


def _is_kept(folder: Path) -> bool:
    """Whether the keeper lives; one that was killed could not remove what it had written."""
    import fcntl

    with (folder / _KEPT).open("ab") as kept:
        try:
            fcntl.lockf(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _start_keeper(folder: Path, max_connections: int) -> None:
    path = [entry for entry in sys.path if os.path.isabs(entry)]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _KEEPER, folder, str(max_connections)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal is the users' to act on
        text=True,
    ) as starter:
        said, _ = starter.communicate(json.dumps(path) + "\n")
    if said != "ready":
        raise OriginStartError(said or "the keeper of the embedded PostgreSQL did not start")


def main(folder: str, max_connections: str) -> None:
    """The keeper, in the background from its first moment: nobody has to wait for its end."""
    if os.fork():
        os._exit(0)
    try:
        _keep(Path(folder), max_connections)
    except Exception as error:
        _say(str(error))


def _keep(folder: Path, max_connections: str) -> None:
    import fcntl

    from hyperdrive_client.origin import EmbeddedPostgres

    with (
        (folder / _USERS).open("r+b") as users,
        (folder / _KEPT).open("ab") as kept,
        EmbeddedPostgres(settings={"max_connections": max_connections}) as postgres,
    ):
        fcntl.lockf(kept, fcntl.LOCK_EX)
        server = folder / _SERVER
        new = server.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(postgres.connection_string)
        new.rename(server)
        _say("ready")
        fcntl.lockf(users, fcntl.LOCK_EX)
        server.unlink()


def _say(text: str) -> None:
    """Tell who started us, who reads to the end."""
    os.write(1, text.encode())
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
