"""What a process has used so far, as Linux counts it (proc(5))."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLED_SECONDS = 1.0
_SETTLED_BYTES = 128 * 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads, in steps of a clock tick (10 ms)."""
    # The second field, the program's name in parentheses, may hold blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = fields[11:13]
    return (int(user) + int(system)) / _TICKS


def resident_bytes(pid: int) -> int:
    """Memory in use."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most memory in use since the start, or since :func:`forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Make what is in use now the peak."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def wait_until_settled(pid: int, seconds: float) -> None:
    """Wait until the memory in use has not grown for a second, at most ``seconds``."""
    deadline = time.monotonic() + seconds
    most, since = resident_bytes(pid), time.monotonic()
    while time.monotonic() < min(deadline, since + _SETTLED_SECONDS):
        time.sleep(0.05)
        now = resident_bytes(pid)
        if now > most + _SETTLED_BYTES:
            most, since = now, time.monotonic()


def end_in_order_when_told() -> None:
    """SIGTERM unwinds the stack as Ctrl-C does, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/{pid}/status has no {name}")
