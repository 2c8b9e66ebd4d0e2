"""Ridgeline and its peers in turns on the same cores."""
