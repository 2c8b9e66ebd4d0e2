"""The executor that computes on an NVIDIA GPU."""
