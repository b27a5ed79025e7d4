"""What is to be known of a statement's text before it is sent.

From the text alone, so each answer errs on its safe side: what is not understood may leave anything
in the session, is no read, and ends nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from .session_effects import (
    MAX_SCANNED_BYTES,
    call_is_harmless,
    calls,
    first_word,
    skeleton_of,
    statement_changes_session,
    without_non_calls,
)

# What a text may leave in the session: each can be read back from the server, but for the last.
SETTINGS: Final = 1
TEMPORARY: Final = 2
"""Objects in the temporary schema."""
LOCKS: Final = 4
"""Advisory locks of the session."""
CHANNELS: Final = 8
CURSORS: Final = 16
"""Cursors that outlive their transaction."""
STATEMENTS: Final = 32
"""Made by SQL's PREPARE."""
ANYTHING: Final = 63
UNSEEN: Final = 64
"""What no query of ours shows: a loaded library, the seed of random(), dblink's connections, a
temporary replication slot."""

# Commands that a transaction begins or ends with, each alone in its text.
OTHER: Final = 0
BEGIN: Final = 1
COMMIT: Final = 2
ROLLBACK: Final = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one Query or Parse."""

    traces: int = 0
    """What may be left in the session: SETTINGS | TEMPORARY | …"""
    command: int = OTHER
    plain: bool = False
    """Nothing but ``reads`` is to be said."""
    reads: bool = False
    """Only reads, by built-in functions that do nothing else."""
    takes_locks: bool = False
    """May want locks that conflict with those of a read."""
    alters: bool = False
    """Changes settings for the transaction, or may."""
    advances: bool = False
    """May call nextval, be it by a column's default."""
    recalls: bool = False
    """Calls currval or lastval."""
    resets: bool = False
    """Brings settings back to what the session started with."""
    forgets: bool = False
    """DEALLOCATE or DISCARD."""
    commits: bool = False
    """Ends a transaction, be it among other statements."""
    notifies: bool = False
    closes: bool = False
    """Closes a cursor."""
    concerns_us: bool = False
    """Names a process id function, pg_prepared_statements, or a SHOW of ours."""
    needs_primary: bool = False
    """A BEGIN that a hot standby refuses."""
    isolation: bytes = b""
    """The level that a BEGIN asks for, in lower case; empty: the default."""


_PLAIN = Facts(plain=True)
PLAIN_READ = Facts(plain=True, reads=True)
"""Of every text of which nothing is to be said but that it reads."""
_NO_COMMAND = Facts(commits=True)

_DIGITS = re.compile(rb"[0-9]+")
_BEGIN = re.compile(
    rb"""\s*(?:begin(?:\s+(?:work|transaction))?|start\s+transaction)\b
    ((?:\s*,?\s*(?:isolation\s+level\s+(?:serializable|repeatable\s+read|read\s+(?:un)?committed)
       |read\s+only|read\s+write|(?:not\s+)?deferrable)\b)*)\s*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_ISOLATION = re.compile(rb"level\s+(\w+(?:\s+(?:read|committed|uncommitted)\b)?)", re.IGNORECASE)
_END = re.compile(
    rb"\s*(?:(commit|end)|rollback|abort)(?:\s+(?:work|transaction))?(?:\s+and\s+no\s+chain)?\s*\Z",
    re.IGNORECASE,
)
_COMMITS = re.compile(rb"\s*(?:commit|end|prepare\s+transaction)\b", re.IGNORECASE)
_READ_WORDS = frozenset(b"select with values table show".split())
_NO_READ = re.compile(
    rb"\b(?:for|into|insert|update|delete|merge|lock|tablesample)\b|\bpg_settings\b", re.IGNORECASE
)
# Harmless to the session, but with an effect that lasts until the end of the transaction.
_NO_READ_FUNCTIONS = frozenset(
    b"pg_advisory_xact_lock pg_try_advisory_xact_lock txid_current".split()
)
# Their locks don't conflict with a read's.
_WEAK_WORDS = _READ_WORDS | frozenset(
    b"insert update delete merge copy fetch move close declare begin start commit end rollback"
    b" abort savepoint release set reset listen unlisten notify deallocate prepare discard".split()
)
_ADVANCING_WORDS = frozenset(b"insert copy merge".split())
_TRACES_BY_WORD = {
    b"set": SETTINGS,
    b"reset": SETTINGS,
    b"listen": CHANNELS,
    b"unlisten": CHANNELS,
    b"notify": 0,
    b"deallocate": STATEMENTS,
    b"prepare": STATEMENTS,
    b"comment": 0,
    b"grant": 0,
    b"revoke": 0,
    b"security": 0,
    b"checkpoint": 0,
    b"load": UNSEEN,
}
_LOCK_FUNCTIONS = frozenset(
    b"pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared"
    b" pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all".split()
)
_SEQUENCE_FUNCTIONS = frozenset(b"nextval setval currval lastval".split())
# What they do ends with the transaction, or is no part of the session.
_NO_TRACE_FUNCTIONS = _SEQUENCE_FUNCTIONS | frozenset(
    b"pg_cancel_backend pg_terminate_backend pg_notify pg_reload_conf pg_export_snapshot"
    b" pg_advisory_xact_lock_shared pg_try_advisory_xact_lock_shared pg_listening_channels"
    b" pg_current_xact_id pg_current_xact_id_if_assigned pg_current_snapshot pg_current_wal_lsn"
    b" pg_postmaster_start_time pg_my_temp_schema inet_server_addr inet_server_port"
    b" inet_client_addr inet_client_port pg_is_other_temp_schema pg_stat_get_activity".split()
)
_UNSEEN = re.compile(
    rb"""\bload\s*'|\bsetseed\b|\bdblink_connect|\bset_limit\b
    |\bpg_replication_origin_session_setup\b|\bpg_(?:create|copy)_\w+_replication_slot\b
    |\bpg_(?:start_backup|backup_start)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_RECALLS = re.compile(rb"\b(?:currval|lastval)\b", re.IGNORECASE)
_ADVANCES = re.compile(rb"\b(?:nextval|setval|insert)\b", re.IGNORECASE)
_FORGETS = re.compile(rb"\b(?:deallocate|discard)\b", re.IGNORECASE)
_RESETS = re.compile(
    rb"\breset\b|\bdiscard\s+all\b|\bset\b[^;]{0,300}\b(?:default|local\s*(?:;|\Z))", re.IGNORECASE
)
_NOTIFIES = re.compile(rb"\b(?:pg_)?notify\b", re.IGNORECASE)
_CONCERNS_US = re.compile(
    rb"\bpg_(?:backend_pid|cancel_backend|terminate_backend|prepared_statements?)\b"
    rb"|\bshow\s+hyperdrive\b",
    re.IGNORECASE,
)

# Longer texts are not remembered: a cache of 4,096 of these is 16 MiB at most.
_MAX_REMEMBERED_BYTES = 4 * 1024


def facts_of(text: bytes) -> Facts:
    """What is known of ``text``, in any encoding that PostgreSQL lets a client use, but JOHAB."""
    if len(text) > MAX_SCANNED_BYTES:
        return _unclear(text)
    if len(text) <= _MAX_REMEMBERED_BYTES and b"'" not in text:
        # Most texts differ in numbers alone. Without digits a name can only get worse, since no
        # harmless one has a 0 in it, so that nothing is left can be believed.
        digitless = _DIGITS.sub(b"0", text)
        facts = _facts_of_digitless(digitless)
        if not facts.traces or digitless == text:
            return facts
    skeleton = skeleton_of(text)
    if skeleton is None:
        return _unclear(text)
    if len(skeleton) > _MAX_REMEMBERED_BYTES:
        facts = _facts_of_skeleton(skeleton)
    else:
        facts = _facts_of_short_skeleton(skeleton)
    return _completed(facts, text)


@lru_cache(maxsize=4096)
def _facts_of_short_skeleton(skeleton: bytes) -> Facts:
    return _facts_of_skeleton(skeleton)


@lru_cache(maxsize=4096)
def _facts_of_digitless(text: bytes) -> Facts:
    skeleton = skeleton_of(text)
    if skeleton is None:
        return _unclear(text)
    return _completed(_facts_of_skeleton(skeleton), text)


def _unclear(text: bytes) -> Facts:
    """A text that can't be cut into its parts: whatever it might say."""
    return Facts(
        traces=ANYTHING | (UNSEEN if _UNSEEN.search(text) else 0),
        takes_locks=first_word(text) not in _WEAK_WORDS or b";" in text,
        alters=True,
        advances=True,
        recalls=_RECALLS.search(text) is not None,
        resets=_RESETS.search(text) is not None,
        forgets=_FORGETS.search(text) is not None,
        commits=True,
        closes=True,
        notifies=_NOTIFIES.search(text) is not None,
        concerns_us=_CONCERNS_US.search(text) is not None,
    )


def _completed(facts: Facts, text: bytes) -> Facts:
    """With what the skeleton doesn't tell."""
    if facts.command:
        bare = text.strip().rstrip(b";")
        # A literal or a number behind it would be an error.
        return facts if _BEGIN.match(bare) or _END.match(bare) else _NO_COMMAND
    if not facts.traces or facts.traces & UNSEEN or not _UNSEEN.search(text):
        return facts
    return replace(facts, traces=facts.traces | UNSEEN)


def _facts_of_skeleton(skeleton: bytes) -> Facts:
    statements = [part for part in skeleton.split(b";") if part.strip()]
    command = _transaction_command(statements[0]) if len(statements) == 1 else None
    if command is not None:
        return command
    traces = 0
    reads = bool(statements)
    takes_locks = advances = alters = commits = closes = False
    for statement in statements:
        word = first_word(statement)
        left = _traces(statement, word)
        traces |= left
        reads = reads and _is_read(statement, word, left)
        takes_locks = takes_locks or word not in _WEAK_WORDS
        advances = advances or word in _ADVANCING_WORDS or left == ANYTHING
        alters = alters or word == b"set" or bool(left & SETTINGS)
        closes = closes or word == b"close"
        commits = commits or _COMMITS.match(statement) is not None
    found = Facts(
        traces=traces,
        reads=reads,
        takes_locks=takes_locks,
        alters=alters,
        advances=advances or _ADVANCES.search(skeleton) is not None,
        recalls=_RECALLS.search(skeleton) is not None,
        resets=_RESETS.search(skeleton) is not None,
        forgets=_FORGETS.search(skeleton) is not None,
        commits=commits,
        closes=closes,
        notifies=_NOTIFIES.search(skeleton) is not None,
        concerns_us=_CONCERNS_US.search(skeleton) is not None,
    )
    if found == Facts(reads=reads):
        return PLAIN_READ if reads else _PLAIN
    return found


def _transaction_command(statement: bytes) -> Facts | None:
    begin = _BEGIN.match(statement)
    if begin is not None:
        modes = b" ".join(begin[1].lower().split())
        isolation = _ISOLATION.search(modes)
        return Facts(
            command=BEGIN,
            isolation=isolation[1] if isolation else b"",
            needs_primary=b"serializable" in modes or b"read write" in modes,
        )
    end = _END.match(statement)
    if end is not None:
        return Facts(command=COMMIT if end[1] else ROLLBACK, commits=bool(end[1]))
    return None


def _traces(statement: bytes, word: bytes) -> int:
    if not statement_changes_session(statement):
        return 0
    if word == b"prepare" and re.match(rb"\s*prepare\s+transaction\b", statement, re.IGNORECASE):
        return 0
    known = _TRACES_BY_WORD.get(word)
    if known is not None:
        return known
    if word not in _READ_WORDS and word not in (b"insert", b"update", b"delete", b"merge"):
        return ANYTHING
    rest = without_non_calls(statement)
    traces = SETTINGS if re.search(rb"\bpg_settings\b", rest, re.IGNORECASE) else 0
    if re.search(rb"\binto\b", rest, re.IGNORECASE):
        traces |= TEMPORARY
    for schema, name in calls(rest):
        if call_is_harmless(schema, name):
            continue
        if schema and schema != b"pg_catalog":
            return ANYTHING
        if name in _LOCK_FUNCTIONS:
            traces |= LOCKS
        elif name == b"set_config":
            traces |= SETTINGS
        elif name not in _NO_TRACE_FUNCTIONS:
            return ANYTHING
    return traces


def _is_read(statement: bytes, word: bytes, traces: int) -> bool:
    if traces or word not in _READ_WORDS:
        return False
    rest = without_non_calls(statement)
    if _NO_READ.search(rest):
        return False
    return all(
        call_is_harmless(schema, name) and name not in _NO_READ_FUNCTIONS
        for schema, name in calls(rest)
    )


# What settings are brought back to their start.
_RESET_NAMES = re.compile(
    rb"""\breset\s+(?:(all)\b|(session\s+authorization)\b|(time\s+zone)\b|("[^"]+"|[\w.$]+))
    |\bdiscard\s+(all)\b
    |\bset\s+(?:session\s+)?(?:(time\s+zone)\s+(?:default|local)\b
       |(session\s+authorization)\s+default\b|("[^"]+"|[\w.$]+)\s*(?:=|\bto\b)\s*default\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_NAME = rb"[A-Za-z_\x80-\xff][\w$\x80-\xff]*"
_CUSTOM_NAME = re.compile(rb"(?<![\w$\x80-\xff.])" + _NAME + rb"(?:\." + _NAME + rb")+")


def reset_names(text: bytes) -> frozenset[bytes] | None:
    """Names, in lower case, of the settings that ``text`` resets; ``None``: all of them."""
    names = set()
    for found in _RESET_NAMES.finditer(text):
        name = next(group for group in found.groups() if group is not None).lower()
        if name == b"all":
            return None
        name = b"_".join(name.strip(b'"').split())
        names.add(b"timezone" if name == b"time_zone" else name)
    return frozenset(names)


def custom_names(text: bytes) -> frozenset[bytes]:
    """Words with a dot in ``text``, in lower case: the custom settings that it may mean.

    ``pg_settings`` does not show those, so they have to be asked for by name.
    """
    words = _CUSTOM_NAME.findall(text, 0, MAX_SCANNED_BYTES)
    return frozenset(word.lower() for word in words if len(word) <= 200)
