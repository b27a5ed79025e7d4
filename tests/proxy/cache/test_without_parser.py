"""Where PostgreSQL's parser is missing; ``nox -s without-parser`` runs this with it uninstalled."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator

import pytest

from hyperdrive_client.proxy.cache.catalogue import Catalogue, Verdict
from hyperdrive_client.sql import parse_tree


@pytest.fixture
def without_parser(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def version(name: str) -> str:
        if name == "postgast":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    found = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", version)
    parse_tree._library.cache_clear()
    yield
    parse_tree._library.cache_clear()


@pytest.mark.usefixtures("without_parser")
def test_nothing_is_kept_and_the_reason_says_what_is_missing(
    postgres_dsn: str, load_catalogue: Callable[..., Catalogue]
) -> None:
    reason = "the package postgast is not installed"
    assert parse_tree.why_unavailable() == reason
    found = load_catalogue(postgres_dsn)
    assert found.verdict(b"SELECT 1", ()) == Verdict("parseerror", reason, ())
