"""Embedded PostgreSQL for the demo and for tests: find binaries, start, stop, leave nothing behind.

Not for data you want to keep: see :mod:`hyperdrive_client.origin.server`.
"""

from hyperdrive_client.origin.binaries import Binaries, find_binaries
from hyperdrive_client.origin.server import EmbeddedPostgres

__all__ = ["Binaries", "EmbeddedPostgres", "find_binaries"]
