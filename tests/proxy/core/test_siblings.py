"""One worker of several: what it asks, what it is told, and what all of them see."""

from __future__ import annotations

import mmap

import pytest

from hyperdrive_client.proxy.core.siblings import (
    Siblings,
    departed,
    forget_endings,
    hear,
    memory_size,
    rows_of,
)

COLUMNS = 4
FIRST = (1 << 22) + 1


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, memory_size(COLUMNS))


@pytest.fixture
def worker(start, memory):
    """The second column's, with one origin connection that it was granted and an idle client."""

    def begin(**options):
        proxy = start(Siblings(1, COLUMNS, memory, bytes(32)), **options)
        client = proxy.connect()
        client.asks_in()
        assert proxy.said == [["want", "app", 1]]
        tell(proxy, "grant", "app", 1)
        proxy.servers[-1].starts()
        client.is_welcomed()
        assert [each[:2] for each in proxy.said] == [["want", "app"], ["backend", "app"]]
        proxy.said.clear()
        return proxy, client, proxy.servers[-1]

    return begin


def tell(proxy, *message) -> None:
    hear(proxy.core, list(message), proxy.now)
    proxy.perform()


class TestOriginConnections:
    def test_none_is_opened_without_a_lease(self, start, memory):
        proxy = start(Siblings(0, COLUMNS, memory, bytes(32)))
        proxy.connect().asks_in()
        proxy.connect().asks_in()
        assert not proxy.servers
        assert proxy.said == [["want", "app", 1], ["want", "app", 2]]
        proxy.later(0.1)
        assert len(proxy.said) == 2
        tell(proxy, "grant", "app", 2)
        assert len(proxy.servers) == 2

    def test_what_nobody_needs_any_more_is_returned(self, worker):
        proxy, _, _ = worker()
        tell(proxy, "grant", "app", 2)
        assert proxy.said == [["return", "app", 2, 0]]
        assert len(proxy.servers) == 1

    def test_the_lease_of_a_lost_connection_is_returned_with_its_process_id(self, worker):
        proxy, _, server = worker()
        pid = server.session.process_id
        server.closes()
        assert proxy.said == [["return", "app", 1, pid]]

    def test_what_is_idle_is_given_up_at_once(self, worker):
        proxy, _, server = worker()
        tell(proxy, "yield", "app", 1)
        server.receives("X")
        assert not proxy.said
        server.closes()
        assert [each[:3] for each in proxy.said] == [["return", "app", 1]]

    @pytest.mark.parametrize("waits", [False, True])
    def test_what_is_in_use_is_given_up_when_it_is_free(self, worker, *, waits):
        proxy, client, server = worker()
        client.sends("Q begin read write")
        server.receives("Q begin read write")
        server.sends("C BEGIN", "Z T")
        tell(proxy, "yield", "app", 1)
        server.receives()
        if waits:
            proxy.client().sends("Q select 2")
        client.sends("Q commit")
        server.receives("Q commit")
        server.sends("C COMMIT", "Z I")
        server.receives("X")

    def test_plain_reads_do_not_keep_what_is_owed(self, worker):
        proxy, client, server = worker()
        client.sends("Q select 1")
        server.receives("Q select 1")
        tell(proxy, "yield", "app", 1)
        server.sends("C SELECT 1", "Z I")
        client.receives("C SELECT 1", "Z I")
        server.receives("X")

    def test_only_what_was_not_used_for_a_while_is_spared(self, worker):
        proxy, _, server = worker()
        tell(proxy, "spare", "app", 1)
        server.receives()
        proxy.later(1.0)
        tell(proxy, "spare", "app", 1)
        server.receives("X")


class TestProcessIds:
    def test_each_worker_has_its_own(self, start, memory):
        given = []
        for number in range(COLUMNS):
            proxy = start(Siblings(number, COLUMNS, memory, bytes(32)))
            clients = [proxy.connect() for _ in range(3)]
            for client in clients:
                client.asks_in()
            given.append([client.session.process_id for client in clients])
        assert given == [[FIRST + n + k * COLUMNS for k in range(3)] for n in range(COLUMNS)]

    def test_a_cancel_request_for_anothers_client_is_passed_on(self, worker):
        proxy, client, server = worker()
        requester = client.cancel_request(b"key!", FIRST + 2)
        assert proxy.said == [["cancel", 1, FIRST + 2, b"key!".hex()]]
        assert not requester.closed
        tell(proxy, "cancelled", 1)
        assert requester.closed
        assert server.cancels == 0

    def test_the_requester_may_have_gone_by_then(self, worker):
        proxy, client, _ = worker()
        requester = client.cancel_request(b"key!", FIRST + 2)
        requester.vanishes()
        tell(proxy, "cancelled", 1)

    def test_a_cancel_request_that_another_worker_was_given_is_carried_out(self, worker):
        proxy, client, server = worker()
        client.sends("Q begin read write")
        server.receives("Q begin read write")
        session = client.session
        tell(proxy, "cancel", 7, session.process_id, session.secret_key.hex())
        assert server.cancels == 1
        assert not proxy.said
        server.cancel_is_done()
        assert proxy.said == [["cancelled", 7]]

    @pytest.mark.parametrize("key", [b"", b"nope"])
    def test_with_a_wrong_key_it_is_not(self, worker, key):
        proxy, client, server = worker()
        client.sends("Q begin read write")
        server.receives("Q begin read write")
        tell(proxy, "cancel", 7, client.session.process_id, key.hex())
        assert server.cancels == 0
        assert proxy.said == [["cancelled", 7]]

    def test_signals_to_anothers_client_are_passed_on(self, worker):
        proxy, client, server = worker()
        client.sends(f"Q select pg_terminate_backend({FIRST + 2})")
        server.hears()
        assert proxy.said == [["signal", FIRST + 2, True]]

    def test_signals_from_others_reach_ours(self, worker):
        proxy, client, _ = worker()
        tell(proxy, "signal", client.session.process_id, True)
        assert client.closed


class TestNotifications:
    def test_the_process_id_is_that_of_anothers_client(self, worker, memory):
        proxy, _, _ = worker()
        Siblings(0, COLUMNS, memory, bytes(32)).notifies(4711, FIRST + 8)
        notification = b"A\x00\x00\x00\x0e" + (4711).to_bytes(4) + b"news\x00\x00"
        translated = proxy.core.pool.translate(notification)
        assert translated[5:9] == (FIRST + 8).to_bytes(4)

    def test_the_oldest_are_forgotten(self, memory):
        one, another = (Siblings(number, COLUMNS, memory, bytes(32)) for number in (0, 1))
        for number in range(257):
            one.notifies(1000 + number, FIRST + number)
        found = [another.notifier(1000 + number) for number in range(257)]
        assert found == [0, *(FIRST + number for number in range(1, 257))]


class TestEndings:
    def test_a_worker_that_there_never_was_ends_nothing(self, memory):
        assert Siblings(0, COLUMNS, memory, bytes(32)).endings() == {}

    def test_they_are_over_when_all_up_to_then_are(self, memory):
        one, another = (Siblings(number, COLUMNS, memory, bytes(32)) for number in (0, 1))
        for origin in "ab":
            one.ends_early(origin)
        awaited = another.endings()
        assert awaited == {0: 2}
        one.ends_early("c")
        one.has_ended("b")
        assert another.are_ending(awaited)
        one.has_ended("a")
        assert not another.are_ending(awaited)
        assert another.endings() == {0: 3}
        forget_endings(rows_of(memory, COLUMNS), COLUMNS, 0)
        assert another.endings() == {}

    def test_a_lock_waits_for_the_end_of_another_workers_reads(self, worker, memory):
        proxy, client, server = worker()
        other = Siblings(0, COLUMNS, memory, bytes(32))
        other.ends_early("a")
        client.sends("Q drop table a")
        server.receives()
        proxy.later(0.1)
        server.receives()
        other.has_ended("a")
        proxy.later(0.1)
        server.receives("Q drop table a")

    def test_what_takes_no_locks_does_not_wait(self, worker, memory):
        _, client, server = worker()
        Siblings(0, COLUMNS, memory, bytes(32)).ends_early("a")
        client.sends("Q update a set b = 1")
        server.receives("Q update a set b = 1")


def test_clients_that_have_left_are_counted(memory):
    siblings = Siblings(2, COLUMNS, memory, bytes(32))
    for _ in range(3):
        siblings.departed()
    rows = rows_of(memory, COLUMNS)
    assert [departed(rows, COLUMNS, number) for number in range(COLUMNS)] == [0, 0, 3, 0]


def test_all_workers_ask_for_a_password_with_the_same_salt(start, memory):
    verifiers = [
        start(Siblings(number, COLUMNS, memory, bytes(32)), auth="scram").core.doorkeeper.verifier
        for number in (0, 1)
    ]
    for user in (b"visitor", b"nobody"):
        one, another = (verifier(user).salt for verifier in verifiers)
        assert one == another
    assert verifiers[0](b"visitor").salt != verifiers[0](b"nobody").salt


def test_what_no_supervisor_says_is_an_error(worker):
    proxy, _, _ = worker()
    with pytest.raises(ValueError, match="dance"):
        hear(proxy.core, ["dance"], proxy.now)
