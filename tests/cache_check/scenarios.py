"""Small stories, each of which goes wrong without one of the rules.

What is wrong is told by return, so that the same story serves with the rule and without it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.settings import CacheMode

from .actor import REPORTS
from .faults import Standby, at_origin
from .registers import TENANTS
from .stage import Stage
from .wire import Address, Answer, Client, Lost

PATIENCE_SECONDS = 20.0
# The WAL's reader has decoded a commit by then, and settled it, or the tests' machine is dead.
DECODED_SECONDS = 0.5
# The catalogue is looked at once a second, and read again after the configuration was.
POLLED_SECONDS = 1.5

PLAIN = "SELECT name, version FROM plain WHERE id = 0"
AUDIT = "SELECT name, version FROM audit WHERE id = 0"
LINE = "SELECT name, code FROM line WHERE id = 0"
COPY = "SELECT name, version FROM ruled_copy WHERE id = 0"
PART = "SELECT name, version FROM part_0 WHERE id = 0"
PAIR = "SELECT name, version FROM pair_a WHERE id = 0"
# Its snapshot is old by the time that it ends, on a slow machine as well.
SLOW = f"{PLAIN} AND (SELECT count(*) FROM generate_series(1, 8000000)) > 0"
WRITE = "UPDATE plain SET version = 1 WHERE id = 0"


class Scene:
    """A stage with one proxy, and what is found wrong there."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.wrong: list[str] = []
        self._clients: list[Client] = []

    async def client(self) -> Client:
        return await self._connect(self.stage.addresses[0])

    async def outsider(self) -> Client:
        return await self._connect(self.stage.direct)

    async def _connect(self, address: Address) -> Client:
        self._clients.append(await Client.connect(address, REPORTS))
        return self._clients[-1]

    async def play(self, story: Story) -> None:
        try:
            await story(self)
        finally:
            for client in self._clients:
                client.close()

    async def do(self, client: Client, text: str) -> Answer:
        """A statement that must succeed."""
        answer = await client.query(text)
        assert not answer.sqlstate, f"{text}: {answer.sqlstate} {answer.error}"
        return answer

    async def warm(self, client: Client, text: str) -> None:
        """Ask until the answer comes from the cache."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (answer := await self.do(client, text)).cache != "hit":
            assert time.monotonic() < deadline, f"not cached: {answer.cache}: {answer.reason}"
            await asyncio.sleep(0.01)

    async def must_be(self, client: Client, text: str, version: int, name: str = "") -> None:
        """Ask, and note an answer with an older version, or with another's name."""
        answer = await self.do(client, text)
        strings = [value for row in answer.rows for value in row if isinstance(value, str)]
        versions = [value for row in answer.rows for value in row if isinstance(value, int)]
        if versions[:1] != [version] or (name and strings[:1] != [name]):
            self.wrong.append(f"{text}: {answer.rows}, {answer.cache}; {name} {version} was due")

    async def visible(self, table: str) -> None:
        """Wait until the origin shows version 1 of the first register."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await at_origin(  # noqa: ASYNC110 (another process decides)
                self.stage, f"SELECT 1 FROM {table} WHERE id = 0 AND version = 1"
            ):
                await asyncio.sleep(0.01)


Story = Callable[[Scene], Awaitable[None]]


async def told(
    postgres: EmbeddedPostgres, mode: CacheMode, story: Story, without: str = ""
) -> list[str]:
    """What is wrong in the end; ``without``: the rule that is taken out."""
    async with Stage(postgres, mode, without=without) as stage:
        scene = Scene(stage)
        await scene.play(story)
    return scene.wrong


async def shown(
    postgres: EmbeddedPostgres, mode: CacheMode, story: Story, without: str
) -> list[str]:
    """What is wrong without a rule; what depends on who is faster gets three attempts."""
    for _ in range(3):
        if wrong := await told(postgres, mode, story, without):
            return wrong
    return []


async def own_write(scene: Scene) -> None:
    """A session reads what it has just written, and so does another."""
    client, other = await scene.client(), await scene.client()
    await scene.warm(other, PLAIN)
    await scene.do(client, WRITE)
    await scene.must_be(other, PLAIN, 1)
    await scene.must_be(client, PLAIN, 1)


async def commit_in_a_query(scene: Scene) -> None:
    """The client hears of the COMMIT while the rest of its Query still runs."""
    client, other = await scene.client(), await scene.client()
    await scene.warm(other, PLAIN)
    text = f"BEGIN; {WRITE}; COMMIT; SELECT repeat('x', 40000); SELECT pg_sleep(1)"
    running = asyncio.create_task(client.query(text))
    while client.last_tag != "COMMIT":  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    await scene.must_be(other, PLAIN, 1)
    await running


async def write_during_a_fill(scene: Scene) -> None:
    """An answer that was old when it came."""
    client, other = await scene.client(), await scene.client()
    await scene.warm(client, PLAIN)
    filling = asyncio.create_task(client.query(SLOW))
    await asyncio.sleep(0.1)
    await scene.do(other, WRITE)
    assert not filling.done(), "the slow question is too fast"
    await filling
    await scene.must_be(client, SLOW, 1)


async def fill_before_visible(scene: Scene) -> None:
    """A commit is decoded long before anybody sees it."""
    client, outsider = await scene.client(), await scene.outsider()
    async with Standby(scene.stage) as standby:
        await asyncio.sleep(POLLED_SECONDS)
        await scene.warm(client, PAIR)
        with standby.paused():
            writing = asyncio.create_task(outsider.query(WRITE))
            await asyncio.sleep(DECODED_SECONDS)
            await scene.must_be(client, PLAIN, 0)
            await scene.must_be(client, PLAIN, 0)
        await writing
        await asyncio.sleep(scene.stage.staleness_bound + 0.05)
        await scene.must_be(client, PLAIN, 1)


async def stalled_stream(scene: Scene) -> None:
    """The stream stands, and brings nothing."""
    client, outsider = await scene.client(), await scene.outsider()
    await scene.warm(client, PLAIN)
    relay = scene.stage.relays[0]
    relay.stall()
    await scene.do(outsider, WRITE)
    await asyncio.sleep(scene.stage.staleness_bound + 0.05)
    await scene.must_be(client, PLAIN, 1)
    relay.release()


async def gap_in_the_stream(scene: Scene) -> None:
    """A write between two streams is in neither."""
    client, outsider = await scene.client(), await scene.outsider()
    await scene.warm(client, PLAIN)
    relay = scene.stage.relays[0]
    relay.stall()
    for link in relay.replication():
        link.cut()
    await scene.do(outsider, WRITE)
    await asyncio.sleep(scene.stage.staleness_bound)
    relay.release()
    await scene.warm(client, PAIR)
    await scene.must_be(client, PLAIN, 1)


async def fill_from_a_snapshot(scene: Scene) -> None:
    """A transaction's snapshot is older than its question."""
    client, other = await scene.client(), await scene.client()
    await scene.warm(client, PAIR)
    await scene.do(client, "BEGIN ISOLATION LEVEL REPEATABLE READ")
    await scene.do(client, "SELECT name, version FROM pair_b WHERE id = 1")
    await scene.do(other, WRITE)
    await scene.must_be(client, PLAIN, 0)
    await scene.do(client, "COMMIT")
    await scene.must_be(other, PLAIN, 1)


_BOTH = f"BEGIN; {WRITE}; UPDATE pair_a SET version = 1 WHERE id = 0; COMMIT"


async def older_than_the_origins_answer(scene: Scene) -> None:
    """In a transaction, an answer of the origin's and then one from the cache."""
    client, outsider = await scene.client(), await scene.outsider()
    await scene.warm(client, PLAIN)
    scene.stage.relays[0].stall()
    await scene.do(outsider, _BOTH)
    await scene.do(client, "BEGIN")
    await scene.must_be(client, PAIR, 1)
    await scene.must_be(client, PLAIN, 1)
    await scene.do(client, "COMMIT")
    scene.stage.relays[0].release()


async def older_than_another_hit(scene: Scene) -> None:
    """In a transaction, a new answer from the cache and then an old one."""
    client, outsider = await scene.client(), await scene.outsider()
    await scene.warm(client, PLAIN)
    scene.stage.relays[0].stall()
    await scene.do(outsider, _BOTH)
    await scene.warm(client, PAIR)
    await scene.do(client, "BEGIN")
    await scene.must_be(client, PAIR, 1)
    await scene.must_be(client, PLAIN, 1)
    await scene.do(client, "COMMIT")
    scene.stage.relays[0].release()


async def the_same_answer_again(scene: Scene) -> None:
    """In a transaction, what it was told first is too old once the origin has told more."""
    client, outsider = await scene.client(), await scene.outsider()
    await scene.warm(client, PLAIN)
    scene.stage.relays[0].stall()
    await scene.do(client, "BEGIN")
    await scene.must_be(client, PLAIN, 0)
    await scene.do(outsider, _BOTH)
    await scene.must_be(client, PAIR, 1)
    await scene.must_be(client, PLAIN, 1)
    await scene.do(client, "COMMIT")
    scene.stage.relays[0].release()


async def lost_commit(scene: Scene) -> None:
    """The connection is lost while the COMMIT waits; it is visible after that."""
    client, other = await scene.client(), await scene.client()
    async with Standby(scene.stage) as standby:
        await asyncio.sleep(POLLED_SECONDS)
        await scene.warm(other, PLAIN)
        with standby.paused():
            scene.stage.relays[0].lose_a_commit(heard=True)
            try:
                answer = await client.query(WRITE)
                assert answer.sqlstate, "the answer was not lost"
            except Lost:
                pass
            await scene.must_be(other, PLAIN, 0)
            await scene.must_be(other, PLAIN, 0)
        await scene.visible("plain")
        await scene.must_be(other, PLAIN, 1)


async def view_of_another_table(scene: Scene) -> None:
    """DDL changes what a statement reads."""
    client, other = await scene.client(), await scene.client()
    text = "SELECT name, version FROM plain_view WHERE id = 0"
    await scene.warm(other, text)
    made = "CREATE OR REPLACE VIEW plain_view AS SELECT id, name, version FROM pair_a"
    await scene.do(client, made)
    await scene.must_be(other, text, 0, "pair_a.0")
    await scene.do(client, "UPDATE pair_a SET version = 1 WHERE id = 0")
    await scene.must_be(other, text, 1, "pair_a.0")


async def one_text_two_schemas(scene: Scene) -> None:
    """What a text means is the session's matter."""
    text = "SELECT version, name FROM tenant WHERE id = 0"
    clients = [await scene.client() for _ in TENANTS]
    for client, tenant in zip(clients, TENANTS, strict=True):
        await scene.do(client, f"SET search_path = {tenant}")
    for client, tenant in zip(clients, TENANTS, strict=True):
        await scene.warm(client, text)
        await scene.must_be(client, text, 0, f"{tenant}.0")


async def write_and_read_in_one_segment(scene: Scene) -> None:
    """The read is there before the write is answered."""
    client = await scene.client()
    await scene.warm(client, PLAIN)
    _, answer = await client.ask(m.query(WRITE.encode()) + m.query(PLAIN.encode()), 2)
    if answer.rows != [("plain.0", 1)]:
        scene.wrong.append(f"{answer.rows} behind the write")


def outdated_by(text: str, question: str) -> Story:
    """A write that reaches another table than the one it names."""

    async def story(scene: Scene) -> None:
        client, other = await scene.client(), await scene.client()
        await scene.warm(other, question)
        await scene.do(client, text)
        await scene.must_be(other, question, 1)

    story.__name__ = text.replace(" ", "_").partition("_SET")[0].partition("(")[0]
    return story
