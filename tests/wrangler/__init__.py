"""The Workers of Hyperdrive's own page, and one that writes, in ``wrangler dev``."""
