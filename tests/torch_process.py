"""Code of a test in a process that has imported torch and nothing else.

python torch_process.py CODE
"""

import sys

import torch  # noqa: F401

if __name__ == "__main__":
    exec(sys.argv[1])
