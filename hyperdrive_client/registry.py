"""The running proxies of this user that programs share, as files in a folder of the user's own.

Each proxy has a folder, named by its id, with its Unix socket, its log and its record. The record
is locked as long as the proxy lives, so a record that is not locked is a dead process's, however
that died. Beside the folder stands a lock for whoever starts or ends that proxy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .bindings import Address, Origin
from .errors import ProxyStartError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Linux allows 107 bytes for a socket's path, other systems less; our part of it is "/hyperdrive-",
# a user id, an id and the socket's name.
_MAX_PARENT_BYTES = 45
_SOCKET = ".s.PGSQL.5432"
_RECORD = "proxy.json"
_LOCK_PAUSE = 0.02
# Seconds: their logs may be wanted.
_KEEP_DEAD = 86400.0


@dataclass(frozen=True, slots=True)
class Record:
    """A proxy that listens on a Unix socket and a port of 127.0.0.1; started at a Unix time."""

    id: str
    pid: int
    version: str
    python: str
    origin: str
    """For people: hosts, ports and database, without user and password."""
    unix_socket: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    started_at: float
    configuration: str = ""
    """The id of the stored one that it is for, if any."""

    @property
    def door(self) -> Origin:
        """Where this user's libpq connects to."""
        address = Address(os.path.dirname(self.unix_socket), int(_SOCKET.rpartition(".")[2]))
        return self._door(address)

    @property
    def tcp_door(self) -> Origin:
        """Where any driver connects to."""
        return self._door(Address("127.0.0.1", self.port))

    def _door(self, address: Address) -> Origin:
        return Origin(
            addresses=(address,),
            user=self.user,
            password=self.password,
            database=self.database,
            sslmode="disable",  # TLS is spoken to the origin, not on this hop
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of one proxy are, whether it runs or not."""

    parent: Path
    id: str

    @property
    def folder(self) -> Path:
        """Made by whoever starts the proxy, removed by the proxy when it ends."""
        return self.parent / self.id

    @property
    def socket(self) -> Path:
        return self.folder / _SOCKET

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def read(self) -> Record | None:
        """Return what is recorded, also of a proxy that is dead."""
        return _read(self.folder / _RECORD)[0]

    def running(self) -> Record | None:
        """Return the record of a proxy that runs."""
        record, is_alive = _read(self.folder / _RECORD)
        return record if is_alive else None

    def watch(self) -> Callable[[], bool]:
        """Return a function that says whether the proxy that runs now is still there."""
        descriptor = os.open(self.folder / _RECORD, os.O_RDONLY | os.O_CLOEXEC)
        return lambda: not _lock(descriptor, fcntl.LOCK_SH)

    def publish(self, record: Record) -> int:
        """Make a proxy known; it is as long as the returned file descriptor is open."""
        file = self.folder / f"{_RECORD}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        # Locked before it has its name, so nobody finds it without.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, json.dumps(asdict(record)).encode())
        file.rename(self.folder / _RECORD)
        return descriptor

    def withdraw(self, descriptor: int) -> None:
        """Remove all files of a published proxy, unless another has taken its place.

        Hold the lock.
        """
        if _is_at(descriptor, self.folder / _RECORD):
            shutil.rmtree(self.folder, ignore_errors=True)

    def lease(self) -> int:
        """Keep the proxy from ending unused, as long as the returned file descriptor is open.

        The children of a fork hold it too. Hold the lock.
        """
        descriptor = os.open(self._lease, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def keep(self) -> None:
        """Keep the proxy from ending unused at all. Hold the lock."""
        self._kept.touch(0o600)

    @property
    def is_leased(self) -> bool:
        return self.is_kept or _is_locked(self._lease)

    @property
    def is_kept(self) -> bool:
        return self._kept.exists()

    @property
    def _kept(self) -> Path:
        return self.folder / "kept"

    @property
    def _lease(self) -> Path:
        return self.folder / "lease"

    @contextlib.contextmanager
    def lock(self, timeout: float) -> Iterator[None]:
        """Be the only one to start or end this proxy; wait for that, for ``timeout`` seconds.

        Raises ``TimeoutError``.
        """
        path = self.parent / f"{self.id}.lock"
        deadline = time.monotonic() + timeout
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                if _lock(descriptor) and _is_at(descriptor, path):
                    try:
                        yield
                    finally:
                        if not self.folder.exists():
                            path.unlink(missing_ok=True)
                    return
            finally:
                # Said, not left to closing: a fork of the program may have another descriptor.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)
            if time.monotonic() >= deadline:
                raise TimeoutError(f"another process has been at it for {timeout:g} s ({path})")
            time.sleep(_LOCK_PAUSE)


def runtime_folder(*, make: bool = True) -> Path:
    """Return the folder for this user's proxies, which is made if it is missing, or not found.

    That is in ``$XDG_RUNTIME_DIR`` (XDG Base Directory Specification), or else, or if that is of
    no use, in the folder for temporary files. Raises ``ProxyStartError``.
    """
    if fcntl is None:
        raise ProxyStartError("proxies can't be shared on this system")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and len(os.fsencode(runtime)) <= _MAX_PARENT_BYTES:
        with contextlib.suppress(ProxyStartError):
            return _own_folder(Path(runtime, "hyperdrive"), make)
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise ProxyStartError(f"there is no folder for temporary files: {error}") from error
    if len(os.fsencode(temporary)) > _MAX_PARENT_BYTES:
        temporary = Path("/tmp")
    return _own_folder(temporary / f"hyperdrive-{os.geteuid()}", make)


def remove_dead() -> None:
    """Remove what proxies have left that were killed more than a day ago."""
    for place in places():
        with contextlib.suppress(OSError, TimeoutError), place.lock(0):
            age = time.time() - place.folder.stat().st_mtime
            if age > _KEEP_DEAD and place.running() is None:
                shutil.rmtree(place.folder, ignore_errors=True)


def places() -> list[Place]:
    """Return the places of all proxies of this user, running or dead; makes no folder."""
    try:
        folder = runtime_folder(make=False)
        return [Place(folder, each.name) for each in sorted(folder.iterdir()) if each.is_dir()]
    except (ProxyStartError, OSError):
        return []


def _own_folder(path: Path, make: bool) -> Path:
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                path.mkdir(0o700)
        status = path.lstat()
    except OSError as error:
        raise ProxyStartError(f"{path} can't be made: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise ProxyStartError(f"{path} is not a folder: remove it")
    if status.st_uid != os.geteuid():
        raise ProxyStartError(f"{path} is owned by another user (id {status.st_uid}): remove it")
    if status.st_mode & 0o077:
        raise ProxyStartError(f"{path} is open to other users: chmod 700, or remove it")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ProxyStartError(f"{path} can't be written to")
    return path


def _read(path: Path) -> tuple[Record | None, bool]:
    """The record, and whether its proxy is alive."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None, False
    try:
        is_alive = not _lock(descriptor, fcntl.LOCK_SH)
        values = json.loads(os.read(descriptor, os.fstat(descriptor).st_size))
        return Record(**values), is_alive
    except (ValueError, TypeError):  # not written by this version
        return None, False
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int | None = None) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if kind is None else kind) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file is the one of this name, and has not been removed or replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
