"""Clients of others, run on the same records against the same replica."""
