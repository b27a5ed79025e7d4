"""A relay between a client and a server that counts round trips, on an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Connect = Callable[[], Coroutine[Any, Any, tuple[Reader, Writer]]]

_CALL_SECONDS = 10.0


class Relay:
    """Passes bytes on to what ``connect`` opens; listens on ``path``, or else a port of 127.0.0.1.

    ``begun`` and ``answered`` count round trips: one begins when a client sends something after its
    server was heard from, and is answered with the server's next bytes. Those are held back for
    ``latency`` seconds.
    """

    def __init__(self, connect: Connect, latency: float = 0.0, path: str | None = None) -> None:
        self.begun = self.answered = 0
        self.latency = latency
        self._connect = connect
        self._heard = time.monotonic()
        self._writers: list[Writer] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = self._run(self._listen(path))

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait_until_quiet(self) -> None:
        """Wait until nothing has come from either side for three times the latency."""
        while (left := self._heard + 3 * self.latency - time.monotonic()) > 0:
            time.sleep(left)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)

    async def _listen(self, path: str | None) -> int:
        if path is not None:
            self._server: asyncio.Server = await asyncio.start_unix_server(self._accept, path)
            return 0
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, from_client: Reader, to_client: Writer) -> None:
        from_server, to_server = await self._connect()
        self._writers += (to_client, to_server)
        await _Turns(self, from_client, to_client, from_server, to_server).pass_on()

    async def read(self, reader: Reader) -> bytes:
        try:
            data = await reader.read(65536)
        except ConnectionError:
            data = b""
        self._heard = time.monotonic()
        return data


class _Turns:
    """One connection; who has spoken last decides what begins a round trip."""

    def __init__(
        self,
        relay: Relay,
        from_client: Reader,
        to_client: Writer,
        from_server: Reader,
        to_server: Writer,
    ) -> None:
        self._relay = relay
        self._from_client, self._to_client = from_client, to_client
        self._from_server, self._to_server = from_server, to_server
        self._client_spoke = False

    async def pass_on(self) -> None:
        await asyncio.gather(self._ask(), self._answer())

    async def _ask(self) -> None:
        while data := await self._relay.read(self._from_client):
            self._relay.begun += not self._client_spoke
            self._client_spoke = True
            self._to_server.write(data)
        self._to_server.close()

    async def _answer(self) -> None:
        while data := await self._relay.read(self._from_server):
            first, self._client_spoke = self._client_spoke, False
            await asyncio.sleep(self._relay.latency)
            self._relay.answered += first
            self._to_client.write(data)
        self._to_client.close()
