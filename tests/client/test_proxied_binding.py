from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from hyperdrive_client import BindingError, ConfigurationError, binding, connect
from hyperdrive_client.origin import EmbeddedPostgres


def test_making_one_does_no_io() -> None:
    assert binding().name == "HYPERDRIVE"
    assert repr(binding("NOWHERE", config="missing.toml")) == "Binding('NOWHERE')"


def test_its_origin_is_the_servers_and_its_fields_are_the_proxys(
    in_thread: None, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_DB", postgres.connection_string)
    found = binding("DB")
    assert found.origin.addresses[0].port == postgres.port
    assert found.source == "environment variable HYPERDRIVE_URL_DB"
    assert found.port != postgres.port
    assert found.user != postgres.user
    assert found.connectionString == found.connection_string
    for arguments in (
        {"conninfo": found.connection_string},
        {
            "host": found.host,
            "port": found.port,
            "user": found.user,
            "password": found.password,
            "dbname": found.database,
        },
    ):
        with psycopg.connect(**arguments) as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("postgres",)
    assert postgres.password not in f"{found!r} {found.origin!r}"


def test_connecting_to_it_uses_the_same_proxy(
    in_thread: None, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_URL_DB", postgres_dsn)
    for target in (binding("DB"), binding("DB").connection_string, "DB"):
        with connect(target) as connection:
            assert connection.info.port == binding("DB").port


def test_without_a_proxy_its_fields_are_the_origins(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "off")
    monkeypatch.setenv("HYPERDRIVE_URL_DB", postgres.connection_string)
    assert (binding("DB").port, binding("DB").password) == (postgres.port, postgres.password)


def test_it_reads_the_wrangler_file_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        '[[env.e.hyperdrive]]\nbinding = "DB"\nid = "x"\n'
        'localConnectionString = "postgresql://u:p@h/d"'
    )
    assert binding("DB", config="a.toml", env="e").origin.database == "d"
    with pytest.raises(BindingError):
        _ = binding("OTHER", config=tmp_path / "a.toml", env="e").host


@pytest.mark.parametrize("name", ["", "postgresql://u:secret@h/d"])
def test_what_is_no_name_is_an_error(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        binding(name)
    assert "secret" not in str(caught.value)
