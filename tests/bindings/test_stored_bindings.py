"""Bindings that lead to stored configurations, and URLs that lead to their proxies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyperdrive_client.bindings import parse_connection_string, resolve, resolve_target
from hyperdrive_client.bindings.configuration import Configuration, Door
from hyperdrive_client.bindings.store import Store
from hyperdrive_client.errors import BindingError, ConfigurationError

DOOR = "postgresql://visitor:entry@127.0.0.1:20001/app?sslmode=disable"
CURRENT = "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_DB"


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with a store that has the configuration "app"."""
    monkeypatch.chdir(tmp_path)
    add(tmp_path / "store", "app", 1)
    return {"HYPERDRIVE_STORE": str(tmp_path / "store")}


def add(folder: Path, name: str, number: int) -> Configuration:
    origin = parse_connection_string(f"postgres://me:secret@db.example/{name}", environ={})
    added = Configuration(
        id=f"{number:x}" * 32,
        name=name,
        scheme="postgresql",
        origin=origin,
        door=Door(20000 + number, "visitor", "entry"),
    )
    return Store(folder).add(lambda others: added)


def write(*items: dict[str, str]) -> None:
    Path("wrangler.json").write_text(json.dumps({"hyperdrive": items}, indent=1))


def test_the_id_in_the_wrangler_file_leads_to_the_configuration(environ: dict[str, str]) -> None:
    write({"binding": "DB", "id": "1" * 32})
    found = resolve("DB", environ=environ)
    assert found.configuration is not None
    assert (found.name, found.origin.database, found.configuration.name) == ("DB", "app", "app")
    assert found.source == f'configuration "app" ({"1" * 32}), by the id in wrangler.json:3'


def test_a_configurations_name_is_the_last_way(environ: dict[str, str]) -> None:
    found = resolve("app", environ=environ)
    assert found.source == f'configuration "app" ({"1" * 32})'
    # An id that is not stored is one of a Hyperdrive elsewhere.
    write({"binding": "app", "id": "9" * 32})
    assert resolve("app", environ=environ).configuration == found.configuration


def test_the_id_comes_before_the_name(environ: dict[str, str], tmp_path: Path) -> None:
    other = add(tmp_path / "store", "DB", 2)
    assert resolve("DB", environ=environ).configuration == other
    write({"binding": "DB", "id": "1" * 32})
    assert resolve("DB", environ=environ).origin.database == "app"


@pytest.mark.parametrize("source", ["HYPERDRIVE_URL_DB", CURRENT, "localConnectionString"])
def test_a_connection_string_comes_before_the_store(source: str, environ: dict[str, str]) -> None:
    url = "postgres://me:secret@localhost/elsewhere"
    write({"binding": "DB", "id": "1" * 32, **({source: url} if source[0] == "l" else {})})
    found = resolve("DB", environ={**environ, source: url})
    assert (found.configuration, found.origin.database) == (None, "elsewhere")


def test_neither_id_nor_name_is_an_error_that_names_the_store(
    environ: dict[str, str], tmp_path: Path
) -> None:
    write({"binding": "DB", "id": "9" * 32})
    with pytest.raises(BindingError) as caught:
        resolve("DB", environ=environ)
    text = str(caught.value)
    assert "the id in wrangler.json:3 (not stored)" in text
    assert f"{tmp_path}/store/configurations.json (no DB)" in text
    assert "hyperdrive create DB" in text
    assert "Known bindings: DB, app" in text


def test_an_id_that_is_none_of_ours_is_no_name(environ: dict[str, str]) -> None:
    write({"binding": "DB", "id": "app"})
    with pytest.raises(BindingError):
        resolve("DB", environ=environ)


def test_a_store_that_is_wrong_is_an_error_where_it_is_asked_and_nowhere_else(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "store" / "configurations.json").chmod(0o644)
    with pytest.raises(ConfigurationError, match="open to others"):
        resolve("app", environ=environ)
    for url in ("postgres://me:secret@localhost/app", DOOR):
        found = resolve("app", environ={**environ, "HYPERDRIVE_URL_app": url})
        assert found.origin.database == "app"
        assert found.configuration is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_what_leads_to_a_configurations_proxy_means_the_configuration(
    host: str, environ: dict[str, str]
) -> None:
    door = DOOR.replace("127.0.0.1", host)
    for found in (
        resolve("DB", environ={**environ, CURRENT: door}),
        resolve_target(door, environ=environ),
    ):
        assert found.origin.addresses[0].host == "db.example"
        assert found.configuration is not None
        assert found.source.endswith(f': the proxy of configuration "app" ({"1" * 32})')


@pytest.mark.parametrize(
    "other",
    [
        DOOR.replace("20001", "20002"),
        DOOR.replace("visitor", "somebody"),
        DOOR.replace("127.0.0.1", "db.example"),
        DOOR.replace("127.0.0.1:20001", "127.0.0.1:20001,127.0.0.1:20001"),
    ],
)
def test_what_leads_elsewhere_stays_what_it_is(other: str, environ: dict[str, str]) -> None:
    assert resolve_target(other, environ=environ).configuration is None


def test_whoever_has_the_environments_store_is_found_there(
    environ: dict[str, str], tmp_path: Path
) -> None:
    add(tmp_path / "config" / "hyperdrive", "other", 2)
    found = resolve("other", environ={"XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert found.origin.database == "other"
    with pytest.raises(BindingError):
        resolve("other", environ=environ)
