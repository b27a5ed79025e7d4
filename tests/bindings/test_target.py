from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hyperdrive_client.bindings import Address, Binding, resolve_target
from hyperdrive_client.errors import BindingError, ConfigurationError

SECRET = "hunter2"
FIELDS = {
    "host": "0123.hyperdrive.local",
    "port": 5432,
    "user": "me",
    "password": "p@ss/w%rd",
    "database": "app",
}
# As Hyperdrive writes it: the password is not percent-encoded.
UNENCODED = "postgresql://me:p@ss/w%rd@0123.hyperdrive.local:5432/app?sslmode=disable"


def environ(name: str) -> dict[str, str]:
    return {f"HYPERDRIVE_URL_{name}": f"postgres://me:{SECRET}@localhost/{name.lower()}"}


def test_no_target_is_the_binding_hyperdrive(tmp_path: Path) -> None:
    resolution = resolve_target(environ=environ("HYPERDRIVE"), cwd=tmp_path)
    assert (resolution.name, resolution.hosted) == ("HYPERDRIVE", False)
    assert resolution.origin.database == "hyperdrive"


def test_a_plain_string_is_a_name(tmp_path: Path) -> None:
    resolution = resolve_target("DB", environ=environ("DB"), cwd=tmp_path)
    assert (resolution.name, resolution.hosted) == ("DB", False)
    assert resolution.source == "environment variable HYPERDRIVE_URL_DB"


def test_the_places_of_a_name_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "my.jsonc").write_text(
        '{"env": {"e": {"hyperdrive": [{"binding": "DB", "id": "1",'
        ' "localConnectionString": "postgres://me@localhost/e"}]}}}'
    )
    resolution = resolve_target("DB", config=Path("my.jsonc"), env="e", environ={}, cwd=tmp_path)
    assert resolution.origin.database == "e"


@pytest.mark.parametrize(
    "target", ["postgresql://me:pw@db/app", "host=db user=me password=pw dbname=app"]
)
def test_a_connection_string_is_an_origin(target: str) -> None:
    resolution = resolve_target(target, environ={})
    assert (resolution.name, resolution.hosted) == (None, False)
    assert resolution.source == "connection string"
    assert resolution.origin.password == "pw"
    assert resolution.origin.addresses == (Address("db"),)


@pytest.mark.parametrize("target", [f"mysql://me:{SECRET}@db/app", f"user=me password={SECRET}"])
def test_a_bad_connection_string_is_not_taken_for_a_name(target: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_target(target, environ={})
    assert not isinstance(caught.value, BindingError)
    assert SECRET not in str(caught.value)


def test_an_empty_string_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        resolve_target("", environ=environ("HYPERDRIVE"), cwd=tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        FIELDS,
        SimpleNamespace(**FIELDS),
        SimpleNamespace(**FIELDS, connectionString=UNENCODED),
        FIELDS | {"port": "5432"},
        FIELDS | {"port": 5432.0},
        {"connectionString": UNENCODED.replace("p@ss/w%rd", "p%40ss%2Fw%25rd")},
    ],
)
def test_a_hosted_binding_is_taken_from_its_fields_or_its_string(target: object) -> None:
    resolution = resolve_target(target, environ={})
    assert (resolution.name, resolution.hosted) == (None, True)
    assert resolution.source == "hosted binding"
    origin = resolution.origin
    assert origin.addresses == (Address("0123.hyperdrive.local", 5432),)
    assert (origin.user, origin.password, origin.database) == ("me", "p@ss/w%rd", "app")
    assert origin.sslmode == "disable"


def test_incomplete_fields_leave_the_word_to_the_string() -> None:
    target = SimpleNamespace(connectionString="postgresql://me:pw@db/app", host="other")
    assert resolve_target(target, environ={}).origin.addresses == (Address("db"),)


@pytest.mark.parametrize(
    ("host", "string", "sslmode"),
    [
        ("0123.hyperdrive.local", None, "disable"),
        ("0123.hyperdrive.local", "postgresql://x?sslmode=require", "require"),
        ("db.example.com", None, "require"),
        ("db.example.com", "postgresql://x?a=b&sslmode=verify-full", "verify-full"),
        ("db.example.com", "postgresql://me:?sslmode=x@db/app?sslmode=disable", "disable"),
        ("127.0.0.1", None, "prefer"),
    ],
)
def test_tls_is_left_out_only_to_hyperdrive_or_where_the_string_says_so(
    host: str, string: str | None, sslmode: str
) -> None:
    target = FIELDS | {"host": host, "connectionString": string}
    assert resolve_target(target, environ={}).origin.sslmode == sslmode


def test_a_binding_is_what_its_name_leads_to(tmp_path: Path) -> None:
    binding = Binding("DB", environ=environ("DB"), cwd=tmp_path)
    assert resolve_target(binding) is binding.resolution


@pytest.mark.parametrize(
    "target",
    [5, b"DB", object(), {}, {"host": "db"}, {"connectionString": None}, FIELDS | {"user": None}],
)
def test_anything_else_is_an_error_that_names_only_its_type(target: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_target(target, environ={})
    assert str(caught.value).endswith(f"not an object of type {type(target).__name__}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": "x"}, "between 1 and 65535"),
        ({"user": ""}, "no user"),
        ({"database": "x" * 64}, "63 bytes"),
        ({"password": f"{SECRET}\0"}, "NUL"),
        ({"password": f"{SECRET}\udc80"}, "UTF-8"),
    ],
)
def test_the_fields_of_a_hosted_binding_are_checked(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        resolve_target(FIELDS | change, environ={})
    assert SECRET not in str(caught.value)
