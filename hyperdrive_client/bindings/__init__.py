"""From a binding's name to a connection string: wrangler files, environment, ``.env``, DSNs."""

from hyperdrive_client.bindings.binding import Binding, binding
from hyperdrive_client.bindings.binding_warning import BindingWarning
from hyperdrive_client.bindings.configuration import Configuration
from hyperdrive_client.bindings.connection_string import (
    Address,
    Origin,
    parse_connection_string,
    password_for,
)
from hyperdrive_client.bindings.resolution import DEFAULT_BINDING, Resolution, resolve
from hyperdrive_client.bindings.target import resolve_target
from hyperdrive_client.bindings.wrangler import (
    WranglerBinding,
    find_wrangler_file,
    read_wrangler_file,
)

__all__ = [
    "DEFAULT_BINDING",
    "Address",
    "Binding",
    "BindingWarning",
    "Configuration",
    "Origin",
    "Resolution",
    "WranglerBinding",
    "binding",
    "find_wrangler_file",
    "parse_connection_string",
    "password_for",
    "read_wrangler_file",
    "resolve",
    "resolve_target",
]
