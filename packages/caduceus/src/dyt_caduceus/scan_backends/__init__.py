"""Implementations of the selective scan: plain PyTorch, Triton, and mamba-ssm's CUDA kernels."""
