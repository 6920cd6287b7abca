"""Holds the ways to compute DyT: the plain formula, and kernels behind one operator of torch."""
