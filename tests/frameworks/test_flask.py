"""The page for Flask: its application, served by Flask's own server."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
def test_it_serves_many_requests_at_once_over_five_connections(project: Project) -> None:
    with project.serve("flask run --port PORT") as server, ThreadPoolExecutor(20) as clients:
        texts = [f"note {number}" for number in range(40)]
        added = clients.map(lambda text: server.get("/", text.encode()), texts)
        assert sorted(map(int, added)) == list(range(1, 41))
        assert sorted(json.loads(server.get("/"))) == sorted(texts)
        assert project.origin_connections() > 1
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
        project.kill_proxy()
        answers = [server.get("/") for _ in range(10)]
    assert "Internal Server Error" in answers[0]
    assert answers[1:] == ["[]\n"] * 9


@pytest.mark.usefixtures("app")
def test_a_reloaded_program_finds_the_proxy_again(project: Project) -> None:
    with project.serve("flask run --debug --port PORT") as server:
        assert server.get("/", b"one") == "1\n"
        project.replace("app.py", "jsonify(note.id)", "jsonify(-note.id)")

        def reloaded() -> bool:
            with suppress(OSError):
                return server.get("/", b"more").startswith("-")
            return False

        wait_until(reloaded, "it has been reloaded")
        assert len(project.proxies()) == 1


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
