"""Random events in a world, and then only right ones, until all is at rest again."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hyperdrive_client.protocol import messages as m
from hyperdrive_client.proxy.core.refresher import Refresher
from hyperdrive_client.proxy.core.states import ClientState, OriginState

from .messages import CLIENT, ORIGIN, SETTINGS, USER, USUAL, mutated, startup
from .world import Backend, Broken, Client, Event, World

MOVES = 60
CLIENTS = 4
# States of an origin session that last for one answer or two.
SELDOM = ("cleaning", "ending")
# A state that nothing leads out of is a hang.
PATIENCE = 500
QUERY = m.query(b"select 1")
TRANSACTIONS = [
    [m.query(text) for text in (b"begin", b"select 1", end)] for end in (b"commit", b"rollback")
]
READS = [
    [QUERY, QUERY, QUERY, QUERY],
    [
        m.parse(b"", b"select $1") + m.bind(b"", b"", [b"1"]) + m.execute() + m.SYNC_MESSAGE,
    ],
    [
        m.parse(b"a", b"select $1") + m.bind(b"", b"a", [b"1"]) + m.execute() + m.SYNC_MESSAGE,
        m.bind(b"", b"a", [b"1"]) + m.execute() + m.SYNC_MESSAGE,
    ],
]
"""What most clients do all day."""


class Episode:
    """Makes events and lets them happen; ``events`` are those so far."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        self.events: list[Event] = []
        world.random = random
        self._wildness = random.choice((0.02, 0.1, 0.4))
        """How much of what is sent is wrong."""

    def play(self) -> None:
        self._do("all_is_new")
        if self.world.cached and self.world.core.cache.closed and self.random.random() < 0.9:
            self._do("cache_is_switched", "writes")
            self._do("catalogue_is_loaded", "UTC")
        if self.random.random() < 0.2:
            self._disturb_the_end()
        for _ in range(MOVES):
            self.random.choice(self._moves())()
        self._wind_down()
        self._serve_somebody()

    def _do(self, *event: object) -> None:
        self.events.append(event)
        self.world.play([event])

    # What can happen.

    def _moves(self) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = []
        here = [each for each in enumerate(self.world.clients) if not each[1].gone]
        if len(here) < CLIENTS:
            moves += [self._enter] * 2
        for number, client in here:
            moves += [lambda n=number, c=client: self._speak(n, c)] * 3
        for number, backend in enumerate(self.world.backends):
            if not backend.gone:
                moves += self._moves_of(number, backend)
        if self.world.cached:
            moves += self._moves_of_the_cache(here)
        if self.random.random() < 0.1:
            moves += [lambda: self._do("time_passes", self.random.choice((0.1, 1.0, 700.0)))]
            for number, client in here:
                moves.append(lambda n=number: self._do("client_is_lost", n))
                if client.session.process_id:
                    moves.append(lambda n=number: self._do("client_cancels", n))
        return moves

    def _moves_of_the_cache(self, clients: list[tuple[int, Client]]) -> list[Callable[[], None]]:
        cache = self.world.core.cache
        if not cache.serves:
            return [lambda: self._do("cache_is_switched", "writes")] * 4
        if cache.closed:
            zone = self.random.choice(("UTC", "UTC", "UTC", "Asia/Tokyo"))
            return [lambda: self._do("catalogue_is_loaded", zone)] * 10
        if cache.refusal(self.world.now):
            return [lambda: self._do("catalogue_is_the_same")] * 10
        if cache.uncertain:
            return [lambda: self._do("backends_are_gone")] * 2
        chance = self.random.random()
        if chance < 0.01:
            return [lambda: self._do("catalogue_is_lost")]
        if chance < 0.03:
            return [lambda: self._do("another_writes")]
        if chance < 0.04:
            return [lambda: self._do("cache_is_switched", "off")]
        if chance < 0.1:
            return [lambda n=number: self._do("client_does_not_read", n) for number, _ in clients]
        if chance < 0.2:
            return [lambda: self._do("time_passes", self.random.choice((1.0, 4.0)))]
        return []

    def _moves_of(self, number: int, backend: Backend) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = []
        if not backend.open:
            moves = [lambda: self._do("origin_opens", number)] * 4
            if self.random.random() < 0.1:
                transient = self.random.random() < 0.5
                moves.append(lambda: self._do("origin_is_unreachable", number, transient))
            return moves
        if backend.cancels:
            moves.append(lambda: self._do("cancel_is_done", number))
        self._read(backend)
        if backend.server.output or self.random.random() < self._wildness:
            moves += [lambda: self._answer(number, backend)] * 4
        if self.random.random() < 0.02 or backend.aborted or backend.server.closed:
            moves.append(lambda: self._do("origin_is_lost", number))
        return moves

    def _disturb_the_end(self) -> None:
        """One message of any kind while a connection ends a transaction, or is cleaned."""
        number = len(self.world.clients)
        self._do("client_connects")
        self._do("client_sends", number, m.startup_message(USER))
        client = self.world.clients[number]
        if client.session.startup is not None:
            self._do("client_proves", number)
        cleaned = self.random.random() < 0.5
        for text in (b"", b"begin", b"select 1", b"set a.b to 1" if cleaned else b""):
            if text:
                self._do("client_sends", number, m.query(text))
            self._settle_for(client)
        if cleaned:
            self._do("client_is_lost", number)
        else:
            self._do("client_sends", number, m.query(b"commit"))
        for number, backend in enumerate(self.world.backends):
            if backend.session.state.value in SELDOM and not backend.gone:
                kind = self.random.choice([*ORIGIN, 0])
                message = ORIGIN[kind](self.random) if kind else b"\x00\x00\x00\x00\x04"
                backend.hurt = True
                self._do("origin_sends", number, message)

    # Clients.

    def _enter(self) -> None:
        number = len(self.world.clients)
        self._do("client_connects")
        if self.random.random() < 0.15:
            self._do("client_sends", number, startup(self.random))
            return
        settings = {**USER, **self.random.choice(SETTINGS)}
        packet = m.startup_message(settings, self.random.choice((0, 0, 2)))
        cut = self.random.randrange(len(packet)) if self.random.random() < 0.1 else 0
        if cut:
            self._do("client_sends", number, packet[:cut])
        self._do("client_sends", number, packet[cut:])
        session = self.world.clients[number].session
        greeted = session.startup is not None and session.startup.startup is not None
        if greeted and self.random.random() < 0.9:
            self._do("client_proves", number)

    def _speak(self, number: int, client: Client) -> None:
        random = self.random
        if client.plan and random.random() < 0.9:
            self._do("client_sends", number, client.plan.pop(0))
            return
        if random.random() < 0.1:
            client.plan = list(random.choice(TRANSACTIONS))
        elif self.world.cached and random.random() < 0.85:
            client.plan = list(random.choice(READS))
        kinds = [ord(random.choice(USUAL)) for _ in range(random.choice((1, 1, 2, 5)))]
        if random.random() < self._wildness / 2:
            kinds[0] = random.choice(list(CLIENT))
        messages = [CLIENT[kind](random) for kind in kinds]
        if random.random() < self._wildness:
            at = random.randrange(len(messages))
            messages[at] = mutated(random, messages[at])
        data = b"".join(messages)
        if random.random() < 0.15 and len(data) > 1:
            cut = random.randrange(1, len(data))
            self._do("client_sends", number, data[:cut])
            if client.gone or random.random() < 0.3:
                return
            data = data[cut:]
        if data:
            self._do("client_sends", number, data)

    # Origins.

    @staticmethod
    def _read(backend: Backend) -> None:
        backend.server.reads(bytes(backend.data))
        backend.data.clear()

    def _answer(self, number: int, backend: Backend) -> None:
        """Some of what is due, or something else."""
        random, output = self.random, backend.server.output
        count = random.choice((1, 1, 2, len(output)))
        messages, output[:] = output[:count], output[count:]
        wild = self._wildness / (1 if backend.session.state.value in SELDOM else 4)
        if random.random() < wild or not messages:
            wrong = ORIGIN[random.choice(list(ORIGIN))](random)
            if random.random() < 0.5 or not messages:
                messages.insert(random.randint(0, len(messages)), wrong)
            else:
                messages[-1] = mutated(random, random.choice((wrong, messages[-1])))
            backend.hurt = True
        data = b"".join(messages)
        cut = random.randrange(len(data)) if random.random() < 0.1 and data else 0
        if cut:
            self._do("origin_sends", number, data[:cut])
        if data:
            self._do("origin_sends", number, data[cut:])

    # The end.

    def _wind_down(self) -> None:
        """Clients go, origins do what is right: so all must come to rest."""
        world = self.world
        for number, client in enumerate(world.clients):
            if not client.gone:
                self._do("client_is_lost", number)
        self._settle()
        waiting = [each for each in world.core.pool.waiting if not isinstance(each, Refresher)]
        if world.core.clients or waiting:
            raise Broken(f"left behind: {world.core.clients}, waiting {world.core.pool.waiting}")

    def _settle(self) -> None:
        for _ in range(PATIENCE):
            moved = [self._calm(*each) for each in enumerate(self.world.backends)]
            if not any(moved):
                break
        for backend in self.world.backends:
            if backend.session.state not in (OriginState.IDLE, OriginState.CLOSED):
                raise Broken(f"no rest: {backend.session}")

    def _calm(self, number: int, backend: Backend) -> bool:
        """Whether there was something to do."""
        if backend.gone:
            return False
        server = backend.server
        server.calm_down()
        self._read(backend)
        if not backend.open:
            self._do("origin_opens", number)
        elif backend.cancels:
            self._do("cancel_is_done", number)
        elif backend.hurt or backend.aborted or (server.closed and not server.output):
            # What was hurt may wait for ever: its process has crashed, say.
            self._do("origin_is_lost", number)
        elif server.output:
            data = b"".join(server.output)
            server.output.clear()
            self._do("origin_sends", number, data)
        else:
            return False
        return True

    def _serve_somebody(self) -> None:
        """Who comes next is let in, served and sees the pool at rest again."""
        world = self.world
        # Past any pause after failed attempts.
        self._do("time_passes", 2.0)
        number = len(world.clients)
        self._do("client_connects")
        self._do("client_sends", number, m.startup_message(USER))
        client = world.clients[number]
        if client.session.startup is not None:
            self._do("client_proves", number)
        for data in (b"", QUERY):
            if data:
                client.data.clear()
                self._do("client_sends", number, data)
            self._settle_for(client)
        if client.session.state is not ClientState.IDLE or not client.data.endswith(
            m.ready_for_query(m.IDLE)
        ):
            raise Broken(f"not served: {client.session}, {bytes(client.data)!r}")
        self._do("client_sends", number, m.TERMINATE_MESSAGE)
        client.gone = True
        self._settle()
        if world.core.pool.flights or world.core.pool.refreshes:
            raise Broken(f"never landed: {list(world.core.pool.flights)}")
        if self.random.random() < 0.7:
            for number, backend in enumerate(world.backends):
                if not backend.gone:
                    self._do("origin_is_lost", number)

    def _settle_for(self, client: Client) -> None:
        for _ in range(PATIENCE):
            for number, backend in enumerate(self.world.backends):
                self._calm(number, backend)
            at_rest = client.session.state is ClientState.IDLE or (
                client.session.origin is not None
                and client.session.origin.status == m.IN_TRANSACTION
                and not client.session.origin.expected
            )
            if at_rest or client.closed:
                return
        raise Broken(f"waits for ever: {client.session}")
