"""Which messages have met which states."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.core.states import ClientState, OriginState

from .messages import CLIENT, ORIGIN

UNKNOWN = "?"
CLIENT_TYPES = (*(chr(kind) for kind in CLIENT), UNKNOWN)
ORIGIN_TYPES = (*(chr(kind) for kind in ORIGIN), UNKNOWN)
PACKETS = ("first packet", "SASL", "garbage")

UNREACHABLE = {
    OriginState.CONNECTING: "the connection is not open: nothing can come from it",
}
"""States that no message can meet, and why."""


class Coverage:
    """Counts of messages, by the state that the first byte of each chunk has met.

    A chunk is counted once, by its first message; ``messages`` counts all.
    """

    def __init__(self) -> None:
        self.client: Counter[tuple[Enum, str]] = Counter()
        self.origin: Counter[tuple[Enum, str]] = Counter()
        self.packets: Counter[str] = Counter()
        self.messages = 0
        self.authenticated = 0
        """Of those, from clients and origins that were let in."""

    def client_begins(self, data: bytes, greeted: bool) -> None:
        self.messages += 1
        self.packets[
            ("SASL" if data[:1] == b"p" else "garbage") if greeted else "first packet"
        ] += 1
        self.client[ClientState.STARTUP, _type(data, CLIENT)] += 1

    def client_sends(self, state: ClientState, data: bytes) -> None:
        count = count_messages(data)
        self.messages += count
        if state is not ClientState.CANCELLING:
            self.authenticated += count
        self.client[state, _type(data, CLIENT)] += 1

    def origin_sends(self, state: OriginState, data: bytes) -> None:
        count = count_messages(data)
        self.messages += count
        if state is not OriginState.STARTING:
            self.authenticated += count
        self.origin[state, _type(data, ORIGIN)] += 1

    def add(self, other: Coverage) -> None:
        self.client += other.client
        self.origin += other.origin
        self.packets += other.packets
        self.messages += other.messages
        self.authenticated += other.authenticated

    def missing(self) -> list[str]:
        """Combinations that should have been reached."""
        client = [(state, kind, self.client) for state in ClientState for kind in CLIENT_TYPES]
        origin = [(state, kind, self.origin) for state in OriginState for kind in ORIGIN_TYPES]
        return [
            f"{kind} in {state}"
            for state, kind, counts in [*client, *origin]
            if state not in UNREACHABLE and not counts[state, kind]
        ]

    def __str__(self) -> str:
        lines = [
            f"{self.messages} messages, {self.authenticated} of them "
            f"({self.authenticated / max(self.messages, 1):.0%}) after authentication",
            "Before authentication: "
            + ", ".join(f"{n} {name}" for name, n in self.packets.items()),
            "From clients, by the state of the client session:",
            *_table(ClientState, CLIENT_TYPES, self.client),
            "From origins, by the state of the origin session:",
            *_table(OriginState, ORIGIN_TYPES, self.origin),
            *(f"unreachable: {state.value}: {reason}" for state, reason in UNREACHABLE.items()),
        ]
        return "\n".join(lines)


def count_messages(data: bytes) -> int:
    """How many messages begin in ``data``, as long as their lengths make sense."""
    count = at = 0
    while at < len(data):
        count += 1
        if len(data) - at < 5:
            break
        at += 1 + max(4, m.HEADER.unpack_from(data, at)[1])
    return count


def _type(data: bytes, known: dict[int, object]) -> str:
    return chr(data[0]) if data and data[0] in known else UNKNOWN


def _table(
    states: type[Enum], kinds: tuple[str, ...], counts: Counter[tuple[Enum, str]]
) -> list[str]:
    width = max(7, *(len(str(count)) for count in counts.values())) if counts else 7
    head = " " * 11 + "".join(f"{kind:>{width + 1}}" for kind in kinds)
    return [head] + [
        f"{state.value:<11}"
        + "".join(f"{counts[state, kind] or '-':>{width + 1}}" for kind in kinds)
        for state in states
    ]
