"""PostgreSQL's own parser (libpg_query), in the library that the package ``postgast`` brings.

It is called by ctypes: ``import postgast`` takes half a second and its Python objects fail on long
expressions. It can overflow the C stack on absurd input, so callers run it on a thread with a large
one, and texts are limited.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

MAX_PARSED_BYTES = 64 * 1024
"""Of one text."""

_VERSION = "0.2.0"
_NAMES = {"darwin": "libpg_query.dylib", "win32": "pg_query.dll"}
# Function, and what frees its result.
_SQL = ("pg_query_parse_opts", "pg_query_free_parse_result")
_PLPGSQL = ("pg_query_parse_plpgsql", "pg_query_free_plpgsql_parse_result")

Node = dict[str, Any]


class NotParsedError(Exception):
    """There is no tree of this text; ``args[0]`` says why."""


class _Parsed(ctypes.Structure):
    _fields_ = (
        ("tree", ctypes.c_char_p),
        ("stderr", ctypes.c_char_p),
        ("error", ctypes.POINTER(ctypes.c_char_p)),
    )


class _ParsedFunction(ctypes.Structure):
    _fields_ = (("tree", ctypes.c_char_p), ("error", ctypes.POINTER(ctypes.c_char_p)))


@cache
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    try:
        version = importlib.metadata.version("postgast")
    except importlib.metadata.PackageNotFoundError:
        return "the package postgast is not installed"
    if version != _VERSION:
        return f"postgast is {version}, and {_VERSION} is needed"
    spec = importlib.util.find_spec("postgast")
    if spec is None or spec.origin is None:
        return "the package postgast has no files"
    path = Path(spec.origin).with_name(_NAMES.get(sys.platform, "libpg_query.so"))
    try:
        library = ctypes.CDLL(str(path))
        for (parse, free), result in ((_SQL, _Parsed), (_PLPGSQL, _ParsedFunction)):
            function = getattr(library, parse)
            function.restype, function.argtypes = result, [ctypes.c_char_p]
            if result is _Parsed:
                function.argtypes = [ctypes.c_char_p, ctypes.c_int]
            function = getattr(library, free)
            function.restype, function.argtypes = None, [result]
    except (OSError, AttributeError) as error:
        return f"the library of postgast can't be used: {error}"
    return library


def why_unavailable() -> str:
    """Why no text can be parsed here; empty if texts can."""
    library = _library()
    return library if isinstance(library, str) else ""


def statements_of(text: bytes, mode: int = 0) -> list[Node]:
    """The statements of ``text``, each as ``{"SelectStmt": {…}}``. ``NotParsedError``.

    ``mode`` is PostgreSQL's RawParseMode: what PL/pgSQL has as expressions and assignments needs
    another than 0. Text in UTF-8, or in another encoding that agrees with ASCII where PostgreSQL's
    syntax is.
    """
    try:
        found = json.loads(_tree(text, *_SQL, mode))
    except (RecursionError, ValueError) as error:
        raise NotParsedError(f"its tree can't be read: {type(error).__name__}") from error
    return [each["stmt"] for each in found.get("stmts", ()) if "stmt" in each]


def plpgsql_of(definition: bytes) -> str:
    """The tree of the PL/pgSQL function that ``CREATE FUNCTION`` defines. ``NotParsedError``.

    As text, in which every key and string is as in JSON; as a whole it is not always valid.
    """
    return _tree(definition, *_PLPGSQL).decode("utf-8", "replace")


def _tree(text: bytes, parse: str, free: str, *options: int) -> bytes:
    library = _library()
    if isinstance(library, str):
        raise NotParsedError(library)
    if len(text) > MAX_PARSED_BYTES:
        raise NotParsedError(f"longer than {MAX_PARSED_BYTES} bytes")
    if b"\x00" in text:
        raise NotParsedError("a zero byte in it")
    result = getattr(library, parse)(text, *options)
    try:
        if result.error:
            message = result.error[0] or b"syntax error"
            raise NotParsedError(message.decode("utf-8", "replace"))
        return result.tree or b""
    finally:
        getattr(library, free)(result)
