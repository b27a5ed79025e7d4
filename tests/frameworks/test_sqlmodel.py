"""The page for SQLModel: its programs, and a migration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project

FRAMEWORKS = ("sqlmodel", "greenlet", "alembic")

HEROES = "SELECT hero.name, team.name FROM hero JOIN team ON team.id = team_id ORDER BY 1"


@pytest.fixture(autouse=True)
def written(project: Project, page: Callable[[str], Page]) -> None:
    page("docs/sqlmodel.md").write_files(project.folder)


def test_both_sessions_read_and_write(project: Project) -> None:
    assert project.run("python heroes.py") == "Rusty-Man Preventers\nTarantula Preventers\n"
    assert project.rows(HEROES) == [("Rusty-Man", "Preventers"), ("Tarantula", "Preventers")]
    assert project.run("python async_heroes.py") == "Rusty-Man Preventers\nTarantula Preventers\n"
    assert project.rows(HEROES) == [("RUSTY-MAN", "Preventers"), ("TARANTULA", "Preventers")]


def test_its_connections_are_the_proxys(project: Project) -> None:
    program = """
from heroes import *
from sqlalchemy import text
with Session(engine) as session:
    print(*session.exec(text("SELECT application_name FROM pg_stat_activity "
                             "WHERE datname = current_database()")).scalars())
engine.dispose()
"""
    project.write("names.py", program)
    assert project.run("python names.py") == "Cloudflare Hyperdrive\n"


def test_an_error_rolls_back_what_was_added(project: Project) -> None:
    project.run("python heroes.py")
    done = project.try_to_run("python heroes.py")
    assert "duplicate key value violates unique constraint" in done.stderr
    assert project.rows("SELECT count(*) FROM hero") == [(2,)]


def test_a_migration_finds_the_models_and_then_nothing_more(project: Project) -> None:
    project.run("alembic init migrations")
    project.replace("alembic.ini", "driver://user:pass@localhost/dbname", "hyperdrive://HYPERDRIVE")
    models = "from heroes import SQLModel\ntarget_metadata = SQLModel.metadata\n"
    project.replace("migrations/env.py", "target_metadata = None\n", models)
    imports = "import sqlalchemy as sa\n"
    project.replace("migrations/script.py.mako", imports, f"{imports}import sqlmodel\n")
    project.run("alembic revision --autogenerate -m heroes")
    project.run("alembic upgrade head")
    project.run("alembic check")
    project.run("python heroes.py")
    assert len(project.rows(HEROES)) == 2
