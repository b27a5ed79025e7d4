"""For pytest: engines whose URL ends with ``?plugin=native_hstore`` have it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, CreateEnginePlugin
from sqlalchemy.dialects import plugins


class NativeHstore(CreateEnginePlugin):
    """Acts like ``create_engine(…, use_native_hstore=True)``."""

    def update_url(self, url: URL) -> URL:
        return url

    def handle_dialect_kwargs(self, dialect_cls: Any, dialect_args: dict[str, Any]) -> None:
        dialect_args["use_native_hstore"] = True


plugins.register("native_hstore", __name__, "NativeHstore")
