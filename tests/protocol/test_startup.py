"""What a client may say first: read as PostgreSQL reads it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperdrive_client.errors import ClientProtocolError
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.startup import (
    CANCEL_REQUEST_CODE,
    GSSENC_REQUEST_CODE,
    SSL_REQUEST,
    SSL_REQUEST_CODE,
    CancelRequest,
    GSSENCRequest,
    Packet,
    SSLRequest,
    StartupMessage,
    option_settings,
    take_packet,
)

WORDS = st.binary(max_size=10).map(lambda word: word.replace(b"\x00", b""))
PARAMETERS = st.dictionaries(WORDS.filter(bool), WORDS, max_size=4)


def packet(code: int, body: bytes = b"") -> bytes:
    return m.INT32.pack(len(body) + 8) + m.INT32.pack(code) + body


PROTOCOL_3 = 3 << 16
PACKETS: list[tuple[bytes, Packet]] = [
    (SSL_REQUEST, SSLRequest()),
    (packet(GSSENC_REQUEST_CODE), GSSENCRequest()),
    (packet(CANCEL_REQUEST_CODE, b"\x80\x00\x00\x01key!"), CancelRequest(0x80000001, b"key!")),
    (packet(CANCEL_REQUEST_CODE, bytes(4) + bytes(256)), CancelRequest(0, bytes(256))),
    (packet(CANCEL_REQUEST_CODE, bytes(4) + b"k"), CancelRequest(0, b"k")),
    (packet(PROTOCOL_3, b"\x00"), StartupMessage(0, {}, ())),
    (
        m.startup_message({b"user": b"me", b"database": b"", b"_pq_.x": b"1"}, 2),
        StartupMessage(2, {b"user": b"me", b"database": b""}, (b"_pq_.x",)),
    ),
    # What libpq sends to see that servers negotiate ("Protocol Version Negotiation").
    (
        m.startup_message({b"_pq_.test_protocol_negotiation": b"", b"user": b"me"}, 9999),
        StartupMessage(9999, {b"user": b"me"}, (b"_pq_.test_protocol_negotiation",)),
    ),
]


@pytest.mark.parametrize(("data", "expected"), PACKETS)
def test_a_packet_is_taken_once_its_last_byte_is_there(data: bytes, expected: Packet) -> None:
    for end in range(len(data)):
        assert take_packet(data[:end]) is None
    assert take_packet(data) == (expected, b"")
    assert take_packet(data + b"and the rest") == (expected, b"and the rest")


@given(PARAMETERS, st.integers(0, 0xFFFF))
def test_a_startup_message_of_ours_is_read_back(parameters: dict[bytes, bytes], minor: int) -> None:
    unknown = tuple(name for name in parameters if name.startswith(b"_pq_."))
    known = {name: value for name, value in parameters.items() if name not in unknown}
    expected = StartupMessage(minor, known, unknown)
    assert take_packet(m.startup_message(parameters, minor)) == (expected, b"")


def test_the_request_for_tls_is_what_libpq_sends() -> None:
    assert bytes.fromhex("0000000804d2162f") == SSL_REQUEST


@pytest.mark.parametrize("length", [0, 3, 4, 7, 10_005, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_an_impossible_length_is_refused_at_its_fourth_byte(length: int) -> None:
    data = m.INT32.pack(length)
    assert take_packet(data[:3]) is None
    with pytest.raises(ClientProtocolError, match=f"invalid length of startup packet: {length}"):
        take_packet(data)


def test_the_longest_packet_is_as_long_as_in_postgresql() -> None:
    data = m.startup_message({b"user": b"u" * (10_004 - 15)})
    assert len(data) == 10_004
    assert take_packet(data[:-1]) is None
    assert take_packet(data) is not None


@pytest.mark.parametrize("key", [b"", bytes(257)])
def test_a_cancel_request_without_a_possible_key_is_refused(key: bytes) -> None:
    with pytest.raises(ClientProtocolError, match="cancel request"):
        take_packet(packet(CANCEL_REQUEST_CODE, bytes(4) + key))
    with pytest.raises(ClientProtocolError, match="cancel request"):
        take_packet(packet(CANCEL_REQUEST_CODE, key[:3]))


@pytest.mark.parametrize("code", [0, 2 << 16, 4 << 16, SSL_REQUEST_CODE + 2, 0xFFFFFFFF])
def test_another_protocol_is_refused_with_postgresqls_words(code: int) -> None:
    with pytest.raises(ClientProtocolError) as caught:
        take_packet(packet(code, b"\x00"))
    assert caught.value.sqlstate == "0A000"
    assert str(caught.value) == (
        f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: server supports 3.0 to 3.2"
    )


CODES = (CANCEL_REQUEST_CODE, SSL_REQUEST_CODE, GSSENC_REQUEST_CODE, PROTOCOL_3, PROTOCOL_3 + 2)


@given(
    st.binary(max_size=60)
    | st.builds(packet, st.sampled_from(CODES), st.binary(max_size=60))
    | st.builds(m.INT32.pack, st.integers(0, 0xFFFFFFFF)).flatmap(
        lambda length: st.binary(max_size=60).map(length.__add__)
    )
)
def test_any_bytes_are_a_packet_or_not_complete_or_the_clients_fault(data: bytes) -> None:
    try:
        taken = take_packet(data)
    except ClientProtocolError:
        return
    assert taken is None or data.endswith(taken[1])


def parameters_by_postgresql(body: bytes) -> dict[bytes, bytes] | None:
    """ProcessStartupPacket in PostgreSQL's backend_startup.c; ``None`` for its error.

    It takes any last byte for the terminator; we want a zero.
    """
    buffer = body + b"\x00"  # "a terminator beyond the end, so that strlen works"
    found = {}
    offset = 0
    while offset < len(body) and buffer[offset]:
        value_offset = buffer.index(b"\x00", offset) + 1
        if value_offset >= len(body):
            break
        end = buffer.index(b"\x00", value_offset)
        found[buffer[offset : value_offset - 1]] = buffer[value_offset:end]
        offset = end + 1
    return found if offset == len(body) - 1 and not buffer[offset] else None


@given(st.lists(st.sampled_from((b"\x00", b"\x00\x00", b"a", b"b")), max_size=10).map(b"".join))
@example(b"")
@example(b"\x00")
@example(b"\x00\x00")
@example(b"a\x00")
@example(b"a\x00\x00")
@example(b"a\x00\x00\x00")
@example(b"a\x00b\x00\x00b\x00a\x00\x00")
@example(b"a\x00b\x00\x00c\x00\x00")
def test_parameters_are_laid_out_as_postgresql_wants_them(body: bytes) -> None:
    expected = parameters_by_postgresql(body)
    data = packet(PROTOCOL_3, body)
    if expected is None:
        with pytest.raises(ClientProtocolError, match="invalid startup packet layout"):
            take_packet(data)
    else:
        assert take_packet(data) == (StartupMessage(0, expected, ()), b"")


def test_the_last_of_two_equal_parameters_counts() -> None:
    taken = take_packet(packet(PROTOCOL_3, b"a\x001\x00b\x002\x00a\x003\x00\x00"))
    assert taken == (StartupMessage(0, {b"a": b"3", b"b": b"2"}, ()), b"")


def split_by_postgresql(options: bytes) -> list[bytes]:
    """pg_split_opts in PostgreSQL's postinit.c, loop by loop."""
    arguments = []
    position = 0
    while position < len(options):
        word = b""
        last_was_escape = False
        while position < len(options) and options[position : position + 1].isspace():
            position += 1
        if position == len(options):
            break
        while position < len(options):
            byte = options[position : position + 1]
            if byte.isspace() and not last_was_escape:
                break
            if not last_was_escape and byte == b"\\":
                last_was_escape = True
            else:
                last_was_escape = False
                word += byte
            position += 1
        arguments.append(word)
    return arguments


def settings_by_postgresql(options: bytes) -> dict[bytes, bytes] | None:
    """-c and -- of process_postgres_switches in postgres.c; ``None`` for anything else."""
    settings: dict[bytes, bytes] = {}
    arguments = split_by_postgresql(options)
    while arguments:
        argument = arguments.pop(0)
        if argument == b"-c" and arguments:
            argument += arguments.pop(0)
        name, equals, value = argument[2:].partition(b"=")
        if argument[:2] not in (b"-c", b"--") or not equals or not name:
            return None
        settings[name.replace(b"-", b"_").lower()] = value
    return settings


PIECES = (b"-c", b"--", b"-", b"=", b" ", b" ", b"\\", b"\t", b"a", b"B", b"a=", b"-c a=b", b"\xc3")


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
@example(b"-c a=b\\")
@example(b"-c a=\\\\\\ \\b")
@example(b"\\ -c a=b")
@example(b"-c\\ a=b")
@example(b"-c \\")
@example(b"--a=b=c --a-b= -ca=\xff")
def test_options_are_split_and_read_as_postgresql_does(options: bytes) -> None:
    expected = settings_by_postgresql(options)
    if expected is None:
        with pytest.raises(ClientProtocolError, match="invalid command-line argument") as caught:
            option_settings(options)
        assert caught.value.sqlstate == "42601"
    else:
        assert option_settings(options) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"", {}),
        (b" \t\n\v\f\r", {}),
        (b"-c work_mem=1MB", {b"work_mem": b"1MB"}),
        (b"-cwork_mem=1MB", {b"work_mem": b"1MB"}),
        (b"--work-mem=1MB", {b"work_mem": b"1MB"}),
        (b"-c search_path=a,\\ b\\\\c", {b"search_path": b"a, b\\c"}),
        (b"-c a.b=x=y-z", {b"a.b": b"x=y-z"}),
        (b"-c a= --b=", {b"a": b"", b"b": b""}),
        (b"-c a.b=1 -c A.B=2 --a.b=3", {b"a.b": b"3"}),
    ],
)
def test_settings_in_options(options: bytes, expected: dict[bytes, bytes]) -> None:
    assert option_settings(options) == expected


@pytest.mark.parametrize("options", [b"-c", b"-c a", b"--", b"--a", b"a=b", b"-Z", b"-c =1", b"-"])
def test_other_switches_are_refused_by_name(options: bytes) -> None:
    with pytest.raises(ClientProtocolError) as caught:
        option_settings(options)
    assert caught.value.sqlstate == "42601"
    assert options.split()[0].decode() in str(caught.value)
