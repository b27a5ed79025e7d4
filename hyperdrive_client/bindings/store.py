"""The configurations of this user, in one file of a folder of the user's own."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hyperdrive_client.bindings.configuration import Configuration
from hyperdrive_client.bindings.near_miss import did_you_mean
from hyperdrive_client.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows, where the file's name is all that is locked
    fcntl = None  # type: ignore[assignment]

STORE = "HYPERDRIVE_STORE"
FILE_NAME = "configurations.json"

_VERSION = 1
_LOCK_TIMEOUT = 10.0
_LOCK_PAUSE = 0.02


def store_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the store is: ``$HYPERDRIVE_STORE``, else in the user's folder for such things.

    That is ``$XDG_CONFIG_HOME`` or ``~/.config`` (XDG Base Directory Specification), on macOS
    ``~/Library/Application Support``, on Windows ``%APPDATA%``.
    """
    environ = os.environ if environ is None else environ
    if given := environ.get(STORE, ""):
        return Path(os.path.abspath(given))
    if sys.platform == "win32":
        parent = Path(environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Application Support"
    else:
        given = environ.get("XDG_CONFIG_HOME", "")
        parent = Path(given) if os.path.isabs(given) else Path.home() / ".config"
    return parent / "hyperdrive"


class Store:
    """A folder with the file of all configurations; neither is there before the first is saved.

    The file has mode 0600 and is replaced as a whole, by one process at a time.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = store_folder() if folder is None else folder

    @property
    def file(self) -> Path:
        return self.folder / FILE_NAME

    def all(self) -> tuple[Configuration, ...]:
        """Return the configurations, the oldest first.

        Raises ``ConfigurationError`` if the file can't be read, is not a store's, or can be read
        or written by others.
        """
        try:
            with self.file.open(encoding="utf-8") as file:
                self._check(os.fstat(file.fileno()), self.folder.stat())
                content = json.load(file)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigurationError(
                f"the store {self.file} cannot be read: {error.strerror or error}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise self._damaged(error) from None
        try:
            is_ours = content["version"] == _VERSION
            found = map(Configuration.of_stored, content["configurations"] if is_ours else ())
            configurations = tuple(found)
        except (KeyError, TypeError, AttributeError, ConfigurationError) as error:
            raise self._damaged(error) from None
        if not is_ours:
            raise ConfigurationError(
                f"the store {self.file} was written by another version of hyperdrive-client"
            )
        return configurations

    def _damaged(self, error: Exception) -> ConfigurationError:
        # Not the error's own text: it may repeat a value.
        return ConfigurationError(
            f"the store {self.file} is damaged ({type(error).__name__}); "
            "repair it, or remove it and create its configurations again"
        )

    def get(self, which: str) -> Configuration:
        """Return the configuration with this id or name. ``ConfigurationError``."""
        return self._one_of(self.all(), which)

    def find(self, which: str) -> Configuration | None:
        """Return the configuration with this id, or else this name. ``ConfigurationError``."""
        return _found(self.all(), which)

    def check_is_new(self, name: str) -> None:
        """Raise ``ConfigurationError`` if there is a configuration with this name."""
        _check_is_new(self.all(), name)

    def add(self, make: Callable[[Sequence[Configuration]], Configuration]) -> Configuration:
        """Save what ``make`` returns for the configurations that are there already.

        Raises ``ConfigurationError``, also for a name that is taken.
        """
        with self._locked():
            before = self.all()
            added = make(before)
            _check_is_new(before, added.name)
            self._save((*before, added))
        return added

    def change(self, which: str, change: Callable[[Configuration], Configuration]) -> Configuration:
        """Save what ``change`` makes of a configuration. ``ConfigurationError`` as for ``add``."""
        with self._locked():
            before = self.all()
            old = self._one_of(before, which)
            new = change(old)
            others = [each for each in before if each is not old]
            _check_is_new(others, new.name)
            self._save([new if each is old else each for each in before])
        return new

    def remove(self, which: str) -> Configuration:
        """Forget a configuration. ``ConfigurationError`` if there is none."""
        with self._locked():
            before = self.all()
            removed = self._one_of(before, which)
            self._save([each for each in before if each is not removed])
        return removed

    def _one_of(self, configurations: Sequence[Configuration], which: str) -> Configuration:
        found = _found(configurations, which)
        if found is not None:
            return found
        if "://" in which:  # not shown: it holds a password
            raise ConfigurationError(
                "expected the id or the name of a configuration, not a connection string"
            )
        names = [each.name for each in configurations]
        known = ", ".join(sorted(names)) or "none"
        raise ConfigurationError(
            f'there is no configuration with the id or the name "{which}" in {self.file} '
            f"(known: {known}){did_you_mean(which, names)}"
        )

    def _check(self, status: os.stat_result, folder: os.stat_result) -> None:
        if not hasattr(os, "geteuid"):  # Windows
            return
        if status.st_uid != os.geteuid():
            raise ConfigurationError(
                f"the store {self.file} is owned by another user (id {status.st_uid})"
            )
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigurationError(
                f"the store {self.file} holds passwords and is open to others (mode {mode:04o}): "
                f"chmod 600 {self.file}"
            )
        if folder.st_uid not in (0, status.st_uid) or folder.st_mode & 0o022:
            raise ConfigurationError(
                f"others can replace what is in the store's folder {self.folder}: "
                f"chmod 700 {self.folder}"
            )

    def _save(self, configurations: Sequence[Configuration]) -> None:
        content = {
            "version": _VERSION,
            "configurations": [each.stored() for each in configurations],
        }
        try:
            # mkstemp's files have mode 0600.
            descriptor, name = tempfile.mkstemp(prefix=f"{FILE_NAME}.", dir=self.folder)
            try:
                with open(descriptor, "w", encoding="utf-8") as file:
                    json.dump(content, file, indent=2)
                    file.write("\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self.file)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as error:
            raise ConfigurationError(
                f"nothing was saved: {self.file} cannot be written: {error.strerror or error}"
            ) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only one to change the store."""
        path = self.folder / f"{FILE_NAME}.lock"
        try:
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the store's folder {self.folder} cannot be written to: {error.strerror}"
            ) from None
        try:
            if fcntl is not None:
                _lock(descriptor, path)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise ConfigurationError(
                    f"another process has been changing the store for {_LOCK_TIMEOUT:g} s ({path})"
                ) from None
            time.sleep(_LOCK_PAUSE)
        else:
            return


def _found(configurations: Sequence[Configuration], which: str) -> Configuration | None:
    for each in configurations:
        if each.id == which.lower():
            return each
    return next((each for each in configurations if each.name == which), None)


def _check_is_new(others: Sequence[Configuration], name: str) -> None:
    if any(each.name == name for each in others):
        raise ConfigurationError(
            f'there is already a configuration with the name "{name}": '
            "choose another, or hyperdrive update it"
        )
