"""Sphinx's configuration; ``nox -s docs`` builds."""

from __future__ import annotations

from importlib.metadata import version as version_of

from pygments.lexers.javascript import JavascriptLexer
from sphinx.highlighting import lexers

project = "hyperdrive-client"
copyright = "the hyperdrive-client authors"
version = release = version_of("hyperdrive-client")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"

lexers["jsonc"] = JavascriptLexer()
