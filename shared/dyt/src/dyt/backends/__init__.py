"""Backends of DyT: the plain formula, and CPU and GPU kernels of one torch operator."""
