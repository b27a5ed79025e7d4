"""The page for Python Workers: hosted bindings, in CPython and in Pyodide."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from hyperdrive_client.bindings import parse_connection_string

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project

FRAMEWORKS = ("pg8000",)

# What a Worker gets from Cloudflare's runtime. Its bindings are no mappings, and have only floats.
WORKERS = """
import json

class Binding:
    def __init__(self, fields):
        self.__dict__.update(fields)

class WorkerEntrypoint:
    def __init__(self, env):
        self.env = env

class Response:
    @staticmethod
    def json(value):
        return json.dumps(value)
"""
CALL = """
import asyncio, json, os, subprocess, sys, threading
from types import SimpleNamespace

def refuse(*arguments, **others):
    raise RuntimeError("a Worker can't")

async def main():
    # A thread that the event loop has needed before is none of ours.
    for owner, name in (
        (threading.Thread, "start"),
        (subprocess, "Popen"),
        (os, "fork"),
        (os, "posix_spawn"),
    ):
        setattr(owner, name, refuse)
    from main import Default
    from workers import Binding
    import hyperdrive_client

    fields = json.loads(os.environ["HOSTED"])
    env = SimpleNamespace(HYPERDRIVE=Binding(fields))
    worker = Default(env)
    for method in ("GET", "POST", "POST"):
        print(await worker.fetch(SimpleNamespace(method=method)))
    async with await hyperdrive_client.AsyncConnection.connect(env.HYPERDRIVE) as connection:
        cursor = await connection.execute("SELECT count(*) FROM visit")
        print(await cursor.fetchone())

asyncio.run(main())
assert "hyperdrive_client.proxy" not in sys.modules
"""
# Runs a program whose hosted binding is the proxy, as Cloudflare's runtime would be.
HOSTED = """
import json, os, subprocess, sys
from hyperdrive_client import binding
it = binding()
names = ("host", "port", "user", "password", "database", "connectionString")
os.environ["HOSTED"] = json.dumps({name: getattr(it, name) for name in names})
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""
IN_PYODIDE = """
import { loadPyodide } from "pyodide";

globalThis.env = { HYPERDRIVE: JSON.parse(process.env.HOSTED) };
const pyodide = await loadPyodide();
await pyodide.useNodeSockFS();
pyodide.mountNodeFS("/packages", process.argv[2]);
try {
  await pyodide.runPythonAsync(`
import sys, threading
sys.path.insert(0, "/packages")
import hyperdrive_client
print(sys.platform, threading.active_count())
try:
    hyperdrive_client.connect
except ImportError as error:
    print(str(error).splitlines()[0], str(error).rpartition(". ")[2], sep=" ... ")
from js import env
from visits import count_visits
print(count_visits(env.HYPERDRIVE))
`);
} catch (error) {
  console.log(error.message);
  process.exitCode = 1;
}
"""


@pytest.fixture
def worker(project: Project, page: Callable[[str], Page]) -> Project:
    """The page's files, with their table, in which there is one visit."""
    page("docs/python-workers.md").write_files(project.folder)
    with psycopg.connect(project.database) as connection:
        connection.execute("CREATE TABLE visit (at timestamptz DEFAULT now())")
        connection.execute("INSERT INTO visit DEFAULT VALUES")
    return project


def fields_of(connection_string: str) -> dict[str, object]:
    origin = parse_connection_string(connection_string)
    [address] = origin.addresses
    return {
        "connectionString": connection_string,
        "host": address.host,
        "port": float(address.port),
        "user": origin.user,
        "password": origin.password,
        "database": origin.database,
    }


def test_the_worker_of_the_page_needs_no_thread_no_process_and_no_proxy(worker: Project) -> None:
    worker.write("src/workers.py", WORKERS)
    worker.write("src/call.py", CALL)
    printed = worker.run("python src/call.py", HOSTED=json.dumps(fields_of(worker.database)))
    assert printed.splitlines() == ['{"visits": 1}', '{"visits": 2}', '{"visits": 3}', "(3,)"]
    assert worker.rows("SELECT count(*) FROM visit") == [(3,)]
    assert worker.processes() == {}


def test_outside_the_same_function_goes_through_the_proxy(worker: Project) -> None:
    assert worker.run("python main.py") == "1\n"
    assert worker.origin_connections()


def test_in_pyodide_the_package_imports_and_a_driver_takes_the_binding(worker: Project) -> None:
    modules = os.environ.get("HYPERDRIVE_NODE_MODULES")
    if modules is None:
        assert os.environ.get("HYPERDRIVE_FRAMEWORKS") != "required"
        pytest.skip("HYPERDRIVE_NODE_MODULES does not name a folder with pyodide and node in it")
    packages = worker.folder / "packages"
    for name in ("psycopg", "psycopg-pool", "typing-extensions", "pg8000"):
        copy_distribution(name, packages)
    for name in ("scramp", "asn1crypto", "python-dateutil", "six"):  # pg8000's
        copy_distribution(name, packages)
    package = Path(worker.environment["PYTHONPATH"], "hyperdrive_client")
    shutil.copytree(package, packages / package.name)
    shutil.copy(worker.folder / "visits.py", packages)
    (worker.folder / "node_modules").symlink_to(modules)
    worker.write("run.mjs", IN_PYODIDE)
    worker.write("hosted.py", HOSTED)
    printed = worker.run("python hosted.py node_modules/.bin/node run.mjs packages").splitlines()
    assert printed == [
        "emscripten 1",
        "hyperdrive_client needs psycopg with a libpq: no pq wrapper available. ... "
        "Install it with: pip install 'hyperdrive-client[binary]'",
        "1",
    ]
    assert worker.origin_connections()


def copy_distribution(name: str, folder: Path) -> None:
    """Copy the files of an installed package that is pure Python."""
    for file in metadata.files(name) or []:
        if ".." not in file.parts and file.suffix != ".pyc":
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), folder / file)
