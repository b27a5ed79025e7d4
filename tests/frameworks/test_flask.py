"""The page for Flask: its application, served by Flask's own server."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from .conftest import wait_until

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project

FRAMEWORKS = ("flask", "flask_sqlalchemy", "flask_migrate")


@pytest.fixture
def app(project: Project, page: Callable[[str], Page]) -> Page:
    """The page, and its application in the project, with its table."""
    it = page("docs/flask.md")
    it.write_files(project.folder)
    project.run("flask init-db")
    return it


@pytest.mark.usefixtures("app")
def test_it_serves_many_requests_at_once_over_a_few_connections(project: Project) -> None:
    with project.serve("flask run --port PORT") as server, ThreadPoolExecutor(20) as clients:
        texts = [f"note {number}" for number in range(40)]
        added = clients.map(lambda text: server.get("/", text.encode()), texts)
        assert sorted(map(int, added)) == list(range(1, 41))
        assert sorted(json.loads(server.get("/"))) == sorted(texts)
        connections = project.origin_connections()
        assert set(connections) == {"Cloudflare Hyperdrive"}
        # A client that is told early of the end may be lent another meanwhile.
        assert len(connections) <= 10
    assert sorted(project.rows("SELECT text FROM note")) == sorted((text,) for text in texts)


@pytest.mark.usefixtures("app")
def test_a_database_that_drops_its_connections_is_not_noticed(project: Project) -> None:
    with project.serve("flask run --port PORT") as server:
        assert server.get("/") == "[]\n"
        project.end_origin_connections()
        assert server.get("/") == "[]\n"


@pytest.mark.usefixtures("app")
def test_a_proxy_that_crashes_costs_one_request(project: Project) -> None:
    with project.serve("flask run --port PORT") as server, ThreadPoolExecutor(5) as clients:
        list(clients.map(lambda _: server.get("/"), range(20)))
        assert project.kill_proxies() == 1
        answers = [server.get("/") for _ in range(10)]
    assert "Internal Server Error" in answers[0]
    assert answers[1:] == ["[]\n"] * 9


@pytest.mark.usefixtures("app")
def test_the_reloader_leaves_nothing_of_the_program_that_it_replaced(project: Project) -> None:
    with project.serve("flask run --debug --port PORT") as server:
        assert server.get("/", b"one") == "1\n"
        [before] = connection_starts(project)
        project.replace("app.py", "jsonify(note.id)", "jsonify(-note.id)")
        wait_until(lambda: negative(server.get("/", b"more")), "it has been reloaded")
        wait_until(lambda: before not in connection_starts(project), "the old one has ended")
        assert len(connection_starts(project)) == 1


def negative(answer: str) -> bool:
    return answer.startswith("-")


def connection_starts(project: Project) -> list[object]:
    """When each connection of the project to the database began."""
    query = (
        "SELECT backend_start FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'Cloudflare Hyperdrive'"
    )
    return [start for (start,) in project.rows(query)]


def test_a_larger_pool_is_capped_with_a_warning_unless_it_is_asked_for(
    project: Project, app: Page
) -> None:
    [option] = [line for line in app.blocks("python") if "ENGINE_OPTIONS" in line]
    for text, warnings in (option, 0), (option.replace(', "max_pool_size": 20', ""), 1):
        project.write(
            "sized.py", project.read("app.py").replace("db.init_app", f"{text}db.init_app")
        )
        size = "import sized; sized.app.app_context().push(); print(sized.db.engine.pool.size())"
        done = project.try_to_run(f"python -c '{size}'", PYTHONWARNINGS="default")
        assert done.stderr.count("is capped at 5") == warnings, done.stderr
        assert done.stdout == f"{5 if warnings else 20}\n"


def test_the_test_client_and_the_migrations_work(project: Project, app: Page) -> None:
    project.write(
        "test_app.py",
        "from app import app\n\n\ndef test_it():\n    with app.test_client() as client:\n"
        '        assert client.post("/", data="hello").status_code == 201\n'
        '        assert client.get("/").json == ["hello"]\n',
    )
    project.run("pytest -n 0 -p no:asyncio -p no:cacheprovider test_app.py")
    with psycopg.connect(project.database) as connection:
        connection.execute("DROP TABLE note")
    migrate = "db.init_app(app)\nfrom flask_migrate import Migrate\nMigrate(app, db)\n"
    project.replace("app.py", "db.init_app(app)\n", migrate)
    # Flask-Migrate calls what Flask-SQLAlchemy has deprecated.
    own_warnings = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    for command in ("init", "migrate", "upgrade"):
        assert f"`flask db {command}`" in app.path.read_text()
        project.run(f"flask db {command}", **own_warnings)
    project.run("flask db check", **own_warnings)
    assert project.rows("SELECT count(*) FROM note") == [(0,)]
