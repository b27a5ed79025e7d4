"""All that the answers to one database's reads depend on, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..settings import Caching
from .epochs import Epochs, Vector
from .guard import Guard
from .store import Entry, Key, Store

if TYPE_CHECKING:
    from .catalogue import Catalogue


# So long after the last look at the catalogue, what others may have done to it counts.
CATALOGUE_SECONDS = 4.0


class Everything(frozenset[int]):
    """In place of a set of tables: any."""


EVERYTHING = Everything()


class Sealed(NamedTuple):
    """What the epochs were before an answer was asked for."""

    tables: tuple[int, ...]
    slots: tuple[int, ...]
    vector: Vector
    keeps: bool
    """The answer may be kept if they are the same when it has come."""


class Cache:
    """Of one configuration and its database. ``now`` is in seconds, as everywhere."""

    def __init__(self, settings: Caching, epochs: Epochs | None = None) -> None:
        """``epochs`` are those that several workers share."""
        self.settings = settings
        self.epochs = Epochs() if epochs is None else epochs
        self._heard_changes = self.epochs.others_catalogue_changes
        self.guard = Guard(self.epochs, settings.staleness_bound)
        self.store = Store(settings.memory)
        self.catalogue: Catalogue | None = None
        self.on_stale: Callable[[], None] = lambda: None
        """Called when the catalogue has to be read again."""
        self.catalogue_at = float("-inf")
        """Until then at least the catalogue was as it is known, in seconds."""
        self._session: Mapping[str, str] | None = None
        self.on_other_defaults: Callable[[], None] = lambda: None
        """Called when sessions begin with other settings than before."""
        self.on_switch: Callable[[], None] = lambda: None
        """Called when it was switched on or off: ``serves`` is another."""
        self.wants_catalogue = False
        """DDL through this proxy has made the catalogue stale; it is to be read again."""
        self.wants_look = False
        """Whether the catalogue is still the same is to be asked."""
        self.looks = 0
        """How often that was wanted."""
        self.uncertain: dict[int, frozenset[int] | None] = {}
        """Backends that may still commit although nobody waits for their answer, and to which
        tables; ``None`` is any."""
        self.generation = 0
        """Rises with each catalogue: what a statement writes is known under one of them."""
        self.mode: str = "off" if settings.mode in ("auto", "off") else settings.mode
        self.mode_reason = "the origin was not looked at yet" if settings.mode == "auto" else ""
        if not settings.memory and settings.mode != "off":
            self.mode, self.mode_reason = "off", "its memory is 0"
        self._catalogue_missing = "the catalogue was not read yet"
        self.serves = False
        """Whether it is on in any mode, be it closed for the moment."""
        self.closed = ""
        """Why nothing is served at all, or is kept; empty if something may be."""
        self._decide_closed()

    @property
    def is_off(self) -> bool:
        """Whether it was switched off, for good."""
        return self.settings.mode == "off" or not self.settings.memory

    # What the keeper tells.

    def decide(self, mode: str, reason: str) -> None:
        """How answers are known to be right from now on; ``reason`` for people."""
        if mode != self.mode:
            self.clear()
        served = self.serves
        self.mode, self.mode_reason = mode, reason
        self._decide_closed()
        if self.serves is not served:
            self.on_switch()

    def catalogue_unchanged(self, asked: float, looks: int) -> None:
        """The catalogue is still the same.

        ``asked`` is when that was asked for, in seconds, and ``looks`` what it was then.
        """
        self.catalogue_at = asked
        if looks == self.looks:
            self.wants_look = False
            self._decide_closed()

    def catalogue_loaded(self, catalogue: Catalogue, asked: float) -> None:
        """The catalogue as it was at a time, in seconds, or later.

        What was kept under the last one is not served any more.
        """
        self.catalogue_at = asked
        if self._session != catalogue.session:
            # The first one says nothing of sessions that began long before it.
            self.on_other_defaults()
        self._session = catalogue.session
        self.catalogue = catalogue
        self.generation += 1
        self.wants_catalogue = self.wants_look = False
        self.clear()
        self._decide_closed()

    def catalogue_lost(self, reason: str) -> None:
        """The catalogue is not known at the moment."""
        self.catalogue = None
        self._catalogue_missing = reason
        self._decide_closed()

    def backend_gone(self, process_id: int) -> None:
        """What was uncertain of it is certain now, whichever way it went."""
        if process_id in self.uncertain:
            tables = self.uncertain.pop(process_id)
            self.advance(tables)
            self.epochs.is_uncertain(len(self.uncertain))
            if tables is None:
                self.may_have_changed()

    def rereads_catalogue(self) -> None:
        """It has changed: nothing is served until it is read again."""
        self.wants_catalogue = True
        self.clear()
        self._decide_closed()
        self.on_stale()

    # What the core tells.

    def changes_catalogue(self) -> None:
        """DDL has been done through this proxy."""
        self.rereads_catalogue()
        self.epochs.catalogue_changed()

    def may_have_changed(self) -> None:
        """Something ran of which nobody knows what it does; DDL perhaps."""
        self._look()
        self.epochs.catalogue_changed()

    @property
    def catalogue_is_doubtful(self) -> bool:
        """Whether another worker may serve answers already under a newer catalogue than ours."""
        self._hear_others()
        return self.epochs.are_shared and (self.wants_catalogue or self.wants_look)

    def _hear_others(self) -> None:
        """Have the catalogue looked at if other workers may have changed it.

        They raise all epochs when they do, so it matters for what is asked for or written from
        then on.
        """
        changes = self.epochs.others_catalogue_changes
        if changes != self._heard_changes:
            self._heard_changes = changes
            self._look()

    def _look(self) -> None:
        self.looks += 1
        self.wants_look = True
        self._decide_closed()
        self.on_stale()

    def advance(self, tables: Iterable[int] | None) -> None:
        """These tables were written to; ``None`` or ``EVERYTHING``: any may have been."""
        if tables is None or tables is EVERYTHING:
            self.epochs.advance_all()
        else:
            self.epochs.advance(tables)

    def outcome_unknown(self, process_id: int, tables: frozenset[int]) -> None:
        """The connection to a backend was lost when it had been told to write."""
        self.advance(tables)
        if self.mode != "off":
            self.uncertain[process_id] = None if tables is EVERYTHING else tables
            self.epochs.is_uncertain(len(self.uncertain))
            self.on_stale()

    # Answers.

    def refusal(self, now: float) -> str:
        """Why no answer may be given from here now; empty if it may."""
        if self.closed:
            return self.closed
        if now - self.catalogue_at >= CATALOGUE_SECONDS:
            return "the catalogue was not looked at in time"
        return self.guard.refusal(now) if self.mode == "wal" else ""

    @property
    def known_until(self) -> float:
        """All that others had committed by then, in seconds, is known of."""
        return min(self.guard.horizon, self.catalogue_at)

    def unguarded(self, tables: Iterable[int]) -> str:
        """Why answers from these tables can't be kept in this mode; empty if they can."""
        if self.mode != "wal":
            return ""
        catalogue, published = self.catalogue, self.guard.published
        assert catalogue is not None
        for table in tables:
            # A publication has a table's partitions, whether they are in the WAL or not.
            why = catalogue.unguarded.get(table, "")
            if why or not (table in published or catalogue.has_no_rows(table)):
                return f"{catalogue.name_of(table)} {why or 'is not in the publication'}"
        return ""

    def is_current(self, entry: Entry) -> bool:
        """Whether nothing was written, that we know of, since the answer was asked for."""
        return self.epochs.vector(entry.slots) == entry.vector

    def get(self, key: Key, now: float) -> tuple[Entry, bool] | None:
        """An answer that may be given, and whether it is older than ``max_age``."""
        entry = self.store.get(key)
        if entry is None:
            return None
        age = now - entry.sent
        settings = self.settings
        if not self.is_current(entry) or age >= settings.max_age + settings.stale_while_revalidate:
            self.store.discard(key)
            return None
        return entry, age >= settings.max_age

    def seal(self, tables: tuple[int, ...]) -> Sealed:
        """To be taken before an answer from ``tables`` is asked for."""
        self._hear_others()
        slots = self.epochs.slots(tables)
        keeps = not (
            self.closed
            or (self.mode == "wal" and (self.guard.broken or self.guard.is_unsettled(tables)))
            or self._is_uncertain(tables)
        )
        return Sealed(tables, slots, self.epochs.vector(slots), keeps)

    def holds(self, sealed: Sealed) -> bool:
        """Whether an answer that was asked for since then may be kept."""
        return (
            sealed.keeps
            and not self.closed
            and self.epochs.vector(sealed.slots) == sealed.vector
            and not self._is_uncertain(sealed.tables)
        )

    def keep(self, entry: Entry) -> None:
        self.store.put(entry)

    def purge(self, tables: Iterable[int] | None = None) -> int:
        """Forget the answers that depend on ``tables`` (OIDs), or all; how many those were."""
        wanted = None if tables is None else frozenset(tables)
        self.advance(wanted)
        if wanted is None:
            removed = len(self.store)
            self.store = Store(self.settings.memory)
            return removed
        return self.store.remove(lambda entry: wanted.isdisjoint(entry.tables))

    def clear(self) -> None:
        """What is kept, or on its way, is not to be served."""
        self.epochs.advance_all()
        self.store = Store(self.settings.memory)

    def _is_uncertain(self, tables: tuple[int, ...]) -> bool:
        return self.epochs.others_are_uncertain or any(
            written is None or not written.isdisjoint(tables) for written in self.uncertain.values()
        )

    def _decide_closed(self) -> None:
        self.serves = self.mode != "off"
        if self.mode == "off":
            self.closed = self.mode_reason or "switched off"
        elif self.wants_catalogue:
            self.closed = "the catalogue is being read again after DDL"
        elif self.wants_look:
            self.closed = "the catalogue is looked at after a statement that may have done DDL"
        elif self.catalogue is None:
            self.closed = self._catalogue_missing
        else:
            self.closed = ""
