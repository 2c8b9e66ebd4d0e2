"""The operations on NVIDIA GPUs: products by cuBLAS, all else by Triton."""
