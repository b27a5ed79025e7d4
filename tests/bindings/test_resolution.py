from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import pytest

from hyperdrive_client.bindings import Address, BindingWarning, Resolution, resolve
from hyperdrive_client.errors import BindingError, ConfigurationError

SECRET = "hunter2"
OURS = "HYPERDRIVE_URL_DB"
CURRENT = "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_DB"
DEPRECATED = "WRANGLER_HYPERDRIVE_LOCAL_CONNECTION_STRING_DB"
FIELD = "localConnectionString"

# Every source, the strongest first: (variable or field, where it stands).
SOURCES = [
    (OURS, "process"),
    (OURS, ".env"),
    (CURRENT, "process"),
    (CURRENT, ".env"),
    (DEPRECATED, "process"),
    (DEPRECATED, ".env"),
    (FIELD, "wrangler.json"),
]
PAIRS = list(combinations(SOURCES, 2))


class Project:
    """A folder with configuration files, and the process environment of a program in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ: dict[str, str] = {"HYPERDRIVE_STORE": str(folder / "store")}

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def write_wrangler(self, *items: Mapping[str, str], **environments: object) -> None:
        content = {"hyperdrive": items, **({"env": environments} if environments else {})}
        self.write("wrangler.json", json.dumps(content, indent=1))

    def set(self, source: tuple[str, str], text: str) -> None:
        name, place = source
        if place == "process":
            self.environ[name] = text
        elif place == ".env":
            with (self.folder / ".env").open("a", encoding="utf-8") as file:
                file.write(f"{name}={text}\n")
        else:
            self.write_wrangler({"binding": "DB", "id": "1", name: text})

    def resolve(
        self,
        name: str = "DB",
        *,
        config: Path | None = None,
        env: str | None = None,
        cwd: Path | None = None,
    ) -> Resolution:
        return resolve(name, config=config, env=env, environ=self.environ, cwd=cwd or self.folder)

    def database(self, name: str = "DB", env: str | None = None) -> str:
        return self.resolve(name, env=env).origin.database


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def url(database: str) -> str:
    return f"postgres://me:{SECRET}@localhost/{database}"


def shown(source: tuple[str, str]) -> str:
    name, place = source
    if place == "process":
        return f"environment variable {name}"
    return f"{name} in .env" if place == ".env" else f"wrangler.json:6, {name}"


@pytest.mark.parametrize("source", SOURCES, ids=shown)
@pytest.mark.filterwarnings("ignore::hyperdrive_client.bindings.BindingWarning")
def test_each_source_answers_alone_and_is_named(project: Project, source: tuple[str, str]) -> None:
    project.set(source, url("app"))
    resolution = project.resolve()
    assert resolution.name == "DB"
    assert resolution.source == shown(source)
    assert not resolution.hosted
    assert resolution.origin.database == "app"
    assert resolution.origin.password == SECRET
    assert resolution.origin.addresses == (Address("localhost"),)


@pytest.mark.parametrize(("stronger", "weaker"), PAIRS)
@pytest.mark.filterwarnings("ignore::hyperdrive_client.bindings.BindingWarning")
def test_the_stronger_of_two_sources_wins(
    project: Project, stronger: tuple[str, str], weaker: tuple[str, str]
) -> None:
    project.set(stronger, url("stronger"))
    project.set(weaker, url("weaker"))
    assert project.resolve().source == shown(stronger)
    assert project.database() == "stronger"


@pytest.mark.parametrize("empty", ["", "  "])
@pytest.mark.parametrize(("stronger", "weaker"), PAIRS)
@pytest.mark.filterwarnings("ignore::hyperdrive_client.bindings.BindingWarning")
def test_an_empty_source_is_skipped(
    project: Project, stronger: tuple[str, str], weaker: tuple[str, str], empty: str
) -> None:
    project.set(stronger, empty)
    project.set(weaker, url("weaker"))
    assert project.resolve().source == shown(weaker)


@pytest.mark.parametrize("place", ["process", ".env"])
def test_the_deprecated_variable_warns(project: Project, place: str) -> None:
    project.set((DEPRECATED, place), url("app"))
    with pytest.warns(BindingWarning) as caught:
        project.resolve()
    assert str(caught[0].message) == f"{shown((DEPRECATED, place))} is deprecated; use {CURRENT}"
    assert caught[0].filename == __file__


def test_the_deprecated_variable_does_not_warn_where_it_loses(project: Project) -> None:
    project.set((DEPRECATED, "process"), url("weaker"))
    project.set((OURS, "process"), url("stronger"))
    assert project.database() == "stronger"


def test_the_name_defaults_to_hyperdrive(project: Project) -> None:
    environ = {"HYPERDRIVE_URL_HYPERDRIVE": url("app")}
    assert resolve(environ=environ, cwd=project.folder).name == "HYPERDRIVE"


def test_the_process_environment_and_working_directory_are_the_defaults(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_FROM_PROCESS", url("one"))
    project.write(".env", f"HYPERDRIVE_URL_FROM_FILE={url('two')}")
    assert resolve("FROM_PROCESS").origin.database == "one"
    assert resolve("FROM_FILE").origin.database == "two"


def test_the_case_of_the_name_is_kept(project: Project) -> None:
    project.environ["HYPERDRIVE_URL_myDb"] = url("app")
    assert project.database("myDb") == "app"
    with pytest.raises(BindingError, match='did you mean "myDb"'):
        project.resolve("MYDB")


def test_blanks_around_a_value_are_dropped(project: Project) -> None:
    project.environ[OURS] = " host=localhost user=me dbname=app\n"
    assert project.database() == "app"
    project.environ[OURS] = f"\t{url('app')}\n"
    assert project.database() == "app"


def test_database_url_is_never_read(project: Project) -> None:
    project.environ["DATABASE_URL"] = url("app")
    project.write(".env", f"DATABASE_URL={url('app')}")
    with pytest.raises(BindingError):
        project.resolve()


def test_pgpassfile_reaches_the_origin(project: Project) -> None:
    project.environ |= {OURS: "postgres://me@localhost/app", "PGPASSFILE": "/my/pgpass"}
    assert project.resolve().origin.passfile == "/my/pgpass"


def test_a_broken_file_does_not_matter_where_a_variable_answers(project: Project) -> None:
    project.write("wrangler.json", "{ broken")
    project.write(".env", f"{CURRENT}={url('app')}")
    assert project.database() == "app"


def test_a_given_file_must_exist_even_where_a_variable_answers(project: Project) -> None:
    project.environ[OURS] = url("app")
    with pytest.raises(ConfigurationError, match=r"no wrangler file .*other\.json"):
        project.resolve(config=project.folder / "other.json")


def test_no_file_is_read_where_the_process_answers(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise AssertionError

    project.environ[OURS] = url("app")
    project.write(".env", "")
    project.write_wrangler()
    monkeypatch.setattr(Path, "read_text", refuse)
    assert project.database() == "app"


def test_dotenv_files_stand_next_to_the_wrangler_file(project: Project) -> None:
    project.write_wrangler()
    project.write(".env", f"{OURS}={url('beside')}")
    project.write("a/b/.env", f"{OURS}={url('wrong')}")
    assert project.resolve(cwd=project.folder / "a" / "b").origin.database == "beside"


def test_dotenv_files_stand_in_the_working_directory_without_a_wrangler_file(
    project: Project,
) -> None:
    project.write(".env", f"{OURS}={url('wrong')}")
    project.write("a/.env", f"{OURS}={url('here')}")
    resolution = project.resolve(cwd=project.folder / "a")
    assert resolution.origin.database == "here"
    assert resolution.source == f"{OURS} in a/.env"


def test_a_given_file_decides_where_dotenv_files_are(project: Project) -> None:
    project.write("conf/my.jsonc", "{}")
    project.write("conf/.env.local", f"{OURS}={url('app')}")
    resolution = project.resolve(config=Path("conf/my.jsonc"))
    assert resolution.source == f"{OURS} in conf/.env.local"


def test_a_dotenv_value_may_refer_to_the_process(project: Project) -> None:
    project.environ["DB_PASSWORD"] = "p%40ss"
    project.write(".env", OURS + '="postgres://me:${DB_PASSWORD}@localhost/app"')
    assert project.resolve().origin.password == "p@ss"


def item(database: str) -> dict[str, str]:
    return {"binding": "DB", "id": "1", FIELD: url(database)}


@pytest.mark.parametrize(
    ("argument", "variable", "database"),
    [
        (None, None, "top"),
        (None, "", "top"),
        (None, "staging", "staging"),
        ("staging", None, "staging"),
        ("staging", "prod", "staging"),
        ("", "staging", "top"),
    ],
)
def test_the_environment_is_the_argument_else_the_variable_else_the_top_level(
    project: Project, argument: str | None, variable: str | None, database: str
) -> None:
    project.write_wrangler(
        item("top"), staging={"hyperdrive": [item("staging")]}, prod={"hyperdrive": [item("prod")]}
    )
    if variable is not None:
        project.environ["CLOUDFLARE_ENV"] = variable
    assert project.database(env=argument) == database


def test_the_environment_chooses_dotenv_files(project: Project) -> None:
    project.write(".env", f"{OURS}={url('top')}")
    project.write(".env.staging", f"{OURS}={url('staging')}")
    assert project.database() == "top"
    assert project.database(env="staging") == "staging"
    project.environ["CLOUDFLARE_ENV"] = "staging"
    assert project.database() == "staging"


def test_a_binding_of_another_environment_leads_nowhere(project: Project) -> None:
    project.write_wrangler(item("top"), staging={"hyperdrive": []})
    with pytest.raises(BindingError):
        project.resolve(env="staging")


@pytest.mark.parametrize("source", SOURCES, ids=shown)
@pytest.mark.filterwarnings("ignore::hyperdrive_client.bindings.BindingWarning")
def test_a_bad_connection_string_is_blamed_on_its_source(
    project: Project, source: tuple[str, str]
) -> None:
    project.set(source, f"mysql://me:{SECRET}@localhost/app")
    with pytest.raises(ConfigurationError) as caught:
        project.resolve()
    assert str(caught.value).startswith(f"{shown(source)}: ")
    assert "only PostgreSQL" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert not isinstance(caught.value, BindingError)


def test_a_name_without_any_source_is_an_error_that_lists_them(project: Project) -> None:
    project.write_wrangler({"binding": "MAIN_DB", "id": "1"})
    project.write(".env", f"{OURS}1={url('app')}\n{CURRENT}2=\n")
    project.environ["WRANGLER_HYPERDRIVE_LOCAL_CONNECTION_STRING_OLD"] = url("app")
    with pytest.raises(BindingError) as caught:
        project.resolve("MAIN_BD")
    assert str(caught.value) == (
        'the binding "MAIN_BD" leads nowhere. Looked at: '
        "environment variable HYPERDRIVE_URL_MAIN_BD; "
        "environment variable CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_MAIN_BD; "
        "environment variable WRANGLER_HYPERDRIVE_LOCAL_CONNECTION_STRING_MAIN_BD; "
        "wrangler.json (no binding of this name); "
        f"{project.folder}/store/configurations.json (no MAIN_BD); "
        f"variables also in the .env files of {project.folder}. "
        "Set CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_MAIN_BD, "
        "or localConnectionString in the wrangler file, or hyperdrive create MAIN_BD. "
        'Known bindings: DB1, MAIN_DB, OLD; did you mean "MAIN_DB"?'
    )


def test_a_binding_without_connection_string_is_an_error_with_its_line(project: Project) -> None:
    project.write_wrangler({"binding": "DB", "id": "1"})
    with pytest.raises(BindingError) as caught:
        project.resolve()
    assert "; wrangler.json:3, localConnectionString;" in str(caught.value)
    assert str(caught.value).endswith("Known bindings: DB")


def test_without_any_file_the_error_says_where_it_looked(project: Project) -> None:
    with pytest.raises(BindingError) as caught:
        project.resolve()
    assert (
        f"wrangler.json, wrangler.jsonc, wrangler.toml (none in {project.folder} or above)"
        in str(caught.value)
    )
    assert str(caught.value).endswith("Known bindings: none")


def test_a_broken_wrangler_file_is_an_error_when_it_is_its_turn(project: Project) -> None:
    project.write("wrangler.json", "{ broken")
    with pytest.raises(ConfigurationError, match=r"^wrangler\.json:1:3: not valid JSON"):
        project.resolve()


@pytest.mark.parametrize("name", [url("app"), f"host=localhost password={SECRET}"])
def test_a_connection_string_is_not_a_name_and_is_not_shown(project: Project, name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a connection string") as caught:
        project.resolve(name)
    assert SECRET not in str(caught.value)


def test_an_empty_name_is_an_error(project: Project) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        project.resolve("")


def test_the_repr_of_a_resolution_hides_the_password(project: Project) -> None:
    project.environ[OURS] = url("app")
    assert SECRET not in repr(project.resolve())
