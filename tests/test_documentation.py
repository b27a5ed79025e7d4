"""Every example of the README and the documentation runs, and prints what its page shows.

Pages about other people's programs are projects, which tests/frameworks runs. Blocks that begin
with a file's name are files; the rest of a page is run here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

import hyperdrive_client
from hyperdrive_client.origin import EmbeddedPostgres

if TYPE_CHECKING:
    from .conftest import Certificates

ROOT = Path(hyperdrive_client.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
RUNNER = Path(__file__).with_name("run_examples.py")

# Shown, not run: a layout, an output, a directive of Sphinx.
NO_CODE = re.compile(r"text|\{.*|")
FILE_NAME = re.compile(r"(?:#|//) ([\w./-]+\.\w+)\n")

SHOWS_USERS = '$ hyperdrive psql HYPERDRIVE -c "SELECT DISTINCT usename'
SHOWS_CACHE = '$ hyperdrive psql HYPERDRIVE -c "SHOW hyperdrive.cache"'
# By page and first line: why an example can't run here. Some other test does, or nothing can.
NOT_RUN = {
    ("README.md", "pip install '.[binary]'"): "the network; nox installs it so",
    ("README.md", "python3 -m venv --without-pip .venv && "): "the network, a clone",
    ("docs/getting-started.md", "pip install '.[binary]'"): "the network; nox installs it so",
    ("docs/conformance.md", "$ nox -s conformance"): "ten minutes; it is a nox session",
    ("docs/drivers.md", "$ nox -s drivers"): "minutes; it is a nox session",
    ("docs/benchmarks.md", "python benchmarks/"): "minutes; nox -s bench runs one",
    ("docs/wrangler-dev.md", "npm install"): "the network; nox -s wrangler installs them",
    ("docs/wrangler-dev.md", "npx wrangler dev"): "npm's packages; nox -s wrangler does so",
    ("docs/wrangler-dev.md", "$ curl "): "as nox -s wrangler does",
    ("docs/wrangler-dev.md", "$ seq "): "as nox -s wrangler does",
    ("docs/wrangler-dev.md", SHOWS_USERS): "others' connections; nox -s wrangler asks the same",
    ("docs/wrangler-dev.md", SHOWS_CACHE): "figures of what nox -s wrangler does",
}

pytestmark = pytest.mark.skipif(not PAGES[0].exists(), reason="no sources: it is installed")


class Example(NamedTuple):
    """A fenced block of a page; ``line`` is that of its fence, ``kind`` what stands behind that."""

    kind: str
    line: int
    text: str

    @property
    def file_name(self) -> str | None:
        named = FILE_NAME.match(self.text)
        return named[1] if named else None

    def begins(self, start: str) -> bool:
        return self.text.startswith(start)


def examples(page: Path) -> list[Example]:
    text = page.read_text()
    fences = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    found = [Example(f[1], text.count("\n", 0, f.start()) + 1, f[2]) for f in fences]
    assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == 2 * len(found), "a fence is open"
    return found


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def sources(*folders: str) -> str:
    return "".join(p.read_text() for f in folders for p in (ROOT / "tests" / f).rglob("*.py"))


def projects() -> set[str]:
    """The pages that tests/frameworks runs as a whole."""
    return set(re.findall(r"page\(\"(docs/[\w-]+\.md)\"\)", sources("frameworks")))


def is_left_out(page: str, example: Example) -> bool:
    return any(page == where and example.begins(start) for where, start in NOT_RUN)


def to_run(page: Path) -> Iterator[tuple[str, int, str, str | None]]:
    """The examples of a page that are run here, each with the output that follows it."""
    found = examples(page)
    for example, after in zip_longest(found, found[1:]):
        if NO_CODE.fullmatch(example.kind) or example.file_name:
            continue
        if is_left_out(name_of(page), example):
            continue
        printed = after.text if after and after.kind in ("", "text") else None
        yield example.kind, example.line, example.text, printed


OWN = [page for page in PAGES if name_of(page) not in projects() and any(to_run(page))]


@pytest.fixture
def app(postgres: EmbeddedPostgres) -> Iterator[None]:
    """The database of the pages: app, of a user with a password."""
    with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
        connection.execute("""CREATE ROLE "user" LOGIN CREATEDB REPLICATION PASSWORD 'password'""")
        connection.execute("""CREATE DATABASE app OWNER "user" """)
        yield
        # A proxy that has followed the WAL may just be leaving.
        while connection.execute(
            "SELECT 1 FROM pg_replication_slots WHERE database = 'app'"
        ).fetchone():
            pass
        connection.execute("DROP DATABASE app WITH (FORCE)")
        connection.execute("""DROP ROLE "user" """)


@pytest.fixture
def environment(tmp_path: Path, app: None) -> Iterator[dict[str, str]]:
    """A reader's: the commands, nothing of this machine's, and a runtime folder of one's own."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, arguments in (("hyperdrive", "-m hyperdrive_client"), ("python", "")):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        command.chmod(0o755)
    foreign = ("HYPERDRIVE_", "CLOUDFLARE_", "WRANGLER_", "PG", "PYTEST_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    with tempfile.TemporaryDirectory(prefix="hd-") as runtime:
        yield {
            **kept,
            "HOME": str(tmp_path),
            "HYPERDRIVE_PROXY": "process",
            "HYPERDRIVE_PROXY_IDLE_TIMEOUT": "10",
            "PATH": f"{commands}:{kept['PATH']}",
            "PYTHONPATH": f"{ROOT}:{Path(psycopg.__file__).parents[1]}",
            "XDG_CONFIG_HOME": str(tmp_path / ".config"),
            "XDG_RUNTIME_DIR": runtime,
        }


@pytest.fixture
def folder(tmp_path: Path, certificates: Certificates) -> Path:
    """Where the reader is, with the files that the pages speak of."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(certificates.server, folder / "server.pem")
    shutil.copy(certificates.server_key, folder / "server.key")
    (tmp_path / "hyperdrive").write_text("a password\n")
    return folder


@pytest.mark.parametrize("page", OWN, ids=name_of)
def test_the_examples_of_a_page_run(
    page: Path, environment: dict[str, str], postgres: EmbeddedPostgres, folder: Path
) -> None:
    here = {
        "localhost:5432": f"localhost:{postgres.port}",
        "6432": str(free_port()),
        "/run/secrets": str(folder.parent),
    }
    for example in examples(page):
        if name := example.file_name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(adapted(example.text, here))
    if not (folder / "wrangler.jsonc").exists():
        url = "postgres://user:password@localhost:5432/app"
        environment["HYPERDRIVE_URL_HYPERDRIVE"] = adapted(url, here)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-P", str(RUNNER)],
        input=adapted(json.dumps([str(page), list(to_run(page))], ensure_ascii=False), here),
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def adapted(text: str, here: dict[str, str]) -> str:
    for shown, actual in here.items():
        text = text.replace(shown, actual)
    return text


def test_no_example_is_of_a_kind_that_nobody_runs() -> None:
    kinds = {"python", "sql", "sh", "console", "console vary"}
    for page in PAGES:
        if name_of(page) in projects():
            continue
        for example in examples(page):
            known = example.kind in kinds or example.file_name
            assert known or NO_CODE.fullmatch(example.kind), (name_of(page), example.line)


def test_the_worker_of_a_page_is_the_one_that_nox_runs() -> None:
    worker = (ROOT / "tests/wrangler/products/src/index.ts").read_text()
    assert [each.text for each in examples(ROOT / "docs/wrangler-dev.md") if each.kind == "ts"] == [
        worker
    ]


def test_what_is_not_run_is_there() -> None:
    for name, start in NOT_RUN:
        assert any(example.begins(start) for example in examples(ROOT / name)), (name, start)


def test_who_runs_a_project_runs_all_of_its_examples() -> None:
    source = sources("frameworks")
    for name in projects():
        for example in examples(ROOT / name):
            if example.file_name or NO_CODE.fullmatch(example.kind):
                continue
            if example.kind != "sh":
                assert f'blocks("{example.kind}")' in source, (name, example.kind)
                continue
            for command in filter(None, example.text.splitlines()):
                program = next(word for word in command.split() if "=" not in word)
                assert program == "pip" or program in source, (name, command)


def test_every_other_program_is_run_on_its_page_or_by_a_test_that_names_the_page() -> None:
    source = sources(".")
    for page in PAGES:
        name, found = name_of(page), examples(page)
        commands = "".join(example.text for example in found if example.kind == "console")
        for file in (example.file_name for example in found if example.kind == "python"):
            if file and f"python {file}\n" not in commands:
                assert f'page("{name}")' in source, (name, file)
