"""Entry point of ``python -m matched``, by which torchrun starts the command."""

from matched.cli import main

main()
