"""Whole runs: the product beside the frozen reference loop."""
