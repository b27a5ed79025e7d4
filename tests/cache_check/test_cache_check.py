"""A short run; ``nox -s cache-check`` is the long one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.proxy.settings import CacheMode

from .guards import RULES, Rule
from .run import Run
from .scenarios import Story, shown, told, write_and_read_in_one_segment
from .stage import Stage, server
from .toy import Toy

READS = 4000


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with server() as postgres:
        yield postgres


async def test_a_proxy_without_a_cache_is_never_wrong(postgres: EmbeddedPostgres) -> None:
    async with Stage(postgres, "off") as stage:
        run = Run(stage, seed=1, reads=READS, faults=2)
        await run.play()
    assert not run.found, run.details()
    assert run.hit_ratio == 0
    assert run.outcomes["committed"]


async def test_a_cache_that_forgets_nothing_is_found_out(postgres: EmbeddedPostgres) -> None:
    async with Stage(postgres, "off") as stage:
        toy = Toy(postgres.port)
        stage.addresses = [stage.direct._replace(port=await toy.start())]
        run = Run(stage, seed=2, reads=READS)
        await run.play()
        toy.close()
    assert toy.hits
    assert {"stale", "older than an earlier answer"} <= run.found.keys(), run.details()


@pytest.mark.parametrize(("mode", "proxies"), [("writes", 1), ("wal", 1), ("wal", 2)])
async def test_no_answer_is_wrong(
    postgres: EmbeddedPostgres, mode: CacheMode, proxies: int
) -> None:
    async with Stage(postgres, mode, proxies) as stage:
        run = Run(stage, seed=3, reads=READS, faults=2)
        await run.play()
    assert not run.found, run.details()
    assert run.hit_ratio > 0.1, run.details()


async def test_a_read_behind_a_write_in_one_segment_is_not_answered_before_it(
    postgres: EmbeddedPostgres,
) -> None:
    assert not await told(postgres, "writes", write_and_read_in_one_segment)


def stories() -> list[object]:
    return [
        pytest.param(name, rule, story, id=f"{name}-{story.__name__}")
        for name, rule in RULES.items()
        for story in rule.stories
    ]


@pytest.mark.parametrize(("name", "rule", "story"), stories())
class TestRules:
    async def test_with_it_all_is_well(
        self, postgres: EmbeddedPostgres, name: str, rule: Rule, story: Story
    ) -> None:
        assert not await told(postgres, rule.mode, story)

    async def test_without_it_something_is_wrong(
        self, postgres: EmbeddedPostgres, name: str, rule: Rule, story: Story
    ) -> None:
        assert await shown(postgres, rule.mode, story, name)
