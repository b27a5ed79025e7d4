"""The warning category of configuration files and variables."""

from __future__ import annotations


class BindingWarning(UserWarning):
    """A wrangler file, ``.env`` file, variable or password file is used, or left out, with doubts.

    Not a DeprecationWarning even where something is deprecated: Python hides those from the people
    who run an application, and they are the ones who can change the file.
    """
