"""Answers within a budget: what stays, what goes, and that the sums are right."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdrive_client.proxy.cache.store import (
    MAX_WORDING_BYTES,
    OVERHEAD_BYTES,
    Entry,
    Key,
    Store,
)

BUDGET = 100 * 2000


def entry(name: int, size: int = 2000, settings: tuple[tuple[bytes, bytes], ...] = ()) -> Entry:
    """One of exactly ``size`` bytes."""
    text = b"%08d" % name
    return Entry(
        Key(settings, text, b"", b"", b"Q"),
        b"x" * (size - OVERHEAD_BYTES - len(text)),
        request=b"",
        tables=(1,),
        slots=(0,),
        vector=(0,),
        sent=0.0,
        arrived=0.0,
    )


def exact_bytes(store: Store) -> int:
    return sum(each.size for each in store)


def test_what_was_put_is_got() -> None:
    store = Store(BUDGET)
    first = entry(1)
    store.put(first)
    assert store.get(first.key) is first
    assert store.get(entry(2).key) is None
    assert (len(store), store.bytes) == (1, 2000)


def test_one_with_the_same_key_takes_its_place() -> None:
    store = Store(BUDGET)
    store.put(entry(1))
    second = entry(1, 3000)
    store.put(second)
    assert store.get(second.key) is second
    assert (len(store), store.bytes) == (1, 3000)


def test_one_larger_than_the_budget_is_not_kept_and_ends_the_one_before() -> None:
    store = Store(BUDGET)
    store.put(entry(1))
    store.put(entry(2))
    store.put(entry(1, BUDGET + 1))
    assert [each.key.text for each in store] == [b"00000002"]
    store.put(entry(3, BUDGET))
    assert [each.key.text for each in store] == [b"00000003"]


def test_a_scan_of_ten_times_the_budget_leaves_what_is_in_use() -> None:
    store = Store(BUDGET)
    hot = [entry(number) for number in range(30)]
    for each in hot:
        store.put(each)
    for number in range(1000):
        store.put(entry(1000 + number))
        assert store.bytes <= BUDGET
        if number % 20 == 0:
            for each in hot:
                assert store.get(each.key) is each


def test_a_scan_right_behind_one_look_at_each_leaves_them_too() -> None:
    store = Store(BUDGET)
    hot = [entry(number) for number in range(30)]
    for each in hot:
        store.put(each)
        store.get(each.key)
    for number in range(1000):
        store.put(entry(1000 + number))
    assert all(store.get(each.key) for each in hot)


def test_what_was_in_use_once_does_not_stay_for_ever() -> None:
    store = Store(BUDGET)
    for generation in range(20):
        for number in range(100):
            each = entry(generation * 100 + number)
            store.put(each)
            assert store.get(each.key)
    assert store.get(entry(0).key) is None
    assert store.bytes <= BUDGET


def test_an_entry_is_found_by_exact_bytes_under_its_settings() -> None:
    store = Store(BUDGET)
    utc = ((b"timezone", b"UTC"),)
    first, second = entry(1), entry(1, settings=utc)
    store.put(first)
    store.put(second)
    store.remember(first, b"wording", "one")
    store.remember(second, b"wording", "other")
    assert store.found((), b"wording") == (first, "one")
    assert store.found(utc, b"wording") == (second, "other")
    assert store.found((), b"Wording") is None


def test_its_wordings_go_with_it() -> None:
    store = Store(BUDGET)
    for end in (
        lambda each: store.discard(each.key),
        lambda each: store.put(entry(1)),
        lambda each: store.remove(lambda other: other is not each),
        lambda each: [store.put(entry(100 + number)) for number in range(100)],
    ):
        first = entry(1)
        store.put(first)
        store.remember(first, b"wording", None)
        assert store.found((), b"wording") is not None
        end(first)
        assert store.found((), b"wording") is None
        assert store.bytes == exact_bytes(store)


def test_wordings_count_and_are_limited() -> None:
    store = Store(BUDGET)
    first = entry(1)
    store.put(first)
    for number in range(100):
        store.remember(first, b"%04d" % number, None)
    assert len(first.wordings) == 8
    assert store.bytes == exact_bytes(store) == 2000 + 8 * 4
    store.remember(first, b"x" * (MAX_WORDING_BYTES + 1), None)
    assert store.bytes == 2000 + 8 * 4


def test_what_is_gone_is_not_found_by_a_wording_that_comes_late() -> None:
    store = Store(BUDGET)
    first = entry(1)
    store.put(first)
    store.put(entry(1))
    store.remember(first, b"wording", None)
    assert store.found((), b"wording") is None
    assert store.bytes == 2000


def test_a_wording_that_makes_it_too_large_for_all_ends_another() -> None:
    store = Store(4000)
    first, second = entry(1), entry(2)
    store.put(first)
    store.put(second)
    store.remember(second, b"x", None)
    assert list(store) == [second]
    assert store.bytes == 2001


def test_removed_are_those_that_are_not_wanted() -> None:
    store = Store(BUDGET)
    for number in range(10):
        store.put(entry(number))
    assert store.remove(lambda each: each.key.text < b"00000004") == 6
    assert sorted(each.key.text for each in store) == [b"%08d" % number for number in range(4)]


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["put", "get", "discard", "remember", "remove"]),
        st.integers(0, 12),
        st.integers(1100, 9000),
    ),
    max_size=80,
)


@given(ACTS)
@settings(max_examples=300, deadline=None)
def test_its_bytes_are_exact_whatever_happens(acts: list[tuple[str, int, int]]) -> None:
    store = Store(20_000)
    for act, number, size in acts:
        each = entry(number, size)
        kept = store.get(each.key) if act in ("get", "remember") else None
        match act:
            case "put":
                store.put(each)
            case "discard":
                store.discard(each.key)
            case "remember" if kept is not None:
                store.remember(kept, b"w" * (size % 700) + b"%d" % number, None)
            case "remove":
                store.remove(lambda other, number=number: other.key.text != b"%08d" % number)
        assert store.bytes == exact_bytes(store) <= store.budget
        assert len(store) == len({other.key for other in store})
        wordings = [(other, wording) for other in store for wording in other.wordings]
        assert all((found := store.found((), w)) and found[0] is o for o, w in wordings)
        assert len(store._worded) == len(set(wordings))
