from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from hyperdrive_client.errors import ProxyStartError
from hyperdrive_client.registry import Place, Record, places, remove_dead, runtime_folder


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An XDG_RUNTIME_DIR with a path as short as a socket's has to be."""
    with tempfile.TemporaryDirectory(prefix="hyperdrive-") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


@pytest.fixture
def place(folder: Path) -> Place:
    made = Place(runtime_folder(), "1234567890abcdef")
    made.folder.mkdir(0o700)
    return made


def record(place: Place, **changes: object) -> Record:
    values: dict[str, object] = {
        "id": place.id,
        "pid": os.getpid(),
        "version": "1",
        "python": "python",
        "origin": "localhost:5432/app",
        "unix_socket": str(place.socket),
        "port": 6543,
        "user": "u",
        "password": "hush-hush",
        "database": "app",
        "started_at": 1.0,
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def test_the_folder_is_the_users_alone(folder: Path) -> None:
    assert runtime_folder() == folder / "hyperdrive"
    assert stat.S_IMODE(runtime_folder().stat().st_mode) == 0o700


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere", "/" + "x" * 60])
def test_without_a_usable_runtime_folder_it_is_in_the_temporary_one(
    runtime: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert runtime_folder() == folder / f"hyperdrive-{os.geteuid()}"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a file", "is not a folder"),
        ("a link", "is not a folder"),
        ("open", "is open to other users"),
        pytest.param(
            "another's",
            "is owned by another user",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
    ],
)
def test_a_folder_that_others_may_have_prepared_is_refused(
    what: str, message: str, monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    path = folder / f"hyperdrive-{os.geteuid()}"
    if what == "a file":
        path.touch()
    elif what == "a link":
        path.symlink_to(tmp_path)
    else:
        path.mkdir(0o700)
    if what == "open":
        path.chmod(0o770)
    elif what == "another's":
        os.chown(path, 12345, -1)
    with pytest.raises(ProxyStartError, match=message):
        runtime_folder()
    assert places() == []


def test_looking_for_proxies_makes_no_folder(folder: Path) -> None:
    places()
    assert list(folder.iterdir()) == []


def test_a_published_proxy_runs_until_its_descriptor_is_closed(place: Place) -> None:
    assert place.running() is None
    known = record(place)
    descriptor = place.publish(known)
    assert place.running() == place.read() == known
    assert places() == [place]
    os.close(descriptor)
    assert place.running() is None
    assert place.read() == known


def test_a_record_is_its_users_alone_and_its_repr_hides_the_password(place: Place) -> None:
    os.close(place.publish(record(place)))
    (file,) = place.folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "hush" not in repr(place.read())


def test_the_doors_of_a_proxy(place: Place) -> None:
    door, tcp_door = record(place).door, record(place).tcp_door
    assert door.libpq_parameters()["host"] == str(place.folder)
    assert (door.addresses[0].port, tcp_door.addresses[0].port) == (5432, 6543)
    assert (
        tcp_door.connection_string == "postgresql://u:hush-hush@127.0.0.1:6543/app?sslmode=disable"
    )


def test_a_proxy_that_was_killed_does_not_run(place: Place) -> None:
    program = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from hyperdrive_client.registry import Place, Record\n"
        "place = Place(Path(sys.argv[1]), sys.argv[2])\n"
        "place.publish(Record(**json.loads(sys.argv[3])))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    told = json.dumps(asdict(record(place)))
    command = [sys.executable, "-c", program, str(place.parent), place.id, told]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert place.running() is not None
        is_there = place.watch()
        assert is_there()
        process.kill()
        process.wait()
        assert not is_there()
    assert place.running() is None
    assert place.read() is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\x00"])
def test_a_record_that_cannot_be_read_is_none(place: Place, text: str) -> None:
    (place.folder / "proxy.json").write_text(text)
    assert place.running() is None
    assert place.read() is None


def test_what_died_more_than_a_day_ago_is_removed(place: Place) -> None:
    dead = [Place(place.parent, name) for name in ("dead for a day", "dead since now")]
    for each in dead:
        each.folder.mkdir()
        os.close(each.publish(record(each)))
    alive = place.publish(record(place))
    for each in (dead[0], place):
        os.utime(each.folder, (0, 0))
    remove_dead()
    assert [path.name for path in sorted(place.parent.iterdir()) if path.is_dir()] == [
        place.id,
        dead[1].id,
    ]
    assert not (place.parent / f"{dead[0].id}.lock").exists()
    os.close(alive)


def test_withdrawing_removes_all_files_unless_another_has_the_place(place: Place) -> None:
    first = place.publish(record(place))
    second = place.publish(record(place, pid=1))
    place.withdraw(first)
    running = place.running()
    assert running is not None
    assert running.pid == 1
    with place.lock(1):
        place.withdraw(second)
    assert list(place.parent.iterdir()) == []
    os.close(first)
    os.close(second)


def test_a_lease_holds_until_its_last_descriptor_is_closed(place: Place) -> None:
    assert not place.is_leased
    first, second = place.lease(), place.lease()
    os.close(first)
    assert place.is_leased
    inherited = os.dup(second)  # as a fork's child has it
    os.close(second)
    assert place.is_leased
    os.close(inherited)
    assert not place.is_leased


def test_one_at_a_time_has_the_lock_although_it_is_removed_in_between(place: Place) -> None:
    place.folder.rmdir()
    inside = 0
    most = 0

    def enter(_: int) -> None:
        nonlocal inside, most
        with place.lock(30):
            inside += 1
            most = max(most, inside)
            os.sched_yield()
            inside -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(enter, range(100)))
    assert most == 1
    assert list(place.parent.iterdir()) == []


def test_a_lock_that_another_keeps_is_named(place: Place) -> None:
    with place.lock(1), pytest.raises(TimeoutError, match=f"{place.id}.lock"), place.lock(0.05):
        pass
