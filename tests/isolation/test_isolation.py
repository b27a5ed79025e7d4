"""A short run; ``nox -s isolation`` is the long one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

import psycopg
import pytest

from hyperdrive_client.origin import EmbeddedPostgres

from .run import Run
from .stage import Stage, clear, defaults, prepare

REQUESTS = 3000


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(auth="trust", settings={"max_connections": "200"}) as server:
        yield server


@pytest.fixture(scope="module")
def known(server: EmbeddedPostgres) -> Mapping[str, str]:
    """What new sessions start with."""
    with psycopg.connect(server.connection_string, autocommit=True) as connection:
        prepare(connection)
        return defaults(connection)


@pytest.fixture(autouse=True)
def _nothing_is_left_of_another_run(
    server: EmbeddedPostgres, known: Mapping[str, str]
) -> Iterator[None]:
    yield
    with psycopg.connect(server.connection_string, autocommit=True) as connection:
        clear(connection)


def test_the_model_is_postgresql(server: EmbeddedPostgres, known: Mapping[str, str]) -> None:
    with Stage(server.connection_string, origin_connections=5) as stage:
        run = Run(stage.direct, known, seed=1, requests=REQUESTS, translated=False)
        asyncio.run(run.play())
    assert not run.findings.counts, str(run.findings)
    assert run.done >= REQUESTS


def test_no_client_notices_another(server: EmbeddedPostgres, known: Mapping[str, str]) -> None:
    with Stage(server.connection_string, origin_connections=5) as stage:
        run = Run(stage.address, known, seed=2, requests=REQUESTS)
        asyncio.run(run.play())
        troubles = stage.troubles()
    assert not run.findings.counts, str(run.findings)
    assert not troubles
    assert run.met
