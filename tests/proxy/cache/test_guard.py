"""What the reader of the WAL tells, and what follows."""

from __future__ import annotations

import pytest

from hyperdrive_client.proxy.cache.epochs import Epochs, Vector
from hyperdrive_client.proxy.cache.guard import Guard


@pytest.fixture
def epochs() -> Epochs:
    return Epochs()


@pytest.fixture
def guard(epochs: Epochs) -> Guard:
    """Its stream stands since 100.0; tables 1 to 3 are published."""
    guard = Guard(epochs, staleness_bound=1.0)
    guard.started([1, 2, 3], 100.0)
    return guard


def vector(epochs: Epochs, *tables: int) -> Vector:
    return epochs.vector(epochs.slots(tables))


def test_before_the_stream_stands_nothing_may_be_given(epochs: Epochs) -> None:
    guard = Guard(epochs, 1.0)
    assert guard.refusal(0.0) == "the WAL is not followed yet"
    guard.reached(0.0)
    assert guard.refusal(0.0)


def test_answers_may_be_given_as_long_as_it_is_close(guard: Guard) -> None:
    assert guard.refusal(100.0) == ""
    assert guard.refusal(100.99) == ""
    assert guard.refusal(101.0) == "the WAL is not followed closely enough"
    guard.reached(100.5)
    assert guard.refusal(101.49) == ""
    assert guard.refusal(101.5)


def test_it_never_goes_back(guard: Guard) -> None:
    guard.reached(105.0)
    guard.reached(104.0)
    assert guard.horizon == 105.0


def test_a_commit_outdates_its_tables_when_it_is_decoded_and_when_it_is_seen(
    guard: Guard, epochs: Epochs
) -> None:
    seen = [(vector(epochs, 1), vector(epochs, 3))]
    guard.decoded(7, [1, 2])
    seen.append((vector(epochs, 1), vector(epochs, 3)))
    guard.settled([7])
    seen.append((vector(epochs, 1), vector(epochs, 3)))
    assert len({one for one, _ in seen}) == 3
    assert len({other for _, other in seen}) == 1


def test_its_tables_are_unsettled_until_it_is_seen(guard: Guard) -> None:
    guard.decoded(7, [1, 2])
    guard.decoded(8, [2])
    assert guard.pending == (7, 8)
    assert guard.is_unsettled((3, 2))
    guard.settled([7])
    assert not guard.is_unsettled((1,))
    assert guard.is_unsettled((2,))
    guard.settled([8])
    assert not guard.is_unsettled((1, 2, 3))
    assert guard.pending == ()


def test_what_nobody_knows_may_be_settled(guard: Guard) -> None:
    guard.settled([99])
    guard.decoded(7, [1])
    guard.settled([7, 7])
    guard.decoded(8, [1])
    assert guard.is_unsettled((1,))


def test_a_commit_that_wrote_nothing_of_ours_is_not_waited_for(guard: Guard) -> None:
    guard.decoded(7, [])
    assert guard.pending == ()


def test_when_the_stream_is_lost_all_is_outdated(guard: Guard, epochs: Epochs) -> None:
    guard.decoded(7, [1])
    before = vector(epochs, 9)
    guard.lost("the slot is gone")
    assert guard.refusal(100.0) == "the slot is gone"
    assert vector(epochs, 9) != before
    assert guard.pending == ()


def test_it_is_broken_without_a_reason_too(guard: Guard) -> None:
    guard.lost("")
    assert guard.refusal(100.0)


def test_when_it_stands_again_what_is_older_is_outdated(guard: Guard, epochs: Epochs) -> None:
    guard.decoded(7, [1])
    guard.lost("for a moment")
    before = vector(epochs, 1)
    guard.started([1], 200.0)
    assert guard.refusal(200.5) == ""
    assert guard.published == {1}
    assert vector(epochs, 1) != before
    assert not guard.is_unsettled((1,))
