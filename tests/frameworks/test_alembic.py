"""The page for Alembic: what it tells to do works, and what it says holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from .conftest import wait_until

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project

FRAMEWORKS = ("alembic",)

TABLES = """
SELECT table_schema || '.' || table_name FROM information_schema.tables
WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""
COLUMNS = """
SELECT table_name, column_name, udt_name, column_default, is_nullable
FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
"""


@pytest.fixture
def template() -> str:
    """Which of Alembic's templates the project is made from."""
    return "generic"


@pytest.fixture
def alembic(template: str, project: Project, page: Callable[[str], Page]) -> Page:
    """The page, after its edits have been made in a new project."""
    it = page("docs/alembic.md")
    it.write_files(project.folder)
    project.run(f"alembic init -t {template} migrations")
    [url] = it.blocks("ini")
    edits = it.blocks("python")
    project.replace("alembic.ini", "sqlalchemy.url = driver://user:pass@localhost/dbname\n", url)
    [models] = [edit for edit in edits if edit.startswith("from models import")]
    project.replace("migrations/env.py", "target_metadata = None\n", models)
    return it


def revise(project: Project, operations: str, message: str) -> None:
    """Make a revision that does these operations."""
    project.run(f"alembic revision -m {message}")
    [path] = (project.folder / "migrations" / "versions").glob(f"*_{message}.py")
    empty = re.compile(r"(def upgrade.*\n(?: {4}\"\"\".*\n)?) {4}pass")
    text, number = empty.subn(lambda found: found[1] + operations, path.read_text())
    assert number == 1
    path.write_text(text)


@pytest.mark.parametrize("template", ["generic", "async"])
@pytest.mark.usefixtures("alembic")
def test_a_revision_is_found_and_applied_and_nothing_is_left_to_find(project: Project) -> None:
    project.run('alembic revision --autogenerate -m "orders"')
    project.run("alembic upgrade head")
    assert project.rows(TABLES) == [("public.alembic_version",), ("public.orders",)]
    assert project.rows("SELECT enum_range(NULL::status)::text") == [("{open,paid}",)]
    assert "No new upgrade operations" in project.run("alembic check")
    project.run("alembic downgrade base")
    assert project.rows(TABLES) == [("public.alembic_version",)]


@pytest.mark.usefixtures("alembic")
def test_offline_mode_needs_no_database_and_says_the_same(project: Project) -> None:
    project.run('alembic revision --autogenerate -m "orders"')
    sql = project.run("alembic upgrade head --sql", HYPERDRIVE_URL_HYPERDRIVE="")
    project.run("alembic upgrade head")
    online = project.rows(COLUMNS)
    with psycopg.connect(project.database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute(sql.encode())
    assert project.rows(COLUMNS) == online != []


@pytest.mark.usefixtures("alembic")
def test_a_migration_that_fails_leaves_nothing_behind(project: Project) -> None:
    revise(
        project,
        '    op.execute("CREATE TABLE half (id int)")\n    op.execute("SELECT 1 / 0")',
        "broken",
    )
    done = project.try_to_run("alembic upgrade head")
    assert done.returncode == 1
    assert "division by zero" in done.stderr
    assert project.rows(TABLES) == []


@pytest.mark.usefixtures("alembic")
def test_other_schemas_and_an_index_made_concurrently(project: Project) -> None:
    project.write(
        "models.py",
        project.read("models.py")
        + "\n\nclass Item(Base):\n"
        + '    __tablename__ = "items"\n    __table_args__ = {"schema": "shop"}\n\n'
        + "    id: Mapped[int] = mapped_column(primary_key=True)\n",
    )
    env = project.read("migrations/env.py")
    with_schemas = "target_metadata=target_metadata, include_schemas=True"
    project.write("migrations/env.py", env.replace("target_metadata=target_metadata", with_schemas))
    revise(project, '    op.execute("CREATE SCHEMA shop")', "schema")
    project.run("alembic upgrade head")
    project.run('alembic revision --autogenerate -m "tables"')
    revise(
        project,
        "    with op.get_context().autocommit_block():\n"
        '        op.create_index("by_total", "orders", ["total"], postgresql_concurrently=True)\n'
        '        op.drop_index("by_total", "orders", postgresql_concurrently=True)',
        "concurrently",
    )
    project.run("alembic upgrade head")
    assert ("shop.items",) in project.rows(TABLES)
    assert "No new upgrade operations" in project.run("alembic check")


@pytest.mark.parametrize("template", ["generic", "async"])
def test_two_upgrades_at_once_apply_a_revision_once(project: Project, alembic: Page) -> None:
    revise(project, '    op.execute("CREATE TABLE once (id int)")', "once")
    [lock] = [edit for edit in alembic.blocks("python") if "advisory" in edit]
    env = project.read("migrations/env.py")
    begin = "        with context.begin_transaction():\n"
    if begin not in env:  # less deep in the asynchronous template
        begin, lock = begin[4:], lock[4:]
    before, _, after = env.rpartition(begin)
    project.write("migrations/env.py", before + begin + lock + after)
    number = re.findall(r"\d+", lock)[0]
    with psycopg.connect(project.database, autocommit=True) as holder, ThreadPoolExecutor() as pool:
        holder.execute("SELECT pg_advisory_lock(%s)", [number])
        upgrades = [pool.submit(project.run, "alembic upgrade head") for _ in range(2)]
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(lambda: len(project.rows(waiting)) == 2, "both wait for the lock")
        holder.execute("SELECT pg_advisory_unlock_all()")
        for upgrade in upgrades:
            upgrade.result()
    assert ("public.once",) in project.rows(TABLES)


def test_a_lock_time_out_in_the_url_ends_the_waiting(project: Project, alembic: Page) -> None:
    [option] = re.findall(r"HYPERDRIVE(\?options=\S+)`", alembic.path.read_text())
    soon = option.replace("5s", "50ms").replace("%", "%%")
    assert soon != option
    project.replace("alembic.ini", "//HYPERDRIVE\n", f"//HYPERDRIVE{soon}\n")
    with psycopg.connect(project.database) as owner:
        owner.execute("CREATE TABLE busy (id int)")
    revise(project, '    op.execute("ALTER TABLE busy ADD name text")', "alter")
    with psycopg.connect(project.database) as reader:
        reader.execute("SELECT FROM busy")
        done = project.try_to_run("alembic upgrade head")
    assert "canceling statement due to lock timeout" in done.stderr
    project.run("alembic upgrade head")
