"""The rubric anchors as data; installed as `mira_stream.anchor_data`. See README.md here for provenance."""
