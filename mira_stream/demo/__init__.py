"""The main job on a small sample lake, on one machine, in a minute."""
