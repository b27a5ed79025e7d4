"""The workers that serve one port, as one of them sees the others.

What has to be known at once lies in memory that all of them share: rows of 64-bit counters with one
column per worker, which that worker alone writes. The rest goes through their supervisor, as a list
of a kind and its values: `TellSupervisor` one way, `hear` the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from mmap import mmap
from typing import TYPE_CHECKING, Any

from ...protocol.startup import CancelRequest
from ..cache.cache import EVERYTHING
from ..cache.epochs import Epochs
from .effects import TellSupervisor
from .states import ClientState

if TYPE_CHECKING:
    from .core import Core
    from .effects import Effect

_DEPARTED = 0
_ENDINGS = 1
"""The last transaction that was over for its client before it was at the origin, by its number."""
_ENDED = 2
"""Up to that number all are over at the origin as well."""
_NOTIFIERS = 3
# Sessions that sent NOTIFY, by the origin connection that it went through.
_NOTIFIERS_KEPT = 256
_ROWS = _NOTIFIERS + _NOTIFIERS_KEPT


class Siblings:
    """``number`` is this worker's column of ``workers``; ``seed`` a secret of all of them."""

    def __init__(self, number: int, workers: int, memory: mmap, seed: bytes) -> None:
        self.number = number
        self.workers = workers
        self.seed = seed
        self.epochs = Epochs(memory, number, workers)
        self._rows = rows_of(memory, workers)
        self._others = [column for column in range(workers) if column != number]
        self._notifiers = 0
        self._ending: dict[object, int] = {}
        self._endings = 0
        self._publish_endings()

    def departed(self) -> None:
        """A client that the supervisor had sent here is gone."""
        self._rows[_DEPARTED * self.workers + self.number] += 1

    # Transactions whose end was answered early.

    def ends_early(self, origin: object) -> None:
        """A transaction there is over for its client, and not yet at the origin."""
        self._endings += 1
        self._ending[origin] = self._endings
        self._publish_endings()

    def has_ended(self, origin: object) -> None:
        """It is over at the origin as well, or its connection is gone."""
        del self._ending[origin]
        self._publish_endings()

    def _publish_endings(self) -> None:
        oldest = next(iter(self._ending.values()), self._endings + 1)
        self._rows[_ENDINGS * self.workers + self.number] = self._endings
        self._rows[_ENDED * self.workers + self.number] = oldest - 1

    def endings(self) -> dict[int, int]:
        """The last ending of each other worker that has one under way."""
        workers, rows = self.workers, self._rows
        found = {}
        for column in self._others:
            last = rows[_ENDINGS * workers + column]
            if rows[_ENDED * workers + column] < last:
                found[column] = last
        return found

    def are_ending(self, endings: Mapping[int, int]) -> bool:
        """Whether any of those up to ``endings`` may still hold its locks."""
        ended = _ENDED * self.workers
        return any(self._rows[ended + column] < last for column, last in endings.items())

    # Notifications.

    def notifies(self, backend: int, process_id: int) -> None:
        """Notifications from that origin connection are our client's with that process id."""
        row = _NOTIFIERS + self._notifiers % _NOTIFIERS_KEPT
        self._notifiers += 1
        self._rows[row * self.workers + self.number] = backend << 32 | process_id

    def notifier(self, backend: int) -> int:
        """Whose notifications those from ``backend`` are; 0 if that is not known."""
        for place in range(_NOTIFIERS * self.workers, _ROWS * self.workers):
            known = self._rows[place]
            if known >> 32 == backend:
                return known & 0xFFFFFFFF
        return 0


def memory_size(workers: int) -> int:
    """How much memory ``workers`` share, in bytes."""
    return Epochs.size(workers) + _ROWS * workers * 8


def rows_of(memory: mmap, workers: int) -> memoryview:
    """The part of the memory that is not the epochs'."""
    return memoryview(memory)[Epochs.size(workers) : memory_size(workers)].cast("Q")


def departed(rows: memoryview, workers: int, number: int) -> int:
    """How many clients have left that worker, and those that had its column before."""
    return int(rows[_DEPARTED * workers + number])


def forget_endings(rows: memoryview, workers: int, number: int) -> None:
    """That worker is gone, and whoever waits for it would wait for ever."""
    rows[_ENDED * workers + number] = rows[_ENDINGS * workers + number]


class RelayedCancel:
    """Stands for a client of another worker that wants something cancelled here."""

    def __init__(self, effects: list[Effect], token: int) -> None:
        self.state = ClientState.CANCELLING
        self._effects = effects
        self._token = token

    def close(self, now: float) -> None:
        """It is done, or there was nothing to do."""
        self.state = ClientState.CLOSED
        self._effects.append(TellSupervisor(["cancelled", self._token]))


def hear(core: Core, message: list[Any], now: float) -> None:
    """What the supervisor says."""
    match message:
        case ["grant", database, count]:
            core.pool_of(database.encode("latin-1")).granted(count, now)
        case ["yield", database, count]:
            if (pool := core.pools.get(database.encode("latin-1"))) is not None:
                pool.give_up(count, now)
        case ["spare", database, count]:
            if (pool := core.pools.get(database.encode("latin-1"))) is not None:
                pool.spare(count, now)
        case ["cancel", token, process_id, key]:
            request = CancelRequest(process_id, bytes.fromhex(key))
            core.cancel(RelayedCancel(core.effects, token), request, now)
        case ["cancelled", token]:
            core.relayed_cancel_done(token, now)
        case ["signal", process_id, terminates]:
            core.signal(process_id, now, terminates=terminates)
        case ["leave", database]:
            core.leave_other_databases(core.pools.get(database.encode("latin-1")), now)
        case ["question", token, text]:
            answer = core.console_answer(text)
            core.effects.append(TellSupervisor(["answer", token, answer]))
        case ["answers", token, answers]:
            core.console_answered(token, answers, now)
        case ["died", token, backends]:
            for backend in backends:
                core.cache.outcome_unknown(backend, EVERYTHING)
            core.effects.append(TellSupervisor(["answer", token, None]))
        case _:
            raise ValueError(message)
