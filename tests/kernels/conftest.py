"""What can be tested on this processor."""

from ridgeline.kernels.jit.target import has_tiles

collect_ignore = [] if has_tiles() else ["test_jit_wide.py", "test_jit_wide_int8.py"]
