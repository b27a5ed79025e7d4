"""libpq is the judge of what a connection string means."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import OperationalError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from hyperdrive_client.bindings import Address, Origin, parse_connection_string
from hyperdrive_client.errors import ConfigurationError

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
AWKWARD = st.text(st.sampled_from("%@/:?&=#[],+ \n\t'\"\\é😀a0"), max_size=20)
SECRETS = TEXT | AWKWARD
NAMES = SECRETS.filter(lambda name: 0 < len(name.encode()) <= 63)
HOSTS = (
    st.from_regex(r"[a-z0-9]{1,8}(\.[a-z]{1,3})?", fullmatch=True)
    | st.ip_addresses().map(str)
    | st.builds("/{}".format, st.text(st.sampled_from("ab/ %:@?é"), max_size=8))
).filter(lambda host: "@" not in host)
ORIGINS = st.builds(
    Origin,
    addresses=st.lists(
        st.builds(Address, HOSTS, st.integers(1, 65535)), min_size=1, max_size=3
    ).map(tuple),
    user=NAMES,
    database=NAMES,
    password=st.none() | SECRETS.map(lambda text: text or None),
    sslmode=st.sampled_from(["disable", "prefer", "require", "verify-ca", "verify-full"]),
    options=st.none() | SECRETS.map(lambda text: text or None),
    application_name=st.none() | SECRETS.map(lambda text: text or None),
    connect_timeout=st.none() | st.integers(0, 1000).map(float),
    target_session_attrs=st.sampled_from(["any", "read-write", "standby"]),
)


def parse(text: str) -> Origin:
    return parse_connection_string(text, environ={})


@given(ORIGINS)
def test_a_url_of_ours_means_the_same_to_us_and_to_libpq(origin: Origin) -> None:
    assert parse(origin.connection_string) == origin
    assert conninfo_to_dict(origin.connection_string) == origin.libpq_parameters()


@given(ORIGINS)
def test_keywords_written_by_psycopg_mean_the_same_to_us(origin: Origin) -> None:
    assert parse(make_conninfo(**origin.libpq_parameters())) == origin


def libpq(text: str) -> dict[str, bytes] | None:
    """Return what libpq reads in a string, ``None`` if it refuses."""
    try:
        options = pq.Conninfo.parse(text.encode())
    except OperationalError:
        return None
    return {option.keyword.decode(): option.val for option in options if option.val}


def is_within_our_rules(parameters: Mapping[str, bytes]) -> bool:
    """Whether what libpq read is also complete, valid and supported for us."""
    hosts = parameters.get("host", b"").split(b",")
    ports = parameters.get("port", b"").split(b",")
    return (
        {"user", "dbname"}
        <= parameters.keys()
        <= {"user", "password", "host", "port", "dbname", "options", "application_name"}
        and all(hosts)
        and len(ports) in (1, len(hosts))
        and all(not port or (port.isdigit() and 0 < int(port) < 65536) for port in ports)
        and not any(b"@" in host for host in hosts)
        and all(len(parameters[name]) <= 63 for name in ("user", "dbname"))
        and all(_is_utf8(value) for value in parameters.values())
    )


def _is_utf8(value: bytes) -> bool:
    return value.decode(errors="replace").encode() == value


def agree(text: str) -> None:
    theirs = libpq(text)
    try:
        ours = parse(text)
    except ConfigurationError:
        assert theirs is None or not is_within_our_rules(theirs), theirs
        return
    assert theirs is not None
    assert ours.user.encode() == theirs["user"]
    assert ours.database.encode() == theirs["dbname"]
    assert (ours.password or "").encode() == theirs.get("password", b"")
    assert (ours.options or "").encode() == theirs.get("options", b"")
    hosts = theirs["host"].decode().split(",")
    ports = theirs.get("port", b"").decode().split(",") * len(hosts)
    assert [address.host for address in ours.addresses] == hosts
    assert [address.port for address in ours.addresses] == [
        int(port or 5432) for port in ports[: len(hosts)]
    ]


URL_PIECES = st.sampled_from(
    ["me", "pw", "db", "app", "6432", ":", "@", "/", "?", "&", "=", ",", "[::1]", "[", "]", "%"]
    + ["%40", "%2F", "%zz", "%e9", "%00", "+", "é", "?host=", "?user=", "&port=1", "&options="]
    + ([" "] if pq.version() >= 180000 else [])  # older ones keep blanks
)


@given(st.lists(URL_PIECES, max_size=12))
def test_any_url_means_the_same_as_to_libpq(pieces: list[str]) -> None:
    agree("postgresql://" + "".join(pieces))


@given(
    st.lists(URL_PIECES, max_size=4),
    st.lists(URL_PIECES, max_size=3),
    st.lists(URL_PIECES, max_size=4),
)
def test_a_url_of_the_usual_shape_means_the_same_as_to_libpq(
    password: list[str], database: list[str], query: list[str]
) -> None:
    agree(
        f"postgresql://me:{''.join(password)}@db,two:2/app{''.join(database)}"
        f"?application_name=x{''.join(query)}"
    )


@given(
    st.lists(
        st.sampled_from(
            [
                *[
                    "host=db",
                    "user=me",
                    "dbname=app",
                    "password=",
                    "options=",
                    "port=1,2",
                    "host=a,b",
                ],
                *[" ", "\n", "\v", "'", "\\", "=", "x", "é", " = ", "'q'", "\\'", "\u00a0"],
            ]
        ),
        max_size=10,
    )
)
def test_any_keywords_mean_the_same_as_to_libpq(pieces: list[str]) -> None:
    agree("host=db user=me " + "".join(pieces))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:pw@db:1,[::1]:2,%2Ftmp/app?options=-c%20geqo%3Doff",
        "postgresql://me@/app?host=/var/run/postgresql",
        "postgresql://me@db?dbname=app",
        "postgresql://me@db/app?",
        "postgresql://me@db/app?options=x&",
        "host = 'db' user=me dbname = app password = 'with \\' quote'",
    ],
)
def test_the_forms_in_postgresqls_documentation_mean_the_same(text: str) -> None:
    parse(text)
    agree(text)
