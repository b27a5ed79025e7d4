"""One server for several processes, as long as one of them is there."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from hyperdrive_client.errors import OriginStartError
from hyperdrive_client.origin import shared_postgres

RunScript = Callable[[str], "subprocess.Popen[str]"]
WaitUntil = Callable[[Callable[[], bool]], None]

USE = """
import sys
from pathlib import Path
from hyperdrive_client.origin import shared_postgres
with shared_postgres(Path({folder!r})) as url:
    print(url, flush=True)
    sys.stdin.readline()
"""


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def accepts(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_it_is_one_server_until_the_last_user_is_gone_who_need_not_be_the_first(
    run_script: RunScript, wait_until: WaitUntil, tmp_path: Path
) -> None:
    source = USE.format(folder=str(tmp_path / "run"))
    users = [run_script(source) for _ in range(3)]
    urls = {url_of(user) for user in users}
    (url,) = urls
    users[0].kill()
    users[0].wait()
    users[1].communicate("\n")
    # Whichever of them has started it, it is still there for the third, and for a fourth.
    fourth = run_script(source)
    assert url_of(fourth) == url
    fourth.communicate("\n")
    with psycopg.connect(url) as connection:
        (folder,) = connection.execute("SHOW unix_socket_directories").fetchone() or ("",)
    users[2].kill()
    wait_until(lambda: not Path(folder).exists())
    assert not accepts(url)


def test_after_its_end_the_next_user_gets_a_new_one(
    run_script: RunScript, wait_until: WaitUntil, tmp_path: Path
) -> None:
    urls = []
    for _ in range(2):
        user = run_script(USE.format(folder=str(tmp_path / "run")))
        urls.append(url_of(user))
        assert accepts(urls[-1])
        output, _ = user.communicate("\n")
        assert (output, user.returncode) == ("", 0)
    assert urls[0] != urls[1]
    wait_until(lambda: not accepts(urls[1]))


def test_after_the_death_of_its_keeper_the_next_user_gets_a_new_one(
    run_script: RunScript, wait_until: WaitUntil, tmp_path: Path
) -> None:
    source = USE.format(folder=str(tmp_path / "run"))
    first = run_script(source)
    url = url_of(first)
    (keeper,) = [
        int(process.parent.name)
        for process in Path("/proc").glob("[0-9]*/cmdline")
        if str(tmp_path).encode() in process.read_bytes()
        and b"shared_server" in process.read_bytes()
    ]
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not accepts(url))
    second = run_script(source)
    assert accepts(url_of(second))
    for user in (first, second):
        user.communicate("\n")


def test_a_forked_child_that_outlives_its_parent_does_not_keep_it(
    run_script: RunScript, wait_until: WaitUntil, tmp_path: Path
) -> None:
    source = USE.format(folder=str(tmp_path / "run")).replace(
        "    print",
        "    import os, time\n    if not os.fork():\n        time.sleep(60)\n    print",
    )
    user = run_script(source)
    url = url_of(user)
    assert accepts(url)
    os.kill(user.pid, signal.SIGKILL)
    wait_until(lambda: not accepts(url))
    os.killpg(user.pid, signal.SIGKILL)


def test_only_its_user_may_read_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with shared_postgres(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "server").stat().st_mode & 0o777 == 0o600


def test_the_one_who_starts_it_says_how_many_connections(tmp_path: Path) -> None:
    with shared_postgres(tmp_path / "run", 30) as url, psycopg.connect(url) as connection:
        assert connection.execute("SHOW max_connections").fetchone() == ("30",)


def test_where_it_cannot_be_started_everyone_is_told_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HYPERDRIVE_POSTGRES_BIN", str(tmp_path))
    for _ in range(2):
        with pytest.raises(OriginStartError, match="no programs 'initdb' and 'postgres'"):
            shared_postgres(tmp_path / "run").__enter__()
