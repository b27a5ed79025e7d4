"""What is known of writes that did not come through this proxy, and how fresh that knowledge is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .epochs import Epochs


class Guard:
    """What the reader of the WAL tells, and what follows for answers.

    A commit may be decoded before it is visible to others' snapshots; from then until it is seen,
    its tables are unsettled, and no answer that depends on them is kept.
    """

    def __init__(self, epochs: Epochs, staleness_bound: float) -> None:
        self._epochs = epochs
        self._bound = staleness_bound
        self.published: frozenset[int] = frozenset()
        """OIDs of the tables whose changes the WAL brings."""
        self.broken = "the WAL is not followed yet"
        """Why nothing is guarded; empty while the stream stands."""
        self.horizon = float("-inf")
        """All that was committed by then is known of."""
        self._pending: dict[int, frozenset[int]] = {}
        self._unsettled: Counter[int] = Counter()

    def refusal(self, now: float) -> str:
        """Why no kept answer may be given now; empty if it may."""
        if self.broken:
            return self.broken
        behind = now - self.horizon
        return "" if behind < self._bound else "the WAL is not followed closely enough"

    def is_unsettled(self, tables: Iterable[int]) -> bool:
        return any(table in self._unsettled for table in tables) if self._unsettled else False

    def started(self, published: Iterable[int], now: float) -> None:
        """The stream stands: what was kept before it did may be of any age."""
        self._forget()
        self.published = frozenset(published)
        self.broken, self.horizon = "", now

    def lost(self, reason: str) -> None:
        """The stream is gone, or not to be trusted."""
        self.broken = reason or "the WAL is not followed"
        self._forget()

    def decoded(self, transaction: int, tables: Iterable[int]) -> None:
        """A commit was decoded: its transaction id as the stream has it, and its tables."""
        written = frozenset(tables)
        self._epochs.advance(written)
        if written:
            self._pending[transaction] = written
            self._unsettled.update(written)

    @property
    def pending(self) -> tuple[int, ...]:
        """Transactions of which it is not known whether others see them."""
        return tuple(self._pending)

    def settled(self, transactions: Iterable[int]) -> None:
        """Whoever looks from now on sees these."""
        for transaction in transactions:
            written = self._pending.pop(transaction, frozenset())
            self._epochs.advance(written)
            self._unsettled.subtract(written)
        self._unsettled = +self._unsettled

    def reached(self, horizon: float) -> None:
        """Everything committed by then (in seconds) was decoded."""
        self.horizon = max(self.horizon, horizon)

    def _forget(self) -> None:
        self._epochs.advance_all()
        self._pending.clear()
        self._unsettled.clear()
