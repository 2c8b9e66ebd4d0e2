"""The operations on NVIDIA GPUs: products of many tokens by cuBLAS, all else by Triton."""
