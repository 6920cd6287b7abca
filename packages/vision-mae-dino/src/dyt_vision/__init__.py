"""Vision experiments of the Dynamic Tanh papers; this package itself imports nothing."""
