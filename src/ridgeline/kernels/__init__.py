"""The same few operations for CPU, later CUDA, and a plain torch reference that tests compare with."""
