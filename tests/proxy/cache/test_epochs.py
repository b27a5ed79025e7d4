"""Counters of writes, of one worker or of several that share them."""

from __future__ import annotations

import mmap
import subprocess
import sys

import pytest

from hyperdrive_client.proxy.cache.epochs import SLOTS, Epochs

WORKERS = 2
SIZE = Epochs.size(WORKERS)


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, SIZE)


def test_a_write_changes_the_vectors_of_its_table_alone() -> None:
    epochs = Epochs()
    one, two, both = (epochs.slots(tables) for tables in ((1,), (2,), (1, 2)))
    before = [epochs.vector(slots) for slots in (one, two, both)]
    epochs.advance([1])
    after = [epochs.vector(slots) for slots in (one, two, both)]
    assert [x != y for x, y in zip(before, after, strict=True)] == [True, False, True]


def test_a_write_to_anything_changes_every_vector() -> None:
    epochs = Epochs()
    slots = [epochs.slots(tables) for tables in ((), (1,), (2, 3))]
    before = [epochs.vector(each) for each in slots]
    epochs.advance_all()
    assert all(epochs.vector(each) != old for each, old in zip(slots, before, strict=True))


def test_tables_whose_hashes_meet_count_for_each_other() -> None:
    epochs = Epochs()
    slots = epochs.slots((5,))
    assert slots == epochs.slots((5 + SLOTS,)) == epochs.slots((5, 5 + SLOTS))
    before = epochs.vector(slots)
    epochs.advance([5 + SLOTS])
    assert epochs.vector(slots) != before


def test_no_table_shares_the_slot_for_all() -> None:
    epochs = Epochs()
    for_all = epochs.vector(epochs.slots(()))
    epochs.advance(range(SLOTS))
    epochs.advance([2**32 - 1])
    assert epochs.vector(epochs.slots(())) == for_all


@pytest.mark.parametrize(("worker", "workers"), [(1, 1), (-1, 2), (2, 2)])
def test_a_worker_that_there_is_not_is_refused(worker: int, workers: int) -> None:
    with pytest.raises(ValueError, match=f"worker {worker} of {workers}"):
        Epochs(None, worker, workers)


class TestShared:
    def test_each_sees_what_the_other_has_written(self, memory: mmap.mmap) -> None:
        first, second = (Epochs(memory, worker, WORKERS) for worker in range(WORKERS))
        slots = first.slots((1, 2))
        assert slots == second.slots((1, 2))
        before = second.vector(slots)
        first.advance([1])
        between = second.vector(slots)
        second.advance([1])
        after = first.vector(slots)
        assert len({before, between, after}) == 3

    def test_what_the_first_writes_can_not_be_undone_by_the_second(self, memory: mmap.mmap) -> None:
        first, second = (Epochs(memory, worker, WORKERS) for worker in range(WORKERS))
        vectors = set()
        for epochs in (first, second, second, first):
            epochs.advance([1])
            vectors.add(first.vector(first.slots((1,))))
        for epochs in (first, second):
            epochs.advance_all()
            vectors.add(second.vector(second.slots((1,))))
        assert len(vectors) == 6

    def test_another_process_does(self, tmp_path: object) -> None:
        path = f"{tmp_path}/epochs"
        with open(path, "wb") as file:
            file.truncate(SIZE)
        with open(path, "r+b") as file:
            first = Epochs(mmap.mmap(file.fileno(), SIZE), 0, WORKERS)
        slots = first.slots((7,))
        before = first.vector(slots)
        child = (
            "import mmap\n"
            "from hyperdrive_client.proxy.cache.epochs import Epochs\n"
            f"file = open({path!r}, 'r+b')\n"
            f"memory = mmap.mmap(file.fileno(), {SIZE})\n"
            f"epochs = Epochs(memory, 1, {WORKERS})\n"
            "for _ in range(1000): epochs.advance([7])\n"
            "print(epochs.vector(epochs.slots((7,))))\n"
        )
        running = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
        for _ in range(1000):
            first.advance([7])
        said, _ = running.communicate(timeout=60)
        assert running.returncode == 0
        assert said
        assert sum(first.vector(slots)) == sum(before) + 2000

    def test_what_may_have_changed_the_catalogue_is_heard_by_the_others_alone(
        self, memory: mmap.mmap
    ) -> None:
        first, second = (Epochs(memory, worker, WORKERS) for worker in range(WORKERS))
        vector = first.vector(first.slots((1,)))
        first.catalogue_changed()
        assert (first.others_catalogue_changes, second.others_catalogue_changes) == (0, 1)
        assert first.vector(first.slots((1,))) == vector

    def test_others_know_while_backends_are_uncertain(self, memory: mmap.mmap) -> None:
        first, second = (Epochs(memory, worker, WORKERS) for worker in range(WORKERS))
        first.is_uncertain(2)
        assert (first.others_are_uncertain, second.others_are_uncertain) == (False, True)
        assert (first.is_anything_uncertain, second.is_anything_uncertain) == (True, False)
        first.is_uncertain(0)
        assert not second.others_are_uncertain


def test_alone_there_are_no_others() -> None:
    epochs = Epochs()
    epochs.catalogue_changed()
    epochs.is_uncertain(1)
    assert (epochs.are_shared, epochs.others_catalogue_changes) == (False, 0)
    assert not epochs.others_are_uncertain
