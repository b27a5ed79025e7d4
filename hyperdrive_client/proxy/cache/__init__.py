"""Answers kept: which may be, for how long they are right, and where they are."""
