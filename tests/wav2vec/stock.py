"""fairseq's own command, run in a subprocess that records the unrounded numbers of each update.

``run`` takes several commands for one process, because starting it takes seconds.
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
"""Module of the script ``fairseq-hydra-train``."""


@dataclass(kw_only=True)
class Stock:
    """Record of a command.

    Attributes:
        updates: numbers of each update, and the classes of task and model.
        text: output of all commands of the process.
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
    """Return the folder of fairseq's configuration files for wav2vec 2.0."""
    from dyt_wav2vec import fairseq_compat

    return Path(fairseq_compat.load().__file__).parent / "examples/wav2vec/config"


def run(folder, commands):
    """Run the commands one after the other; return name → record.

    Args:
        folder: output folder.
        commands: name → (module, configuration file below ``recipes``, overrides).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.json").write_text(json.dumps(commands))
    command = [sys.executable, __file__, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    return {
        name: Stock(
            updates=[json.loads(line) for line in _log(folder, name).read_text().splitlines()],
            text=process.stdout,
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
        # hydra writes a separate folder for every command.
        sys.argv = [program, *chosen, f"hydra.run.dir={folder / name}", *overrides]
        with _log(folder, name).open("w") as file, _recording(file):
            runpy.run_module(program, run_name="__main__")


def _recording(file):
    """Write a line after each update within this context."""
    from fairseq.logging import metrics
    from fairseq.trainer import Trainer

    step = Trainer.train_step

    def stepped(self, *args, **options):
        logged = step(self, *args, **options)
        meters = {name: metrics.get_meter("train", name) for name in METERS}
        numbers = {name: float(meter.val) for name, meter in meters.items() if meter is not None}
        objects = {"task": self.task, "model": self.get_model()}
        classes = {key: type(value).__name__ for key, value in objects.items()}
        file.write(json.dumps({**classes, **numbers}) + "\n")
        return logged

    return mock.patch.object(Trainer, "train_step", stepped)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
