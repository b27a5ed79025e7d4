from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import hyperdrive_client.bindings


def test_the_room_exports_its_public_names_and_nothing_else() -> None:
    names = {
        name
        for name, value in vars(hyperdrive_client.bindings).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert names == set(hyperdrive_client.bindings.__all__)


def test_importing_it_is_cheap() -> None:
    program = (
        "import sys, hyperdrive_client.errors; before = set(sys.modules);"
        "import hyperdrive_client.bindings; print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    heavy = {"tomllib", "difflib", "asyncio", "sqlalchemy", "psycopg_pool", "http", "email"}
    assert not heavy & set(result.stdout.split())
