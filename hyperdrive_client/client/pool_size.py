"""How many connections a pool of clients may hold."""

from __future__ import annotations

import os
import warnings

from hyperdrive_client.errors import ConfigurationError

MAX_POOL_SIZE = 5
"""The size that Hyperdrive's pages give the pools of drivers ("Connect to PostgreSQL")."""

VARIABLE = "HYPERDRIVE_MAX_POOL_SIZE"

_PSYCOPG_MIN_SIZE = 4


def pool_size_limit(max_pool_size: int | None = None) -> int:
    """Return how many connections one pool may hold.

    The argument decides, else the variable ``HYPERDRIVE_MAX_POOL_SIZE``, else ``MAX_POOL_SIZE``.
    Raises ``ConfigurationError`` for what is not a whole number from 1 on.
    """
    if max_pool_size is not None:
        source, given = "max_pool_size", str(max_pool_size)
    else:
        source, given = VARIABLE, os.environ.get(VARIABLE) or str(MAX_POOL_SIZE)
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise ConfigurationError(f"{source} is {given!r}: expected a whole number from 1 on")
    return int(given)


def warn_of_capped_pool(size: str, limit: int, stacklevel: int) -> None:
    """Say that a pool is smaller than asked for, and why; ``stacklevel`` as in ``warnings``."""
    warnings.warn(
        f"a pool of {size} connections is capped at {limit}: the proxy pools the connections to "
        "the database, and more in front of it would only wait there. "
        f"{VARIABLE} or max_pool_size= allows more",
        stacklevel=stacklevel + 1,
    )


def capped_pool_sizes(min_size: int | None, max_size: int | None, limit: int) -> tuple[int, int]:
    """Return the sizes of a psycopg pool within the limit, with a warning if they were above it."""
    if min_size is None:
        min_size = min(_PSYCOPG_MIN_SIZE, limit, max_size if max_size is not None else limit)
    if max_size is None:
        max_size = min_size
    if max(min_size, max_size) > limit:
        warn_of_capped_pool(str(max(min_size, max_size)), limit, stacklevel=3)
    return min(min_size, limit), min(max_size, limit)
