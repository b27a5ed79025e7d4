"""Who may import whom; the layout is described in docs/architecture.md."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import hyperdrive_client

PACKAGE = Path(hyperdrive_client.__file__).parent

# Room -> what it may import of ours, besides itself and errors. A room is the longest of these
# names that a module's name begins with; "" is the package's __init__.py.
MAY_IMPORT = {
    "": {"bindings", "client"},
    "alone": set[str](),
    "errors": {"alone"},
    "registry": {"bindings"},
    "version": set[str](),
    "bindings": set[str](),
    "client": {"", "bindings", "registry", "proxy.spawn", "proxy.detached", "proxy.settings"},
    "integrations": {"", "client", "bindings", "origin", "proxy.spawn"},
    "protocol": set[str](),
    "sql": set[str](),
    "origin": set[str](),
    "proxy.settings": {"bindings.connection_string"},
    "proxy.cache": {"protocol", "sql", "proxy.settings"},
    "proxy.core": {
        "protocol",
        "sql",
        "proxy.cache",
        "proxy.settings",
        "bindings.connection_string",
    },
    "proxy.net": {
        "protocol",
        "proxy.cache",
        "proxy.core",
        "proxy.settings",
        "bindings.connection_string",
    },
    "proxy.admin": {"protocol", "proxy.cache", "proxy.core"},
    "proxy": {"protocol", "sql", "bindings.connection_string", "registry"},
    "demo": {"", "bindings", "client", "origin", "proxy.spawn"},
    "cli": {
        *("", "bindings", "client", "origin", "proxy"),
        *("access", "configurations", "demo", "doctor", "running"),
    },
    "configurations": {
        *("access", "bindings", "client", "running"),
        *("proxy.spawn", "proxy.trial"),
    },
    "access": {"bindings", "client"},
    "running": {"bindings", "client", "registry"},
    "doctor": {"bindings", "sql", "proxy.settings"},
    "__main__": {"cli"},
}
WITHOUT_IO = ("protocol", "sql", "proxy.cache", "proxy.core")
IO_MODULES = {"asyncio", "socket", "ssl", "threading", "time"}
# Imported at first use only, inside a function.
LAZY = {
    "": {"hyperdrive_client.proxy", "sqlalchemy"},
    "client": {"hyperdrive_client.proxy"},
    "integrations": {"hyperdrive_client.origin", "hyperdrive_client.proxy"},
    "cli": {
        "hyperdrive_client.proxy",
        "hyperdrive_client.demo",
        "hyperdrive_client.doctor",
        "rich",
        "sqlalchemy",
    },
    "access": {"hyperdrive_client.client", "psycopg"},
    "configurations": {"hyperdrive_client.client", "hyperdrive_client.proxy", "psycopg"},
}


class Import(NamedTuple):
    """One imported name: ``target`` is absolute, and may be a module's or a name in one."""

    target: str
    line: int
    scope: str
    """The function that it is in, ``TYPE_CHECKING``, or nothing: then importing runs it."""


def room(module: str) -> str:
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in MAY_IMPORT), "")


def imports(path: Path, package: Path) -> Iterator[Import]:
    """Every import in a file, wherever it stands in it."""
    anchor = (package.name, *path.relative_to(package).parts[:-1])
    for node, scope in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, scope)
        elif isinstance(node, ast.ImportFrom):
            base = list(anchor[: len(anchor) - node.level + 1]) if node.level else []
            base += [node.module] if node.module else []
            for alias in node.names:
                yield Import(".".join((*base, alias.name)), node.lineno, scope)


def walk(node: ast.AST, scope: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node below this one, with its scope."""
    for child in ast.iter_child_nodes(node):
        inner = scope
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = child.name
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            inner = "TYPE_CHECKING"
        yield child, inner
        yield from walk(child, inner)


def is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def objection(importer: str, found: Import, package: Path) -> str | None:
    """Why a room may not import this, or ``None``."""
    here = room(importer)
    if here in WITHOUT_IO and found.target.partition(".")[0] in IO_MODULES:
        return "does I/O"
    if not found.scope and any(is_in(found.target, module) for module in LAZY.get(here, ())):
        return "is to be imported inside a function"
    if not is_in(found.target, package.name):
        return None
    target = module_of(found.target, package)
    if any(is_in(target, module) for module in MAY_IMPORT[here] | {here, "errors", "version"}):
        return None
    return f"is not for {here or package.name}"


def module_of(name: str, package: Path) -> str:
    """The module that an absolute name is, or is in; without the package's own name."""
    parts = name.split(".")[1:]
    while parts and not (
        package.joinpath(*parts).is_dir() or package.joinpath(*parts).with_suffix(".py").is_file()
    ):
        parts.pop()
    return ".".join(parts)


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        module = module.removesuffix("__init__").removesuffix(".")
        for each in imports(path, package):
            if reason := objection(module, each, package):
                place = path.relative_to(package)
                found.append(f"{place}:{each.line}: {each.target} {reason}")
    return found


def run_ruff(folder: Path) -> str:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select=TID251", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, with the linter's configuration around it."""
    shutil.copy(PACKAGE.parent / "pyproject.toml", tmp_path)
    target = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_every_room_imports_only_what_it_may() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "line", "reason"),
    [
        ("protocol/messages.py", "import time", "does I/O"),
        ("sql/session_effects.py", "def f():\n    from asyncio import sleep", "does I/O"),
        ("proxy/core/pool.py", "import threading as t", "does I/O"),
        ("protocol/messages.py", "from ..sql import session_effects", "is not for protocol"),
        ("proxy/core/pool.py", "from ..net import tls", "is not for proxy.core"),
        ("proxy/core/pool.py", "from ...bindings import resolve", "is not for proxy.core"),
        ("proxy/net/tls.py", "from .. import app", "is not for proxy.net"),
        ("bindings/target.py", "import hyperdrive_client.client", "is not for bindings"),
        ("origin/server.py", "from hyperdrive_client.bindings import resolve", "is not for origin"),
        ("client/__init__.py", "from ..integrations import x", "is not for client"),
        ("client/__init__.py", "from ..proxy.spawn import ProcessProxy", "inside a function"),
        ("proxy/spawn.py", "from ..cli import main", "is not for proxy"),
        ("integrations/__init__.py", "from ..cli import main", "is not for integrations"),
        ("integrations/__init__.py", "from ..origin import EmbeddedPostgres", "inside a function"),
        ("__init__.py", "from .proxy import spawn", "inside a function"),
        ("__init__.py", "from . import cli", "is not for hyperdrive_client"),
        ("cli.py", "import rich", "inside a function"),
        ("access.py", "from .proxy import spawn", "is not for access"),
        ("access.py", "from .client import console", "inside a function"),
        ("configurations.py", "from .proxy.trial import try_origin", "inside a function"),
        ("cli.py", "class C:\n    from .proxy import spawn", "inside a function"),
    ],
)
def test_a_forbidden_import_is_found(copy: Path, path: str, line: str, reason: str) -> None:
    file = copy / path
    file.write_text(f"{file.read_text()}\n{line}\n")
    (found,) = violations(copy)
    assert found.startswith(path)
    assert found.endswith(reason) or reason in found


def test_the_client_imports_the_proxy_only_to_start_one() -> None:
    places = {
        (path.name, each.scope)
        for path in (PACKAGE / "client").glob("*.py")
        for each in imports(path, PACKAGE)
        if is_in(each.target, "hyperdrive_client.proxy") and each.scope != "TYPE_CHECKING"
    }
    assert places == {("local_proxy.py", "_start"), ("shared_proxy.py", "_start")}


@pytest.mark.parametrize("folder", [name.replace(".", "/") for name in WITHOUT_IO])
def test_the_linter_finds_modules_that_do_io(copy: Path, folder: str) -> None:
    for module in IO_MODULES:
        (copy / folder / f"new_{module}.py").write_text(f"import {module}\n\n{module}.x()\n")
    found = run_ruff(copy.parent)
    assert all(f"{folder}/new_{module}.py:1:8" in found for module in IO_MODULES), found


def test_the_linter_lets_the_network_layer_do_io(copy: Path) -> None:
    assert "All checks passed" in run_ruff(copy.parent)


def test_importing_the_package_imports_no_proxy_and_nothing_heavy() -> None:
    program = (
        "import sys, psycopg, hyperdrive_client;"
        "print(*(name for name in sys.modules if name.startswith("
        "('hyperdrive_client.proxy', 'hyperdrive_client.integrations', 'hyperdrive_client.origin', "
        "'sqlalchemy', 'uvloop', 'click', 'rich'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")


def test_importing_every_name_starts_no_thread_and_opens_nothing() -> None:
    program = (
        "import os, threading\n"
        "before = os.listdir('/proc/self/fd')\n"
        "import hyperdrive_client\n"
        "for name in hyperdrive_client.__all__: getattr(hyperdrive_client, name)\n"
        "assert os.listdir('/proc/self/fd') == before\n"
        "assert threading.active_count() == 1\n"
        "assert not os.path.exists(os.environ['XDG_RUNTIME_DIR'])\n"
    )
    environment = {**os.environ, "XDG_RUNTIME_DIR": "/nowhere/at/all"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
