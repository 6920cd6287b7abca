"""wav2vec 2.0 pretrained with fairseq's trainer and DyT; this package itself imports nothing."""
