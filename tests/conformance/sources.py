"""The drivers' sdists: their test suites are in none of the wheels."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import Request, urlopen

PYPI = "https://pypi.org/simple"
TIMEOUT = 60.0


def unpack(project: str, version: str, folder: Path) -> Path:
    """Download the sdist of ``project`` into ``folder`` unless it is there, and unpack it afresh.

    From pip's index, by the simple repository API (PEP 691): ``pip download`` would run the
    sdist's build to learn its metadata, and psycopg2's needs a compiler's libraries for that.
    """
    archive = folder / f"{project}-{version}.tar.gz"
    if not archive.exists():
        print(f"downloading {archive.name}", flush=True)
        archive.write_bytes(_download(project, archive.name))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / f"{project}-{version}"


def _download(project: str, name: str) -> bytes:
    index = f"{_index()}/{project}/"
    request = Request(index, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urlopen(request, timeout=TIMEOUT) as answer:
        files = json.load(answer)["files"]
    file = next((file for file in files if file["filename"] == name), None)
    if file is None:
        raise SystemExit(f"{index} has no {name}")
    with urlopen(urljoin(index, file["url"]), timeout=TIMEOUT) as answer:
        data: bytes = answer.read()
    if hashlib.sha256(data).hexdigest() != file["hashes"]["sha256"]:
        raise SystemExit(f"{name}: what was downloaded has not the SHA-256 that {index} states")
    return data


def _index() -> str:
    """The index that pip is configured to use."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url.rstrip("/")
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip().rstrip("/") or PYPI
