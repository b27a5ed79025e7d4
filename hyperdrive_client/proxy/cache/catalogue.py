"""What the origin's catalogue says of statements: whether they can be cached, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...sql.facts import facts_of
from ...sql.folded import folded
from ...sql.literals import form_of
from ...sql.parse_tree import NotParsedError
from ...sql.reads import Name, Refused
from ...sql.written import uses_of, uses_of_long
from ..settings import Caching
from .catalogue_contents import Answers, Contents, Relation
from .eligibility import Eligibility
from .name_resolution import Names, Settings, deciding
from .writes import Writes, Written

MAX_TEXT_BYTES = 8 * 1024
"""Of a statement: parsing a longer one would hold up everybody else."""
_MAX_VERDICTS = 1024  # of 8 kB at most each, and twice as many are kept
_MAX_SESSIONS = 64


class Verdict(NamedTuple):
    """On one text, for sessions with the same settings."""

    status: str
    """Empty if the answer may be kept; else Hyperdrive's name for what it does not cache."""
    reason: str
    """Why not, in plain words."""
    tables: tuple[int, ...]
    """OIDs of all tables whose contents decide the answer, in ascending order."""


class _Session:
    """What sessions with the same names for things share: verdicts by the form of the text."""

    __slots__ = ("earlier", "names", "verdicts", "written")

    def __init__(self, names: Names) -> None:
        self.names = names
        self.verdicts: dict[bytes, Verdict] = {}
        self.earlier: dict[bytes, Verdict] = {}
        self.written: dict[bytes, Written] = {}

    def remember(self, form: bytes, verdict: Verdict) -> None:
        if len(self.verdicts) >= _MAX_VERDICTS:
            self.earlier, self.verdicts = self.verdicts, {}
        self.verdicts[form] = verdict


class Catalogue:
    """One state of the catalogue of one database, as its user sees it."""

    def __init__(self, contents: Contents, caching: Caching) -> None:
        self.contents = contents
        self._eligibility = Eligibility(contents, caching.functions)
        self._writes = Writes(contents)
        self._sessions: dict[Settings, _Session] = {}
        self.default_isolation = contents.session["default_transaction_isolation"].encode()
        """As new sessions have it."""
        self.unguarded: Mapping[int, str] = {
            each.oid: reason
            for each in contents.by_oid.values()
            if (reason := _why_unguarded(each))
        }
        """OID → why the WAL does not tell of changes to it."""

    @property
    def session(self) -> Mapping[str, str]:
        """What sessions begin with, as far as it decides what names mean."""
        return self.contents.session

    @classmethod
    def of(cls, answers: Answers, caching: Caching) -> Catalogue:
        """From the rows of ``catalogue_queries.QUERIES``, by the query's name."""
        return cls(Contents(answers), caching)

    def verdict(self, text: bytes, settings: Settings) -> Verdict:
        """Whether the answer to ``text`` may be kept.

        ``settings``: what the session has that is not the default, names in lower case.
        """
        if len(text) > MAX_TEXT_BYTES:
            return _OVERSIZED
        session = self._sessions.get(settings) or self._session(settings)
        if b"--" in text or b"/*" in text:
            text = folded(text)
        form = form_of(text)
        return session.verdicts.get(form) or self._judge(text, form, session)

    def written(self, text: bytes, settings: Settings) -> Written:
        """What ``text`` may write to, when it is run by a session with these settings."""
        session = self._sessions.get(settings) or self._session(settings)
        form = form_of(text) if len(text) <= MAX_TEXT_BYTES else b""
        written = session.written.get(form) if form else None
        if written is None:
            if not ((form or text).isascii() or session.names.in_utf8):
                # Which names are meant is not known.
                return Written(None, facts_of(text).takes_locks)
            uses = uses_of(text) if form else uses_of_long(text)
            written = self._writes.of(uses, session.names)
            if form and not uses.by_literals and not self._writes.is_unfinished:
                if len(session.written) >= _MAX_VERDICTS:
                    session.written.clear()
                session.written[form] = written
        return written

    def has_no_rows(self, oid: int) -> bool:
        """Whether a table is partitioned, so that its rows are in its partitions."""
        relation = self.contents.by_oid.get(oid)
        return relation is not None and relation.kind == "p"

    def name_of(self, oid: int) -> str:
        """``schema.table``; the number where there is no such relation."""
        relation = self.contents.by_oid.get(oid)
        return relation.full_name if relation else str(oid)

    def oid_of(self, name: bytes) -> int | None:
        """Of ``schema.table``, or of ``table`` by the default search_path; exactly as written."""
        text = name.decode("utf-8", "replace")
        names = [Name("", text)]
        dots = (at for at, letter in enumerate(text) if letter == ".")
        names += [Name(text[:at], text[at + 1 :]) for at in dots]
        resolve = self._session(()).names.relation
        found = (resolve(each) for each in names)
        return next((each.oid for each in found if each), None)

    def _session(self, settings: Settings) -> _Session:
        session = self._sessions.get(settings)
        if session is None:
            if len(self._sessions) >= _MAX_SESSIONS:
                self._sessions.clear()
            names = deciding(settings)
            session = self._sessions.get(names) or _Session(Names(self.contents, names))
            self._sessions[names] = self._sessions[settings] = session
        return session

    def _judge(self, text: bytes, form: bytes, session: _Session) -> Verdict:
        verdict = session.earlier.get(form)
        if verdict is None:
            verdict = self._verdict(text, form, session.names)
        # Whether a text is one that PostgreSQL understands may depend on its literals.
        session.remember(text if verdict.status == "parseerror" else form, verdict)
        return verdict

    def _verdict(self, text: bytes, form: bytes, names: Names) -> Verdict:
        try:
            return Verdict("", "", tuple(sorted(self._eligibility.tables(text, form, names))))
        except Refused as error:
            return Verdict(error.status, error.reason, ())
        except NotParsedError as error:
            # What the parser says behind this are words of the text.
            return Verdict("parseerror", str(error).partition(" at or near ")[0], ())


def _why_unguarded(relation: Relation) -> str:
    if relation.kind == "m":
        return "a materialized view"
    if relation.kind not in "rp":
        return ""
    if relation.odd_storage:
        return "a table with an access method of its own"
    return "an unlogged table" if relation.persistence == "u" else ""


_OVERSIZED = Verdict("oversizedquery", f"the text has more than {MAX_TEXT_BYTES} bytes", ())
