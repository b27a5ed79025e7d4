"""Statement text to facts; pure."""
