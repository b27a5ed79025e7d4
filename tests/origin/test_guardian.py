"""The server ends with the process that started it, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from hyperdrive_client.origin import EmbeddedPostgres

RunScript = Callable[[str], "subprocess.Popen[str]"]
IsAlive = Callable[[int], bool]
WaitUntil = Callable[[Callable[[], bool]], None]

START = """
import os, sys
from hyperdrive_client.origin import EmbeddedPostgres
server = EmbeddedPostgres()
server.start()
def say(*words):
    print(*words, flush=True)
say(server.pid, server.socket_directory, server.connection_string)
"""


def read_server(process: subprocess.Popen[str]) -> tuple[int, Path, str]:
    """The postmaster's process id, the folder and the connection string a script has said."""
    assert process.stdout is not None
    pid, folder, dsn = process.stdout.readline().split()
    return int(pid), Path(folder), dsn


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_server_goes_with_a_starter_that_is_killed(
    run_script: RunScript, is_alive: IsAlive, wait_until: WaitUntil, number: signal.Signals
) -> None:
    starter = run_script(START + "sys.stdin.readline()")
    pid, folder, dsn = read_server(starter)
    with psycopg.connect(dsn) as connection:
        starter.send_signal(number)
        assert starter.wait() == -number
        wait_until(lambda: not folder.exists())
        assert not is_alive(pid)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_initdb_goes_with_a_starter_that_is_killed(
    run_script: RunScript, is_alive: IsAlive, wait_until: WaitUntil
) -> None:
    starter = run_script("""
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.origin.folder import GuardedFolder
spawn = GuardedFolder.spawn
def spawn_and_say(self, program, *arguments):
    process = spawn(self, program, *arguments)
    print(process.pid, self.path, program.name, flush=True)
    return process
GuardedFolder.spawn = spawn_and_say
EmbeddedPostgres().start()
""")
    pid, folder, program = read_server(starter)
    starter.kill()
    assert program == "initdb"
    wait_until(lambda: not folder.exists())
    assert not is_alive(pid)


def test_the_server_goes_with_the_interpreter(run_script: RunScript, is_alive: IsAlive) -> None:
    starter = run_script(START)
    pid, folder, _ = read_server(starter)
    assert starter.wait() == 0
    assert not is_alive(pid)
    assert not folder.exists()


def test_an_interrupt_from_the_terminal_reaches_the_starter_only(run_script: RunScript) -> None:
    starter = run_script(
        START
        + """
import psycopg
try:
    say("ready")
    sys.stdin.readline()
except KeyboardInterrupt:
    with psycopg.connect(server.connection_string) as connection:
        say(connection.execute("SELECT 'still here'").fetchone()[0])
"""
    )
    _, folder, _ = read_server(starter)
    assert starter.stdout is not None
    assert starter.stdout.readline() == "ready\n"
    os.killpg(starter.pid, signal.SIGINT)
    assert starter.communicate()[0] == "still here\n"
    assert not folder.exists()


def test_a_forked_child_stops_nothing(run_script: RunScript) -> None:
    starter = run_script(
        START
        + """
import psycopg
if os.fork() == 0:
    server.stop()
    sys.exit()
os.wait()
with psycopg.connect(server.connection_string) as connection:
    say(connection.execute("SELECT 'still here'").fetchone()[0])
"""
    )
    _, folder, _ = read_server(starter)
    assert starter.communicate()[0] == "still here\n"
    assert starter.returncode == 0
    assert not folder.exists()


def test_a_forked_child_that_lives_on_keeps_nothing_up(
    run_script: RunScript, wait_until: WaitUntil
) -> None:
    starter = run_script(
        START
        + """
if os.fork() == 0:
    sys.stdin.readline()
    say("the child has outlived it")
    os._exit(0)
os.kill(os.getpid(), 9)
"""
    )
    _, folder, _ = read_server(starter)
    starter.wait()
    wait_until(lambda: not folder.exists())
    assert starter.communicate("go on\n")[0] == "the child has outlived it\n"


def test_stop_does_without_a_guardian_that_was_killed(is_alive: IsAlive) -> None:
    with EmbeddedPostgres() as own:
        pid, folder = own.pid, own.socket_directory
        assert pid is not None
        os.kill(os.getpgid(pid), signal.SIGKILL)
    assert not is_alive(pid)
    assert not folder.exists()
