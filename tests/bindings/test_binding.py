from __future__ import annotations

from pathlib import Path

import pytest

from hyperdrive_client.bindings import Binding, binding
from hyperdrive_client.errors import BindingError, ConfigurationError

URL = "postgres://me:hunter2@localhost/app"


def test_the_name_defaults_to_hyperdrive() -> None:
    assert binding().name == "HYPERDRIVE"


def test_making_one_does_no_io(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("os.stat", refuse)
    monkeypatch.setattr("os.getcwd", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    made = binding("NONE", config=tmp_path / "none.json", env="e", environ={}, cwd=tmp_path)
    monkeypatch.undo()
    with pytest.raises(ConfigurationError, match=r"none\.json"):
        _ = made.origin


def test_it_is_resolved_at_first_use_and_once(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    made = binding("DB", environ=environ, cwd=tmp_path)
    with pytest.raises(BindingError):
        _ = made.origin
    environ["HYPERDRIVE_URL_DB"] = URL
    assert made.origin.database == "app"
    assert made.source == "environment variable HYPERDRIVE_URL_DB"
    environ.clear()
    assert made.origin is made.resolution.origin
    assert made.origin.database == "app"


def test_all_places_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "my.jsonc").write_text(
        '{"env": {"e": {"hyperdrive": [{"binding": "DB", "id": "1",'
        f' "localConnectionString": "{URL}"}}]}}}}}}'
    )
    made = binding("DB", config=Path("my.jsonc"), env="e", environ={}, cwd=tmp_path)
    assert made.source.endswith("my.jsonc:1, localConnectionString")


def test_the_repr_has_no_password_and_resolves_nothing(tmp_path: Path) -> None:
    made = binding("DB", environ={"HYPERDRIVE_URL_DB": URL}, cwd=tmp_path)
    assert repr(made) == "Binding('DB')"
    assert "hunter2" not in repr(made.origin) + repr(vars(made)["resolution"])


def test_a_subclass_shows_its_own_name() -> None:
    class LocalBinding(Binding):
        pass

    assert repr(LocalBinding("DB")) == "LocalBinding('DB')"


@pytest.mark.parametrize("name", ["", URL, "password=hunter2"])
def test_what_is_no_name_is_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        binding(name)
    assert "hunter2" not in str(caught.value)
