"""The version of this package, which its proxies tell their clients."""

__version__ = "0.1.0"
