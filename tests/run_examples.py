"""Run the examples of one page, in their order, as a reader would: one session in one folder.

A script: the examples come as JSON on standard input, each ``[kind, line, text, output]``; the kind
is what stands behind the fence. What was printed is compared with what the page shows, where ``…``
stands for anything within a line; after ``console vary`` any number and any id will do, and blanks
do not count. ``output`` is null where the page shows none.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from collections.abc import Iterator
from types import CodeType
from typing import Any

SECONDS = 60.0


class Reader:
    """What a reader has after each example: Python's names, an environment, running servers."""

    def __init__(self, page: str, runner: asyncio.Runner) -> None:
        self.page = page
        self.runner = runner
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.servers: list[subprocess.Popen[str]] = []

    def run(self, kind: str, line: int, text: str, output: str | None) -> None:
        match kind:
            case "python":
                printed = self.python(line, text)
                if output is not None:
                    compare(printed, output)
            case "sql":
                sql(text)
            case "sh":
                self.shell(text, None)
            case "console" | "console vary":
                for command, shown in commands(text):
                    self.shell(command, shown, varies=kind == "console vary")
            case _:
                raise ValueError(kind)

    def python(self, line: int, text: str) -> str:
        """Run it and return what it printed; ``await`` works as in ``python -m asyncio``."""
        source = "\n" * line + text  # so that a traceback shows the page
        code: CodeType = compile(source, self.page, "exec", PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if code.co_flags & inspect.CO_COROUTINE:
                self.runner.run(eval(code, self.names))
            else:
                exec(code, self.names)
        return printed.getvalue()

    def shell(self, command: str, shown: str | None, *, varies: bool = False) -> None:
        if "hyperdrive serve" in command:
            self.serve(command, shown)
            return
        # What is exported is there for the examples that follow.
        script = f"set -e\n{command}\nenv -0 > environment.new\n"
        done = subprocess.run(
            ["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        with open("environment.new") as new:
            os.environ.update(each.split("=", 1) for each in new.read().split("\0") if each)
        if shown is not None:
            compare(*map(without_numbers if varies else str, (done.stdout, shown)))

    def serve(self, command: str, shown: str | None) -> None:
        self.leave()  # one after the other, on the same port
        server = subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.servers.append(server)
        overdue = threading.Timer(SECONDS, server.kill)
        overdue.start()
        said = ""
        assert server.stdout is not None
        for line in server.stdout:
            said += line
            if line.startswith("postgresql://"):
                break
        overdue.cancel()
        assert "postgresql://" in said, f"{command}\n{said}"
        if shown is not None:
            compare(said, shown)

    def leave(self) -> None:
        """End the server that runs, as the pages say."""
        while self.servers:
            server = self.servers.pop()
            server.send_signal(signal.SIGTERM)
            said, _ = server.communicate(timeout=SECONDS)
            assert server.returncode == 0, said


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console, ``$ …``, and what it shows after each."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def sql(text: str) -> None:
    """Run statements through the proxy, each by itself, as psql does."""
    import hyperdrive_client

    with hyperdrive_client.connect(autocommit=True) as connection:
        for statement in re.split(r";(?:\s*--.*)?$", text, flags=re.MULTILINE):
            if statement.strip():
                connection.execute(statement.encode())


def without_numbers(text: str) -> str:
    """With one digit for any number and any proxy's id, and one blank for any."""
    return re.sub(r" +", " ", re.sub(r"\b[0-9a-f]{16}\b|\d+", "0", text))


def compare(printed: str, shown: str) -> None:
    pattern = re.escape(shown.strip()).replace("…", "[^\n]*")
    assert re.fullmatch(pattern, printed.strip()), f"printed:\n{printed}\nshown:\n{shown}"


def main() -> None:
    page, examples = json.load(sys.stdin)
    with asyncio.Runner() as runner:
        reader = Reader(page, runner)
        try:
            for kind, line, text, output in examples:
                print(f"{page}:{line}", file=sys.stderr)
                reader.run(kind, line, text, output)
        finally:
            reader.leave()


if __name__ == "__main__":
    main()
