"""LLaMA with a configurable norm layer: token data and pretraining, on transformers' model."""
