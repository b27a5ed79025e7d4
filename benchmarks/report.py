"""Figures of several rounds: their median with the spread, on paper and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def spread(values: Sequence[float | None], digits: int = 0) -> str:
    """``median (min..max)`` of what was measured, empty if nothing was."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    median, least, most = statistics.median(known), min(known), max(known)
    return f"{median:,.{digits}f} ({least:,.{digits}f}..{most:,.{digits}f})"


def ratio(values: Sequence[float | None], others: Sequence[float | None] | None) -> str:
    """The median of the ratios round by round: a machine that slows down slows down both."""
    pairs = zip(values, others or (None,) * len(values), strict=True)
    ratios = [value / other for value, other in pairs if value and other]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def print_table(title: str, rows: Iterable[Sequence[str]]) -> None:
    """``rows`` begins with the headings; the first column is text, the others are figures.

    Columns without any figure are left out.
    """
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    print(f"\n{title}")
    for first, *rest in zip(*columns, strict=True):
        figures = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        print("  ".join((first.ljust(widths[0]), *figures)), flush=True)


def write(name: str, results: dict[str, Any]) -> Path:
    """``results``, and what they were taken on, as ``results/<name>-<UTC time>.json``."""
    RESULTS.mkdir(exist_ok=True)
    now = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    path = RESULTS / f"{name}-{now}.json"
    text = json.dumps({"time": now, "machine": machine(), **results}, indent=2)
    path.write_text(text + "\n")
    return path


def machine() -> dict[str, Any]:
    """What decides the figures beside the programs compared."""
    return {
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "uvloop": _version("uvloop"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
