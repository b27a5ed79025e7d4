"""Catalogues of real databases."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from hyperdrive_client.proxy.cache.catalogue import Catalogue
from hyperdrive_client.proxy.cache.catalogue_queries import QUERIES
from hyperdrive_client.proxy.settings import Caching

LoadCatalogue = Callable[..., Catalogue]


@pytest.fixture(scope="session")
def load_catalogue() -> LoadCatalogue:
    """Load the catalogue that a connection string's user sees; ``functions`` as in ``Caching``."""
    return _load


def _load(connection_string: str, *functions: str) -> Catalogue:
    answers = {}
    with psycopg.connect(connection_string, autocommit=True) as connection:
        for name, query in QUERIES.items():
            rows = connection.execute(query).fetchall()
            answers[name] = [tuple(_bytes(value) for value in row) for row in rows]
    return Catalogue.of(answers, Caching(functions=functions))


def _bytes(value: object) -> bytes | None:
    assert value is None or isinstance(value, str)
    return None if value is None else value.encode()
