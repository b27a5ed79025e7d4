"""Real drivers through a real proxy, case by case; see docs/drivers.md."""
