"""All clients at once against one server, and what is found to be wrong."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from random import Random

from hyperdrive_client.protocol import messages as m

from . import statements as sql
from .conversation import Answer, Exchange, Part, in_pieces
from .script import Script
from .wire import Address, Closed, RawClient

# A statement takes milliseconds; waiting for one of few origin connections takes longer.
HANGS_AFTER = 60.0
TAGS = re.compile(r"\bc(\d+)\.\d+\.\d+", re.IGNORECASE)
SHOWN = 8
"""Lines of a session in its story."""
EXAMPLES = 12
"""Kinds of findings with their story; of others there is one line."""
ENOUGH = 300
"""Findings after which a run ends early: a proxy that serves nobody would take hours."""


class Wrong(Exception):
    """Something that PostgreSQL would not have said."""


@dataclass
class Findings:
    """How often what was wrong, with an example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, story: str) -> None:
        kind = re.sub(r"\bc\d+\b|\d+", "#", TAGS.sub("#", what.partition("\n")[0]))
        self.counts[kind] += 1
        self.examples.setdefault(kind, f"{what}\n{story}")

    def __str__(self) -> str:
        lines = []
        for number, (kind, count) in enumerate(self.counts.most_common()):
            example = self.examples[kind]
            lines.append(f"{count} times: {example if number < EXAMPLES else kind}")
        return "\n".join(lines)


@dataclass
class Run:
    """What is to be done, and what was done so far."""

    address: Address
    defaults: Mapping[str, str]
    seed: int
    requests: int
    clients: int = 50
    without: Collection[str] = ()
    translated: bool = True
    """Notifications name the process ids that clients were given."""
    findings: Findings = field(default_factory=Findings)
    done: int = 0
    answers: int = 0
    sessions: int = 0
    cancels: int = 0
    met: int = 0
    """Cancels that met their statement."""
    began: float = field(default_factory=time.monotonic)

    async def play(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(_Player(self, number).play())

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        return (
            f"{self.done} requests, {self.answers} answers compared, {self.sessions} sessions, "
            f"{self.cancels} cancels ({self.met} met their statement), "
            f"{self.findings.counts.total()} wrong; {seconds:.0f} s, "
            f"{self.done / max(seconds, 0.001):.0f} requests/s"
        )


class _Player:
    """Plays one client's script."""

    def __init__(self, run: Run, number: int) -> None:
        self.run = run
        self.script = Script(run.seed, number, run.defaults, run.without)
        self.quota = run.requests // run.clients
        self.rows: frozenset[str] = frozenset()
        self._story: deque[str] = deque(maxlen=SHOWN)

    async def play(self) -> None:
        done = number = 0
        while done < self.quota and self.run.findings.counts.total() < ENOUGH:
            done += await self._session(number)
            number += 1

    async def _session(self, number: int) -> int:
        """Play one session to its end, or to the first wrong answer."""
        run, script = self.run, self.script
        settings = script.start(number, self.rows)
        # Of its own, so that how a session goes does not change what comes next.
        self._pauses = Random(f"{run.seed} {script.client} {number} pauses")
        self._story.clear()
        self._story.append(f"connects with {settings}")
        done = 0
        client = None
        try:
            async with asyncio.timeout(HANGS_AFTER):
                client = await RawClient.connect(run.address, settings)
            self._check_unasked(client)
            for exchange in script.exchanges():
                await self._exchange(client, exchange)
                done += exchange.requests
                run.done += exchange.requests
            client.send(script.goodbye())
            self.rows = script.session.committed_rows
            await client.close()
        except (Wrong, Closed, TimeoutError, ConnectionError) as error:
            what = "nothing comes" if isinstance(error, TimeoutError) else str(error)
            story = "\n".join(f"    {line[:400]}" for line in self._story)
            run.findings.add(what, f"    client {script.client}, session {number}:\n{story}")
            if client is not None:
                client.abort()
            done = max(done, 1)
            await self._remove_rows()
        run.sessions += 1
        return done

    async def _remove_rows(self) -> None:
        """After a failure nobody knows what is there."""
        self.rows = frozenset()
        owner = f"c{self.script.client}"
        text = f"DELETE FROM public.work WHERE tag >= '{owner}.' AND tag < '{owner}/'"
        try:
            async with asyncio.timeout(HANGS_AFTER):
                client = await RawClient.connect(self.run.address, {})
                client.send(m.query(text.encode()))
                await client.answers(1)
                client.send(m.TERMINATE_MESSAGE)
                await client.close()
        except (Closed, TimeoutError, ConnectionError) as error:
            self.run.findings.add(f"a client that asks for nothing special fails: {error!r}", "")

    async def _exchange(self, client: RawClient, exchange: Exchange) -> None:
        for part in exchange.parts:
            self._story.append(f"sends {_readable(part.data)}")
            async with asyncio.timeout(HANGS_AFTER):
                for piece in in_pieces(self._pauses, part.data):
                    client.send(piece)
                    if piece is not part.data or self._pauses.random() < 0.1:
                        await asyncio.sleep(self._pauses.random() * 0.004)
                if exchange.cancelled:
                    if self._pauses.random() < 0.7:
                        await client.hear_something()
                    await asyncio.sleep(self._pauses.random() * 0.004)
                    heard, _ = await asyncio.gather(
                        self._hear(client, part), client.cancel(self.run.address)
                    )
                    self.run.cancels += 1
                    self.run.met += any(answer[:2] == ("E", "57014") for answer in heard)
                else:
                    heard = await self._hear(client, part)
            self._compare(heard, part, cancelled=exchange.cancelled)
        self._check_unasked(client)

    async def _hear(self, client: RawClient, part: Part) -> list[Answer]:
        ready = sum(answer[0] == "Z" for answer in part.expected)
        heard = await client.answers(ready, 0 if ready else len(part.expected))
        self._story.append(f"hears {heard}")
        return heard

    def _compare(self, heard: list[Answer], part: Part, *, cancelled: bool) -> None:
        self.run.answers += len(heard)
        strangers = {
            owner
            for answer in heard
            for each in answer
            for owner in TAGS.findall(each)
            if int(owner) != self.script.client
        }
        if strangers:
            raise Wrong(f"AN ANSWER HAS CROSSED: it belongs to {strangers}: {heard}")
        wanted = part.expected
        if cancelled and ("57014",) in [answer[1:2] for answer in heard]:
            wanted = [*wanted[: len(heard) - 2], ("E", "57014", ""), heard[-1]]
        for got, want in zip(heard, wanted, strict=False):
            if not _fits(got, want):
                raise Wrong(f"{got} where {want} was due")
        if len(heard) != len(wanted):
            raise Wrong(f"{len(heard)} answers where {len(wanted)} were due: {wanted}")

    def _check_unasked(self, client: RawClient) -> None:
        """ParameterStatus and NotificationResponse."""
        session = self.script.session
        for name in sql.REPORTED:
            want, got = session.show(name), client.reported.get(name)
            # A failed transaction's settings go back only when it ends.
            if got != want and session.status == "I" and name in client.reported:
                raise Wrong(f"ParameterStatus has said {name}={got!r} where {want!r} holds")
        own = f"c{self.script.client}."
        mine = [each for each in client.notifications if each[2].startswith(own)]
        for _, channel, payload in client.notifications:
            if channel not in session.listening | session.just_unlistened:
                raise Wrong(f"a notification on {channel!r}, to which nobody listens: {payload}")
        if [each[1:] for each in mine] != session.notifications:
            raise Wrong(f"notifications {mine} where {session.notifications} were due")
        for process_id, _, _ in mine:
            if self.run.translated and process_id != client.process_id:
                raise Wrong(f"a notification of this session's own names process {process_id}")
        client.notifications.clear()
        session.notifications.clear()
        session.just_unlistened = frozenset()


def _fits(got: Answer, want: Answer) -> bool:
    if want[0] == "E":
        return got[:2] == want[:2] and want[2].lower() in got[2].lower()
    return got == want


def _readable(data: bytes) -> str:
    """Messages as a type letter and the body's text."""
    messages = []
    at = 0
    while at < len(data):
        kind, length = m.HEADER.unpack_from(data, at)
        body = data[at + 5 : at + 1 + length].replace(b"\x00", b" ")
        text = "".join(each if each.isprintable() else "" for each in body.decode("latin-1"))
        messages.append(f"{chr(kind)} {text.strip()}".strip())
        at += 1 + length
    return " | ".join(messages)
