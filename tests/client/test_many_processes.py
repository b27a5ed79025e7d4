"""Many processes at once share one proxy; the full size is ``nox -s processes``."""

from __future__ import annotations

import os

import pytest

from . import many_processes


@pytest.mark.parametrize("kill", [False, True], ids=["", "killed"])
def test_sixteen_processes_at_once_share_one_proxy(database: str, kill: bool) -> None:
    transactions = int(os.environ.get("MANY_TRANSACTIONS", "30"))
    seen = many_processes.run(database, 16, transactions, kill=kill)
    many_processes.check(seen, kill=kill)
