"""What operators see of a running proxy."""
