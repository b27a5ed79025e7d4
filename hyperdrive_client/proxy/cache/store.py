"""The answers themselves, within a budget of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from .epochs import Vector

Settings = tuple[tuple[bytes, bytes], ...]
"""A session's, by name."""

# What an answer needs beside its bytes: the objects that hold it.
OVERHEAD_BYTES = 1000
# How much of the budget is for answers that were asked for again.
_PROTECTED_SHARE = 0.8
# In how many different wordings one answer can be found without being parsed.
_MAX_WORDINGS = 8
MAX_WORDING_BYTES = 2000
"""Of one of them."""


class Key(NamedTuple):
    """Everything that decides the bytes of an answer, but for what is in the tables."""

    settings: Settings
    """Of the session, its role and search_path among them."""
    text: bytes
    """Without comments, and with single spaces."""
    types: bytes
    """OIDs of the parameters, as they stand in the Parse."""
    bound: bytes
    """Of the Bind: formats and values of the parameters, formats of the columns."""
    shape: bytes
    """Types of the messages, without Parse and Sync: they decide which answers there are."""


class Entry:
    """One answer, and how long it holds."""

    __slots__ = (
        "answer",
        "arrived",
        "description",
        "hits",
        "key",
        "reported",
        "request",
        "sent",
        "size",
        "slots",
        "tables",
        "vector",
        "wordings",
    )

    def __init__(
        self,
        key: Key,
        answer: bytes,
        *,
        request: bytes,
        tables: tuple[int, ...],
        slots: tuple[int, ...],
        vector: Vector,
        sent: float,
        arrived: float,
        description: bytes | None = None,
        reported: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.key = key
        self.answer = answer
        """Without ParseComplete and ReadyForQuery."""
        self.request = request
        """Messages that fetch it anew."""
        self.tables = tables
        self.slots = slots
        """Where the epochs of its tables are."""
        self.vector = vector
        """What they were before it was asked for."""
        self.sent = sent
        """When it was asked for, in seconds: it can't be older than that."""
        self.arrived = arrived
        self.description = description
        """Parameters and columns of its named statement, where they are known."""
        self.reported = reported
        """ParameterStatus values by which it is to be read; the object of who was told the same."""
        self.hits = 0
        """Since the store last looked."""
        self.wordings: list[bytes] = []
        self.size = len(answer) + len(request) + len(key.text) + len(key.bound) + OVERHEAD_BYTES


class Store:
    """Answers by key. What was asked for again stays longer than what was asked for once.

    New answers wait in line; at its end, those that were asked for meanwhile are protected, the
    others go. So a scan pushes out nothing but itself.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self._protected_bytes = 0
        self._new: OrderedDict[Key, Entry] = OrderedDict()
        self._protected: OrderedDict[Key, Entry] = OrderedDict()
        self._worded: dict[tuple[Settings, bytes], tuple[Entry, object]] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._protected)

    def __iter__(self) -> Iterator[Entry]:
        yield from self._new.values()
        yield from self._protected.values()

    def get(self, key: Key) -> Entry | None:
        entry = self._new.get(key) or self._protected.get(key)
        if entry is not None:
            entry.hits += 1
        return entry

    def put(self, entry: Entry) -> None:
        """Keep it in place of one with the same key; not if it is larger than the budget."""
        self.discard(entry.key)
        if entry.size > self.budget:
            return
        self._new[entry.key] = entry
        self.bytes += entry.size
        while self.bytes > self.budget:
            self._evict()

    def discard(self, key: Key) -> None:
        entry = self._new.pop(key, None)
        if entry is None:
            entry = self._protected.pop(key, None)
            if entry is None:
                return
            self._protected_bytes -= entry.size
        self._drop(entry)

    def remove(self, is_wanted: Callable[[Entry], bool]) -> int:
        """Remove all for which ``is_wanted`` is false; how many those were."""
        unwanted = [entry.key for entry in self if not is_wanted(entry)]
        for key in unwanted:
            self.discard(key)
        return len(unwanted)

    # Exact wordings.

    def found(self, settings: Settings, wording: bytes) -> tuple[Entry, object] | None:
        """The answer to these exact bytes under these settings, and what goes with it."""
        return self._worded.get((settings, wording))

    def remember(self, entry: Entry, wording: bytes, belongings: object) -> None:
        """Find ``entry`` by these bytes from now on."""
        if len(entry.wordings) >= _MAX_WORDINGS or len(wording) > MAX_WORDING_BYTES:
            return
        if self._protected.get(entry.key) is entry:
            self._protected_bytes += len(wording)
        elif self._new.get(entry.key) is not entry:
            return
        entry.wordings.append(wording)
        entry.size += len(wording)
        self.bytes += len(wording)
        self._worded[entry.key.settings, wording] = entry, belongings
        while self.bytes > self.budget:
            self._evict()

    def _drop(self, entry: Entry) -> None:
        self.bytes -= entry.size
        for wording in entry.wordings:
            self._worded.pop((entry.key.settings, wording), None)
        entry.wordings.clear()

    def _evict(self) -> None:
        most = self.budget * _PROTECTED_SHARE
        if self._new:
            key, entry = self._new.popitem(last=False)
            if not entry.hits:
                self._drop(entry)
                return
            entry.hits = 0
            self._protected[key] = entry
            self._protected_bytes += entry.size
        while self._protected and (self._protected_bytes > most or not self._new):
            key, entry = self._protected.popitem(last=False)
            if entry.hits:
                # Asked for since it was looked at last: once more around.
                entry.hits = 0
                self._protected[key] = entry
                continue
            self._protected_bytes -= entry.size
            self._drop(entry)
            return
