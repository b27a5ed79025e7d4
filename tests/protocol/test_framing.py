"""However a stream is cut into reads, the same messages come out of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from types import FrameType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdrive_client.errors import ClientProtocolError, OriginProtocolError, ProtocolError
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.framing import (
    CONTINUATION,
    MIB,
    Framer,
    client_framer,
    origin_framer,
    password_framer,
)

Message = tuple[int, int, int]

# Types of the small framer: passed on from 5 or 20 bytes on, or whole; with and without a listing.
EARLY, LATE, QUIET, QUIET_WHOLE, WHOLE = b"elqwW"
STREAMED = {EARLY: 5, LATE: 20, QUIET: 5}
UNLISTED = frozenset((QUIET, QUIET_WHOLE))
LIMIT = 20_000


def small_framer() -> Framer:
    return Framer(
        streamed=STREAMED,
        unlisted=UNLISTED,
        limits={EARLY: 30_000},
        limit=LIMIT,
        error=ClientProtocolError,
    )


class Outcome(NamedTuple):
    """``messages`` have offsets in the whole stream; ``passed`` is what may be passed on of it."""

    messages: list[Message]
    passed: bytes
    failed: bool


def run(framer: Framer, reads: Iterable[bytes]) -> Outcome:
    """Feed ``reads``, and check what must hold after each."""
    messages: list[Message] = []
    received = passed = b""
    for read in reads:
        received += read
        remaining = framer.remaining
        try:
            buffer, listed, end = framer.feed(read)
        except ProtocolError:
            return Outcome(messages, passed, True)
        if remaining:
            assert listed.pop(0) == (CONTINUATION, 0, min(remaining, len(buffer)))
        assert received.startswith(passed + buffer[:end])
        assert all(start < end for _, start, _ in listed)
        assert all(stop <= end for _, _, stop in listed[:-1])
        if listed and listed[-1][2] > end:
            assert framer.remaining == listed[-1][2] - end
        messages += [
            (kind, len(passed) + start, len(passed) + stop) for kind, start, stop in listed
        ]
        passed += buffer[:end]
        assert framer.failure or passed + framer.held == received
    return Outcome(messages, passed, framer.failure is not None)


def cut(stream: bytes, points: Iterable[int]) -> list[bytes]:
    return [stream[start:stop] for start, stop in pairwise([0, *points, len(stream)])]


def boundaries(stream: bytes, unlisted: frozenset[int]) -> list[Message]:
    """The messages in a stream of complete ones, read in the plainest way."""
    found = []
    start = 0
    while start < len(stream):
        stop = start + 1 + int.from_bytes(stream[start + 1 : start + 5], "big")
        if stream[start] not in unlisted:
            found.append((stream[start], start, stop))
        start = stop
    return found


MESSAGES = st.builds(
    m.message,
    st.sampled_from((EARLY, LATE, QUIET, QUIET_WHOLE, WHOLE)),
    st.binary(max_size=30) | st.just(bytes(12_000)),
)
STREAMS = st.lists(MESSAGES, max_size=6).map(b"".join)

CONVERSATIONS: dict[str, tuple[Callable[[], Framer], bytes]] = {
    "client": (
        client_framer,
        m.query(b"SELECT 1")
        + m.parse(b"s", b"SELECT $1", b"\x00\x01\x00\x00\x00\x17")
        + m.bind(b"", b"s", [b"1", b""])
        + m.execute()
        + m.close_statement(b"s")
        + m.SYNC_MESSAGE
        + m.message(m.COPY_DATA, b"1\n2\n")
        + m.message(m.COPY_DATA, b"")
        + m.message(m.COPY_FAIL, b"no\x00")
        + m.FLUSH_MESSAGE
        + m.TERMINATE_MESSAGE,
    ),
    "password": (
        password_framer,
        m.sasl_initial_response(b"SCRAM-SHA-256", b"n,,n=,r=abc") + m.password(b"c=biws,r=abc,p="),
    ),
    "origin": (
        origin_framer,
        m.authentication(m.AUTHENTICATION_OK)
        + m.parameter_status(b"TimeZone", b"UTC")
        + m.backend_key_data(1, b"secret")
        + m.ready_for_query(m.IDLE)
        + m.message(m.ROW_DESCRIPTION, b"\x00\x00")
        + m.message(m.DATA_ROW, b"\x00\x00") * 3
        + m.message(m.COPY_DATA, b"1\n")
        + m.message(m.FUNCTION_CALL_RESPONSE, b"\x00\x00\x00\x01x")
        + m.message(m.COMMAND_COMPLETE, b"SELECT 3\x00")
        + m.error_response("42601", "syntax error")
        + m.ready_for_query(m.FAILED_TRANSACTION),
    ),
}


@given(STREAMS, st.data())
def test_every_cut_gives_the_same_messages_and_bytes(stream: bytes, data: st.DataObject) -> None:
    points = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    expected = Outcome(boundaries(stream, UNLISTED), stream, False)
    assert run(small_framer(), [stream]) == expected
    assert run(small_framer(), cut(stream, points)) == expected


@pytest.mark.parametrize("who", CONVERSATIONS)
def test_a_conversation_is_the_same_at_every_split_point_and_byte_by_byte(who: str) -> None:
    framer, stream = CONVERSATIONS[who]
    unlisted = frozenset((m.DATA_ROW, m.COPY_DATA)) if who == "origin" else frozenset[int]()
    expected = Outcome(boundaries(stream, unlisted), stream, False)
    assert run(framer(), cut(stream, range(1, len(stream)))) == expected
    for point in range(len(stream) + 1):
        assert run(framer(), cut(stream, [point])) == expected


@given(STREAMS, st.data())
def test_what_is_cut_off_is_held_unless_it_is_streamed(stream: bytes, data: st.DataObject) -> None:
    point = data.draw(st.integers(0, len(stream)))
    framer = small_framer()
    messages, passed, _ = run(framer, [stream[:point]])
    _, start, stop = next(
        (each for each in boundaries(stream, frozenset()) if each[2] > point), (0, point, point)
    )
    kind = stream[start] if start < point else WHOLE
    if point - start >= STREAMED.get(kind, sys.maxsize):
        assert (passed, framer.remaining) == (stream[:point], stop - point)
    else:
        assert (passed, framer.held) == (stream[:start], stream[start:point])
    assert messages == [each for each in boundaries(stream, UNLISTED) if each[1] < len(passed)]


@pytest.mark.parametrize(
    ("framer", "kind", "needed"),
    [
        (client_framer, m.BIND, MIB),
        (client_framer, m.QUERY, MIB),
        (client_framer, m.COPY_DATA, 5),
        (client_framer, m.COPY_FAIL, 5),
        (client_framer, m.FUNCTION_CALL, 5),
        (origin_framer, m.DATA_ROW, 5),
        (origin_framer, m.COPY_DATA, 5),
        (origin_framer, m.FUNCTION_CALL_RESPONSE, 5),
    ],
)
def test_a_large_message_is_passed_on_in_parts(
    framer: Callable[[], Framer], kind: int, needed: int
) -> None:
    message = m.message(kind, bytes(needed + 100))
    parts = framer()
    assert parts.feed(message[: needed - 1])[2] == 0
    assert parts.feed(message[needed - 1 : needed + 50])[2] == needed + 50
    assert parts.remaining == len(message) - needed - 50
    rest, listed, end = parts.feed(message[needed + 50 :] + m.SYNC_MESSAGE)
    assert listed == [
        (CONTINUATION, 0, len(message) - needed - 50),
        (m.SYNC, len(message) - needed - 50, len(rest)),
    ]
    assert end == len(rest)
    assert parts.remaining == 0


def test_a_parse_is_kept_whole_however_large() -> None:
    message = m.parse(b"", b"x" * (3 * MIB))
    framer = client_framer()
    assert framer.feed(message[: 2 * MIB])[1:] == ([], 0)
    assert framer.held == message[: 2 * MIB]
    assert framer.feed(message[2 * MIB :]) == (message, [(m.PARSE, 0, len(message))], len(message))


def test_a_read_of_complete_messages_is_not_copied() -> None:
    stream = m.query(b"SELECT 1") * 3
    framer = client_framer()
    assert framer.feed(stream)[0] is stream
    assert framer.feed(stream)[0] is stream


def test_the_parts_of_a_large_message_are_put_together_once() -> None:
    message = m.parse(b"", b"x" * 1_000_000)
    joins = 0

    def count(_: FrameType, event: str, argument: Any) -> None:
        nonlocal joins
        joins += event == "c_call" and argument.__name__ == "join"

    framer = client_framer()
    reads = cut(message, range(3, len(message), 1000))
    sys.setprofile(count)
    try:
        chunks = [framer.feed(read) for read in reads]
    finally:
        sys.setprofile(None)
    # The first 5 bytes say how much is needed; then everything waits for the last read.
    assert joins == 2
    assert chunks[-1] == (message, [(m.PARSE, 0, len(message))], len(message))


LARGE = 0x3FFFFFFE
LIMITS: list[tuple[Callable[[], Framer], type[ProtocolError], int, int]] = [
    (client_framer, ClientProtocolError, kind, LARGE)
    for kind in (m.BIND, m.COPY_DATA, m.COPY_FAIL, m.FUNCTION_CALL, m.QUERY)
]
LIMITS += [
    (client_framer, ClientProtocolError, kind, MIB) for kind in (m.CLOSE, m.DESCRIBE, m.EXECUTE)
]
LIMITS += [
    (client_framer, ClientProtocolError, kind, 10_000)
    for kind in (m.COPY_DONE, m.FLUSH, m.SYNC, m.TERMINATE)
]
LIMITS += [
    (client_framer, ClientProtocolError, m.PARSE, 256 * MIB),
    (password_framer, ClientProtocolError, m.PASSWORD, 10_000),
    (origin_framer, OriginProtocolError, m.DATA_ROW, 0x7FFFFFFF),
    (origin_framer, OriginProtocolError, m.COPY_DATA, 0x7FFFFFFF),
    (origin_framer, OriginProtocolError, m.FUNCTION_CALL_RESPONSE, 0x7FFFFFFF),
    (origin_framer, OriginProtocolError, m.ERROR_RESPONSE, 64 * MIB),
    (origin_framer, OriginProtocolError, m.ROW_DESCRIPTION, 64 * MIB),
]


@pytest.mark.parametrize(
    ("framer", "kind"),
    [
        *((client_framer, kind) for kind in (m.PASSWORD, ord("!"), 0, 255)),
        (password_framer, m.QUERY),
    ],
)
def test_an_unknown_type_is_refused_before_its_body_is_there(
    framer: Callable[[], Framer], kind: int
) -> None:
    with pytest.raises(ClientProtocolError, match=f"invalid frontend message type {kind}"):
        framer().feed(m.HEADER.pack(kind, 5000))


@pytest.mark.parametrize(("framer", "error", "kind", "limit"), LIMITS)
def test_a_length_that_cannot_be_is_refused_as_soon_as_it_is_read(
    framer: Callable[[], Framer], error: type[ProtocolError], kind: int, limit: int
) -> None:
    for length in (4, limit):
        fine = framer()
        fine.feed(m.HEADER.pack(kind, length))
        assert fine.failure is None
    for length in (0, 1, 2, 3, limit + 1, 0x80000000, 0xFFFFFFFF):
        header = m.HEADER.pack(kind, length)
        for point in range(6):
            bad = framer()
            bad.feed(header[: min(point, 4)])
            with pytest.raises(error) as caught:
                bad.feed(header[min(point, 4) :] + bytes(10))
            assert caught.value.sqlstate == "08P01"
            assert f"length {length} " in str(caught.value)
            assert repr(chr(kind)) in str(caught.value)


@given(
    STREAMS,
    st.sampled_from((EARLY, LATE, QUIET, QUIET_WHOLE, WHOLE)),
    st.sampled_from((0, 3, 30_001, 0x80000000, 0xFFFFFFFF)),
    st.data(),
)
def test_messages_before_an_impossible_length_are_given_and_then_it_is_raised(
    stream: bytes, kind: int, length: int, data: st.DataObject
) -> None:
    broken = stream + m.HEADER.pack(kind, length) + b"garbage" + stream
    expected = Outcome(boundaries(stream, UNLISTED), stream, True)
    points = sorted(data.draw(st.sets(st.integers(0, len(broken)), max_size=5)))
    assert run(small_framer(), [broken]) == expected
    assert run(small_framer(), cut(broken, points)) == expected
    framer = small_framer()
    run(framer, [broken])
    with pytest.raises(ClientProtocolError, match=f"length {length} "):
        framer.feed(b"")


@pytest.mark.parametrize("kind", [QUIET_WHOLE, WHOLE])
def test_a_complete_message_over_the_limit_is_refused_too(kind: int) -> None:
    assert run(small_framer(), [m.message(kind, bytes(LIMIT - 4))]).failed is False
    assert run(small_framer(), [m.message(kind, bytes(LIMIT - 3))]).failed is True
