"""``python -m hyperdrive_client``: the ``hyperdrive`` command."""

from __future__ import annotations

from .cli import main

main(prog_name="hyperdrive")
