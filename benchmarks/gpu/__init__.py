"""What the kernels and the engine reach on one GPU; see `run.py`."""
