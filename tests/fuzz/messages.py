"""What a client or an origin could send, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.startup import GSSENC_REQUEST_CODE, SSL_REQUEST

Maker = Callable[[Random], bytes]

TEXTS = (
    b"select 1",
    b"select 1",
    b"select $1",
    b"select count(*) from pg_class where relname > $1",
    b"select set_config('timezone', 'utc', false)",
    b"select pg_advisory_lock(1)",
    b"select pg_backend_pid()",
    b"select pg_cancel_backend(4194306)",
    b"select pg_terminate_backend($1)",
    b"select nextval('numbers')",
    b"select currval('numbers')",
    b"insert into things values (1)",
    b"update things set a = $1",
    b"begin",
    b"begin",
    b"begin isolation level serializable read only",
    b"start transaction",
    b"commit",
    b"commit and chain",
    b"rollback",
    b"savepoint s",
    b"rollback to s",
    b"prepare transaction 'x'",
    b"set work_mem = '1MB'",
    b"set local timezone to 'Asia/Tokyo'",
    b"set role none",
    b"reset all",
    b"discard all",
    b"deallocate all",
    b"deallocate a",
    b"prepare p as select 1",
    b"execute p",
    b"declare c cursor with hold for select 1",
    b"fetch c",
    b"close all",
    b"listen here",
    b"notify here, 'there'",
    b"unlisten *",
    b"create temp table scratch (a int)",
    b"copy things from stdin",
    b"copy things to stdout",
    b"lock things",
    b"vacuum",
    b"do $$ begin perform 1; end $$",
    b"show hyperdrive.pool",
    b"show timezone",
    b"begin; select 1; commit",
    b"select 1; select 2",
    b"select 1 where false; set a.b = 'c'; begin",
    b"",
    b";",
    b"select 'open",
    b"select E'\\'', U&\"d\\0061t\", $tag$ $tag$ -- \n/* /* */ */",
    b"(((select 1)))",
    b"\xff\xfe",
)
NAMES = (b"", b"", b"a", b"b", b"c", b"n" * 70)
PORTALS = (b"", b"", b"p")
SETTINGS = (
    {},
    {},
    {b"TimeZone": b"Asia/Tokyo"},
    {b"options": b"-c work_mem=1MB -c a.b=c"},
    {b"options": b"-c hyperdrive.report=on"},
    {b"database": b"hyperdrive.console"},
    {b"application_name": b"fuzz \xff", b"search_path": b"one"},
)
USER = {b"user": b"visitor", b"database": b"app"}


def text(random: Random) -> bytes:
    chosen = random.choice(TEXTS)
    if random.random() < 0.03:
        chosen += b" /* " + b"x" * random.choice((10, 5000, 70_000)) + b" */"
    if random.random() < 0.03:
        chosen = chosen.replace(b" ", b"\n\t ").upper()
    return chosen


def _name(random: Random) -> bytes:
    return random.choice(NAMES)


def _values(random: Random) -> list[bytes]:
    return [
        random.choice((b"", b"1", b"4194306", b"value")) for _ in range(random.choice((0, 0, 1, 2)))
    ]


def _object(random: Random) -> bytes:
    if random.random() < 0.5:
        return b"S" + _name(random) + b"\x00"
    return b"P" + random.choice(PORTALS) + b"\x00"


def _bind(random: Random) -> bytes:
    return m.bind(random.choice(PORTALS), _name(random), _values(random))


def _types(random: Random) -> bytes:
    return random.choice((b"\x00\x00", b"\x00\x00", b"\x00\x01\x00\x00\x00\x19"))


CLIENT: dict[int, Maker] = {
    m.BIND: _bind,
    m.CLOSE: lambda r: m.message(m.CLOSE, _object(r)),
    m.COPY_DATA: lambda r: m.message(m.COPY_DATA, b"1\n" * r.choice((0, 1, 20_000))),
    m.COPY_DONE: lambda r: m.message(m.COPY_DONE, b""),
    m.COPY_FAIL: lambda r: m.message(m.COPY_FAIL, b"no\x00"),
    m.DESCRIBE: lambda r: m.message(m.DESCRIBE, _object(r)),
    m.EXECUTE: lambda r: m.execute(r.choice(PORTALS), r.choice((0, 0, 2))),
    m.FLUSH: lambda r: m.FLUSH_MESSAGE,
    m.FUNCTION_CALL: lambda r: m.message(m.FUNCTION_CALL, b"\x00\x00\x05\x03" + bytes(6)),
    m.PARSE: lambda r: m.parse(_name(r), text(r), _types(r)),
    m.PASSWORD: lambda r: m.password(r.choice((b"secret\x00", b"n,,n=,r=nonce", b""))),
    m.QUERY: lambda r: m.query(text(r)),
    m.SYNC: lambda r: m.SYNC_MESSAGE,
    m.TERMINATE: lambda r: m.TERMINATE_MESSAGE,
}
"""By type, what is well formed."""

USUAL = "QQQPBDESSSPBESCHcdfF"


def _error(random: Random) -> bytes:
    code = random.choice(("42601", "0A000", "25P02", "57P01", "57014", "55000", "26000"))
    severity = "FATAL" if random.random() < 0.05 else "ERROR"
    return m.error_response(code, "wrong", severity=severity)


def rows(random: Random) -> bytes:
    count = random.choice((0, 1, 1, 3))
    one = m.message(m.DATA_ROW, b"\x00\x02\x00\x00\x00\x01a\xff\xff\xff\xff")
    return one * count


def _authentication(random: Random) -> bytes:
    request = random.choice((0, 2, 3, 5, 7, 8, 10, 11, 12, 13, 0xFFFFFFFF))
    return m.authentication(
        request, random.choice((b"", b"salt", b"SCRAM-SHA-256\x00\x00", b"r=x"))
    )


DESCRIPTION = m.message(m.ROW_DESCRIPTION, b"\x00\x01a\x00" + bytes(18))
ORIGIN: dict[int, Maker] = {
    m.AUTHENTICATION: _authentication,
    m.BACKEND_KEY_DATA: lambda r: m.backend_key_data(r.randrange(1 << 16), b"key!"),
    m.BIND_COMPLETE: lambda r: b"2\x00\x00\x00\x04",
    m.CLOSE_COMPLETE: lambda r: m.CLOSE_COMPLETE_MESSAGE,
    m.COMMAND_COMPLETE: lambda r: m.message(
        m.COMMAND_COMPLETE, r.choice((b"SELECT 1", b"DISCARD ALL", b"BEGIN", b"")) + b"\x00"
    ),
    m.COPY_BOTH_RESPONSE: lambda r: m.message(m.COPY_BOTH_RESPONSE, bytes(3)),
    m.COPY_IN_RESPONSE: lambda r: m.message(m.COPY_IN_RESPONSE, bytes(3)),
    m.COPY_OUT_RESPONSE: lambda r: m.message(m.COPY_OUT_RESPONSE, bytes(3)),
    m.COPY_DATA: lambda r: m.message(m.COPY_DATA, b"1\n"),
    m.COPY_DONE: lambda r: m.message(m.COPY_DONE, b""),
    m.DATA_ROW: lambda r: m.message(m.DATA_ROW, b"\x00\x01\x00\x00\x00\x01a"),
    m.EMPTY_QUERY_RESPONSE: lambda r: m.message(m.EMPTY_QUERY_RESPONSE, b""),
    m.ERROR_RESPONSE: _error,
    m.FUNCTION_CALL_RESPONSE: lambda r: m.message(m.FUNCTION_CALL_RESPONSE, b"\xff\xff\xff\xff"),
    m.NEGOTIATE_PROTOCOL_VERSION: lambda r: m.negotiate_protocol_version(0, [b"_pq_.x"]),
    m.NO_DATA: lambda r: m.message(m.NO_DATA, b""),
    m.NOTICE_RESPONSE: lambda r: b"N" + _error(r)[1:],
    m.NOTIFICATION_RESPONSE: lambda r: m.message(
        m.NOTIFICATION_RESPONSE, m.INT32.pack(r.randrange(9)) + b"here\x00there\x00"
    ),
    m.PARAMETER_DESCRIPTION: lambda r: m.message(m.PARAMETER_DESCRIPTION, b"\x00\x00"),
    m.PARAMETER_STATUS: lambda r: m.parameter_status(
        r.choice((b"TimeZone", b"client_encoding", b"x")), r.choice((b"UTC", b"UTF8", b""))
    ),
    m.PARSE_COMPLETE: lambda r: m.PARSE_COMPLETE_MESSAGE,
    m.PORTAL_SUSPENDED: lambda r: m.message(m.PORTAL_SUSPENDED, b""),
    m.READY_FOR_QUERY: lambda r: m.ready_for_query(r.choice(b"ITE")),
    m.ROW_DESCRIPTION: lambda r: DESCRIPTION,
}


# What stands in front of messages.


def startup(random: Random) -> bytes:
    """A first packet of any kind, most of them wrong somewhere."""
    parameters = {**USER, **random.choice(SETTINGS)}
    match random.randrange(8):
        case 0:
            return SSL_REQUEST + b"x" * random.choice((0, 0, 1))
        case 1:
            return m.INT32.pack(8) + m.INT32.pack(GSSENC_REQUEST_CODE)
        case 2:
            return cancel_request(
                random.randrange(1 << 32), random.randbytes(random.choice((4, 32)))
            )
        case 3:
            return m.startup_message({**parameters, b"database": b"other"})
        case 4:
            return m.startup_message({**parameters, b"_pq_.x": b"y"}, random.choice((0, 2, 3, 99)))
        case 5:
            return m.startup_message({**parameters, b"replication": b"true"})
        case 6:
            return mutated(random, m.startup_message(parameters))
    return random.randbytes(random.choice((1, 8, 100, 10_100)))


def cancel_request(process_id: int, secret_key: bytes) -> bytes:
    body = m.INT32.pack(1234 << 16 | 5678) + m.INT32.pack(process_id) + secret_key
    return m.INT32.pack(len(body) + 4) + body


# What can be wrong.

_LENGTHS = (0, 1, 3, 4, 5, 10_000, 10_001, 1 << 20, 0x3FFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(random: Random, message: bytes) -> bytes:
    """``message`` with something wrong in it, or something else altogether."""
    data = bytearray(message)
    at = random.randrange(len(data)) if data else 0
    match random.randrange(11):
        case 0:
            return bytes(data[:at])
        case 1:
            return bytes(data) + random.randbytes(random.randint(1, 9))
        case 2:
            data[at : at + 1] = bytes((random.randrange(256),))
        case 3:
            data[at : at + 1] = bytes((data[at] ^ 1 << random.randrange(8),)) if data else b""
        case 4:
            data[1:5] = m.INT32.pack(random.choice(_LENGTHS))
        case 5:
            data[1:5] = m.INT32.pack(max(0, len(data) - 1 + random.randint(-3, 3)))
        case 6:
            data[:1] = bytes((random.randrange(256),))
        case 7:
            del data[at : at + random.randint(1, 8)]
            if len(data) >= 5:
                data[1:5] = m.INT32.pack(len(data) - 1)
        case 8:
            return bytes(data).replace(b"\x00", b"\x01")
        case 9:
            body = random.randbytes(random.choice((0, 1, 2, 4, 20)))
            return m.message(random.randrange(256), body)
        case 10 if len(data) > 5:
            # A body of the right length that is not what the type wants.
            data[5:] = random.randbytes(len(data) - 5)
    return bytes(data)
