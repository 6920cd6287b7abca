"""Caduceus with a configurable norm layer: bidirectional, reverse-complement equivariant Mamba."""
