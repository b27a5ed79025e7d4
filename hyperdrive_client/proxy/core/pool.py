"""The origin connections of one configuration, and the clients that wait for one."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING

from ...errors import OriginProtocolError
from ...protocol import messages as m
from ..cache.cache import Cache
from ..cache.store import Key
from ..settings import Settings
from . import reports
from .counters import Counters
from .effects import AbortOrigin, ConnectOrigin, Effect, TellSupervisor
from .fill import Flight
from .origin_session import OriginSession
from .origin_startup import ConnectFailure, Credentials, refused_by_origin
from .session_variables import Profile, effective
from .session_variables import Settings as SessionSettings
from .statements import StatementRegistry
from .states import ClientState, OriginState

if TYPE_CHECKING:
    from .client_session import ClientSession
    from .siblings import Siblings

NO_SLOT = ConnectFailure("58000", "Failed to acquire a connection from the pool.", True)
LOST = ConnectFailure("08006", "The connection to the origin was lost.", True)

# After a failed attempt: doubled each time, with jitter, so that many proxies don't knock at once.
# The last, a tick and the attempt itself make less than a second, so that those who wait are served
# within one of when the origin accepts again.
FIRST_RETRY = 0.05
LAST_RETRY = 0.5
# Attempts that have come to nothing by then may never: what they were sent is lost, or who took it
# is not the origin. One more is made beside them, for which the time above holds as well.
ATTEMPT_PATIENCE = 0.6
# An application's own sequence of random numbers is left alone.
_RANDOM = Random()
# Connections opened together don't all end together.
LIFETIME_JITTER = 0.1
# Distinct sets of start-up settings remembered; each client program brings one or two.
MAX_PROFILES = 256
# An origin that was told goodbye is given this long to close.
CLOSE_TIMEOUT = 5.0
# What a worker has not used for so long, another may.
SPARE_SECONDS = 1.0
# DROP DATABASE waits so long for the sessions there to end (CountOtherDBBackends).
DROP_TIMEOUT = 5.0

# Looking a member up in its class costs more than all else that is done with it here.
_IDLE, _LINKED, _CLOSED = OriginState.IDLE, OriginState.LINKED, OriginState.CLOSED
_CLIENT_IDLE, _CLIENT_LINKED = ClientState.IDLE, ClientState.LINKED


class Pool:
    """Who has which origin connection, and who is next.

    A session changes its state here alone, so ``idle`` and the states cannot disagree.
    """

    def __init__(
        self,
        settings: Settings,
        effects: list[Effect],
        counters: Counters,
        siblings: Siblings | None = None,
    ) -> None:
        self.settings = settings
        self.siblings = siblings
        self.leased = settings.limits.origin_connection_limit if siblings is None else 0
        """How many origin connections there may be: of several workers, each asks for its part."""
        self._asked = 0
        """How many more were asked for."""
        self.owed = 0
        """How many are to be given up as soon as they are free, for others to have as many."""
        self.effects = effects
        self.counters = counters
        self.credentials = Credentials(settings.origin)
        self.cache: Cache | None = None
        self.flights: dict[Key, Flight] = {}
        """Requests whose answers others may wait for."""
        self.refreshes = 0
        """Answers that are being fetched anew in the background."""
        self.origins: set[OriginSession] = set()
        self.idle: list[OriginSession] = []
        """Last in, first out: what is not needed stays idle and can be closed."""
        self.waiting: deque[ClientSession] = deque()
        self.registry = StatementRegistry()
        self.first_address = 0
        """Which of several addresses to try first; past the last, all have disappointed."""
        self.default_reported: Mapping[bytes, bytes] | None = None
        """What a new origin connection reports; ``None`` until one has been made."""
        self.last_failure: ConnectFailure | None = None
        self.user = settings.origin.user.encode()
        self.ending: dict[OriginSession, int] = {}
        """Transactions that are over for their client and not yet at the origin, by their turn."""
        self.endings = 0
        """How many there have been."""
        self.held_back: list[ClientSession] = []
        """Clients that wait for the end of some of those."""
        self._all_in_use = (
            f"all {settings.limits.origin_connection_limit} origin connections in use"
        )
        self._notifiers: OrderedDict[int, int] = OrderedDict()
        """Process ids of our origin connections, and of the clients that sent NOTIFY there."""
        self._profiles: OrderedDict[SessionSettings, Profile] = OrderedDict()
        self._interned: dict[tuple[tuple[bytes, bytes], ...], Mapping[bytes, bytes]] = {}
        self._retry_after = FIRST_RETRY
        self._retry_at = 0.0
        self._left_until = float("-inf")
        self.closing = False
        self.now = 0.0
        """When the event that is being handled came."""

    @property
    def serving_cache(self) -> Cache | None:
        """The cache, if it is on."""
        return self.cache if self.cache is not None and self.cache.serves else None

    # Origin sessions.

    def move(self, origin: OriginSession, state: OriginState) -> None:
        """See an origin session into another state."""
        origin.plain_answer = None
        if origin.state is _IDLE:
            if self.idle[-1] is origin:
                self.idle.pop()
            else:
                self.idle.remove(origin)
        origin.state = state
        if state is OriginState.CLOSING or state is _CLOSED:
            # currval and lastval have no answer there any more.
            origin.sequence_client = None
            origin.has_vanished()
        if state is _IDLE:
            self.idle.append(origin)
        elif state is _CLOSED and origin in self.origins:
            self.origins.remove(origin)
            if self.siblings is not None:
                self._return(1, origin.process_id)

    def started(self, origin: OriginSession, now: float) -> None:
        """A new origin connection is ready."""
        self.counters.origin_connects += 1
        if self.siblings is not None:
            self.tell("backend", origin.process_id)
        self.default_reported = origin.reported
        self.last_failure = None
        self._retry_after = FIRST_RETRY
        lifetime = self.settings.limits.max_lifetime
        if lifetime:
            # It may have been told to while it was starting.
            ends = now + lifetime * _RANDOM.uniform(1 - LIFETIME_JITTER, 1)
            origin.retires_at = min(origin.retires_at, ends)
        self.offer(origin, now)
        # One attempt was enough to find out; now for all who wait.
        self._retry_at = now
        self._grow(now)

    def connect_failed(self, origin: OriginSession, failure: ConnectFailure, now: float) -> None:
        """An attempt came to nothing. The waiting are told at once where waiting can't help."""
        known = self.default_reported is not None
        started_up = origin.startup is not None
        self._end(origin)
        if started_up:
            # It was reached, and another of the addresses may do better.
            self.first_address += 1
            if self.first_address < len(self.settings.origin.addresses):
                self._grow(now)
                return
        self.last_failure = failure
        self.first_address %= len(self.settings.origin.addresses)
        self._retry_at = now + self._retry_after * _RANDOM.uniform(0.5, 1.0)
        self._retry_after = min(2 * self._retry_after, LAST_RETRY)
        for client in self.waiting:
            if client.wanted is None:
                client.waits_for = reports.NO_MORE if self._in_use() else reports.AWAY
        if self._in_use() or self._coming():
            return
        if not (failure.transient and known):
            self._fail_waiting(failure, now)

    def lost(self, origin: OriginSession, now: float) -> None:
        """The connection is closed, by whomever."""
        if origin.state is _CLOSED:
            return
        if origin.startup is not None or origin.state is OriginState.CONNECTING:
            failure = ConnectFailure(
                "58000", "Server connection attempt failed: connection_closed", True
            )
            self.connect_failed(origin, failure, now)
            return
        client, origin.client = origin.client, None
        self.ended(origin, now)
        self._end(origin)
        if client is not None:
            told = origin.fatal or origin.mid_message
            client.origin_lost(origin, None if told else LOST, now)
        self._serve_wanting(now)
        self._grow(now)

    def _end(self, origin: OriginSession) -> None:
        self.move(origin, _CLOSED)
        self.effects.append(AbortOrigin(origin))

    def _in_use(self) -> bool:
        """Whether an origin connection exists that will come free."""
        return any(
            origin.state not in (OriginState.CONNECTING, OriginState.STARTING, OriginState.CLOSING)
            for origin in self.origins
        )

    def _coming(self) -> list[OriginSession]:
        """The connections that are being opened."""
        opening = (OriginState.CONNECTING, OriginState.STARTING)
        return [origin for origin in self.origins if origin.state in opening]

    def leave_database(self, now: float) -> None:
        """Keep no idle connection for as long as PostgreSQL waits for that."""
        self._left_until = now + DROP_TIMEOUT
        for origin in list(self.idle):
            origin.close(now)

    def offer(self, origin: OriginSession, now: float) -> None:
        """An origin connection is free: to the first who waits, else it is idle."""
        if self.closing or now >= origin.retires_at or self.owed:
            self.owed = max(0, self.owed - 1)
            origin.close(now)
            return
        for index, client in enumerate(self.waiting):
            if client.wanted is None or client.wanted is origin:
                del self.waiting[index]
                self._link(origin, client, now)
                return
        if now < self._left_until:
            origin.close(now)
            return
        origin.begin_link()
        origin.since = now
        self.move(origin, _IDLE)

    @property
    def is_primary(self) -> bool:
        """Whether the origin is known to be no hot standby; it says so from 14 on."""
        return (self.default_reported or {}).get(b"in_hot_standby") == b"off"

    # Clients.

    def acquire(self, client: ClientSession, now: float) -> bool:
        """Link ``client`` at once (``True``), or have it wait.

        A client whose settings are not in force there yet waits, too.
        """
        wanted = client.wanted
        if wanted is not None and wanted.sequence_client is not client:
            # Gone, or its memory of sequences is another's by now.
            wanted = client.wanted = None
        if wanted is not None and wanted.state is _IDLE:
            return self._link(wanted, client, now)
        if self.idle and wanted is None:
            origin = self.idle[-1]
            if origin.settings != client.settings:
                origin = next(
                    (o for o in reversed(self.idle) if o.settings == client.settings), origin
                )
            return self._link(origin, client, now)
        self.waiting.append(client)
        coming = self._grow(now)
        if wanted is not None:
            cause = reports.ANOTHERS_LINK
        elif self.last_failure is not None:
            cause = reports.NO_MORE if self._in_use() else reports.AWAY
        elif coming >= len(self.waiting):
            cause = reports.OPENING
        else:
            cause = self._all_in_use
        reports.begins_to_wait(client, cause, now)
        return False

    def _serve_wanting(self, now: float) -> None:
        """Those who waited for one origin connection alone, which is of no more use to them."""
        for client in list(self.waiting):
            wanted = client.wanted
            if wanted is not None and wanted.sequence_client is not client:
                client.wanted = None
                if self.idle:
                    self.waiting.remove(client)
                    self._link(self.idle[-1], client, now)

    def _link(self, origin: OriginSession, client: ClientSession, now: float) -> bool:
        origin.client = client
        origin.served = client.process_id
        origin.begin_link()
        client.wanted = None
        origin.since = now
        if origin.settings != client.settings:
            if not client.waits_for:
                reports.begins_to_wait(client, reports.SETTINGS, now)
            self.move(origin, OriginState.REPLAYING)
            client.link(origin, now, ready=False)
            origin.replay(client.settings)
            return False
        self.move(origin, _LINKED)
        client.link(origin, now, ready=True)
        return True

    def lend(self, origin: OriginSession, client: ClientSession, now: float) -> None:
        """Link a client at once to the last of ``idle``, where its settings are in force."""
        self.idle.pop()
        self.now = now
        origin.state = _LINKED
        origin.client = client
        origin.served = client.process_id
        origin.since = client.link_began = now
        client.state = _CLIENT_LINKED
        client.origin = origin

    def take_back(self, origin: OriginSession, client: ClientSession, now: float) -> bool:
        """End a link made by :meth:`lend`, unless there is more to its end than that."""
        if (
            self.waiting
            or self.closing
            or self.owed
            or now >= origin.retires_at
            or now < self._left_until
        ):
            return False
        counters = self.counters
        counters.links += 1
        counters.link_seconds += now - client.link_began
        client.origin = origin.client = None
        client.state = _CLIENT_IDLE
        origin.state = _IDLE
        origin.since = now
        self.idle.append(origin)
        return True

    def replayed(self, origin: OriginSession, now: float) -> None:
        """The client's settings are in force, or could not be."""
        client = origin.client
        assert client is not None
        if origin.failure is not None:
            failure, origin.failure = refused_by_origin(origin.failure), None
            origin.client = None
            client.link_failed(failure, now)
            origin.close(now)
            return
        origin.settings = client.settings
        self.move(origin, _LINKED)
        client.link(origin, now, ready=True)

    def leave(self, client: ClientSession) -> None:
        """The client waits no more."""
        if client in self.waiting:
            self.waiting.remove(client)
        if client in self.held_back:
            self.held_back.remove(client)

    # Transactions whose end was answered early.

    def end_early(self, origin: OriginSession, text: bytes) -> None:
        self.endings += 1
        self.ending[origin] = self.endings
        if self.siblings is not None:
            self.siblings.ends_early(origin)
        origin.end_early(text)

    def ended(self, origin: OriginSession, now: float) -> None:
        """The real end is done, or the connection is gone."""
        if self.ending.pop(origin, None) is None:
            return
        if self.siblings is not None:
            self.siblings.has_ended(origin)
        self._let_go(now)

    def _let_go(self, now: float) -> None:
        """See who need not be held back any longer."""
        waiting, self.held_back = self.held_back, []
        for client in waiting:
            if self._is_ending(client):
                self.held_back.append(client)
            else:
                client.answered(now)

    def _is_ending(self, client: ClientSession) -> bool:
        """Whether a transaction that ``client`` waits for may still hold its locks."""
        turn, others = client.held_back_by, client.held_back_by_others
        return any(ending <= turn for ending in self.ending.values()) or (
            self.siblings is not None and self.siblings.are_ending(others)
        )

    # Notifications.

    def notifies(self, origin: OriginSession, client: ClientSession) -> None:
        """Notifications from that process are this client's."""
        if self.siblings is not None:
            self.siblings.notifies(origin.process_id, client.process_id)
        self._notifiers[origin.process_id] = client.process_id
        if len(self._notifiers) > MAX_PROFILES:
            self._notifiers.popitem(last=False)

    def translate(self, notification: bytes) -> bytes:
        """A NotificationResponse with the process id that we gave to the client who sent it."""
        if len(notification) < 9:
            raise OriginProtocolError("a notification without a process id")
        (process_id,) = m.INT32.unpack_from(notification, 5)
        known = self._notifiers.get(process_id) or next(
            (origin.served for origin in self.origins if origin.process_id == process_id), 0
        )
        if not known and self.siblings is not None:
            known = self.siblings.notifier(process_id)
        if not known:
            return notification
        return notification[:5] + m.INT32.pack(known) + notification[9:]

    def _fail_waiting(self, failure: ConnectFailure, now: float) -> None:
        waiting = list(self.waiting)
        self.waiting.clear()
        for client in waiting:
            client.link_failed(failure, now)

    def _grow(self, now: float) -> int:
        """Open as many connections as there are clients that none is on its way to.

        How many are on their way now.
        """
        if self.closing or now < self._retry_at:
            return 0
        # While the origin can't be reached, one attempt at a time is enough to find out.
        wanted = 1 if self.last_failure is not None else len(self.waiting)
        coming = self._coming()
        missing = min(wanted, len(self.waiting)) - len(coming)
        known = self.default_reported is not None
        if known and self.waiting and all(now - o.since >= ATTEMPT_PATIENCE for o in coming):
            missing = max(missing, 1)
        room = self.leased - len(self.origins)
        if self.siblings is not None and missing - room != self._asked:
            self._ask(missing - room)
        opened = max(0, min(missing, room))
        for _ in range(opened):
            origin = OriginSession(self, now)
            self.origins.add(origin)
            self.effects.append(ConnectOrigin(origin))
        return len(coming) + opened

    # The part of several workers.

    def tell(self, kind: str, *values: object) -> None:
        """Say something about this database to the supervisor."""
        database = self.settings.origin.database.encode().decode("latin-1")
        self.effects.append(TellSupervisor([kind, database, *values]))

    def _ask(self, missing: int) -> None:
        """Let the supervisor know how many more connections would be of use."""
        missing = max(0, missing)
        if missing != self._asked:
            self._asked = missing
            self.tell("want", missing)

    def granted(self, count: int, now: float) -> None:
        """So many more connections may be opened."""
        self.leased += count
        self._asked = max(0, self._asked - count)
        self._grow(now)
        if self.leased > len(self.origins):
            self._return(self.leased - len(self.origins))

    def _return(self, count: int, backend: int = 0) -> None:
        """Others may have them; ``backend`` is the process id at the origin that is gone."""
        self.leased -= count
        self.tell("return", count, backend)

    def give_up(self, count: int, now: float) -> None:
        """Others have less than their part: close what is idle, and then what gets free."""
        self.owed += count
        for origin in self.idle[: self.owed]:
            self.owed -= 1
            origin.close(now)

    def spare(self, count: int, now: float) -> None:
        """Others have no more than their part: close what has not been used for a while."""
        for origin in self.idle[:count]:
            if now - origin.since >= SPARE_SECONDS:
                origin.close(now)

    # What clients start with.

    def profile(self, asked: SessionSettings) -> Profile | None:
        """What a session with these settings starts with; ``None`` if only an origin can say."""
        profile = self._profiles.get(asked)
        if profile is not None:
            self._profiles.move_to_end(asked)
        elif not asked and self.default_reported is not None:
            return Profile((), self.default_reported)
        return profile

    def learn(self, asked: SessionSettings, origin: OriginSession) -> Profile:
        """Remember what ``origin``, which has them in force, makes of these settings."""
        settings = effective(asked, self.default_reported or {}, origin.reported)
        profile = self._profiles[asked] = Profile(settings, origin.reported)
        if len(self._profiles) > MAX_PROFILES:
            self._profiles.popitem(last=False)
        # What is in force is the same by another name.
        origin.settings = settings
        return profile

    def intern(self, reported: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """The one object for these values, so that equal ones are compared by identity."""
        if len(self._interned) > MAX_PROFILES:
            self._interned.clear()
        return self._interned.setdefault(tuple(sorted(reported.items())), reported)

    # Time.

    def tick(self, now: float) -> None:
        """What is due by time alone."""
        limits = self.settings.limits
        while (
            self.waiting
            and limits.pool_timeout
            and now - self.waiting[0].waiting_since >= limits.pool_timeout
        ):
            failure = NO_SLOT if self._in_use() else self.last_failure or NO_SLOT
            self.waiting.popleft().link_failed(failure, now)
        for origin in list(self.origins):
            self._expire(origin, now)
        if self.siblings is not None and self.held_back:
            self._let_go(now)
        self._serve_wanting(now)
        self._grow(now)

    def _expire(self, origin: OriginSession, now: float) -> None:
        """End what has taken too long."""
        limits = self.settings.limits
        age = now - origin.since
        match origin.state:
            case OriginState.IDLE:
                if 0 < limits.idle_timeout <= age or now >= origin.retires_at:
                    origin.close(now)
            case OriginState.CONNECTING | OriginState.STARTING:
                if 0 < limits.connect_timeout <= age:
                    failure = ConnectFailure(
                        "58000", "Server connection attempt failed: timeout", True
                    )
                    self.connect_failed(origin, failure, now)
            case OriginState.REPLAYING | OriginState.CLEANING:
                if 0 < limits.silence_timeout <= age:
                    self.lost(origin, now)
            case OriginState.CLOSING:
                if age >= CLOSE_TIMEOUT:
                    self.effects.append(AbortOrigin(origin))

    def close(self, now: float) -> None:
        """No new links; the idle are closed now, the others when they are free."""
        self.closing = True
        for origin in list(self.idle):
            origin.close(now)
