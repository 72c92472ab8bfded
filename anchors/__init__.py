"""Rubric anchors as package data (`mira_stream.anchor_data`); the files are described in README.md."""
