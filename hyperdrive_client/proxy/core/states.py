"""What a client session and an origin session can be in."""

from __future__ import annotations

from enum import Enum


class ClientState(Enum):
    STARTUP = "startup"
    """Until authentication is done."""
    JOINING = "joining"
    """Waiting for what only an origin connection can tell."""
    IDLE = "idle"
    WAITING = "waiting"
    """Something is to be done, and there is no link yet."""
    LINKED = "linked"
    STALLED = "stalled"
    """Linked; what is to be done depends on answers that are still to come."""
    CANCELLING = "cancelling"
    """Here only to cancel what another session does."""
    CONSOLE = "console"
    """Here only to see what the proxy does."""
    CLOSED = "closed"


class OriginState(Enum):
    CONNECTING = "connecting"
    """The network layer opens the connection."""
    STARTING = "starting"
    """Start-up and authentication."""
    IDLE = "idle"
    """Clean, waiting for a client."""
    REPLAYING = "replaying"
    """Linked; the client's settings are being put in force."""
    LINKED = "linked"
    ENDING = "ending"
    """The client was told that its transaction has ended; the real end is under way."""
    DRAINING = "draining"
    """The client is gone; its answers are still coming."""
    CLEANING = "cleaning"
    """ROLLBACK and DISCARD ALL under way."""
    CLOSING = "closing"
    """Terminate is said; counts until the origin has closed, since it counts there as well."""
    CLOSED = "closed"
