"""The rules that keep the cache right, and how each is taken out of a proxy's process.

The product has no switches for this: what is replaced are its own functions, before it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from hyperdrive_client.proxy.cache.cache import Cache
from hyperdrive_client.proxy.cache.catalogue_contents import Contents
from hyperdrive_client.proxy.cache.guard import Guard
from hyperdrive_client.proxy.cache.writes import Writes, _Following
from hyperdrive_client.proxy.core import client_cache
from hyperdrive_client.proxy.core.origin_session import OriginSession
from hyperdrive_client.proxy.net.cache_keeper import CacheKeeper
from hyperdrive_client.proxy.settings import CacheMode

from . import scenarios
from .scenarios import Story


class Rule(NamedTuple):
    """``remove`` takes it out; each of ``stories`` then goes wrong in ``mode``."""

    remove: Callable[[], None]
    mode: CacheMode
    stories: tuple[Story, ...]
    faults: tuple[str, ...] = ()
    """What a run without it is disturbed by; by everything if nothing is named."""


def remove(name: str) -> None:
    """In this process, before a proxy starts in it."""
    RULES[name].remove()


def _replace(owner: Any, name: str, value: Any) -> Any:
    """Put ``value`` in place of what is there, and return that."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    return before


def _nothing(*_: Any, **__: Any) -> None:
    """In place of what is to be done."""


def _no_epochs_at_lookup() -> None:
    _replace(Cache, "is_current", lambda cache, entry: True)
    _replace(client_cache, "exact", lambda *_: False)


def _no_epochs_for_own_writes() -> None:
    _replace(OriginSession, "_outdate", _nothing)


def _raised_late() -> None:
    def late(origin: OriginSession) -> None:
        tables, cache = origin.written, origin.pool.cache
        if cache is not None and tables is not None:
            asyncio.get_running_loop().call_later(0.5, cache.advance, tables)

    _replace(OriginSession, "_outdate", late)


def _raised_at_ready_only() -> None:
    outdate = _replace(OriginSession, "_outdate", _nothing)
    settle = OriginSession._settle_writes

    def settle_writes(origin: OriginSession) -> None:
        outdate(origin)
        settle(origin)

    _replace(OriginSession, "_settle_writes", settle_writes)


def _vector_taken_at_the_end() -> None:
    def keep(cache: Cache, entry: Any) -> None:
        entry.vector = cache.epochs.vector(entry.slots)
        cache.store.put(entry)

    _replace(Cache, "keep", keep)
    _replace(Cache, "holds", lambda cache, sealed: sealed.keeps)


def _no_unsettled_tables() -> None:
    _replace(Guard, "is_unsettled", lambda guard, tables: False)
    _replace(Guard, "settled", lambda guard, transactions: guard._pending.clear())


def _no_horizon() -> None:
    _replace(Guard, "refusal", lambda guard, now: guard.broken)


def _a_stream_may_break() -> None:
    _replace(CacheKeeper, "_lose", _nothing)
    _replace(Guard, "_forget", _nothing)
    _replace(Cache, "clear", _nothing)


def _snapshots_fill() -> None:
    refusal = client_cache._transaction_refusal

    def transaction_refusal(client: Any, cache: Any) -> str:
        client.reads_committed_only = True
        return refusal(client, cache)

    _replace(client_cache, "_transaction_refusal", transaction_refusal)


def _any_hit_in_transactions() -> None:
    _replace(client_cache, "_may_serve", lambda *_: True)


def _outcomes_are_known() -> None:
    _replace(Cache, "outcome_unknown", lambda cache, process_id, tables: cache.advance(tables))


def _ddl_changes_nothing() -> None:
    _replace(Cache, "changes_catalogue", _nothing)


def _no_settings_in_keys() -> None:
    key = client_cache.Key
    _replace(client_cache, "Key", lambda settings, *rest: key((), *rest))
    # Since 18 PostgreSQL reports the search_path.
    _replace(client_cache, "_is_as_told", lambda client, batch, entry: True)


def _functions_write_nothing() -> None:
    _replace(_Following, "_call", _nothing)


def _triggers_write_nothing() -> None:
    _replace(_Following, "_run", _nothing)


def _keys_write_nothing() -> None:
    _replace(_Following, "_cascade", _nothing)


def _rules_write_nothing() -> None:
    before = Writes.__init__

    def init(writes: Writes, contents: Contents) -> None:
        before(writes, contents)
        contents.with_rules = frozenset()

    _replace(Writes, "__init__", init)


def _views_write_nothing() -> None:
    _replace(_Following, "_write_view", _nothing)


def _tables_stand_alone() -> None:
    _replace(Contents, "family", lambda contents, oid: (oid,))


RULES: dict[str, Rule] = {
    "epochs-at-lookup": Rule(_no_epochs_at_lookup, "writes", (scenarios.own_write,)),
    "epochs-of-own-writes": Rule(_no_epochs_for_own_writes, "writes", (scenarios.own_write,)),
    "raised-before-it-is-heard": Rule(_raised_late, "writes", (scenarios.own_write,)),
    "raised-at-commit": Rule(_raised_at_ready_only, "writes", (scenarios.commit_in_a_query,)),
    "vector-before-the-question": Rule(
        _vector_taken_at_the_end, "writes", (scenarios.write_during_a_fill,)
    ),
    "unsettled-tables": Rule(
        _no_unsettled_tables, "wal", (scenarios.fill_before_visible,), ("standby paused",)
    ),
    "freshness-horizon": Rule(_no_horizon, "wal", (scenarios.stalled_stream,), ("stream stalled",)),
    "broken-stream": Rule(
        _a_stream_may_break, "wal", (scenarios.gap_in_the_stream,), ("stream cut", "stream stalled")
    ),
    "no-fill-from-snapshots": Rule(_snapshots_fill, "writes", (scenarios.fill_from_a_snapshot,)),
    "order-in-transactions": Rule(
        _any_hit_in_transactions,
        "wal",
        (
            scenarios.older_than_the_origins_answer,
            scenarios.older_than_another_hit,
            scenarios.the_same_answer_again,
        ),
    ),
    "unknown-outcomes": Rule(
        _outcomes_are_known,
        "writes",
        (scenarios.lost_commit,),
        ("commits lost that wait for the standby",),
    ),
    "own-ddl": Rule(_ddl_changes_nothing, "writes", (scenarios.view_of_another_table,)),
    "settings-in-the-key": Rule(_no_settings_in_keys, "writes", (scenarios.one_text_two_schemas,)),
    "writes-of-functions": Rule(
        _functions_write_nothing,
        "writes",
        (
            scenarios.outdated_by("SELECT bump_plpgsql(0, 1)", scenarios.PLAIN),
            scenarios.outdated_by("SELECT bump_dynamic(0, 1)", scenarios.PLAIN),
        ),
    ),
    "writes-of-triggers": Rule(
        _triggers_write_nothing,
        "writes",
        (scenarios.outdated_by("UPDATE source SET version = 1 WHERE id = 0", scenarios.AUDIT),),
    ),
    "writes-of-foreign-keys": Rule(
        _keys_write_nothing,
        "writes",
        (scenarios.outdated_by("UPDATE head SET code = 1 WHERE id = 0", scenarios.LINE),),
    ),
    "writes-of-rules": Rule(
        _rules_write_nothing,
        "writes",
        (scenarios.outdated_by("UPDATE ruled SET version = 1 WHERE id = 0", scenarios.COPY),),
    ),
    "writes-through-views": Rule(
        _views_write_nothing,
        "writes",
        (scenarios.outdated_by("UPDATE plain_view SET version = 1", scenarios.PLAIN),),
    ),
    "writes-to-partitions": Rule(
        _tables_stand_alone,
        "writes",
        (scenarios.outdated_by("UPDATE part SET version = 1 WHERE id = 0", scenarios.PART),),
    ),
}
