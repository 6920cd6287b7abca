"""Benchmark of wav2vec 2.0 pretraining with LN against fairseq's own command: time and losses.

    python benchmarks/speech.py [--updates 40] [--rounds 5]      # about ten minutes

Each round starts three processes, one after the other: our run, fairseq's command, and fairseq's
command with our task, which has the same random numbers and therefore must give the same losses.
The time of an update is measured from its start to the start of the next one; the first ten are
excluded. The report has the median over rounds of the ratio of mean times, and the ratio of best
times: for each update the shortest time of all rounds, since the same update does the same work in
each round. Bound: 1.03.
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
"""Updates at the start of a process that are not timed."""
VARIANTS = ("ours", "stock", "plugged")
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
"""Networks by layers × width of the Transformer."""
SPEECH = Preparation(data="synthetic-speech", train=64, valid=2, voices=8)
LOG = "updates.jsonl"


def make_config(size: str, updates: int) -> Pretraining:
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


def run_ours(folder: Path, speech: Path, config: Pretraining) -> None:
    from dyt_wav2vec.pretraining import pretrain

    pretrain(Context(directory=folder, signature="benchmark", needs={"speech": speech}), config)


def run_fairseq(folder: Path, speech: Path, config: Pretraining, our_task: bool) -> None:
    """Run fairseq's command with the settings of our run."""
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
    if our_task:
        from dyt_wav2vec.hydra_train import USER_DIR

        overrides |= {"common.user_dir": USER_DIR, "task._name": "dyt_audio_pretraining"}
    chosen = ["--config-dir", str(recipes), "--config-name", "wav2vec2_base_librispeech"]
    changed = [f"++{name}={value}" for name, value in overrides.items()]
    sys.argv = ["fairseq-hydra-train", *chosen, f"hydra.run.dir={folder}/hydra", *changed]
    cli_main()


def record_updates(variant: str, folder: Path, speech: Path, config: Pretraining) -> None:
    """Train in this process, and write the start time and loss of each update."""
    from dyt_wav2vec import fairseq_compat

    fairseq_compat.load()
    from fairseq.logging import metrics
    from fairseq.trainer import Trainer

    step, updates = Trainer.train_step, []

    def stepped(self, *args, **options):
        start = time.perf_counter()
        logged = step(self, *args, **options)
        updates.append((start, metrics.get_meter("train", "loss").val))
        return logged

    with mock.patch.object(Trainer, "train_step", stepped):
        if variant == "ours":
            run_ours(folder, speech, config)
        else:
            run_fairseq(folder, speech, config, variant == "plugged")
    (folder / LOG).write_text("".join(json.dumps(update) + "\n" for update in updates))


def run_in_subprocess(
    variant: str, size: str, updates: int, folder: Path, speech: Path
) -> list[list[float]]:
    """Return the start time and loss of each update of a separate process."""
    folder.mkdir(parents=True)
    options = {"--variant": variant, "--size": size, "--updates": updates, "--folder": folder}
    words = [word for option in options.items() for word in option]
    command = [sys.executable, __file__, "--speech", speech, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment
    )
    if process.returncode:
        sys.exit(process.stdout + process.stderr)
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def update_times(updates: list[list[float]]) -> list[float]:
    """Return the seconds of each update, without the first ones."""
    starts = [start for start, _ in updates[WARMUP:]]
    return [after - before for before, after in pairwise(starts)]


@dataclass(kw_only=True)
class Measurement:
    """Results of all rounds of one network.

    Attributes:
        times: variant → update times of each round, in seconds.
        differences: relative differences between the losses of our run and of fairseq's command
            with our task.
    """

    times: dict[str, list[list[float]]]
    differences: list[float]

    def ratios(self) -> list[float]:
        """Return our mean time over fairseq's for each round."""
        pairs = zip(self.times["ours"], self.times["stock"], strict=True)
        return [statistics.mean(a) / statistics.mean(b) for a, b in pairs]

    def best_time(self, variant: str) -> float:
        """Return the mean over updates of the shortest time in all rounds."""
        return statistics.mean(map(min, zip(*self.times[variant], strict=True)))


def measure(size: str, updates: int, rounds: int, scratch: Path, done: Callable) -> Measurement:
    measurement = Measurement(times={variant: [] for variant in VARIANTS}, differences=[])
    for number in range(rounds + 1):
        # Each round starts with another variant.
        variants = VARIANTS[number % 3 :] + VARIANTS[: number % 3]
        runs = {}
        for variant in variants:
            # hydra accepts only plain folder names.
            folder = scratch / f"{list(SIZES).index(size)}-{number}-{variant}"
            runs[variant] = run_in_subprocess(variant, size, updates, folder, scratch / "speech")
            done()
        if number:  # round 0 is a warm-up
            for variant, run in runs.items():
                measurement.times[variant].append(update_times(run))
        pairs = zip(runs["ours"], runs["plugged"], strict=True)
        measurement.differences += [abs(a - b) / abs(b) for (_, a), (_, b) in pairs]
    return measurement


def compare(updates: int, rounds: int) -> None:
    from dyt_wav2vec.preparation import prepare

    grid = Grid(title=f"Pretraining with LN, {rounds} rounds of {updates} updates, 1 thread")
    headers = ("network", "ms, fairseq", "ours / fairseq", "best times", "losses", "max difference")
    for name in headers:
        grid.add_column(name, justify="right")
    results = {}
    with Progress() as bar, tempfile.TemporaryDirectory() as scratch:
        speech = Path(scratch) / "speech"
        speech.mkdir()
        prepare(Context(directory=speech, signature="benchmark"), SPEECH)
        task = bar.add_task("processes", total=len(SIZES) * (rounds + 1) * len(VARIANTS))
        for size in SIZES:
            measurement = measure(size, updates, rounds, Path(scratch), lambda: bar.advance(task))
            ratios, stock_time = measurement.ratios(), measurement.best_time("stock")
            least, most = min(ratios), max(ratios)
            grid.add_row(
                size,
                f"{1e3 * stock_time:.0f}",
                f"{statistics.median(ratios):.3f} ({least:.3f} to {most:.3f})",
                f"{measurement.best_time('ours') / stock_time:.3f}",
                f"{len(measurement.differences)}",
                f"{max(measurement.differences):.1g}",
            )
            best = measurement.best_time("ours") / stock_time
            results[size] = {"ratios": ratios, "best_times": best}
    Console().print(grid)
    print(json.dumps({"benchmark": "speech", **results}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, help=argparse.SUPPRESS)
    for name in ("--folder", "--speech"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant is None:
        compare(args.updates, args.rounds)
    else:
        config = make_config(args.size, args.updates)
        record_updates(args.variant, args.folder, args.speech, config)


if __name__ == "__main__":
    main()
