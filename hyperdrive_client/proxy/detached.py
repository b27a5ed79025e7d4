"""A proxy in a process of its own that outlives whoever has started it, for all who find it."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

from ..errors import HyperdriveError, ProxyStartError
from ..registry import Place, Record
from .settings import Settings
from .spawn import (
    START_TIMEOUT,
    environment,
    from_json,
    module_path,
    python,
    run_until_told,
    to_json,
)

# The program that starts it is not its parent: it must neither wait for its end nor be told of it.
_CHILD = (
    "import json, os, sys\n"
    "if os.fork(): os._exit(0)\n"
    "sys.path[:] = json.loads(sys.stdin.readline())\n"
    "from hyperdrive_client import alone; alone.IS_ALONE = True\n"
    "from hyperdrive_client.proxy.detached import main; main()"
)
_LOG_BYTES = 1024 * 1024
# Whoever holds the lock for longer is starting a proxy in this one's place.
_LOCK_TIMEOUT = 1.0


def start(settings: Settings, place: Place, record: Record) -> None:
    """Start a proxy that listens on the place's socket; returns when it is published there.

    ``record`` is what is known of it before. Hold the place's lock. Raises ``ProxyStartError``;
    then nothing is left of it but what its log says.
    """
    try:
        _start(settings, place, record)
    except ProxyStartError:
        with contextlib.suppress(OSError):
            if not place.log.stat().st_size:
                shutil.rmtree(place.folder)
        raise


def _start(settings: Settings, place: Place, record: Record) -> None:
    place.folder.mkdir(mode=0o700, exist_ok=True)
    log = os.open(place.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [python(), "-P", "-c", _CHILD],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    except OSError as error:
        raise ProxyStartError(
            f"the proxy process could not be started: {error}; HYPERDRIVE_PYTHON names the "
            "interpreter to start"
        ) from error
    finally:
        os.close(log)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout:
        with contextlib.suppress(OSError), process.stdin:
            process.stdin.write(_told(settings, place, record))
        line = _line(process.stdout, time.monotonic() + START_TIMEOUT)
    if line is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if line is None:
        raise ProxyStartError(
            f"the proxy process did not get ready in {START_TIMEOUT:g} s (its log: {place.log})"
        )
    try:
        error_text = json.loads(line)["error"]
    except (ValueError, KeyError, TypeError):
        raise ProxyStartError(
            f"the proxy process ended before it was ready: {_end_of_log(place)}"
        ) from None
    if error_text:
        raise ProxyStartError(error_text)


def _told(settings: Settings, place: Place, record: Record) -> bytes:
    """What goes through the pipe; not kept in a variable that tools may show with a traceback."""
    told = {"settings": to_json(settings), "record": asdict(record), "parent": str(place.parent)}
    return f"{json.dumps(module_path())}\n{json.dumps(told)}\n".encode()


def _line(stream: IO[bytes], deadline: float) -> bytes | None:
    """What comes up to the end or the end of a line; ``None`` if that does not come in time."""
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not data.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            more = os.read(stream.fileno(), 65536)
            if not more:
                break
            data += more
    return data


def _end_of_log(place: Place) -> str:
    with contextlib.suppress(OSError):
        lines = place.log.read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return "it said nothing"


def main() -> None:
    """The side of the process that :func:`start` starts."""
    line = sys.stdin.readline()
    if not line:
        return
    told = json.loads(line)
    record = Record(**told["record"])
    place = Place(Path(told["parent"]), record.id)
    _log_to(place)
    try:
        _run(from_json(told["settings"]), place, record)
    except HyperdriveError as error:
        _answer(str(error))
        logging.getLogger(__name__).error("%s", error)


def _run(settings: Settings, place: Place, record: Record) -> None:
    published: list[int] = []

    def publish(settings: Settings) -> None:
        try:
            os.write(1, b" ")
        except OSError:
            # Then nobody holds the lock for it, and another may be starting.
            raise ProxyStartError("the program that has started the proxy is gone") from None
        now = replace(record, pid=os.getpid(), port=settings.port, started_at=time.time())
        published.append(place.publish(now))
        _answer("")
        # What the starter waits for is said, and nothing else belongs there.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        logger.info("listening on %s and port %d", settings.unix_socket, settings.port)

    def withdraw(*, unless_leased: bool = False) -> bool:
        try:
            with place.lock(_LOCK_TIMEOUT):
                if not published or (unless_leased and place.is_leased):
                    return False
                place.withdraw(published[0])
        except FileNotFoundError:  # somebody has removed it all
            pass
        except OSError:  # in a signal's handler it would end what is to finish
            return False
        return True

    logger = logging.getLogger(__name__)
    # Who listens there and is not published has lost its record, or its starter.
    place.socket.unlink(missing_ok=True)
    try:
        run_until_told(
            settings,
            on_start=publish,
            on_drain=withdraw,
            on_retire=withdraw,
            leave=lambda: withdraw(unless_leased=True),
        )
    finally:
        logger.info("the end")
        if published:
            withdraw()


def _log_to(place: Place) -> None:
    handler = logging.handlers.RotatingFileHandler(
        place.log, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8", delay=True
    )
    logging.basicConfig(
        level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(message)s"
    )


def _answer(error: str) -> None:
    with contextlib.suppress(OSError):
        print(json.dumps({"error": error}), flush=True)
