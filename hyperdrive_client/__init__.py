"""Cloudflare Hyperdrive for any Python program."""

__version__ = "0.1.0"
