"""When answers are kept, given and forgotten."""

from __future__ import annotations

import pytest

from hyperdrive_client.proxy.cache.cache import EVERYTHING, Cache
from hyperdrive_client.proxy.cache.store import Entry, Key
from hyperdrive_client.proxy.settings import Caching

NOW = 1000.0


class Catalogue:
    """Tables 1 to 9; 5 is unlogged, 6 is partitioned."""

    unguarded = {5: "is unlogged"}  # noqa: RUF012
    session: dict[str, str] = {}  # noqa: RUF012

    def has_no_rows(self, oid: int) -> bool:
        return oid == 6

    def name_of(self, oid: int) -> str:
        return f"public.t{oid}"


def make(mode: str = "writes", **caching: object) -> Cache:
    cache = Cache(Caching(mode=mode, **caching))  # type: ignore[arg-type]
    cache.catalogue_loaded(Catalogue(), float("inf"))  # type: ignore[arg-type]
    if mode == "wal":
        cache.guard.started(range(1, 5), NOW)
    return cache


def key(name: bytes = b"one") -> Key:
    return Key((), name, b"", b"", b"Q")


def keep(cache: Cache, name: bytes = b"one", tables: tuple[int, ...] = (1,)) -> Entry:
    """An answer that was asked for, and came, at ``NOW``."""
    sealed = cache.seal(tables)
    assert cache.holds(sealed)
    entry = Entry(
        key(name),
        b"answer",
        request=b"",
        tables=sealed.tables,
        slots=sealed.slots,
        vector=sealed.vector,
        sent=NOW,
        arrived=NOW,
    )
    cache.keep(entry)
    return entry


class TestAge:
    def test_young_then_stale_then_gone(self) -> None:
        cache = make(max_age=60, stale_while_revalidate=15)
        entry = keep(cache)
        assert cache.get(key(), NOW + 59.9) == (entry, False)
        assert cache.get(key(), NOW + 60) == (entry, True)
        assert cache.get(key(), NOW + 74.9) == (entry, True)
        assert cache.get(key(), NOW + 75) is None
        assert not len(cache.store)

    def test_what_is_outdated_is_not_even_stale(self) -> None:
        cache = make()
        keep(cache)
        cache.advance([1])
        assert cache.get(key(), NOW) is None
        assert not len(cache.store)


class TestSeals:
    @pytest.mark.parametrize("tables", [[1], None, EVERYTHING])
    def test_a_write_breaks_one(self, tables: list[int] | None) -> None:
        cache = make()
        sealed = cache.seal((1, 2))
        assert cache.holds(sealed)
        cache.advance(tables)
        assert not cache.holds(sealed)

    def test_a_write_to_others_does_not(self) -> None:
        cache = make()
        sealed = cache.seal((1, 2))
        cache.advance([3])
        assert cache.holds(sealed)

    def test_none_is_taken_of_what_is_closed(self) -> None:
        cache = make()
        cache.catalogue_lost("gone")
        sealed = cache.seal((1,))
        cache.catalogue_loaded(Catalogue(), float("inf"))  # type: ignore[arg-type]
        assert not cache.holds(sealed)

    def test_none_lasts_that_a_new_catalogue_came_under(self) -> None:
        cache = make()
        sealed = cache.seal((1,))
        cache.catalogue_loaded(Catalogue(), float("inf"))  # type: ignore[arg-type]
        assert not cache.holds(sealed)

    def test_none_of_what_is_unsettled(self) -> None:
        cache = make("wal")
        cache.guard.decoded(7, [1])
        sealed = cache.seal((1,))
        assert not cache.holds(sealed)
        assert cache.holds(cache.seal((2,)))
        cache.guard.settled([7])
        assert not cache.holds(sealed)
        assert cache.holds(cache.seal((1,)))

    def test_none_while_the_wal_is_not_followed(self) -> None:
        cache = make("wal")
        cache.guard.lost("away")
        sealed = cache.seal((1,))
        cache.guard.started([1], NOW)
        assert not cache.holds(sealed)


class TestUncertainBackends:
    def test_keep_their_tables_out(self) -> None:
        cache = make()
        keep(cache)
        keep(cache, b"two", (2,))
        before = cache.seal((1,))
        cache.outcome_unknown(77, frozenset({1}))
        assert cache.get(key(), NOW) is None
        assert cache.get(key(b"two"), NOW)
        assert not cache.holds(before)
        assert not cache.holds(cache.seal((1, 2)))
        assert cache.holds(cache.seal((2,)))

    def test_until_they_are_gone(self) -> None:
        cache = make()
        told = []
        cache.on_stale = lambda: told.append(sorted(cache.uncertain))
        cache.outcome_unknown(77, EVERYTHING)
        cache.outcome_unknown(78, frozenset({2}))
        assert told == [[77], [77, 78]]
        sealed = cache.seal((2,))
        cache.backend_gone(77)
        # It may have done DDL as well.
        assert not cache.seal((1,)).keeps
        cache.catalogue_unchanged(float("inf"), cache.looks)
        assert cache.holds(cache.seal((1,)))
        assert not cache.holds(cache.seal((2,)))
        cache.backend_gone(78)
        # It may have committed just before, and after that one was asked for.
        assert not cache.holds(sealed)
        assert cache.holds(cache.seal((2,)))
        cache.backend_gone(78)

    def test_what_was_asked_for_meanwhile_is_not_kept_later(self) -> None:
        cache = make()
        cache.outcome_unknown(77, frozenset({1}))
        sealed = cache.seal((1,))
        cache.backend_gone(77)
        assert not cache.holds(sealed)

    def test_are_of_no_interest_where_nothing_is_kept(self) -> None:
        cache = make("off")
        cache.outcome_unknown(77, EVERYTHING)
        assert not cache.uncertain


class TestClosed:
    def test_by_the_settings(self) -> None:
        cache = make("off")
        assert cache.is_off
        assert not cache.serves
        assert cache.refusal(NOW) == "switched off"

    @pytest.mark.parametrize("mode", ["writes", "ttl", "wal", "auto"])
    def test_without_memory(self, mode: str) -> None:
        cache = make(mode, memory=0)
        assert cache.is_off
        assert not cache.serves
        assert "memory is 0" in cache.refusal(NOW)

    def test_until_the_origin_was_looked_at(self) -> None:
        cache = make("auto")
        assert not cache.is_off
        assert not cache.serves
        assert cache.refusal(NOW) == "the origin was not looked at yet"
        cache.guard.started([1], NOW)
        cache.decide("wal", "")
        assert cache.serves
        assert cache.refusal(NOW) == ""

    def test_until_the_catalogue_was_read(self) -> None:
        cache = Cache(Caching(mode="writes"))
        assert cache.serves
        assert cache.refusal(NOW) == "the catalogue was not read yet"

    def test_while_the_catalogue_is_not_known(self) -> None:
        cache = make()
        keep(cache)
        cache.catalogue_lost("no permission")
        assert cache.refusal(NOW) == "no permission"
        cache.catalogue_loaded(Catalogue(), float("inf"))  # type: ignore[arg-type]
        assert cache.refusal(NOW) == ""
        assert cache.get(key(), NOW) is None

    def test_by_ddl_until_the_catalogue_is_read_again(self) -> None:
        cache = make()
        told = []
        cache.on_stale = lambda: told.append(cache.wants_catalogue)
        keep(cache)
        generation = cache.generation
        cache.changes_catalogue()
        assert told == [True]
        assert "DDL" in cache.refusal(NOW)
        assert cache.get(key(), NOW) is None
        cache.catalogue_loaded(Catalogue(), float("inf"))  # type: ignore[arg-type]
        assert cache.refusal(NOW) == ""
        assert cache.generation > generation

    def test_while_the_wal_is_far_ahead(self) -> None:
        cache = make("wal")
        assert cache.refusal(NOW + 0.9) == ""
        assert cache.refusal(NOW + 1)
        assert make("writes").refusal(NOW + 1) == ""


class TestDecisions:
    def test_another_mode_forgets_all(self) -> None:
        cache = make("wal")
        keep(cache)
        sealed = cache.seal((1,))
        cache.decide("off", "it is gone")
        assert cache.refusal(NOW) == "it is gone"
        assert not len(cache.store)
        cache.decide("wal", "")
        assert not cache.holds(sealed)

    def test_the_same_again_forgets_nothing(self) -> None:
        cache = make("wal")
        entry = keep(cache)
        cache.decide("wal", "")
        assert cache.get(key(), NOW) == (entry, False)

    def test_off_without_a_reason(self) -> None:
        cache = make("wal")
        cache.decide("off", "")
        assert cache.refusal(NOW) == "switched off"


class TestUnguarded:
    def test_only_in_wal(self) -> None:
        assert make("writes").unguarded((5, 9)) == ""
        assert make("ttl").unguarded((5, 9)) == ""

    def test_published_ones_are_guarded(self) -> None:
        cache = make("wal")
        assert cache.unguarded((1, 2, 3, 4)) == ""
        assert cache.unguarded(()) == ""

    def test_others_are_not(self) -> None:
        cache = make("wal")
        assert cache.unguarded((1, 9)) == "public.t9 is not in the publication"
        assert cache.unguarded((1, 5)) == "public.t5 is unlogged"

    def test_nor_are_those_that_a_publication_has_in_vain(self) -> None:
        cache = make("wal")
        cache.guard.started((1, 5), NOW)
        assert cache.unguarded((1, 5)) == "public.t5 is unlogged"

    def test_a_partitioned_one_has_nothing_to_publish(self) -> None:
        assert make("wal").unguarded((1, 6)) == ""


class TestPurge:
    def test_by_table(self) -> None:
        cache = make()
        keep(cache, b"one", (1,))
        keep(cache, b"both", (1, 2))
        two = keep(cache, b"two", (2,))
        on_its_way = cache.seal((1,))
        assert cache.purge([1]) == 2
        assert list(cache.store) == [two]
        assert cache.get(key(b"two"), NOW) == (two, False)
        assert not cache.holds(on_its_way)
        assert cache.purge([3]) == 0

    def test_of_all(self) -> None:
        cache = make()
        keep(cache, b"one", (1,))
        keep(cache, b"none", ())
        on_its_way = cache.seal((4,))
        assert cache.purge() == 2
        assert not len(cache.store)
        assert not cache.holds(on_its_way)


class TestLooks:
    def test_nothing_is_served_until_the_catalogue_was_looked_at_again(self) -> None:
        cache = make()
        cache.may_have_changed()
        assert "may have done DDL" in cache.refusal(0.0)
        cache.catalogue_unchanged(float("inf"), cache.looks)
        assert cache.refusal(0.0) == ""

    def test_a_look_that_had_begun_before_does_not_count(self) -> None:
        cache = make()
        looks = cache.looks
        cache.may_have_changed()
        cache.catalogue_unchanged(float("inf"), looks)
        assert cache.refusal(0.0)
