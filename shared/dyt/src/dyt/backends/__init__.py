"""Backends of DyT: the plain formula, and the CPU and GPU kernels behind one torch operator."""
