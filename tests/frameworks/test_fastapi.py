"""The page for FastAPI: its applications, served by uvicorn, asked by a hundred clients at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from .conftest import ORIGIN_CONNECTION_LIMIT

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project, Server

FRAMEWORKS = ("fastapi", "uvicorn", "greenlet")


@pytest.fixture(autouse=True)
def written(project: Project, page: Callable[[str], Page]) -> None:
    page("docs/fastapi.md").write_files(project.folder)


def add_a_hundred(server: Server) -> None:
    """A hundred clients at once write, then read, and all of them see everything."""
    with ThreadPoolExecutor(100) as clients:
        added = clients.map(lambda n: int(server.get(f"/?text=note{n}", b"")), range(100))
        assert sorted(added) == list(range(1, 101))
        for answer in clients.map(lambda _: server.get("/"), range(100)):
            assert sorted(json.loads(answer)) == sorted(f"note{n}" for n in range(100))


@pytest.mark.parametrize("application", ["app", "pool_app"])
def test_a_hundred_requests_at_once_share_five_connections(
    project: Project, application: str
) -> None:
    with project.serve(f"uvicorn {application}:app --port PORT") as server:
        add_a_hundred(server)
        assert project.origin_connections() > 1
    assert project.rows("SELECT count(*) FROM notes") == [(100,)]


def test_synchronous_functions_share_them_too(project: Project) -> None:
    with (
        project.serve("uvicorn sync_app:app --port PORT") as server,
        ThreadPoolExecutor(100) as clients,
    ):
        times = list(clients.map(lambda _: server.get("/"), range(100)))
        assert all(time.startswith('"20') for time in times), times
        assert project.origin_connections() > 1


@pytest.mark.parametrize("application", ["app", "pool_app"])
def test_several_workers_share_one_proxy(project: Project, application: str) -> None:
    limited = "env HYPERDRIVE_ORIGIN_CONNECTION_LIMIT=5"
    with project.serve(f"uvicorn {application}:app --port PORT"):
        assert project.rows("SELECT count(*) FROM notes") == [(0,)]
    with project.serve(f"{limited} uvicorn {application}:app --port PORT --workers 2") as server:
        add_a_hundred(server)
        assert 1 < project.origin_connections() <= ORIGIN_CONNECTION_LIMIT
        assert len(project.proxies()) == 1


@pytest.mark.parametrize(
    ("application", "check", "failures"),
    [
        ("app", "", 1),
        ("app", ", pool_pre_ping=True", 0),
        ("pool_app", "", 4),
        ("pool_app", ", check=hyperdrive_client.AsyncConnectionPool.check_connection", 0),
    ],
)
def test_a_crash_of_the_proxy_costs_as_many_requests_as_the_page_says(
    project: Project, application: str, check: str, failures: int
) -> None:
    made = {"app": 'create_async_engine("hyperdrive://HYPERDRIVE"', "pool_app": 'Pool("HYPERDRIVE"'}
    project.replace(f"{application}.py", made[application], made[application] + check)
    with project.serve(f"uvicorn {application}:app --port PORT") as server:
        add_a_hundred(server)
        project.kill_proxy()
        answers = [server.get("/") for _ in range(20)]
        failed = answers.count("Internal Server Error")
        assert failed <= failures
        assert "Internal Server Error" not in answers[failed:]
