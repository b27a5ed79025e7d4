"""``hyperdrive demo``: it shows what it says, and leaves nothing, however it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from hyperdrive_client.demo import event_loop

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


class Demo:
    """A running demo; all that belongs to it has its mark, or its folder's path, about it."""

    def __init__(self, *arguments: str) -> None:
        # A proxy's process inherits only what is no secret, such as this.
        self.mark = f"PYTHON_DEMO_TEST={uuid4().hex}"
        self.output = ""
        name, _, text = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hyperdrive_client", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # What the environment says of the binding is not for the demo.
            env={**os.environ, name: text, "HYPERDRIVE_URL_HYPERDRIVE": "postgresql://u@no.test/d"},
        )

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return
        pytest.fail(f"it ended without {text!r}: {self.output}")

    def end(self) -> int:
        self.output += self.process.communicate(timeout=90)[0]
        return self.process.returncode

    @property
    def folder(self) -> Path:
        match = re.search(r"Write (.*)/worker/wrangler.jsonc", self.output)
        assert match is not None, self.output
        return Path(match[1])

    def processes(self) -> list[str]:
        """The commands of all processes that belong to it."""
        about = [self.mark.encode(), bytes(self.folder)]
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                texts = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
            except OSError:  # it has ended, or is another user's
                continue
            if any(text in each for text in about for each in texts):
                found.append(texts[1].replace(b"\0", b" ").decode())
        return found


@pytest.fixture
def demo(request: pytest.FixtureRequest) -> Iterator[Demo]:
    running = Demo(*request.param)
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.mark.parametrize("demo", [("--clients=40", "--limit=7", "--seconds=1")], indirect=True)
def test_the_demo_shows_many_clients_over_few_connections(demo: Demo) -> None:
    assert demo.end() == 0, demo.output
    assert re.search(r"public +. pgbench_accounts", demo.output)
    assert 'sqlalchemy.create_engine("hyperdrive://HYPERDRIVE")' in demo.output
    assert re.search(r"clients at once +. 40 ", demo.output)
    assert re.search(r"origin connections at most +. [1-7], in", demo.output)
    assert re.search(r"postgres +. Cloudflare Hyperdrive", demo.output)
    assert re.search(r"through the proxy +.( +\d+\.\d\d +.){2}", demo.output)
    assert not demo.folder.exists()
    assert demo.processes() == []


def test_ctrl_c_while_the_event_loop_is_made_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def interrupted() -> asyncio.AbstractEventLoop:
        signal.raise_signal(signal.SIGINT)
        made.append(asyncio.SelectorEventLoop())
        return made[0]

    monkeypatch.setattr("asyncio.events.new_event_loop", interrupted)
    with pytest.raises(KeyboardInterrupt), event_loop():
        pytest.fail("it went on")
    assert [loop.is_closed() for loop in made] == [True]


@pytest.mark.parametrize("demo", [("--clients=40", "--seconds=600")], indirect=True)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGKILL, -9)]
)
def test_an_interrupted_demo_leaves_nothing(demo: Demo, number: int, code: int) -> None:
    demo.read_until("create_engine")
    assert len(demo.processes()) > 3
    demo.process.send_signal(number)
    assert demo.end() == code
    assert "Traceback" not in demo.output
    if number == signal.SIGKILL:  # then it can't wait until the others have ended
        deadline = time.monotonic() + 30
        while demo.folder.exists() or demo.processes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not demo.folder.exists()
    assert demo.processes() == []


@pytest.mark.parametrize("demo", [("--clients=0",)], indirect=True)
def test_a_demo_without_clients_is_wrong_usage(demo: Demo) -> None:
    assert demo.end() == 2
