"""The limit of origin connections, shared by several workers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hyperdrive_client.proxy.leases import Leases


class Worker:
    """As a worker does: it returns what it does not need, and what it was told to yield."""

    def __init__(self) -> None:
        self.needs = 0
        self.held = 0
        self.owed = 0


class Group:
    def __init__(self, limit: int, workers: int) -> None:
        self.leases = Leases(limit)
        self.workers = [Worker() for _ in range(workers)]

    def needs(self, number: int, count: int) -> None:
        worker = self.workers[number]
        worker.needs = count
        self.leases.want(worker, max(0, count - worker.held))
        self.settle()

    def settle(self) -> None:
        for worker, word, count in list(self.leases.settle(len(self.workers))):
            assert isinstance(worker, Worker)
            if word == "grant":
                worker.held += count
            elif word == "yield":
                worker.owed += count
            else:
                self.returns(worker, min(count, max(0, worker.held - worker.needs)))
        self.check()

    def returns(self, worker: Worker, count: int) -> None:
        if count:
            worker.held -= count
            worker.owed = max(0, worker.owed - count)
            self.leases.returned(worker, count)

    def rest(self) -> None:
        """Everybody ends its transactions, and asks for what it needs then."""
        for worker in self.workers:
            self.returns(worker, min(worker.owed, worker.held))
            worker.owed = 0
        for number, worker in enumerate(self.workers):
            self.needs(number, worker.needs)

    def check(self) -> None:
        held = [self.leases.held.get(worker, 0) for worker in self.workers]
        assert held == [worker.held for worker in self.workers]
        assert min(held) >= 0
        assert sum(held) + self.leases.free == self.leases.limit
        assert self.leases.free >= 0


def test_one_worker_may_have_all() -> None:
    group = Group(5, 2)
    group.needs(0, 9)
    assert [worker.held for worker in group.workers] == [5, 0]


def test_who_has_less_than_an_equal_part_gets_it_from_who_has_more() -> None:
    group = Group(5, 2)
    group.needs(0, 9)
    group.needs(1, 9)
    assert group.workers[0].owed == 2
    group.rest()
    assert [worker.held for worker in group.workers] == [3, 2]


def test_what_is_not_used_goes_to_who_needs_it() -> None:
    group = Group(6, 2)
    group.needs(0, 3)
    group.needs(1, 3)
    group.workers[0].needs = 1
    group.needs(1, 9)
    group.rest()
    assert [worker.held for worker in group.workers] == [1, 5]


def test_what_a_worker_had_that_is_gone_is_free() -> None:
    group = Group(4, 2)
    group.needs(0, 4)
    group.leases.gone(group.workers[0])
    assert group.leases.free == 4


@given(
    st.integers(1, 4).flatmap(
        lambda workers: st.tuples(
            st.integers(workers, 12),
            st.lists(st.tuples(st.integers(0, workers - 1), st.integers(0, 15)), max_size=12),
            st.just(workers),
        )
    )
)
def test_everybody_gets_an_equal_part_or_what_it_needs_and_nothing_is_left_idle(
    case: tuple[int, list[tuple[int, int]], int],
) -> None:
    limit, needs, workers = case
    group = Group(limit, workers)
    for number, count in needs:
        group.needs(number, count)
    for _ in range(2 * limit):
        group.rest()
    part = limit // workers
    for worker in group.workers:
        assert worker.held >= min(worker.needs, part)
    lacking = sum(max(0, worker.needs - worker.held) for worker in group.workers)
    unused = sum(max(0, worker.held - worker.needs) for worker in group.workers)
    assert not (lacking and (unused or group.leases.free))
