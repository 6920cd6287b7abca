"""Vision experiments of the Dynamic Tanh papers; import the module that you need."""
