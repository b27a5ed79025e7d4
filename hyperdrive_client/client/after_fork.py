"""What a fork leaves to the parent: connections, and locks that its threads hold."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary


class ConnectionHolder(Protocol):
    """A pool, of whatever kind."""

    def drop_connections(self) -> None:
        """Forget all connections and start anew, without a byte to the server.

        Two processes that write to one socket break the protocol, and closing a connection would
        end the parent's session.
        """


# Each with the process whose connections it holds.
_holders: WeakKeyDictionary[ConnectionHolder, int] = WeakKeyDictionary()
_functions: list[Callable[[], None]] = []
_process = os.getpid()
_noticing = threading.Lock()


def drop_connections_after_fork(holder: ConnectionHolder) -> None:
    """Have a pool drop its connections in every child that this process forks from now on."""
    _holders[holder] = os.getpid()


def run_after_fork(function: Callable[[], None]) -> None:
    """Have a function run in every child that this process forks from now on."""
    _functions.append(function)


def notice_fork() -> None:
    """Do what is to be done after a fork, if this is a child of one that Python does not know of.

    Servers that embed Python, such as uWSGI, fork in C. To be called before what was there at the
    fork is used.
    """
    if os.getpid() != _process:
        with _noticing:
            if os.getpid() != _process:
                _in_child()


def _in_child() -> None:
    global _process
    for function in _functions:
        function()
    for holder, process in list(_holders.items()):
        if process != os.getpid():
            _holders[holder] = os.getpid()
            holder.drop_connections()
    _process = os.getpid()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_child)
