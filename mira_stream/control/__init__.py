"""Decisions: synchronous, deterministic, with `now` and jitter as arguments."""
