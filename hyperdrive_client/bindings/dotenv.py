"""``.env`` files, by the rules of the ``dotenv`` package that Wrangler reads them with."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hyperdrive_client.bindings.binding_warning import BindingWarning

# A quoted value that something other than a comment follows is taken as a bare one.
_ASSIGNMENT = re.compile(
    r"^[ \t]*(?:export[ \t]+)?(?P<name>[\w.-]+)[ \t]*(?:=|:(?=[ \t]))[ \t]*"
    r"""(?P<value>'(?:\\'|[^'])*'|"(?:\\"|[^"])*"|`(?:\\`|[^`])*`|[^#\n]+)?[ \t]*(?:\#.*)?$""",
    re.ASCII | re.MULTILINE,
)
_REFERENCE = re.compile(r"(\\)?\$\{(\w+)(?::?-([^}]*))?\}", re.ASCII)


class Variable(NamedTuple):
    """A variable and the file that set it. ``literal`` (single quotes): nothing is expanded."""

    text: str
    literal: bool
    path: Path


def read_dotenv_files(
    folder: Path, env: str | None, environ: Mapping[str, str]
) -> dict[str, Variable]:
    """Return the variables of the ``.env`` files in ``folder``, later files over earlier ones.

    ``${NAME}`` and ``${NAME:-default}`` expand to the variable of ``environ``, else to that of the
    files. A file that cannot be read is left out with a ``BindingWarning``.
    """
    names = [".env", ".env.local"]
    if env:
        names += [f".env.{env}", f".env.{env}.local"]
    variables: dict[str, Variable] = {}
    for name in names:
        variables |= _parse(folder / name)
    return {
        name: variable._replace(text=_expand(name, variables, environ, frozenset()))
        for name, variable in variables.items()
    }


def _parse(path: Path) -> dict[str, Variable]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # .env may be a virtualenv
        return {}
    except (OSError, UnicodeDecodeError) as error:
        warnings.warn(f"{path} is left out: {error}", BindingWarning, stacklevel=2)
        return {}
    return {
        match["name"]: _variable((match["value"] or "").strip(), path)
        for match in _ASSIGNMENT.finditer(text)
    }


def _variable(value: str, path: Path) -> Variable:
    quote = value[:1]
    quoted = len(value) > 1 and quote in "'\"`" and value.endswith(quote)
    text = value[1:-1] if quoted else value
    if quote == '"':
        text = text.replace("\\n", "\n").replace("\\r", "\r")
    return Variable(text, quoted and quote == "'", path)


def _expand(
    name: str,
    variables: Mapping[str, Variable],
    environ: Mapping[str, str],
    expanding: frozenset[str],
) -> str:
    def value(reference: re.Match[str]) -> str:
        escaped, other, default = reference.groups(default="")
        if escaped:
            return reference[0].removeprefix("\\")
        if other in environ:
            return environ[other] or default
        if other in variables and other not in expanding:
            return _expand(other, variables, environ, expanding | {name}) or default
        return default

    text, literal, _ = variables[name]
    return text if literal else _REFERENCE.sub(value, text)
