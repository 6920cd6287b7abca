"""The miniature upstream as a run of two nodes with one process each; started by
tests/processes.py once for each node.
"""

import json
import os
import sys
from pathlib import Path

from dyt import Norm
from dyt_upstream.config import Script
from dyt_upstream.script import run
from matched.task import Context

TINY = ("--width", "16", "--depth", "1", "--steps", "4", "--batch-size", "8", "--epochs", "1")


def main(directory):
    os.environ |= {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    (directory / "checkpoints").mkdir(exist_ok=True)
    rank = int(os.environ["RANK"])
    context = Context(directory=directory, signature="x", rank=rank, local_rank=0, world_size=2)
    config = Script(
        upstream="miniature",
        command=("train.py", *TINY, "--output", "{output}"),
        metrics=("accuracy",),
        data=("upstream.miniature",),
        processes=2,
        norm=Norm.dyt(2.0),
    )
    outcome = run(context, config)
    if rank == 0:
        content = json.dumps([outcome.metrics, outcome.details["norms"]])
        (directory / "outcome.json").write_text(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
