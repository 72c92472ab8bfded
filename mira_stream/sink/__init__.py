"""Segments out: their form, and the commit by create-if-absent."""
