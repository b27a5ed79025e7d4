from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.bindings import store as store_module
from hyperdrive_client.bindings.configuration import Configuration, Door
from hyperdrive_client.bindings.store import Store, store_folder
from hyperdrive_client.errors import ConfigurationError

SECRET = "hunter2"


def configuration(name: str, number: int = 1) -> Configuration:
    return Configuration(
        id=f"{number:032x}",
        name=name,
        scheme="postgresql",
        origin=parse_connection_string(f"postgres://me:{SECRET}@localhost/app", environ={}),
        door=Door(20000 + number, "visitor", "entry"),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the configuration "app"."""
    store = Store(tmp_path / "a" / "store")
    store.add(lambda others: configuration("app"))
    return store


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert store_folder({"HYPERDRIVE_STORE": "here"}) == tmp_path / "here"
    assert store_folder({"XDG_CONFIG_HOME": "/config"}) == Path("/config/hyperdrive")
    # A path that is not absolute is of no use (XDG Base Directory Specification).
    for environ in ({}, {"XDG_CONFIG_HOME": "config"}, {"HYPERDRIVE_STORE": ""}):
        assert store_folder(environ) == Path.home() / ".config" / "hyperdrive"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert store_folder({}) == Path.home() / "Library" / "Application Support" / "hyperdrive"
    monkeypatch.setattr(sys, "platform", "win32")
    assert store_folder({"APPDATA": "/roaming"}) == Path("/roaming/hyperdrive")


def test_to_look_makes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.all() == ()
    assert store.find("app") is None
    assert list(tmp_path.iterdir()) == []


def test_only_its_owner_can_read_it_whatever_the_mask(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        store = Store(tmp_path / "store")
        store.add(lambda others: configuration("app"))
    finally:
        os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()}
    assert modes == {"configurations.json": 0o600, "configurations.json.lock": 0o600}
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_what_is_added_changed_and_removed(store: Store) -> None:
    first = store.get("app")
    second = store.add(lambda others: configuration("other", 1 + len(others)))
    assert Store(store.folder).all() == (first, second)
    changed = store.change("app", lambda each: replace(each, max_age=5))
    assert Store(store.folder).all() == (changed, second)
    assert store.remove(first.id) == changed
    assert Store(store.folder).all() == (second,)


def test_a_configuration_is_found_by_its_id_or_its_name(store: Store) -> None:
    found = store.get("app")
    assert store.get(found.id) == store.get(found.id.upper()) == found
    with pytest.raises(ConfigurationError, match=r'the name "ap" .*known: app.*mean "app"'):
        store.get("ap")
    for use in (store.remove, lambda which: store.change(which, lambda each: each)):
        with pytest.raises(ConfigurationError, match="there is no configuration"):
            use("0" * 32)


def test_a_connection_string_in_an_ids_place_is_not_repeated(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="not a connection string") as caught:
        store.get(f"postgres://me:{SECRET}@localhost/app")
    assert SECRET not in str(caught.value)


def test_a_name_is_taken_once(store: Store) -> None:
    store.add(lambda others: configuration("other", 2))
    before = store.file.read_bytes()
    with pytest.raises(ConfigurationError, match='already a configuration with the name "app"'):
        store.add(lambda others: configuration("app", 3))
    with pytest.raises(ConfigurationError, match='already a configuration with the name "app"'):
        store.change("other", lambda each: replace(each, name="app"))
    assert store.file.read_bytes() == before
    assert store.change("other", lambda each: replace(each, name="third")).name == "third"


def test_an_error_on_the_way_changes_nothing(store: Store) -> None:
    def fail(each: Configuration) -> Configuration:
        raise KeyError

    before = store.file.read_bytes()
    with pytest.raises(KeyError):
        store.change("app", fail)
    assert store.file.read_bytes() == before
    store.remove("app")  # nobody has the lock any more


def broken(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def broken(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return broken


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text[:-20], r"is damaged \(JSONDecodeError\)"),
        (lambda text: "", r"is damaged \(JSONDecodeError\)"),
        (lambda text: "[" * 100_000, r"is damaged \(RecursionError\)"),
        (lambda text: "[]", r"is damaged \(TypeError\)"),
        (lambda text: "null", r"is damaged \(TypeError\)"),
        (lambda text: "{}", r"is damaged \(KeyError\)"),
        (broken(lambda it: it.update(configurations=None)), "is damaged"),
        (broken(lambda it: it.update(configurations=[None])), "is damaged"),
        (broken(lambda it: it["configurations"][0].pop("door")), "is damaged"),
        (broken(lambda it: it["configurations"][0].update(name=5)), "is damaged"),
        (broken(lambda it: it["configurations"][0].update(door={"a": 1})), "is damaged"),
        (broken(lambda it: it["configurations"][0]["origin"].update(user=1)), "is damaged"),
        (broken(lambda it: it["configurations"][0]["origin"].pop("host")), "is damaged"),
        (broken(lambda it: it.update(version=2)), "another version of hyperdrive-client"),
    ],
)
def test_a_file_that_is_not_a_stores_is_refused_and_stays(
    damage: Callable[[str], str], told: str, store: Store
) -> None:
    store.file.write_text(damage(store.file.read_text()))
    before = store.file.read_bytes()
    for use in (store.all, lambda: store.add(lambda others: configuration("x", 2))):
        with pytest.raises(ConfigurationError, match=told) as caught:
            use()
        assert str(store.file) in str(caught.value)
        assert SECRET not in str(caught.value)
    assert store.file.read_bytes() == before


def test_a_file_that_is_not_text_is_refused(store: Store) -> None:
    store.file.write_bytes(b"\xff" + SECRET.encode())
    with pytest.raises(ConfigurationError, match="is damaged") as caught:
        store.all()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_open_is_refused(mode: int, store: Store) -> None:
    store.file.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"is open to others \(mode {mode:04o}\): chmod"):
        store.all()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_where_others_may_replace_the_file_is_refused(mode: int, store: Store) -> None:
    store.folder.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"others can replace what is in .*: chmod 700"):
        store.all()
    store.folder.chmod(0o755)
    assert store.all()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_is_somebody_elses_is_refused(store: Store) -> None:
    os.chown(store.folder, 12345, -1)
    with pytest.raises(ConfigurationError, match="others can replace"):
        store.all()
    os.chown(store.file, 12345, -1)
    with pytest.raises(ConfigurationError, match=r"owned by another user \(id 12345\)"):
        store.all()


def test_a_store_that_cannot_be_read_or_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below_a_file = Store(tmp_path / "file" / "store")
    with pytest.raises(ConfigurationError, match="cannot be read: Not a directory"):
        below_a_file.all()
    with pytest.raises(ConfigurationError, match="cannot be written to: Not a directory"):
        below_a_file.add(lambda others: configuration("app"))
    a_folder = Store(tmp_path)
    a_folder.file.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        a_folder.all()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_what_was_there(
    step: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    before = store.file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(ConfigurationError, match=r"nothing was saved: .*No space left"):
            store.add(lambda others: configuration("other", 2))
    assert store.file.read_bytes() == before
    assert {each.name for each in store.folder.iterdir()} == {
        "configurations.json",
        "configurations.json.lock",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k,mode=0700", "tmpfs", tmp_path],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    try:
        store = Store(tmp_path / "store")
        store.add(lambda others: configuration("app"))
        with (tmp_path / "rest").open("wb", buffering=0) as rest, pytest.raises(OSError):
            while rest.write(bytes(512)):
                pass
        with pytest.raises(ConfigurationError, match=r"nothing was saved: .*No space left"):
            store.add(lambda others: configuration("other", 2))
        assert [each.name for each in store.all()] == ["app"]
        assert len(list(store.folder.iterdir())) == 2
    finally:
        subprocess.run(["umount", tmp_path], check=True)


ADD = """
import sys
from dataclasses import replace
from pathlib import Path
from hyperdrive_client.bindings.store import Store
from hyperdrive_client.errors import ConfigurationError

store = Store(Path(sys.argv[1]))
app = store.get("app")
sys.stdin.readline()
try:
    for each in sys.argv[2:]:
        store.add(lambda others: replace(app, name=each))
except ConfigurationError as error:
    print(error)
"""


def at_once(store: Store, *names: list[str]) -> list[str]:
    """Have processes add configurations of these names at once; what they say."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, str(store.folder), *each],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for each in names
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[0] for process in processes]


def test_of_processes_that_add_one_name_at_once_one_wins(store: Store) -> None:
    said = at_once(store, *[["same"]] * 4)
    assert sorted(map(bool, said)) == [False, True, True, True]
    assert sum("already a configuration" in text for text in said) == 3
    assert [each.name for each in store.all()] == ["app", "same"]


def test_nothing_is_lost_among_processes(store: Store) -> None:
    names = [[f"{process}-{number}" for number in range(10)] for process in range(3)]
    assert at_once(store, *names) == ["", "", ""]
    assert {each.name for each in store.all()} == {"app", *chain.from_iterable(names)}


def test_who_holds_the_lock_for_long_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_LOCK_TIMEOUT", 0.05)
    with store._locked(), pytest.raises(ConfigurationError, match=r"changing .* 0.05 s \(.*lock\)"):
        store.remove("app")
    assert store.get("app")
