"""An origin that answers as PostgreSQL's protocol wants it, whatever the statement means."""

from __future__ import annotations

from random import Random

from hyperdrive_client.protocol import messages as m

from .messages import DESCRIPTION, ORIGIN, rows

BIND_COMPLETE = ORIGIN[m.BIND_COMPLETE](Random())
COPY_IN = ORIGIN[m.COPY_IN_RESPONSE](Random())
COPY_OUT = b"".join(
    ORIGIN[kind](Random()) for kind in (m.COPY_OUT_RESPONSE, m.COPY_DATA, m.COPY_DONE)
)
NO_DATA = ORIGIN[m.NO_DATA](Random())
NO_PARAMETERS = ORIGIN[m.PARAMETER_DESCRIPTION](Random())
SUSPENDED = ORIGIN[m.PORTAL_SUSPENDED](Random())
ISOLATION = m.message(
    m.DATA_ROW, b"\x00\x02\x00\x00\x00\x09isolation\x00\x00\x00\x0eread committed"
)
"""What the proxy asks before it believes that a read is a read."""
EMPTY = ORIGIN[m.EMPTY_QUERY_RESPONSE](Random())
# Late after a failed COPY; and Flush, since nothing is ever kept back.
_IGNORED = (m.COPY_DATA, m.COPY_DONE, m.COPY_FAIL, m.FLUSH)


class Server:
    """One session; ``random`` decides what fails. A calm one does all it is asked."""

    def __init__(self, random: Random | None) -> None:
        self._random = random
        self._input = bytearray()
        self.output: list[bytes] = []
        """Messages that are not sent yet."""
        self.closed = False
        self._status = m.IDLE
        self._ignoring = False
        self._copying = b""
        """The type, Q or E, of what reads CopyData."""
        self._texts: dict[bytes, bytes] = {}
        self._portals: dict[bytes, bytes] = {}

    def calm_down(self) -> None:
        self._random = None

    def start(self) -> None:
        """Let the proxy in."""
        self._input.clear()
        self.output += [m.authentication(0), m.parameter_status(b"server_version", b"18.0")]
        for name, value in ((b"client_encoding", b"UTF8"), (b"TimeZone", b"UTC")):
            self.output.append(m.parameter_status(name, value))
        self.output.append(m.parameter_status(b"in_hot_standby", b"off"))
        self.output += [m.backend_key_data(77, b"key!"), m.ready_for_query(m.IDLE)]

    def reads(self, data: bytes) -> None:
        self._input += data
        while len(self._input) >= 5:
            kind, length = m.HEADER.unpack_from(self._input)
            if len(self._input) <= length or self.closed:
                return
            body = bytes(self._input[5 : length + 1])
            del self._input[: length + 1]
            self._message(kind, body)

    def _message(self, kind: int, body: bytes) -> None:
        if kind == m.TERMINATE:
            self.closed = True
        elif self._copying:
            if kind in (m.COPY_DONE, m.COPY_FAIL):
                self._copied(failed=kind == m.COPY_FAIL)
            elif kind not in _IGNORED and kind != m.SYNC:
                # As PostgreSQL does when something else comes than COPY's data.
                self.output.append(m.error_response("08P01", "unexpected message"))
                self.output.append(m.error_response("08P01", "lost", severity="FATAL"))
                self.closed = True
        elif kind == m.SYNC:
            self._ignoring = False
            self._ready()
        elif not self._ignoring and kind not in _IGNORED:
            try:
                self._request(kind, body)
            except ValueError:
                # The body is not what the type wants.
                self._error(extended=kind != m.QUERY)

    def _request(self, kind: int, body: bytes) -> None:
        if kind == m.QUERY:
            for text in body[:-1].split(b";"):
                if not self._run(text, "Q"):
                    break
            if not self._copying:
                self._ready()
        elif kind == m.FUNCTION_CALL:
            self.output.append(ORIGIN[m.FUNCTION_CALL_RESPONSE](Random()))
            self._ready()
        elif self._fails(0.05):
            self._error(extended=True)
        elif kind == m.PARSE:
            name, text, _ = body.split(b"\x00", 2)
            self._texts[name] = text
            self.output.append(m.PARSE_COMPLETE_MESSAGE)
        elif kind == m.BIND:
            portal, name, _ = body.split(b"\x00", 2)
            self._portals[portal] = self._texts.get(name, b"select")
            self.output.append(BIND_COMPLETE)
        elif kind == m.DESCRIBE:
            if body[:1] == b"S":
                self.output.append(NO_PARAMETERS)
            self.output.append(DESCRIPTION if self._fails(0.5) else NO_DATA)
        elif kind == m.EXECUTE:
            self._run(self._portals.get(body[:-5], b"select"), "E")
        elif kind == m.CLOSE:
            self.output.append(m.CLOSE_COMPLETE_MESSAGE)

    def _fails(self, likely: float) -> bool:
        return self._random is not None and self._random.random() < likely

    def _run(self, text: bytes, kind: str) -> bool:
        """Whether what follows in the same Query is run as well."""
        words = text.lower().split()
        word = words[0] if words else b""
        if self._fails(0.1):
            self._error(extended=kind == "E")
            return False
        if not word:
            self.output.append(EMPTY)
            return True
        if word in (b"begin", b"start"):
            self._status = m.IN_TRANSACTION
        elif (
            word in (b"commit", b"rollback", b"prepare")
            and b"to" not in words
            and words[-1] != b"p"
        ):
            self._status = m.IDLE
        elif word == b"copy" and b"stdin" in words:
            self.output.append(COPY_IN)
            self._copying = kind.encode()
            return False
        elif word == b"copy":
            self.output.append(COPY_OUT)
        elif word in (b"select", b"show", b"fetch"):
            # What the proxy asks for itself has no rows: nothing is left in the session.
            ours = b"pg_catalog" in text and b"set_config" not in text
            self.output += [DESCRIPTION] if kind == "Q" else []
            if b"'isolation'" in text and not self._fails(0.1):
                self.output.append(ISOLATION)
            elif self._random is not None:
                self.output.append(b"" if ours and not self._fails(0.2) else rows(self._random))
            elif not ours:
                self.output.append(rows(Random(1)))
            if kind == "E" and self._fails(0.05):
                self.output.append(SUSPENDED)
                return True
        tag = b"DISCARD ALL" if word == b"discard" else word.upper()
        if word == b"deallocate":
            tag = b"DEALLOCATE ALL" if b"all" in words else b"DEALLOCATE"
        self.output.append(m.message(m.COMMAND_COMPLETE, tag + b"\x00"))
        if self._fails(0.05):
            self.output.append(m.parameter_status(b"TimeZone", b"Asia/Tokyo"))
        return True

    def _error(self, *, extended: bool) -> None:
        self.output.append(m.error_response("42601", "wrong"))
        if self._status == m.IN_TRANSACTION:
            self._status = m.FAILED_TRANSACTION
        self._ignoring = extended

    def _copied(self, *, failed: bool) -> None:
        extended, self._copying = self._copying == b"E", b""
        if failed:
            self._error(extended=extended)
        else:
            self.output.append(m.message(m.COMMAND_COMPLETE, b"COPY 1\x00"))
        if not extended:
            self._ready()

    def _ready(self) -> None:
        self.output.append(m.ready_for_query(self._status))
