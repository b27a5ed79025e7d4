"""What a replication connection brings, and what of it is a commit."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdrive_client.errors import OriginProtocolError
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.framing import own_framer
from hyperdrive_client.protocol.replication import (
    Committed,
    Keepalive,
    Snapshot,
    TransactionStream,
    lsn_of,
    standby_status_update,
)

OIDS = st.integers(1, 2**32 - 1)
LSNS = st.integers(0, 2**63 - 1)


def data(message: bytes) -> bytes:
    return b"w" + struct.pack(">QQQ", 1, 2, 3) + message


def begin(transaction: int, lsn: int = 100) -> bytes:
    return data(b"B" + struct.pack(">QQI", lsn, 5, transaction))


def commit(lsn: int = 100, end: int = 108) -> bytes:
    return data(b"C" + struct.pack(">BQQQ", 0, lsn, end, 5))


def insert(table: int) -> bytes:
    return data(b"I" + struct.pack(">I", table) + b"N\x00\x01t\x00\x00\x00\x011")


def update(table: int, old: bytes = b"") -> bytes:
    return data(b"U" + struct.pack(">I", table) + old + b"N\x00\x01t\x00\x00\x00\x011")


def delete(table: int) -> bytes:
    return data(b"D" + struct.pack(">I", table) + b"K\x00\x01t\x00\x00\x00\x011")


def truncate(*tables: int) -> bytes:
    return data(b"T" + struct.pack(f">IB{len(tables)}I", len(tables), 0, *tables))


def relation(table: int) -> bytes:
    return data(b"R" + struct.pack(">I", table) + b"public\x00a\x00d\x00\x00")


def keepalive(end: int, reply: int = 0) -> bytes:
    return b"k" + struct.pack(">QQB", end, 5, reply)


WITHOUT_CHANGE = [
    relation(7),
    data(b"Y\x00\x00\x40\x00public\x00mood\x00"),
    data(b"O" + bytes(8) + b"elsewhere\x00"),
    data(b"M\x00" + bytes(8) + b"prefix\x00\x00\x00\x00\x02hi"),
]


def received(*bodies: bytes) -> list[Committed | Keepalive]:
    stream = TransactionStream()
    return [each for each in map(stream.receive, bodies) if each is not None]


def test_a_commit_names_the_tables_that_it_has_changed():
    bodies = [begin(9), relation(1), insert(1), insert(1), update(2), delete(3), truncate(4, 5)]
    assert received(*bodies, commit()) == [Committed(9, frozenset((1, 2, 3, 4, 5)), 108)]


def test_an_update_may_bring_the_old_row_or_its_key():
    bodies = [begin(9), update(1, b"K\x00\x01n"), update(2, b"O\x00\x01n"), commit()]
    assert received(*bodies) == [Committed(9, frozenset((1, 2)), 108)]


def test_a_commit_may_have_changed_nothing_that_is_published():
    assert received(begin(9), commit()) == [Committed(9, frozenset(), 108)]


def test_one_commit_has_nothing_of_the_one_before():
    bodies = [begin(9), insert(1), commit(), begin(10, 200), insert(2), commit(200, 208)]
    assert received(*bodies)[1] == Committed(10, frozenset((2,)), 208)


@pytest.mark.parametrize("body", WITHOUT_CHANGE, ids=["relation", "type", "origin", "message"])
def test_what_is_no_change_changes_nothing(body: bytes):
    assert received(begin(9), body, commit()) == [Committed(9, frozenset(), 108)]


@pytest.mark.parametrize("reply", [False, True])
def test_a_keepalive_says_how_far_the_stream_is(reply: bool):
    assert received(keepalive(2**63 + 5, reply)) == [Keepalive(2**63 + 5, reply)]


def test_a_keepalive_may_come_inside_of_a_transaction():
    bodies = [begin(9), insert(1), keepalive(5), commit()]
    assert received(*bodies) == [Keepalive(5, False), Committed(9, frozenset((1,)), 108)]


@pytest.mark.parametrize(
    "bodies",
    [
        [b""],
        [b"x"],
        [b"w"],
        [data(b"")],
        [keepalive(1)[:-1]],
        [keepalive(1) + b"x"],
        [insert(1)],
        [truncate(1)],
        [commit()],
        [begin(9), begin(10)],
        [begin(9)[:-1]],
        [begin(9) + b"x"],
        [begin(9), data(b"I\x00\x00")],
        [begin(9), truncate(1, 2)[:-1]],
        [begin(9), truncate(1, 2)[:-4]],
        [begin(9), truncate(1, 2) + b"xxxx"],
        [begin(9), commit()[:-1]],
        [begin(9), commit(lsn=101)],
        [begin(9), commit(end=99)],
        # Of later versions of the protocol.
        [data(b"S" + bytes(5))],
        [begin(9), data(b"P" + bytes(30))],
    ],
)
def test_what_can_not_be_is_the_origins_fault(bodies: list[bytes]):
    stream = TransactionStream()
    for body in bodies[:-1]:
        stream.receive(body)
    with pytest.raises(OriginProtocolError):
        stream.receive(bodies[-1])


CHANGES = st.one_of(
    st.builds(lambda table: (insert(table), {table}), OIDS),
    st.builds(lambda table: (update(table), {table}), OIDS),
    st.builds(lambda table: (delete(table), {table}), OIDS),
    st.builds(lambda tables: (truncate(*tables), set(tables)), st.lists(OIDS, max_size=5)),
    st.sampled_from([(body, set()) for body in WITHOUT_CHANGE]),
)
TRANSACTIONS = st.lists(
    st.tuples(st.integers(3, 2**32 - 1), LSNS, st.lists(CHANGES, max_size=6)), max_size=5
)


@given(transactions=TRANSACTIONS, size=st.sampled_from([1, 7, 1 << 20]))
def test_any_transactions_however_they_arrive(transactions: list, size: int):
    bodies, expected = [], []
    for transaction, lsn, changes in transactions:
        bodies += [begin(transaction, lsn), *(body for body, _ in changes), commit(lsn, lsn + 8)]
        tables = frozenset().union(*(tables for _, tables in changes))
        expected.append(Committed(transaction, tables, lsn + 8))
    sent = b"".join(m.message(m.COPY_DATA, body) for body in bodies)
    framer, stream, found = own_framer(), TransactionStream(), []
    for at in range(0, len(sent), size):
        buffer, messages, end = framer.feed(sent[at : at + size])
        for kind, start, stop in messages:
            assert kind == m.COPY_DATA
            found.append(stream.receive(buffer[start + 5 : min(stop, end)]))
    assert [each for each in found if each is not None] == expected


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_understood_or_refused(body: bytes, inside: bool):
    stream = TransactionStream()
    if inside:
        stream.receive(begin(9))
    for prefix in (b"", b"w" + bytes(24)):
        with suppress(OriginProtocolError):
            stream.receive(prefix + body)


def test_of_a_large_change_the_beginning_is_enough():
    body = begin(9), insert(1)[:30] + bytes(3 << 20), commit()
    sent = b"".join(m.message(m.COPY_DATA, each) for each in body)
    framer, stream, found = own_framer(), TransactionStream(), []
    for at in range(0, len(sent), 1 << 16):
        buffer, messages, end = framer.feed(sent[at : at + (1 << 16)])
        # Only that much is ever held.
        assert len(buffer) <= (1 << 20) + (1 << 17)
        found += [
            stream.receive(buffer[start + 5 : min(stop, end)])
            for kind, start, stop in messages
            if kind == m.COPY_DATA
        ]
    assert found == [None, None, Committed(9, frozenset((1,)), 108)]


def test_a_status_update_confirms_one_lsn_as_written_flushed_and_applied():
    update = standby_status_update(5, wants_reply=True)
    assert update == b"d\x00\x00\x00\x26r" + struct.pack(">QQQQB", 5, 5, 5, 0, 1)


@given(st.integers(0, 2**64 - 1))
def test_any_lsn_is_read_from_its_text(lsn: int):
    assert lsn_of(b"%X/%X" % (lsn >> 32, lsn & 0xFFFFFFFF)) == lsn


@pytest.mark.parametrize(("text", "lsn"), [(b"0/0", 0), (b"16/B374D848", 0x16B374D848)])
def test_an_lsn_as_postgresql_writes_it(text: bytes, lsn: int):
    assert lsn_of(text) == lsn


@pytest.mark.parametrize("text", [b"", b"/", b"1", b"1/", b"/1", b"x/1", b"1_0/1", b"1/123456789"])
def test_what_is_no_lsn_is_refused(text: bytes):
    with pytest.raises(OriginProtocolError):
        lsn_of(text)


def test_a_snapshot_sees_what_has_ended():
    snapshot = Snapshot.of(b"100:105:100,103")
    assert [each for each in range(98, 108) if snapshot.sees(each)] == [98, 99, 101, 102, 104]
    assert Snapshot.of(b"100:100:").sees(99)
    assert not Snapshot.of(b"100:100:").sees(100)


@given(st.integers(2**31, 2**60), st.integers(-(2**31) + 1, 2**31 - 1))
def test_a_transactions_id_is_widened_to_the_nearest(xmax: int, distance: int):
    ended = Snapshot(xmax, xmax, frozenset())
    assert ended.sees((xmax + distance) % 2**32) is (distance < 0)
    running = Snapshot(0, 2**62, frozenset((xmax + distance,)))
    assert not Snapshot(xmax - 2**31, xmax, running.running).sees((xmax + distance) % 2**32)


@pytest.mark.parametrize("text", [b"", b"1:2", b"1:2:x", b"a:2:", b"1:2:3:4"])
def test_what_is_no_snapshot_is_refused(text: bytes):
    with pytest.raises(OriginProtocolError):
        Snapshot.of(text)
