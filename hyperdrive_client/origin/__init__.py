"""Embedded PostgreSQL for the demo and for tests: find binaries, start, stop, leave nothing behind.

Not for data you want to keep: see :mod:`hyperdrive_client.origin.server`.
"""

from hyperdrive_client.origin.binaries import Binaries, find_binaries
from hyperdrive_client.origin.server import EmbeddedPostgres
from hyperdrive_client.origin.shared_server import shared_postgres

__all__ = ["Binaries", "EmbeddedPostgres", "find_binaries", "shared_postgres"]
