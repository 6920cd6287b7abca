"""Runs fairseq's own command and writes down each update's numbers, which its log would round.

``run`` starts a process of its own for that, and one for several commands: starting takes seconds.
"""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

METERS = ("loss", "loss_0", "gnorm")
PROGRAM = "fairseq_cli.hydra_train"
"""What the script ``fairseq-hydra-train`` is installed to run."""


@dataclass(kw_only=True)
class Stock:
    """What a command has done.

    Attributes:
        updates: numbers of each, and the classes of task and model.
        text: what all commands of the process have printed.
    """

    updates: list[dict]
    text: str

    @property
    def classes(self):
        return {(update["task"], update["model"]) for update in self.updates}

    @property
    def numbers(self):
        return [[update[name] for name in METERS] for update in self.updates]


def recipes():
    """Where fairseq has its configuration files for wav2vec 2.0."""
    from dyt_wav2vec import fairseq_compat

    return Path(fairseq_compat.load().__file__).parent / "examples/wav2vec/config"


def run(folder, commands):
    """Run each of the commands in turn: name → what it has done.

    Args:
        folder: for what they leave.
        commands: name → (module, configuration file below ``recipes``, what is set otherwise).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.json").write_text(json.dumps(commands))
    command = [sys.executable, __file__, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    return {
        name: Stock(
            updates=[json.loads(line) for line in _log(folder, name).read_text().splitlines()],
            text=answer.stdout,
        )
        for name in commands
    }


def _log(folder, name):
    return folder / f"{name}.jsonl"


def _main(folder):
    commands = json.loads((folder / "commands.json").read_text())
    for name, (program, config, overrides) in commands.items():
        where = recipes() / config
        chosen = ["--config-dir", str(where.parent), "--config-name", where.name]
        # hydra writes a folder of its own for every command.
        sys.argv = [program, *chosen, f"hydra.run.dir={folder / name}", *overrides]
        with _log(folder, name).open("w") as file, _tapped(file):
            runpy.run_module(program, run_name="__main__")


def _tapped(file):
    """Meanwhile a line is written after each update."""
    from fairseq.logging import metrics
    from fairseq.trainer import Trainer

    step = Trainer.train_step

    def stepped(self, *args, **options):
        told = step(self, *args, **options)
        meters = {name: metrics.get_meter("train", name) for name in METERS}
        numbers = {name: float(meter.val) for name, meter in meters.items() if meter is not None}
        made = {"task": self.task, "model": self.get_model()}
        classes = {key: type(value).__name__ for key, value in made.items()}
        file.write(json.dumps({**classes, **numbers}) + "\n")
        return told

    return mock.patch.object(Trainer, "train_step", stepped)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
