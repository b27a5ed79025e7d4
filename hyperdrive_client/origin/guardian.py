"""Ends an embedded server and removes its folder as soon as standard input ends.

Run as a script with the folder as its argument, by the process that starts the server and holds
the only other end of that pipe: the pipe ends with ``stop()``, and with the process however it
dies. The guardian leads the process group that ``initdb`` and ``postgres`` are started in, so it
needs no process id to signal them, and a Ctrl-C in the terminal does not reach them.

Imports the standard library only: it runs without site-packages, and starts in milliseconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

# A fast shutdown (SIGINT) waits for walsenders; an immediate one (SIGQUIT) kills what is left after
# five seconds (PostgreSQL documentation, 18.5 "Shutting Down the Server").
PATIENCE_SECONDS = 7.0


def wait_until_alone(folder: str, seconds: float) -> bool:
    """Wait until no server process is left; false if ``seconds`` pass first.

    Every process of the server has inherited a shared lock on its folder; the system drops it with
    the last of them, however they end.
    """
    import fcntl  # not on Windows

    deadline = time.monotonic() + seconds
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.005)
            else:
                return True
    finally:
        os.close(descriptor)


def _guard(folder: str) -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    ended = False
    for number in (signal.SIGINT, signal.SIGQUIT):
        os.killpg(0, number)
        ended = wait_until_alone(folder, PATIENCE_SECONDS)
        if ended:
            break
    _remove_shared_memory(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if not ended:
        os.killpg(0, signal.SIGKILL)  # itself too


def _remove_shared_memory(folder: str) -> None:
    """Remove the System V segment that a killed postmaster leaves.

    Its id is in ``postmaster.pid``, which a server that shut down has removed.
    """
    try:
        with open(os.path.join(folder, "data", "postmaster.pid"), encoding="ascii") as lines:
            segment = int(lines.read().splitlines()[6].split()[1])
    except (OSError, ValueError, IndexError):
        return
    import ctypes

    # The file belongs to the server's account, so what it names is removed with that one's rights.
    os.seteuid(os.stat(folder).st_uid)
    ctypes.CDLL(None).shmctl(segment, 0, None)  # 0: IPC_RMID
    os.seteuid(os.getuid())


if __name__ == "__main__":
    _guard(sys.argv[1])
