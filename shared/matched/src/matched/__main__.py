"""``python -m matched``, so that torchrun can start it."""

from matched.cli import main

main()
