"""Many episodes against the core: crashes, hangs, what is left, memory."""

from __future__ import annotations

import contextlib
import gc
import re
import signal
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from .coverage import Coverage
from .episode import Episode
from .world import Auth, Event, World

# Episodes that share a core, one after the other; then there is a new one.
BLOCK = 50
# An episode takes some milliseconds of CPU time.
HANGS_AFTER = 5.0
SHRINKS_FOR = 15.0

STEADY_EPISODES = 150
MAX_STEADY_GROWTH = 64 * 1024
"""Bytes. The same episodes again on the same core leave nothing that the times before have not:
every text, name and setting is known by then. What may differ are lists' and dicts' spare room."""


class Findings:
    """What inputs have broken, by how; each with one that can be pasted into Python."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def __str__(self) -> str:
        return "\n\n".join(
            f"{count} times {kind}\n{self.examples[kind]}"
            for kind, count in self.counts.most_common()
        )


class Fuzz:
    """Episodes with a seed; ``coverage`` and ``findings`` are of all so far."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.coverage = Coverage()
        self.findings = Findings()
        self.episodes = 0
        self.statuses: Counter[str] = Counter()
        """How statements have fared with the cache."""

    def play(self, messages: int, progress: int = 0) -> None:
        """Until so many messages were sent."""
        while self.coverage.messages < messages:
            before = self.coverage.messages
            self._play_block()
            if progress and before // progress != self.coverage.messages // progress:
                print(f"{self.coverage.messages} messages, {self.episodes} episodes", flush=True)

    def _play_block(self) -> None:
        # In every fifth block clients have to prove who they are.
        auth: Auth = "scram" if self.episodes // BLOCK % 5 == 0 else "trust"
        # In every second one there is a cache.
        cached = self.episodes // BLOCK % 2 == 1
        world = World(auth, cached=cached)
        history: list[Event] = []
        first = self.episodes
        self.episodes += BLOCK
        for number in range(first, first + BLOCK):
            episode = Episode(world, Random(f"{self.seed} {number}"))
            try:
                with _time_limit():
                    episode.play()
            except Exception as error:
                self._found(error, number, history, episode.events, auth, cached)
                break
            history += episode.events
        self.coverage.add(world.coverage)
        self.statuses += world.core.counters.cache

    def _found(
        self,
        error: Exception,
        number: int,
        history: list[Event],
        events: list[Event],
        auth: Auth,
        cached: bool,
    ) -> None:
        kind = _kind(error)
        self.findings.counts[kind] += 1
        if kind in self.findings.examples:
            return
        # To make a hang smaller would take long.
        again = [] if isinstance(error, TimeoutError) else [events, [*history, *events]]
        found = next((each for each in again if _outcome(each, auth, cached) == kind), None)
        shown = [*history, *events] if found is None else _smallest(found, auth, cached, kind)
        whole = "".join(traceback.format_exception(error)[-3:])
        self.findings.examples[kind] = (
            f"{whole}seed {self.seed}, episode {number}"
            f"{', not by these events alone' if found is None else ''}:\n"
            f"from fuzz.world import World\n"
            f"World({auth!r}, cached={cached}).play([\n" + "".join(map(_line, shown)) + "])"
        )


def _line(event: Event) -> str:
    """An event as Python; a long filling is not written out."""
    fields = []
    for field in event:
        parts = re.split(rb"(x{100,})", field) if isinstance(field, bytes) else [field]
        shown = [
            f"b'x' * {len(part)}" if number % 2 else f"{part!r}"
            for number, part in enumerate(parts)
        ]
        fields.append(" + ".join(shown))
    return f"    ({', '.join(fields)},),\n"


def _smallest(events: list[Event], auth: Auth, cached: bool, kind: str) -> list[Event]:
    """Fewer events that end in the same, as far as there is time."""
    deadline = time.process_time() + SHRINKS_FOR
    size = len(events) // 2
    while size and time.process_time() < deadline:
        at = 0
        while at < len(events) and time.process_time() < deadline:
            fewer = events[:at] + events[at + size :]
            if _outcome(fewer, auth, cached) == kind:
                events = fewer
            else:
                at += size
        size //= 2
    return events


def _outcome(events: list[Event], auth: Auth, cached: bool) -> str:
    """What they raise; nothing if they don't."""
    try:
        with _time_limit():
            World(auth, cached=cached).play(events)
    except Exception as error:
        return _kind(error)
    return ""


def _kind(error: Exception) -> str:
    """What was raised, and where in the package."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "hyperdrive_client" in frame.filename]
    where = f" in {inside[-1].name}, line {inside[-1].lineno}" if inside else ""
    return f"{type(error).__name__}{where}: {str(error).partition(':')[0]}"


@contextmanager
def _time_limit() -> Iterator[None]:
    def too_long(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {HANGS_AFTER:.0f} s of CPU time")

    # Not the clock that pytest-timeout uses.
    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGS_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def steady_growth(seed: int, episodes: int = STEADY_EPISODES, *, cached: bool = False) -> int:
    """Bytes by which a core grows when it meets the same episodes a fourth time."""
    world = World("trust", cached=cached)
    sizes = []
    tracemalloc.start()
    try:
        for _ in range(4):
            for number in range(episodes):
                with contextlib.suppress(Exception):
                    # What it breaks is not the question here.
                    Episode(world, Random(f"{seed} {number}")).play()
            # The world's own memory is not the core's.
            world.all_is_new()
            world.coverage = Coverage()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    return sizes[-1] - sizes[-2]
