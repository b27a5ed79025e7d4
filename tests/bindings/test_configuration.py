from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdrive_client.bindings import parse_connection_string
from hyperdrive_client.bindings.configuration import Configuration, Door, check_name
from hyperdrive_client.errors import ConfigurationError

SECRET, KEY_SECRET, DOOR_SECRET = "hunter2", "hunter3", "hunter4"
URL = f"postgres://me:{SECRET}@db.example:6543/app"


def configuration(url: str = URL, **changes: object) -> Configuration:
    given: dict[str, object] = {
        "id": "f" * 32,
        "name": "app",
        "scheme": "postgres",
        "origin": parse_connection_string(url, environ={}),
        "door": Door(20001, "visitor", DOOR_SECRET),
        "created_on": "2026-01-01T00:00:00.000Z",
        "modified_on": "2026-01-02T00:00:00.000Z",
    }
    return Configuration(**{**given, **changes})  # type: ignore[arg-type]


def test_it_is_shown_as_hyperdrives_object() -> None:
    assert configuration(max_age=10, origin_connection_limit=7).shown() == {
        "id": "f" * 32,
        "name": "app",
        "origin": {
            "scheme": "postgres",
            "host": "db.example",
            "port": 6543,
            "database": "app",
            "user": "me",
        },
        "caching": {"disabled": False, "max_age": 10, "stale_while_revalidate": 15},
        "mtls": {
            "ca_certificate_id": None,
            "mtls_certificate_id": None,
            "sslmode": "require",
        },
        "origin_connection_limit": 7,
        "created_on": "2026-01-01T00:00:00.000Z",
        "modified_on": "2026-01-02T00:00:00.000Z",
        "restarted_on": None,
    }


def test_ages_are_not_shown_where_nothing_is_cached() -> None:
    assert configuration(caching_disabled=True).shown()["caching"] == {"disabled": True}


def test_what_hyperdrive_has_no_place_for_is_shown_beside_it() -> None:
    shown = configuration(f"{URL}?connect_timeout=5&options=-cx%3D1").shown()
    assert shown["origin"]["parameters"] == {"connect_timeout": "5", "options": "-cx=1"}


def test_several_hosts_have_several_ports() -> None:
    origin = configuration(f"postgres://me:{SECRET}@a:1,b:2/app").shown()["origin"]
    assert (origin["host"], origin["port"]) == ("a,b", "1,2")


@pytest.mark.parametrize("show", [lambda it: json.dumps(it.shown()), repr, str])
def test_no_password_is_shown(show: object) -> None:
    assert callable(show)
    text = show(configuration(f"{URL}?sslcert=c&sslkey=k&sslpassword={KEY_SECRET}"))
    assert not re.search(f"{SECRET}|{KEY_SECRET}|{DOOR_SECRET}", text)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9)
ages = st.none() | st.integers(0, 3600)


@given(
    name=texts,
    password=texts,
    mode=st.sampled_from(["disable", "prefer", "require"]),
    options=st.none() | texts,
    timeout=st.none() | st.integers(0, 99),
    door=st.builds(Door, st.integers(1, 65535), texts, texts),
    max_age=ages,
    swr=ages,
    disabled=st.booleans(),
    limit=ages,
    restarted=st.none() | texts,
)
def test_what_is_stored_comes_back_the_same(
    name: str,
    password: str,
    mode: str,
    options: str | None,
    timeout: int | None,
    door: Door,
    max_age: int | None,
    swr: int | None,
    disabled: bool,
    limit: int | None,
    restarted: str | None,
) -> None:
    origin = parse_connection_string(URL, environ={})
    origin = replace(origin, password=password, sslmode=mode, options=options)  # type: ignore[arg-type]
    before = configuration(
        name=name,
        origin=replace(origin, connect_timeout=timeout),
        door=door,
        max_age=max_age,
        stale_while_revalidate=swr,
        caching_disabled=disabled,
        origin_connection_limit=limit,
        restarted_on=restarted,
    )
    assert Configuration.of_stored(json.loads(json.dumps(before.stored()))) == before


def test_the_environments_password_file_is_not_part_of_what_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = configuration().stored()
    monkeypatch.setenv("PGPASSFILE", "/elsewhere")
    assert Configuration.of_stored(stored).origin.passfile is None


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[2J", "ä" * 128, "x" * 256])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a name for the configuration"):
        check_name(name)


@pytest.mark.parametrize("name", [URL, f"host=db password={SECRET}"])
def test_a_connection_string_in_a_names_place_is_not_repeated(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_name(name)
    assert SECRET not in str(caught.value)
