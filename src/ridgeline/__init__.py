"""Ridgeline: run a ChatGPT of your own on GPUs that are few, fixed in number and scattered."""

__version__ = "0.1.0"
