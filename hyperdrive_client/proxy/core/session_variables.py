"""The settings a client asked for at start-up, and what the origin makes of them."""

from __future__ import annotations

import re
from codecs import utf_8_decode
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import ClientProtocolError
from ...protocol import messages as m
from ...protocol.startup import option_settings

# Not settings of the session: who and where, and what decides the protocol.
_NOT_SETTINGS = frozenset((b"user", b"database", b"options", b"replication"))
# Each client has its own; the origin's stays ours (it is how our connections are told apart).
APPLICATION_NAME = b"application_name"
# By which a client asks us to tell it of its pins and waits.
REPORT = b"hyperdrive.report"

_SETTING_NAME = re.compile(rb"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)*\Z")

Settings = tuple[tuple[bytes, bytes], ...]
"""Names in lower case with their values, sorted; equal ones are the same for pooling."""


def startup_settings(parameters: Mapping[bytes, bytes]) -> Settings:
    """The settings in a StartupMessage.

    ``ClientProtocolError`` for a switch in ``options`` or a name that can't be a setting.
    """
    asked = _asked(parameters)
    asked.pop(APPLICATION_NAME, None)
    asked.pop(REPORT, None)
    for name in asked:
        if not _SETTING_NAME.match(name):
            raise ClientProtocolError(
                f"invalid configuration parameter name {name.decode('utf-8', 'replace')!r}",
                sqlstate="42602",
            )
    return tuple(sorted(asked.items()))


def application_name(parameters: Mapping[bytes, bytes]) -> bytes:
    """What the client calls itself, as PostgreSQL would report it back."""
    name = _asked(parameters).get(APPLICATION_NAME, b"")
    if len(name) > 63:
        # truncate_identifier: the last character is left out if it does not fit.
        name = name[: utf_8_decode(name[:63], "replace", False)[1]]
    # check_application_name: anything but printable ASCII is escaped (before 16: one ? a byte).
    return re.sub(rb"[^ -~]", lambda byte: b"\\x%02x" % byte[0][0], name)


def asks_for_reports(parameters: Mapping[bytes, bytes]) -> bool:
    return _asked(parameters).get(REPORT, b"").lower() in (b"on", b"true", b"yes", b"1")


def _asked(parameters: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """By name in lower case; PostgreSQL takes those of ``options`` first."""
    asked = option_settings(parameters.get(b"options", b""))
    for name, value in parameters.items():
        if name not in _NOT_SETTINGS:
            asked[name.lower()] = value
    return asked


@dataclass(frozen=True, slots=True)
class Profile:
    """One set of start-up settings, as an origin has accepted it.

    ``settings`` are those that make a difference there; ``reported`` are the ParameterStatus
    values that a session with them starts with.
    """

    settings: Settings
    reported: Mapping[bytes, bytes]


def effective(
    asked: Settings, default: Mapping[bytes, bytes], reported: Mapping[bytes, bytes]
) -> Settings:
    """Those of ``asked`` that differ from what an origin connection has anyway.

    Known only for settings that the origin reports: ``utf-8`` is ``UTF8`` there.
    """
    names = {name.lower(): name for name in reported}
    return tuple(
        (name, value)
        for name, value in asked
        if name not in names or reported[names[name]] != default.get(names[name])
    )


# Who acts: set last, since the right to set the others may be lost by it, and reset first.
_ROLES = (b"session_authorization", b"role")
_ENCODING = b"client_encoding"


def changes(have: Settings, want: Settings) -> list[tuple[bytes, bytes | None]]:
    """What turns ``have`` into ``want``: names with their values, ``None`` to reset, in order.

    The encoding comes first, because values are sent in it.
    """
    before, after = dict(have), dict(want)
    changed = {name: value for name, value in want if before.get(name) != value}
    gone = [name for name in before if name not in after]
    if changed or gone:
        # Neither role may be what the others are changed by: it may lack the right.
        gone += [name for name in _ROLES if name in before and name not in gone]
        changed |= {name: after[name] for name in _ROLES if name in after}
    steps: list[tuple[bytes, bytes | None]] = [(name, None) for name in _ROLES if name in gone]
    if _ENCODING in gone:
        steps.append((_ENCODING, None))
    if _ENCODING in changed:
        steps.append((_ENCODING, changed[_ENCODING]))
    last = (*_ROLES, _ENCODING)
    steps += [(name, None) for name in gone if name not in last]
    steps += [(name, value) for name, value in changed.items() if name not in last]
    return steps + [(name, changed[name]) for name in _ROLES if name in changed]


def replay(steps: list[tuple[bytes, bytes | None]]) -> tuple[bytes, list[int]]:
    """The messages that take ``steps``, and the type of each. Without a Sync.

    ``set_config`` takes the value as a parameter, so nothing is ever quoted. A setting that no
    module has defined can't be reset; empty is what it is after RESET ALL as well.
    """
    parts: list[bytes] = []
    kinds: list[int] = []
    prepared = b""
    for name, value in steps:
        if value is None and b"." not in name:
            text = b'RESET "' + name + b'"'
            values: tuple[bytes, ...] = ()
        else:
            text = b"SELECT pg_catalog.set_config($1,$2,false)"
            values = (name, value or b"")
        if text != prepared:
            parts.append(m.parse(b"", text))
            kinds.append(m.PARSE)
            prepared = text
        parts += (m.bind(b"", b"", values), m.execute())
        kinds += (m.BIND, m.EXECUTE)
    # Our statement must not be there for a client to bind.
    parts.append(m.close_statement(b""))
    kinds.append(m.CLOSE)
    return b"".join(parts), kinds


def after_transaction(startup: Settings, in_force: Settings) -> Settings:
    """A session's settings, given those that its last transaction left at the origin.

    What it started with and is not there has been reset, which means: to the start-up value.
    """
    return tuple(sorted({**dict(startup), **dict(in_force)}.items()))
