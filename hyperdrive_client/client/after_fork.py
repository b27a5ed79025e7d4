"""Pools after a fork: the connections stay the parent's."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class ConnectionHolder(Protocol):
    """A pool, of whatever kind."""

    def drop_connections(self) -> None:
        """Forget all connections and start anew, without a byte to the server.

        Two processes that write to one socket break the protocol, and closing a connection would
        end the parent's session.
        """


_holders: WeakSet[ConnectionHolder] = WeakSet()


def drop_connections_after_fork(holder: ConnectionHolder) -> None:
    """Have a pool drop its connections in every child that this process forks from now on."""
    _holders.add(holder)


def _in_child() -> None:
    for holder in list(_holders):
        holder.drop_connections()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_child)
