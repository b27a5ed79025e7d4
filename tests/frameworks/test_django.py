"""The page for Django: its project, by ``manage.py`` and over HTTP, with both kinds of settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent
from typing import TYPE_CHECKING

import psycopg
import pytest

from .conftest import ORIGIN_CONNECTION_LIMIT, wait_until

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project

FRAMEWORKS = ("django", "uvicorn")

MANAGE = """
import os, sys
from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
execute_from_command_line(sys.argv)
"""

# What a program needs before it may use the models.
SET_UP = """
import django
from django.conf import settings

django.setup()
from django.db import connection, connections, transaction
from shop.models import Item


def show(what):
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW hyperdrive.{what}")
        return cursor.fetchall()
"""

PERSISTENCE = (
    '"CONN_MAX_AGE": 0',
    '"CONN_MAX_AGE": None',
    '"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True, "ATOMIC_REQUESTS": True',
)
POOL = '"OPTIONS": {"pool": True}'

TESTS = """
from django.db import connection
from django.test import TestCase, TransactionTestCase
from shop.models import Item


class Rolled(TestCase):
    def test_it(self):
        Item.objects.create(name="pen")
        self.assertEqual(self.client.get("/").json(), {"pen": 0})


class Truncated(TransactionTestCase):
    def test_it(self):
        self.assertTrue(connection.settings_dict["NAME"].startswith("test_"))
        Item.objects.create(name="pen", stock=5)
        self.assertEqual(self.client.get("/sell/pen").json(), {"pen": 4})
"""


@pytest.fixture(params=["fields", "backend"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the page's two ways to the proxy the settings use."""
    return str(request.param)


@pytest.fixture
def django(kind: str, project: Project, page: Callable[[str], Page]) -> Page:
    """The page, and its project, with the tables and two items."""
    it = page("docs/django.md")
    it.write_files(project.folder)
    project.write("manage.py", MANAGE)
    project.write("shop/__init__.py", "")
    fields = project.read("settings.py")
    [of_backend] = [each for each in it.blocks("python") if each.startswith("DATABASES")]
    if kind == "backend":
        name = project.database.rpartition("/")[2]
        project.write("settings.py", fields + of_backend.replace('"app"', f'"{name}"'))
        project.replace("settings.py", "import hyperdrive_client\n", "")
        start, end = "hyperdrive = ", "SECRET_KEY"
        text = project.read("settings.py")
        project.write("settings.py", text[: text.index(start)] + text[text.index(end) :])
    project.environment["DJANGO_SETTINGS_MODULE"] = "settings"
    project.run("python manage.py makemigrations shop")
    project.run("python manage.py migrate")
    project.rows("INSERT INTO shop_item (name, stock) VALUES ('pen', 100), ('ink', 7) RETURNING 1")
    return it


def run(project: Project, program: str) -> object:
    """What a program prints, as JSON, that uses the project's models."""
    project.write("program.py", f"import json\n{SET_UP}\n{dedent(program)}")
    return json.loads(project.run("python program.py"))


def set_options(project: Project, options: str) -> None:
    """Change the settings of the database; without CONN_MAX_AGE where a pool is asked for."""
    project.replace("settings.py", '        "CONN_MAX_AGE": None,\n', f"        {options},\n")


@pytest.mark.usefixtures("django")
def test_migrations_have_been_applied_and_there_is_nothing_more_to_migrate(
    project: Project,
) -> None:
    project.run("python manage.py migrate --check")
    project.run("python manage.py makemigrations --check")
    project.run("python manage.py check --database default")
    tables = "SELECT count(*) FROM pg_tables WHERE tablename IN ('shop_item', 'auth_user')"
    assert project.rows(tables) == [(2,)]


@pytest.mark.usefixtures("django")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, options) for kind in ("fields", "backend") for options in PERSISTENCE),
        ("fields", POOL),
    ],
)
def test_requests_at_once_lock_what_they_change(project: Project, options: str) -> None:
    set_options(project, options)
    serve = "python manage.py runserver --noreload 127.0.0.1:PORT"
    with project.serve(serve) as server, ThreadPoolExecutor(20) as clients:
        sold = list(clients.map(lambda _: json.loads(server.get("/sell/pen")), range(60)))
        assert sorted(each["pen"] for each in sold) == list(range(40, 100))
        assert project.origin_connections() > 1
    assert project.rows("SELECT stock FROM shop_item WHERE name = 'pen'") == [(40,)]


@pytest.mark.usefixtures("django")
@pytest.mark.parametrize(
    ("kind", "options"),
    [("fields", PERSISTENCE[0]), ("fields", POOL), ("backend", PERSISTENCE[0])],
)
def test_asynchronous_views_work_under_asgi(project: Project, options: str) -> None:
    set_options(project, options)
    project.write(
        "asgi.py",
        "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n",
    )
    with (
        project.serve("uvicorn asgi:application --port PORT") as server,
        ThreadPoolExecutor(20) as clients,
    ):
        answers = set(clients.map(lambda _: server.get("/count"), range(60)))
        assert answers == {'{"items": 2}'}
        assert project.origin_connections() > 0


@pytest.mark.usefixtures("django")
def test_an_iterator_keeps_its_connection_until_it_is_read(project: Project) -> None:
    assert run(
        project,
        """
        Item.objects.bulk_create(Item(name=str(number)) for number in range(3000))
        names = (item.name for item in Item.objects.order_by("id").iterator(chunk_size=100))
        first = [next(names) for _ in range(3)]
        during = show("pins")
        Item.objects.update(stock=1)
        rest = sum(1 for _ in names)
        left = Item.objects.iterator(chunk_size=10)
        next(left)
        del left
        print(json.dumps([first, during, rest, show("pins")]))
        """,
    ) == [
        ["pen", "ink", "0"],
        [["WITH HOLD cursor", "1", "1"]],
        2999,
        [["WITH HOLD cursor", "0", "2"]],
    ]


@pytest.mark.usefixtures("django")
def test_savepoints_take_back_what_belongs_to_them(project: Project) -> None:
    found = run(
        project,
        """
        with transaction.atomic():
            Item.objects.create(name="kept")
            try:
                with transaction.atomic():
                    Item.objects.create(name="taken back")
                    Item.objects.create(name="pen")
            except django.db.IntegrityError:
                pass
            inside = list(Item.objects.order_by("id").iterator(chunk_size=1))
            try:
                with transaction.atomic():
                    Item.objects.create(name="taken back")
                    transaction.set_rollback(True)
            finally:
                Item.objects.filter(name="ink").update(stock=8)
        print(json.dumps([item.name for item in inside]))
        """,
    )
    assert found == ["pen", "ink", "kept"]
    stock = project.rows("SELECT name, stock FROM shop_item ORDER BY id")
    assert stock == [("pen", 100), ("ink", 8), ("kept", 0)]


@pytest.mark.usefixtures("django")
def test_persistent_connections_of_many_threads_share_the_proxys(project: Project) -> None:
    clients, connections = run(
        project,
        """
        from concurrent.futures import ThreadPoolExecutor
        from threading import Barrier

        all_there = Barrier(40)

        def look(number):
            Item.objects.count()
            all_there.wait(30)
            Item.objects.filter(name="pen").exists()
            connected = connections["default"].connection is not None
            all_there.wait(30)
            return connected

        with ThreadPoolExecutor(40) as threads:
            assert all(threads.map(look, range(40)))
            pool = dict(show("pool"))
        print(json.dumps([int(pool["clients"]), int(pool["origin_connections"])]))
        """,
    )
    assert clients == 41
    assert connections <= ORIGIN_CONNECTION_LIMIT


@pytest.mark.parametrize("kind", ["fields"])
def test_a_time_zone_in_the_options_is_there_from_the_start(project: Project, django: Page) -> None:
    name = project.database.rpartition("/")[2]
    with psycopg.connect(project.database, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'".encode())
    # What has connected before knows the time zone from before.
    wait_until(lambda: not project.proxies(), "the proxy has ended")
    program = """
        with connection.Database.connect(**connection.get_connection_params()) as started:
            print(json.dumps(started.info.parameter_status("TimeZone")))
        """
    assert run(project, program) == "Asia/Tokyo"
    [option] = re.findall(r"`(OPTIONS = .*TimeZone.*)`", django.path.read_text())
    set_options(project, option.replace("OPTIONS =", '"OPTIONS":'))
    assert run(project, program) == "UTC"


def test_its_tests_need_the_proxy_switched_off(kind: str, project: Project, django: Page) -> None:
    project.write("shop/tests.py", TESTS)
    command = "python manage.py test --no-input --parallel 2"
    assert "HYPERDRIVE_PROXY=off python manage.py test" in django.path.read_text()
    project.run(command, HYPERDRIVE_PROXY="off")
    refused = project.try_to_run(command, HYPERDRIVE_PROXY="process", PYTHONWARNINGS="ignore")
    told = {"fields": '" does not exist', "backend": "is being accessed by other users"}
    assert told[kind] in refused.stderr
    assert project.rows("SELECT name FROM shop_item ORDER BY id") == [("pen",), ("ink",)]


@pytest.mark.parametrize("kind", ["backend"])
@pytest.mark.usefixtures("django")
def test_the_backend_asks_for_nothing_before_the_first_query(project: Project) -> None:
    program = "import django; django.setup(); from shop.models import Item; Item.objects.all()"
    project.run(f"python -c '{program}'", HYPERDRIVE_URL_HYPERDRIVE="")


@pytest.mark.parametrize("kind", ["backend"])
@pytest.mark.parametrize("health_checks", [False, True])
@pytest.mark.usefixtures("django")
def test_the_backend_finds_a_new_proxy_after_a_crash(project: Project, health_checks: bool) -> None:
    set_options(project, f'"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": {health_checks}')
    serve = "python manage.py runserver --noreload --nothreading 127.0.0.1:PORT"
    with project.serve(serve) as server:
        assert server.get("/") == '{"pen": 100, "ink": 7}'
        project.kill_proxy()
        answers = [server.get("/") for _ in range(3)]
    wrong = [answer for answer in answers if answer != '{"pen": 100, "ink": 7}']
    assert len(wrong) == (0 if health_checks else 1)


@pytest.mark.parametrize("kind", ["fields"])
@pytest.mark.usefixtures("django")
def test_after_a_crash_any_command_starts_the_proxy_that_the_fields_name(
    project: Project,
) -> None:
    serve = "python manage.py runserver --noreload --nothreading 127.0.0.1:PORT"
    with project.serve(serve) as server:
        assert server.get("/") == '{"pen": 100, "ink": 7}'
        project.kill_proxy()
        assert ["pen" in server.get("/") for _ in range(3)] == [False] * 3
        project.run("python manage.py check")
        assert server.get("/") == '{"pen": 100, "ink": 7}'
