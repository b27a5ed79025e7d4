from __future__ import annotations

import warnings

import pytest

from hyperdrive_client import ConfigurationError
from hyperdrive_client.client import MAX_POOL_SIZE, pool_size_limit
from hyperdrive_client.client.pool_size import capped_pool_sizes


def test_a_pool_has_five_connections_at_most() -> None:
    assert MAX_POOL_SIZE == pool_size_limit() == 5


def test_the_variable_decides_otherwise_and_the_argument_over_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYPERDRIVE_MAX_POOL_SIZE", "")
    assert pool_size_limit() == 5
    monkeypatch.setenv("HYPERDRIVE_MAX_POOL_SIZE", "8")
    assert pool_size_limit() == 8
    assert pool_size_limit(3) == 3


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "²"])
def test_a_limit_that_is_no_number_of_connections_is_an_error(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERDRIVE_MAX_POOL_SIZE", text)
    with pytest.raises(ConfigurationError, match=f"HYPERDRIVE_MAX_POOL_SIZE is '{text}'"):
        pool_size_limit()


def test_a_wrong_argument_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="max_pool_size is '0'"):
        pool_size_limit(0)


@pytest.mark.parametrize(
    ("asked", "limit", "sizes"),
    [
        ((None, None), 5, (4, 4)),  # psycopg_pool's default
        ((None, None), 2, (2, 2)),
        ((None, 5), 5, (4, 5)),
        ((None, 2), 5, (2, 2)),
        ((0, 5), 5, (0, 5)),
        ((5, None), 5, (5, 5)),
    ],
)
def test_sizes_within_the_limit_are_kept(
    asked: tuple[int | None, int | None], limit: int, sizes: tuple[int, int]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert capped_pool_sizes(*asked, limit) == sizes


@pytest.mark.parametrize(
    ("asked", "sizes"), [((6, None), (5, 5)), ((1, 20), (1, 5)), ((10, 20), (5, 5))]
)
def test_larger_sizes_are_capped_with_a_warning(
    asked: tuple[int, int | None], sizes: tuple[int, int]
) -> None:
    with pytest.warns(UserWarning, match="capped at 5: the proxy pools .*HYPERDRIVE_MAX_POOL_SIZE"):
        assert capped_pool_sizes(*asked, 5) == sizes
