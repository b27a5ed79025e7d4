"""What the core asks of the network layer.

Every verb of :class:`~.core.Core` adds to its list of effects; the network layer performs them in
order, at once, and only then brings the next event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .origin_session import OriginSession
    from .states import ClientState


class Requester(Protocol):
    """Who wants something cancelled, and waits for it."""

    state: ClientState

    def close(self, now: float) -> None: ...


class SendToClient(NamedTuple):
    """Write ``data`` to the client."""

    client: ClientSession
    data: bytes


class SendToOrigin(NamedTuple):
    """Write ``data`` to the origin."""

    origin: OriginSession
    data: bytes


class CloseClient(NamedTuple):
    """Write what is still to be written, then close."""

    client: ClientSession


class PauseClient(NamedTuple):
    """Stop reading from a client that has sent enough while it waits."""

    client: ClientSession


class ResumeClient(NamedTuple):
    """Read again."""

    client: ClientSession


class ConnectOrigin(NamedTuple):
    """Open a connection, with TLS as configured, then ``connected`` or ``connect_failed``."""

    origin: OriginSession


class CloseOrigin(NamedTuple):
    """The session has said Terminate: wait for the origin to close, then ``lost``."""

    origin: OriginSession


class AbortOrigin(NamedTuple):
    """Close at once, then ``lost``."""

    origin: OriginSession


class CancelOrigin(NamedTuple):
    """Send a CancelRequest on a connection of its own; when that is closed, ``cancel_done``."""

    origin: OriginSession
    requester: Requester | None = None


class TellSupervisor(NamedTuple):
    """Say something to the supervisor of several workers, in terms of JSON: a kind, its values."""

    message: list[Any]


Effect = (
    SendToClient
    | SendToOrigin
    | CloseClient
    | PauseClient
    | ResumeClient
    | ConnectOrigin
    | CloseOrigin
    | AbortOrigin
    | CancelOrigin
    | TellSupervisor
)
