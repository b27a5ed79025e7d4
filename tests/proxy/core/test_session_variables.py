"""A client's start-up settings mean to the proxy what they mean to PostgreSQL."""

from __future__ import annotations

import re

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdrive_client.errors import ClientProtocolError
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.framing import client_framer
from hyperdrive_client.proxy.core.session_variables import (
    Settings,
    after_transaction,
    application_name,
    changes,
    effective,
    replay,
    startup_settings,
)

NAMES = st.sampled_from((b"work_mem", b"WORK_MEM", b"a.b", b"A.b", b"TimeZone", b"timezone"))
VALUES = st.sampled_from((b"1", b"2", b"", b"UTC"))
SETTINGS = st.dictionaries(NAMES, VALUES).map(lambda settings: tuple(sorted(settings.items())))


def options(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b" ".join(b"-c %s=%s" % pair for pair in pairs)


def test_who_and_where_and_the_protocol_are_no_settings() -> None:
    parameters = {b"user": b"u", b"database": b"d", b"options": b"", b"replication": b"off"}
    assert startup_settings(parameters) == ()
    assert startup_settings({}) == ()


def test_settings_have_names_in_lower_case_and_are_sorted() -> None:
    parameters = {b"user": b"u", b"TimeZone": b"UTC", b"a.B$1": b"", b"client_encoding": b"UTF8"}
    assert startup_settings(parameters) == (
        (b"a.b$1", b""),
        (b"client_encoding", b"UTF8"),
        (b"timezone", b"UTC"),
    )


@given(st.lists(st.tuples(NAMES, VALUES)), st.dictionaries(NAMES, VALUES))
def test_the_last_value_counts_and_parameters_come_after_options(
    pairs: list[tuple[bytes, bytes]], parameters: dict[bytes, bytes]
) -> None:
    expected = {name.lower(): value for name, value in [*pairs, *parameters.items()]}
    found = startup_settings({**parameters, b"options": options(pairs)})
    assert found == tuple(sorted(expected.items()))


@pytest.mark.parametrize("name", [b"application_name", b"Application_Name", b"APPLICATION_NAME"])
def test_what_a_client_calls_itself_is_not_replayed(name: bytes) -> None:
    assert startup_settings({name: b"psql"}) == ()
    assert startup_settings({b"options": b"-c " + name + b"=psql"}) == ()
    assert application_name({name: b"psql"}) == b"psql"
    assert application_name({b"options": b"--" + name.replace(b"_", b"-") + b"=psql"}) == b"psql"
    assert application_name({name: b"psql", b"options": b"-c " + name + b"=other"}) == b"psql"
    assert application_name({b"user": name}) == b""


@pytest.mark.parametrize(
    "name", [b"1a", b"a b", b"a;b", b"a.", b".a", b"a..b", b"a-b", b"a'", b"a\n", b"$a", b""]
)
def test_a_name_that_no_setting_can_have_is_refused(name: bytes) -> None:
    with pytest.raises(ClientProtocolError, match="invalid configuration parameter name") as caught:
        startup_settings({name: b"1"})
    assert caught.value.sqlstate == "42602"


def test_another_switch_is_refused() -> None:
    for read in (startup_settings, application_name):
        with pytest.raises(ClientProtocolError, match="invalid command-line argument"):
            read({b"options": b"-Z"})


@pytest.mark.parametrize(
    "name",
    [
        "my app",
        "é",
        "a\tb\x7f",
        "x" * 63,
        "x" * 64,
        "é" * 31 + "x",
        "é" * 32,
        "x" + "é" * 31,
        "😀" * 16,
        "xy" + "😀" * 15 + "é",
    ],
)
def test_a_name_is_cut_and_escaped_as_postgresql_does(postgres_dsn: str, name: str) -> None:
    with psycopg.connect(postgres_dsn, application_name=name) as connection:
        reported = connection.info.parameter_status("application_name")
        version = connection.info.server_version
    ours = application_name({b"application_name": name.encode()}).decode()
    assert reported == (ours if version >= 160000 else re.sub(r"\\x..", "?", ours))


@pytest.mark.parametrize(
    "given",
    [
        {"options": "-c work_mem=1MB"},
        {"options": "-cwork_mem=1MB -c Work_Mem=2MB --work-mem=3MB"},
        {"options": '-c search_path="a\\ b",c'},
        {"options": '-c search_path="a\\ \\\\b"'},
        {"options": "-c custom.name=1 -c custom.Name=\\ 2 -c custom.nAme=\\\\3"},
        {"options": " \t-c\tcustom.name=a=b=c\n"},
        {"options": "-c custom.name="},
        {"options": "-c timezone=Asia/Tokyo", "client_encoding": "latin1"},
        {"options": "-c client_encoding=latin1", "client_encoding": "utf8"},
        {"options": "-c DateStyle=German --intervalstyle=iso_8601"},
    ],
)
def test_replayed_settings_give_the_session_that_postgresql_starts(
    postgres_dsn: str, given: dict[str, str]
) -> None:
    parameters = {name.encode(): value.encode() for name, value in given.items()}
    with psycopg.connect(postgres_dsn, **given) as started:  # type: ignore[arg-type]
        expected = state(started)
    with psycopg.connect(postgres_dsn) as replayed:
        for setting in startup_settings(parameters):
            values = [word.decode() for word in setting]
            replayed.execute("SELECT pg_catalog.set_config(%s, %s, false)", values)
        assert state(replayed) == expected


def state(connection: psycopg.Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT name, setting FROM pg_settings UNION ALL "
        "SELECT 'custom.name', current_setting('custom.name', true) ORDER BY name"
    ).fetchall()


@given(SETTINGS)
def test_each_setting_is_one_bind_of_one_statement(settings: Settings) -> None:
    stream, kinds = replay(changes((), settings))
    chunk = client_framer().feed(stream)
    messages = [stream[start:stop] for _, start, stop in chunk[1]]
    assert kinds == [kind for kind, _, _ in chunk[1]]
    # Nothing of it is left for a client to bind.
    assert messages.pop() == m.close_statement(b"")
    if settings:
        assert messages.pop(0) == m.parse(b"", b"SELECT pg_catalog.set_config($1,$2,false)")
    assert len(messages) == 2 * len(settings)
    assert set(messages[1::2]) <= {m.execute()}
    assert sorted(messages[::2]) == sorted(m.bind(b"", b"", setting) for setting in settings)


ROLES = st.lists(
    st.sampled_from([(b"role", b"a"), (b"role", b"b"), (b"session_authorization", b"c")]),
    unique_by=lambda each: each[0],
)


@given(SETTINGS, SETTINGS, ROLES, ROLES)
def test_a_difference_turns_one_session_into_the_other(
    have: Settings,
    want: Settings,
    had: list[tuple[bytes, bytes]],
    wanted: list[tuple[bytes, bytes]],
) -> None:
    before, after = dict(have) | dict(had), dict(want) | dict(wanted)
    steps = changes(tuple(sorted(before.items())), tuple(sorted(after.items())))
    session = dict(before)
    for name, value in steps:
        if name not in (b"role", b"session_authorization"):
            # Whatever role is set may not be allowed to change it.
            assert not session.keys() & {b"role", b"session_authorization"}
        if value is None:
            del session[name]
        else:
            session[name] = value
    assert session == after


def test_nothing_is_changed_that_is_the_same() -> None:
    settings = ((b"a", b"1"), (b"b", b"2"))
    assert changes(settings, settings) == []
    assert changes(settings, ((b"a", b"1"), (b"b", b"3"))) == [(b"b", b"3")]


def test_the_encoding_comes_first_and_roles_last() -> None:
    want = ((b"application", b"x"), (b"client_encoding", b"latin1"), (b"role", b"r"))
    assert [name for name, _ in changes((), want)] == [b"client_encoding", b"application", b"role"]
    assert [name for name, _ in changes(want, ())] == [b"role", b"client_encoding", b"application"]


def test_a_role_is_left_before_other_settings_change_and_taken_again() -> None:
    have = ((b"role", b"r"), (b"work_mem", b"1MB"))
    want = ((b"role", b"s"), (b"work_mem", b"2MB"))
    assert changes(have, want) == [(b"role", None), (b"work_mem", b"2MB"), (b"role", b"s")]


def test_custom_settings_are_emptied_because_they_cannot_be_reset() -> None:
    messages, _ = replay([(b"my.setting", None), (b"work_mem", None)])
    assert m.bind(b"", b"", (b"my.setting", b"")) in messages
    assert b'RESET "my.setting"' not in messages
    assert b'RESET "work_mem"' in messages


def test_what_a_session_started_with_and_is_not_there_is_back_at_its_start() -> None:
    startup = ((b"timezone", b"UTC"), (b"work_mem", b"1MB"))
    in_force = ((b"datestyle", b"German"), (b"work_mem", b"2MB"))
    assert after_transaction(startup, in_force) == (
        (b"datestyle", b"German"),
        (b"timezone", b"UTC"),
        (b"work_mem", b"2MB"),
    )


@given(SETTINGS, st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, VALUES))
def test_only_what_the_origin_reports_as_its_own_default_is_left_out(
    asked: Settings, default: dict[bytes, bytes], reported: dict[bytes, bytes]
) -> None:
    kept = effective(asked, default, reported)
    for setting in asked:
        told = [name for name in reported if name.lower() == setting[0]]
        same = bool(told) and reported[told[-1]] == default.get(told[-1])
        assert (setting in kept) == (not same)
    assert list(kept) == [setting for setting in asked if setting in kept]


def test_another_spelling_of_the_default_makes_no_difference() -> None:
    default = {b"client_encoding": b"UTF8", b"TimeZone": b"UTC"}
    reported = {b"client_encoding": b"UTF8", b"TimeZone": b"Asia/Tokyo"}
    asked = ((b"client_encoding", b"'utf-8'"), (b"timezone", b"japan"), (b"work_mem", b"4MB"))
    assert effective(asked, default, reported) == asked[1:]
