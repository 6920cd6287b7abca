"""Pretraining runs of the tests in several processes; started by tests/processes.py.

python two_processes.py FOLDER TOKENS RUN...
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from llama.tiny import CONFIG, context
from llama.two_processes_memory import write_memory

from dyt_llama import pretraining

RANK, WORLD_SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
RUNS = {
    "ddp": (CONFIG, {}),
    "sharded": (replace(CONFIG, checkpointed=0.5), {"shard": True}),
    "replicated": (replace(CONFIG, micro_batch=2), {"shard": True, "shard_degree": 1}),
    "hybrid": (replace(CONFIG, micro_batch=1), {"shard": True, "shard_degree": 2}),
    "bf16-params": (replace(CONFIG, precision="bf16-params"), {"shard": True}),
    "bf16-reduce": (replace(CONFIG, precision="bf16-reduce"), {"shard": True}),
    "interrupted": (CONFIG, {"shard": True}),
}
"""Name → config, and changes of the context."""


class Crash(Exception):
    """Stands for whatever ends the processes in the middle of a run."""


def crash_in_step_9():
    loss, calls = pretraining.mean_loss, []

    def crashing(model, tokens):
        calls.append(tokens)
        if len(calls) == 9:  # one micro-batch of each process per step
            raise Crash
        return loss(model, tokens)

    pretraining.mean_loss = crashing


def train(directory, tokens, name):
    config, changes = RUNS[name]
    where = context(
        directory,
        signature=name,  # by which process groups of one job are told apart
        needs={"tokens": tokens},
        rank=RANK,
        local_rank=RANK,
        world_size=WORLD_SIZE,
        checkpoint_steps=5,
        **changes,
    )
    outcome = pretraining.pretrain(where, config)
    (directory / f"outcome-{RANK}.txt").write_text(repr(sorted(outcome.metrics.items())))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, tokens, *names = sys.argv[1:]
    for name in names:
        if name == "interrupted":
            crash_in_step_9()
        try:
            if name == "memory":
                write_memory(Path(folder), RANK)
            else:
                train(Path(folder) / name, Path(tokens), name)
        except Crash:
            break
    sys.stdout.flush()
    os._exit(0)  # a collective that the other process has left may be pending
