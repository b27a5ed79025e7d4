"""Short runs; ``nox -s fuzz`` has the long ones."""

from __future__ import annotations

import pytest

from .core import MAX_STEADY_GROWTH, Fuzz, steady_growth
from .live import Live


def test_the_core_stands_whatever_comes() -> None:
    fuzz = Fuzz(seed=5)
    fuzz.play(messages=20_000)
    assert not fuzz.findings.counts, str(fuzz.findings)
    assert fuzz.coverage.messages >= 20_000
    assert 2 * fuzz.coverage.authenticated >= fuzz.coverage.messages
    assert fuzz.statuses["hit"] >= 10, fuzz.statuses


@pytest.mark.parametrize("cached", [False, True])
def test_the_core_does_not_grow(cached: bool) -> None:
    assert steady_growth(seed=1, episodes=40, cached=cached) <= MAX_STEADY_GROWTH


def test_a_live_proxy_stands_whatever_comes() -> None:
    live = Live(seed=1)
    live.play(inputs=600)
    assert live.inputs >= 600
    assert 2 * live.authenticated >= live.inputs
