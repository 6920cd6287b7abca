"""Times pretraining of wav2vec 2.0 with LN against fairseq's own command, and compares losses.

    python benchmarks/speech.py [--updates 40] [--rounds 5]      # about ten minutes

Each round starts three processes, one after the other: our run, fairseq's command, and fairseq's
command with our task, whose random numbers are ours and whose losses have to be, too. The time of
an update is that from its start to the start of the next one; the first ten are left out. The
figures are the median over rounds of the ratio of mean times, and the ratio of undisturbed times:
update by update the shortest of all rounds, for the same update does the same work in each. Bound:
1.03.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from unittest import mock

from rich.console import Console
from rich.progress import Progress
from rich.table import Table as Grid

from dyt import Norm
from dyt_wav2vec.config import Network, Preparation, Pretraining
from matched.task import Context

WARMUP = 10
"""Updates of a process that are not timed."""
WAYS = ("ours", "stock", "plugged")
SIZES = {
    "2 × 64": Network(
        conv_feature_layers=((64, 10, 5), *[(64, 3, 2)] * 4, *[(64, 2, 2)] * 2),
        encoder_layers=2,
        encoder_embed_dim=64,
        encoder_ffn_embed_dim=128,
        encoder_attention_heads=4,
        final_dim=32,
        latent_vars=32,
        conv_pos=32,
        conv_pos_groups=4,
        num_negatives=50,
    ),
    "4 × 192": Network(
        conv_feature_layers=((128, 10, 5), *[(128, 3, 2)] * 4, *[(128, 2, 2)] * 2),
        encoder_layers=4,
        encoder_embed_dim=192,
        encoder_ffn_embed_dim=768,
        encoder_attention_heads=4,
        layer_norm_first=True,
        final_dim=96,
        conv_pos=64,
        conv_pos_groups=8,
    ),
}
"""Layers × width of the Transformer."""
SPEECH = Preparation(data="synthetic-speech", train=64, valid=2, voices=8)
LOG = "updates.jsonl"


def settings(size: str, updates: int) -> Pretraining:
    return Pretraining(
        norm=Norm.own(),
        data="synthetic-speech",
        network=SIZES[size],
        updates=updates,
        micro_batches_per_update=1,
        max_tokens=150_000,
        max_sample_size=48_000,
        lr=5e-4,
        warmup_updates=updates // 4,
        precision="fp32",
        eval_passes=2,
    )


def ours(folder: Path, speech: Path, config: Pretraining) -> None:
    from dyt_wav2vec.pretraining import pretrain

    pretrain(Context(directory=folder, signature="benchmark", needs={"speech": speech}), config)


def stock(folder: Path, speech: Path, config: Pretraining, plugged: bool) -> None:
    """fairseq's command with the settings that our run is given."""
    from dyt_wav2vec import fairseq_compat

    recipes = Path(fairseq_compat.load().__file__).parent / "examples/wav2vec/config/pretraining"
    from fairseq_cli.hydra_train import cli_main

    network = {name: getattr(config.network, name) for name in vars(config.network)}
    network["conv_feature_layers"] = f"'{list(config.network.conv_feature_layers)}'"
    network["latent_temp"] = list(config.network.latent_temp)
    overrides = {
        "task.data": speech / "lists",
        "task.max_sample_size": config.max_sample_size,
        "dataset.max_tokens": config.max_tokens,
        "dataset.num_workers": 0,
        "dataset.data_buffer_size": 0,
        "dataset.disable_validation": True,
        "common.seed": config.seed,
        "common.cpu": True,
        "common.fp16": False,
        "checkpoint.no_save": True,
        "distributed_training.distributed_world_size": 1,
        "optimization.max_update": config.updates,
        "optimization.lr": [config.lr],
        "lr_scheduler.warmup_updates": config.warmup_updates,
        **{f"model.{name}": value for name, value in network.items()},
    }
    if plugged:
        from dyt_wav2vec.hydra_train import USER_DIR

        overrides |= {"common.user_dir": USER_DIR, "task._name": "dyt_audio_pretraining"}
    chosen = ["--config-dir", str(recipes), "--config-name", "wav2vec2_base_librispeech"]
    changed = [f"++{name}={value}" for name, value in overrides.items()]
    sys.argv = ["fairseq-hydra-train", *chosen, f"hydra.run.dir={folder}/hydra", *changed]
    cli_main()


def measured(way: str, folder: Path, speech: Path, config: Pretraining) -> None:
    """Train in this process, and write when each update began and the loss it gave."""
    from dyt_wav2vec import fairseq_compat

    fairseq_compat.load()
    from fairseq.logging import metrics
    from fairseq.trainer import Trainer

    step, updates = Trainer.train_step, []

    def stepped(self, *args, **options):
        began = time.perf_counter()
        told = step(self, *args, **options)
        updates.append((began, metrics.get_meter("train", "loss").val))
        return told

    with mock.patch.object(Trainer, "train_step", stepped):
        if way == "ours":
            ours(folder, speech, config)
        else:
            stock(folder, speech, config, way == "plugged")
    (folder / LOG).write_text("".join(json.dumps(update) + "\n" for update in updates))


def started(way: str, size: str, updates: int, folder: Path, speech: Path) -> list[list[float]]:
    """When each update began, and its loss, of a process of its own."""
    folder.mkdir(parents=True)
    given = {"--way": way, "--size": size, "--updates": updates, "--folder": folder}
    command = [sys.executable, __file__, "--speech", speech, *(w for p in given.items() for w in p)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment
    )
    if answer.returncode:
        sys.exit(answer.stdout + answer.stderr)
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def gaps(updates: list[list[float]]) -> list[float]:
    """Seconds from each start to the next, but for the first ones."""
    began = [when for when, _ in updates[WARMUP:]]
    return [after - before for before, after in pairwise(began)]


@dataclass(kw_only=True)
class Measured:
    """What the rounds of one network have given, per way of training."""

    times: dict[str, list[list[float]]]
    """Of the updates of each round."""
    differences: list[float]
    """Relative, between the losses of our run and of fairseq's command with our task."""

    def ratios(self) -> list[float]:
        """Our mean time over fairseq's, of each round."""
        pairs = zip(self.times["ours"], self.times["stock"], strict=True)
        return [statistics.mean(a) / statistics.mean(b) for a, b in pairs]

    def undisturbed(self, way: str) -> float:
        """Mean time of an update, each as in the round in which it was fastest."""
        return statistics.mean(map(min, zip(*self.times[way], strict=True)))


def measure(size: str, updates: int, rounds: int, scratch: Path, done: Callable) -> Measured:
    found = Measured(times={way: [] for way in WAYS}, differences=[])
    for turn in range(rounds + 1):
        # The first of a round is another one each time.
        ways = WAYS[turn % 3 :] + WAYS[: turn % 3]
        runs = {}
        for way in ways:
            folder = scratch / f"{list(SIZES).index(size)}-{turn}-{way}"  # hydra's names are plain
            runs[way] = started(way, size, updates, folder, scratch / "speech")
            done()
        if turn:  # round 0 has warmed up the machine
            for way, run in runs.items():
                found.times[way].append(gaps(run))
        pairs = zip(runs["ours"], runs["plugged"], strict=True)
        found.differences += [abs(a - b) / abs(b) for (_, a), (_, b) in pairs]
    return found


def compare(updates: int, rounds: int) -> None:
    from dyt_wav2vec.preparation import prepare

    grid = Grid(title=f"Pretraining with LN, {rounds} rounds of {updates} updates, 1 thread")
    heads = ("network", "ms, fairseq", "ours / fairseq", "undisturbed", "losses", "differ by")
    for name in heads:
        grid.add_column(name, justify="right")
    told = {}
    with Progress() as bar, tempfile.TemporaryDirectory() as scratch:
        speech = Path(scratch) / "speech"
        speech.mkdir()
        prepare(Context(directory=speech, signature="benchmark"), SPEECH)
        task = bar.add_task("processes", total=len(SIZES) * (rounds + 1) * len(WAYS))
        for size in SIZES:
            found = measure(size, updates, rounds, Path(scratch), lambda: bar.advance(task))
            ratios, stock_time = found.ratios(), found.undisturbed("stock")
            least, most = min(ratios), max(ratios)
            grid.add_row(
                size,
                f"{1e3 * stock_time:.0f}",
                f"{statistics.median(ratios):.3f} ({least:.3f} to {most:.3f})",
                f"{found.undisturbed('ours') / stock_time:.3f}",
                f"{len(found.differences)}",
                f"{max(found.differences):.1g}",
            )
            told[size] = {"ratios": ratios, "undisturbed": found.undisturbed("ours") / stock_time}
    Console().print(grid)
    print(json.dumps({"benchmark": "speech", **told}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, help=argparse.SUPPRESS)
    for name in ("--folder", "--speech"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way is None:
        compare(given.updates, given.rounds)
    else:
        config = settings(given.size, given.updates)
        measured(given.way, given.folder, given.speech, config)


if __name__ == "__main__":
    main()
