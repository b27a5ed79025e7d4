from __future__ import annotations

import pickle
from dataclasses import replace
from urllib.parse import quote, urlencode

import pytest

from hyperdrive_client.bindings import Address, Origin, parse_connection_string
from hyperdrive_client.bindings.connection_string import MAX_NAME_BYTES
from hyperdrive_client.errors import ConfigurationError

SECRET = "hunter2"


def parse(text: str, **environ: str) -> Origin:
    return parse_connection_string(text, environ=environ)


def error_of(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    return str(caught.value)


def test_a_url_is_taken_apart() -> None:
    assert parse("postgresql://me:secret@db.example.com:6432/app") == Origin(
        addresses=(Address("db.example.com", 6432),),
        user="me",
        database="app",
        password="secret",
        sslmode="require",
    )


def test_the_port_defaults_to_5432() -> None:
    assert parse("postgres://me@db/app").addresses == (Address("db", 5432),)


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "PostgreSQL", "postgresql+psycopg", "postgres+asyncpg"]
)
def test_the_scheme_may_be_in_any_case_and_name_a_driver(scheme: str) -> None:
    assert parse(f"{scheme}://me:pw@db/app") == parse("postgresql://me:pw@db/app")


@pytest.mark.parametrize(
    ("netloc", "addresses"),
    [
        ("one,two", [Address("one"), Address("two")]),
        ("one:1,two:2", [Address("one", 1), Address("two", 2)]),
        ("one,two:2", [Address("one"), Address("two", 2)]),
        ("one:1,two", [Address("one", 1), Address("two")]),
        ("[::1]", [Address("::1")]),
        (
            "[2001:db8::1]:1,[::1]:2,three",
            [Address("2001:db8::1", 1), Address("::1", 2), Address("three")],
        ),
        ("[fe80::1%25eth0]:1", [Address("fe80::1%eth0", 1)]),
        ("%2Fvar%2Frun%2Fpostgresql", [Address("/var/run/postgresql")]),
        ("%2Ftmp:6432", [Address("/tmp", 6432)]),
    ],
)
def test_a_url_names_hosts(netloc: str, addresses: list[Address]) -> None:
    assert parse(f"postgresql://me@{netloc}/app").addresses == tuple(addresses)


def test_one_port_holds_for_all_hosts_of_the_query() -> None:
    origin = parse("postgresql://me@/app?host=one,two&port=6432")
    assert origin.addresses == (Address("one", 6432), Address("two", 6432))


def test_the_query_overrides_what_stands_before_it() -> None:
    text = "postgresql://a:b@c:1/d?user=me&password=pw&host=/run&port=2&dbname=app"
    assert parse(text) == parse("host=/run port=2 user=me password=pw dbname=app")


def test_everything_in_a_url_is_percent_decoded() -> None:
    origin = parse("postgresql://m%40e:p%2fw%25+@d%62/a%3Fp%20?options=-c%20geqo%3Doff")
    assert (origin.user, origin.password, origin.database) == ("m@e", "p/w%+", "a?p ")
    assert origin.addresses == (Address("db"),)
    assert origin.options == "-c geqo=off"


def test_blanks_around_the_parts_of_a_url_are_dropped() -> None:
    text = "postgresql:// me : pw @ db : 6432 / app ? sslmode = prefer & options = x "
    assert parse(text) == parse("postgresql://me:pw@db:6432/app?sslmode=prefer&options=x")


def test_a_raw_question_mark_or_colon_may_stand_in_the_password() -> None:
    assert parse("postgresql://me:p?w:x@db/app").password == "p?w:x"


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("password=plain", "plain"),
        ("password='with \\' quote'", "with ' quote"),
        ("password='back\\\\slash'", "back\\slash"),
        ("password=back\\\\slash\\ blank", "back\\slash blank"),
        ("password = 'spaced' ", "spaced"),
        ("password\n=\tx", "x"),
        ("password=it's", "it's"),
        ("password='a://b=c'", "a://b=c"),
        ("password=lone\\", "lone"),
    ],
)
def test_keywords_follow_libpqs_quoting(text: str, password: str) -> None:
    assert parse(f"host=db user=me dbname=app {text}").password == password


def test_a_value_in_quotes_may_be_followed_by_a_keyword_at_once() -> None:
    assert parse("host='db'user='me'dbname='app'") == parse("postgresql://me@db/app")


def test_of_a_keyword_given_twice_the_later_wins() -> None:
    assert parse("host=a host=b user=me dbname=app").addresses == (Address("b"),)


@pytest.mark.parametrize("text", ["postgresql://me:@db/app", "postgresql://me@db/app"])
def test_an_empty_password_is_no_password(text: str) -> None:
    assert parse(text).password is None
    assert parse("host=db user=me dbname=app password=''").password is None


ALL_SETTINGS = {
    "sslmode": "verify-full",
    "sslrootcert": "system",
    "sslcert": "/my certs/client.pem",
    "sslkey": "/my certs/client.key",
    "sslpassword": "k&y secret",
    "sslnegotiation": "direct",
    "channel_binding": "require",
    "connect_timeout": "7",
    "options": "-c search_path=a,b&c",
    "application_name": "50% über",
    "target_session_attrs": "prefer-standby",
    "passfile": "/my secrets/pgpass",
}


def test_every_parameter_arrives_and_survives_both_ways_out() -> None:
    query = urlencode(ALL_SETTINGS, quote_via=quote)
    origin = parse(f"postgresql://me:pw@a:1,b:2/app?{query}")
    assert {key: getattr(origin, key) for key in ALL_SETTINGS} == {
        **ALL_SETTINGS,
        "connect_timeout": 7.0,
    }
    assert parse(origin.connection_string) == origin
    assert origin.libpq_parameters() == ALL_SETTINGS | {
        "host": "a,b",
        "port": "1,2",
        "user": "me",
        "password": "pw",
        "dbname": "app",
    }


def test_defaults_stay_out_of_the_connection_string() -> None:
    text = "postgresql://me:pw@db:5432/app?sslmode=require"
    assert parse(text).connection_string == text


@pytest.mark.parametrize(
    ("host", "sslmode"),
    [
        ("localhost", "prefer"),
        ("LocalHost", "prefer"),
        ("127.0.0.1", "prefer"),
        ("127.8.8.8", "prefer"),
        ("[::1]", "prefer"),
        ("%2Ftmp", "prefer"),
        ("localhost,%2Ftmp", "prefer"),
        ("localhost,db.example.com", "require"),
        ("127.example.com", "require"),
        ("localhost.example.com", "require"),
        ("10.0.0.1", "require"),
        ("db", "require"),
    ],
)
def test_without_sslmode_only_a_local_origin_may_go_without_tls(host: str, sslmode: str) -> None:
    assert parse(f"postgresql://me@{host}/app").sslmode == sslmode


def test_a_given_sslmode_holds_for_a_local_origin() -> None:
    assert parse("postgresql://me@localhost/app?sslmode=verify-ca").sslmode == "verify-ca"


def test_the_systems_roots_mean_verify_full() -> None:
    assert parse("postgresql://me@db/app?sslrootcert=system").sslmode == "verify-full"
    assert "sslrootcert=system" in error_of(
        "postgresql://me@db/app?sslrootcert=system&sslmode=require"
    )


def test_direct_tls_needs_tls() -> None:
    assert parse("postgresql://me@db/app?sslnegotiation=direct").sslmode == "require"
    assert "sslmode=require" in error_of("postgresql://me@localhost/app?sslnegotiation=direct")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3.0), (" 3 ", 3.0), ("0", 0.0), ("-1", 0.0), ("", None)],
)
def test_the_timeout_is_whole_seconds(text: str, seconds: float | None) -> None:
    origin = parse(f"host=db user=me dbname=app connect_timeout='{text}'")
    assert origin.connect_timeout == seconds
    assert parse(origin.connection_string) == origin


def test_a_fraction_of_a_second_is_rounded_up_for_libpq() -> None:
    origin = replace(parse("postgresql://me@db/app"), connect_timeout=0.2)
    assert origin.libpq_parameters()["connect_timeout"] == "1"


def test_the_password_file_comes_from_the_string_or_the_environment() -> None:
    assert parse("postgresql://me@db/app").passfile is None
    assert parse("postgresql://me@db/app", PGPASSFILE="/a").passfile == "/a"
    assert parse("postgresql://me@db/app?passfile=/b", PGPASSFILE="/a").passfile == "/b"


def test_no_other_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGUSER", "someone")
    monkeypatch.setenv("PGHOST", "somewhere")
    monkeypatch.setenv("PGSSLMODE", "disable")
    with pytest.raises(ConfigurationError, match="no host"):
        parse_connection_string("user=me dbname=app")
    assert parse_connection_string("postgresql://me@db/app").sslmode == "require"


def test_the_repr_hides_the_password() -> None:
    origin = parse(f"postgresql://me:{SECRET}@db/app")
    assert SECRET not in repr(origin) + str(origin)
    assert "db" in repr(origin)


def test_an_origin_can_be_hashed_compared_and_pickled() -> None:
    one, two = (parse(f"postgresql://me:{SECRET}@db/app") for _ in range(2))
    assert {one: 1}[two] == 1
    assert replace(one, password="other") != two
    assert pickle.loads(pickle.dumps(one)) == two


# The order of Hyperdrive's own checks: each string has all the faults of those after it.
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no protocol"),
        ("db.example.com:5432", "no protocol"),
        ("me:pw@db/app", "no protocol"),
        ("db:5432/app?sslmode=require", "no protocol"),
        ("://", "no protocol"),
        ("mysql://", "only PostgreSQL"),
        ("mysql+pymysql://me:pw@db/app", "only PostgreSQL"),
        ("hyperdrive://HYPERDRIVE", "only PostgreSQL"),
        ("postgresql://", "no host"),
        ("postgresql:///app", "no host"),
        ("postgresql://me@:5432/app", "no host"),
        ("sslmode=require", "no host"),
        ("postgresql://db:99999999", "no database"),
        ("postgresql://me@db/", "no database"),
        ("host=db", "no database"),
        ("postgresql://db:99999999/app", "no user"),
        ("postgresql://:pw@db/app", "no user"),
        ("postgresql://a:b@db/app?user=", "no user"),
        ("host=db dbname=app", "no user"),
    ],
)
def test_what_is_missing_is_said_in_hyperdrives_order(text: str, message: str) -> None:
    assert message in error_of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "postgresql://me@db/app?ssl_mode=require",
            '"ssl_mode" is not supported; did you mean "sslmode"?',
        ),
        (
            "postgresql://me@db/app?hostaddr=::1",
            '"hostaddr" is not supported; did you mean "host"?',
        ),
        ("postgresql://me@db/app?ssl=true", '"ssl" is not supported; did you mean "sslmode"?'),
        ("host=db database=app", '"database" is not supported; did you mean "dbname"?'),
        ("postgresql://me@db/app?xyz=1", '"xyz" is not supported'),
        (
            "host=db user=me dbname=app username=me",
            '"username" is not supported; did you mean "user"?',
        ),
        ("host=db user=me dbname=app gssencmode=disable", '"gssencmode" is not supported'),
        ("postgresql://me@db/app?sslmode", "must be written as sslmode=value"),
        ("postgresql://me@db/app?options=-c x=y", "%3D"),
        ("postgresql://me@db/app?&sslmode=require", "not a known name=value parameter"),
        ("host=db user=me dbname", "not a known name=value parameter"),
        ("host=db user=me dbname='app", 'quote that opens the value of "dbname"'),
        (
            "postgresql://me@db/app?sslmode=requre",
            "sslmode in the connection string must be one of disable, ",
        ),
        ("postgresql://me@db/app?sslmode=requre", 'verify-full; did you mean "require"?'),
        ("postgresql://me@db/app?sslmode=allow", "sslmode in the connection string must be one of"),
        ("postgresql://me@db/app?channel_binding=on", "must be one of disable, prefer, require"),
        ("postgresql://me@db/app?sslnegotiation=tls", "must be one of postgres, direct"),
        ("postgresql://me@db/app?target_session_attrs=master", "must be one of any, read-write"),
        ("postgresql://me@db/app?connect_timeout=soon", "whole number of seconds"),
        ("postgresql://me@db/app?connect_timeout=1.5", "whole number of seconds"),
        ("postgresql://me@db:0/app", "between 1 and 65535"),
        ("postgresql://me@db:65536/app", "between 1 and 65535"),
        ("postgresql://me@db:x/app", "between 1 and 65535"),
        ("host=db port=१ user=me dbname=app", "between 1 and 65535"),
        ("host=a,b,c port=1,2 user=me dbname=app", "2 ports for 3 hosts"),
        ("host=a,,c user=me dbname=app", "one of the hosts in the connection string is empty"),
        ("postgresql://me@[::1/app", "[address]:port"),
        ("postgresql://me@[]/app", "[address]:port"),
        ("postgresql://me@[::1]x/app", "[address]:port"),
        ("postgresql://me@db/app%", 'database in the connection string holds a "%"'),
        ("postgresql://me:100%@db/app", 'password in the connection string holds a "%"'),
        ("postgresql://m%zze@db/app", 'user in the connection string holds a "%"'),
        ("postgresql://me@db/app?options=%4", 'options in the connection string holds a "%"'),
        (
            "postgresql://me:p w@db/app",
            "password in the connection string holds a blank; in a URL it is ",
        ),
        ("postgresql://me:%00@db/app", "NUL"),
        ("postgresql://me:\0@db/app", "NUL"),
        ("host=db user=me dbname=app password=\0", "NUL"),
        (
            "postgresql://me:%ff@db/app",
            "the password in the connection string is not percent-encoded",
        ),
        ("postgresql://me:\udcff@db/app", "not valid UTF-8"),
        ("postgresql://me:p@ss@db/app", "%40"),
        ("postgresql://me:p/ss@db/app", "%2F"),
        ("postgresql://me:p/s?s@db/app", "%2F"),
    ],
)
def test_a_faulty_string_is_an_error_that_says_what_to_do(text: str, message: str) -> None:
    assert message in error_of(text)


@pytest.mark.parametrize("part", ["user", "database"])
def test_a_name_may_have_63_bytes(part: str) -> None:
    names = {"user": "me", "database": "app"}
    names[part] = "é" * (MAX_NAME_BYTES // 2) + "x"
    origin = parse("postgresql://{user}@db/{database}".format(**names))
    assert getattr(origin, part) == names[part]
    names[part] += "x"
    assert f"{part} name" in error_of("postgresql://{user}@db/{database}".format(**names))


@pytest.mark.parametrize(
    "text",
    [
        f"{SECRET}",
        f"me:{SECRET}@db/app",
        f"me:{SECRET}=x@db/app",
        f"mysql://me:{SECRET}@db/app",
        f"postgresql://me:{SECRET}@db",
        f"postgresql://me:{SECRET}@db:port/app",
        f"postgresql://me:{SECRET}@db/app?nonsense=1",
        f"postgresql://me:{SECRET}%@db/app",
        f"postgresql://me:{SECRET}%00@db/app",
        f"postgresql://me:p@{SECRET}@db/app",
        f"postgresql://me:p@{SECRET}:x@db/app",
        f"postgresql://me:p/{SECRET}@db/app",
        f"postgresql://me:{SECRET}/p@db/app",
        f"postgresql://me:p/q?{SECRET}=x@db/app",
        f"postgresql://me:p/q?x={SECRET}@db/app",
        f"postgresql://me:p@q/r?{SECRET}=x@db/app",
        f"postgresql://me:p@q/r?{SECRET}&s@db/app",
        f"postgresql://me:[{SECRET}/p@[db/app",
        f"host=db user=me dbname=app password=with {SECRET}",
        f"host=db user=me dbname=app password=with {SECRET}=x",
        f"host=db user=me dbname=app password=with {SECRET} = x",
        f"host=db user=me dbname=app password='it's {SECRET}'",
        f"host=db user=me dbname=app password='it'{SECRET}=x",
        f"host=db user=me dbname=app password='{SECRET}",
        f"host=db user=me dbname=app pasword='{SECRET}'",
        f"user=me dbname=app password={SECRET}",
        f"host=db user=me dbname=app password={SECRET} sslmode=x",
        f"host=db user=me dbname=app password={SECRET} port=x",
    ],
)
def test_no_error_shows_any_of_the_password(text: str) -> None:
    assert SECRET not in error_of(text)
    letters = text.replace(SECRET, "abcdefgh")
    assert "abcdefgh" not in error_of(letters)
