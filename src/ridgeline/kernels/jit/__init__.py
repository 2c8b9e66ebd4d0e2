"""Kernels for CPUs, compiled by Numba when they are first needed."""

# Numba asks what to compile for, and where to keep it, at the first function that is declared.
from ridgeline.kernels.jit import target as _target  # noqa: F401
