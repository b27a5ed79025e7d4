"""The ``hyperdrive`` part of a wrangler file (Wrangler, "Configuration", "Hyperdrive")."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from hyperdrive_client.bindings.binding_warning import BindingWarning
from hyperdrive_client.bindings.document import Document, KeyPath
from hyperdrive_client.bindings.json_with_comments import parse_json_with_comments
from hyperdrive_client.bindings.near_miss import did_you_mean
from hyperdrive_client.errors import ConfigurationError

FILE_NAMES = ("wrangler.json", "wrangler.jsonc", "wrangler.toml")

_ITEM_KEYS = ("binding", "id", "localConnectionString")


@dataclass(frozen=True, slots=True)
class WranglerBinding:
    """One item of ``hyperdrive``. ``place`` is ``file:line`` of its connection string, if any."""

    name: str
    id: str
    local_connection_string: str | None = field(repr=False)
    place: str


def find_wrangler_file(config: Path | None = None, cwd: Path | None = None) -> Path | None:
    """Return the absolute path of the wrangler file that is in force, or ``None``.

    ``config`` wins; otherwise each of ``FILE_NAMES`` in turn is looked for in ``cwd`` (default: the
    working directory) and all folders above. Raises ``ConfigurationError`` if ``config`` is not
    a file.
    """
    here = Path(os.path.abspath(cwd or ""))
    if config is not None:
        path = here / config
        if not path.is_file():
            raise ConfigurationError(f"there is no wrangler file {path}")
        return path
    for name in FILE_NAMES:
        for folder in (here, *here.parents):
            if os.path.isfile(folder / name):
                return folder / name
    return None


def read_wrangler_file(path: Path, env: str | None = None) -> tuple[WranglerBinding, ...]:
    """Return the bindings of environment ``env`` (``None`` or empty: of the top level).

    Raises ``ConfigurationError`` with file, line and key. Warns (``BindingWarning``) of unknown
    keys, of ``env`` where the file has no environments (the top level is used), and of bindings
    that an environment does not repeat, for it does not inherit them.
    """
    return bindings_in(_parse(path), env)


def bindings_in(document: Document, env: str | None) -> tuple[WranglerBinding, ...]:
    """Return the bindings in a parsed file; the rest is as for ``read_wrangler_file``."""
    section, section_path = _section(document, env)
    items = section.get("hyperdrive", [])
    items_path = (*section_path, "hyperdrive")
    if not isinstance(items, list):
        raise _wrong(document, items_path, "an array of objects", _kind(items))
    bindings: dict[str, WranglerBinding] = {}
    for index, item in enumerate(items):
        binding = _binding(document, (*items_path, index), item)
        if binding.name in bindings:
            raise ConfigurationError(
                f"{document.place((*items_path, index, 'binding'))}: the binding name "
                f'"{binding.name}" in "{_dotted((*items_path, index))}" is used twice; '
                f"the first is at {bindings[binding.name].place}"
            )
        bindings[binding.name] = binding
    return tuple(bindings.values())


def shown_path(path: Path) -> str:
    """Return the path as messages show it: relative where it is below the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _parse(path: Path) -> Document:
    source = shown_path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source} cannot be read: {error}") from error
    if path.suffix != ".toml":
        return parse_json_with_comments(text, source)
    from hyperdrive_client.bindings.toml_with_lines import parse_toml

    return parse_toml(text, source)


def _section(document: Document, env: str | None) -> tuple[dict[str, object], KeyPath]:
    """Return the part of the file that environment ``env`` uses, and the way to it."""
    root = _object(document, (), document.value)
    if not env:
        return root, ()
    environments = _object(document, ("env",), root.get("env", {}))
    if env in environments:
        section = _object(document, ("env", env), environments[env])
        if "hyperdrive" in root and "hyperdrive" not in section:
            _warn(
                f'{document.place(("env", env))}: "env.{env}" has no "hyperdrive" and does not '
                "inherit that of the top level; repeat it there"
            )
        return section, ("env", env)
    if environments:
        raise ConfigurationError(
            f'{document.place(("env",))}: "env" has no environment "{env}"; '
            f"it has {', '.join(environments)}"
        )
    _warn(f'{document.source} has no environments; "{env}" is ignored, the top level is used')
    return root, ()


def _binding(document: Document, path: KeyPath, item: object) -> WranglerBinding:
    fields = _object(document, path, item)
    for key in fields:
        if key not in _ITEM_KEYS:
            _warn(
                f'{document.place((*path, key))}: unknown key "{_dotted((*path, key))}"'
                f"{did_you_mean(key, _ITEM_KEYS)}"
            )
    name = _string(document, path, fields, "binding")
    if not name:
        raise _wrong(document, (*path, "binding"), "a name", "empty")
    return WranglerBinding(
        name=name,
        id=_string(document, path, fields, "id"),
        local_connection_string=(
            _string(document, path, fields, "localConnectionString")
            if "localConnectionString" in fields
            else None
        ),
        place=document.place((*path, "localConnectionString")),
    )


def _object(document: Document, path: KeyPath, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(document, path, "an object", _kind(value))
    return value


def _string(document: Document, path: KeyPath, fields: dict[str, object], key: str) -> str:
    text = fields.get(key)
    if not isinstance(text, str):
        found = _kind(text) if key in fields else "missing"
        raise _wrong(document, (*path, key), "a string", found)
    return text


def _wrong(document: Document, path: KeyPath, expected: str, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"{document.place(path)}: {_dotted(path)} must be {expected}, but is {found}"
    )


def _dotted(path: KeyPath) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".") or "the file"


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "an object"
    return "a date or time"  # what else TOML has


def _warn(text: str) -> None:
    warnings.warn(text, BindingWarning, stacklevel=2)
