"""Pretraining of LLaMA against plain scripts: training step, tokenization, reading, order.

    python benchmarks/llama.py [steps] [sharded] [tokenization] [reading] [order]
                               [--rounds 5] [--save]

steps: the task ``pretrain``, and a script of transformers and torch alone, train the same small
network on the same token file, and recompute the activations of every second layer. They alternate
in one process, after a run of each that is not counted. Ratio of CPU times. Memory is the peak of
what torch allocates in three steps, weights and optimizer included, from its profiler. Bounds: 1.03
and 1.05.

sharded: the same in two processes with FSDP2. Ratio of times, because waiting takes CPU time.

tokenization: the task ``tokenize`` on a .jsonl file of WordNet's glosses, and the library
tokenizers alone, with the documents in memory, which reads and writes no file. Ratio of CPU times
on one thread, and of times on two. Bounds: 1.2, and 5 MB per second of CPU time.

reading: CPU time of reading the samples of a step, over that of the step. Bound: 0.01.

order: memory that ordering 48.8 million samples takes while all positions are read. Bound: 100 MB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaForCausalLM

from dyt_llama.config import Pretraining, Tokenization
from dyt_llama.glosses import glosses
from dyt_llama.model import transformers_config
from dyt_llama.network_config import LLAMA_7B, Network
from dyt_llama.pretraining import pretrain
from dyt_llama.token_data import Manifest, Samples, TokenStream
from dyt_llama.tokenization import tokenize
from dyt_llama.tokenizers_io import BATCH, load, train
from matched.task import Context
from matched.training.distributed import process_group
from matched.training.order import EpochOrder

CSV = measuring.RESULTS / "llama.csv"
LENGTH = 256
NETWORK = Network(
    width=192, depth=4, heads=6, kv_heads=6, ffn=512, vocabulary=2048, positions=LENGTH
)
CONFIG = Pretraining(
    network=NETWORK,
    length=LENGTH,
    steps=40,
    batch=8,
    micro_batch=8,
    lr=1e-3,
    min_lr=1e-4,
    schedule="fms-fsdp",
    checkpointed=0.5,
    log_steps=10,
    eval_samples=1,
)
SAMPLES, PAPER_BATCH = 48_828_125, 1024
"""Samples of 4,096 tokens in 200 billion tokens, and in a step."""
MEMORY_STEPS = 3  # more add nothing to the peak, and the profiler records every allocation
TEXT_BYTES = 12_000_000
GLOSSES_IN_DOCUMENT = 30
RANK, WORLD_SIZE = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))


def context(folder: Path, **changes: Any) -> Context:
    folder.mkdir(parents=True, exist_ok=True)
    started = Context(
        directory=folder, signature=folder.name, rank=RANK, local_rank=RANK, world_size=WORLD_SIZE
    )
    return replace(started, **changes)


def tokenized_glosses(folder: Path) -> Path:
    """Tokenize the glosses, and return the run's directory."""
    config = Tokenization(data=("glosses",), vocabulary=NETWORK.vocabulary, held_out=0.05)
    tokenize(context(folder), config)
    return folder


# --- training


def ours(folder: Path, tokens: Path, steps: int = CONFIG.steps) -> None:
    where = context(folder, needs={"tokens": tokens}, checkpoint_steps=10**9)
    pretrain(replace(where, shard=WORLD_SIZE > 1), replace(CONFIG, steps=steps))


def plain(folder: Path, tokens: Path, steps: int = CONFIG.steps) -> None:
    """Train as a script of one page does."""
    torch.manual_seed(0)
    with process_group(context(folder)):
        model = LlamaForCausalLM(transformers_config(NETWORK)).train()
        layers = model.model.layers
        for number in range(0, len(layers), 2):
            layers[number] = checkpoint_wrapper(layers[number])
        if WORLD_SIZE > 1:
            for module in (*layers, model):
                fully_shard(module)
        optimizer = torch.optim.AdamW(model.parameters(), CONFIG.lr, betas=CONFIG.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _lr_factor)
        for step, batch in enumerate(_batches(tokens, steps)):
            logits = model(batch[:, :-1], use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            if step % CONFIG.log_steps == 0:
                loss.item()
        if WORLD_SIZE > 1:
            dcp.save(model.state_dict(), checkpoint_id=folder / "checkpoint")
        else:
            torch.save([model.state_dict(), optimizer.state_dict()], folder / "checkpoint.pt")


def _lr_factor(step: int) -> float:
    return 0.1 + 0.45 * (1 + math.cos(math.pi * step / CONFIG.steps))


def _batches(tokens: Path, steps: int) -> Iterator[torch.Tensor]:
    """Yield this process's part of random batches, (B, T + 1)."""
    ids = np.memmap(tokens / "tokens" / "train-00000.bin", np.uint16, "r")
    order = np.random.default_rng(0).permutation((len(ids) - 1) // LENGTH)
    for step in range(steps):
        batch = order[step * CONFIG.batch : (step + 1) * CONFIG.batch]
        own = np.split(batch, WORLD_SIZE)[RANK]
        yield torch.from_numpy(
            np.stack([ids[i * LENGTH : (i + 1) * LENGTH + 1].astype(np.int64) for i in own])
        )


def measure_training(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds of both trainings in each round, and their peaks of memory."""
    clock = time.perf_counter if WORLD_SIZE > 1 else time.process_time
    found: dict[str, Any] = {"ours": [], "plain": []}
    for number in range(rounds + 1):
        for name, run in (("ours", ours), ("plain", plain)):
            start = clock()
            run(folder / f"{name}-{number}", folder / "tokens")
            found[name].append(clock() - start)
    for name, run in (("ours", ours), ("plain", plain)):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run(folder / f"{name}-memory", folder / "tokens", MEMORY_STEPS)
        found[f"{name}_peak"] = allocated_peak(profiler)
    return found


def allocated_peak(profiler: profile) -> int:
    """Return the largest number of bytes that torch had allocated on the CPU at a time."""
    events: Any = profiler.profiler
    memory = [e for e in events.kineto_results.events() if e.name() == "[memory]"]
    total = peak = 0
    for event in sorted(memory, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def steps(folder: Path, rounds: int, processes: int = 1) -> list[dict[str, Any]]:
    tokenized_glosses(folder / "tokens")
    found = start_workers("training", folder, rounds, processes)
    times = {name: found[name][1:] for name in ("ours", "plain")}
    ms = 1e3 * statistics.median(times["plain"]) / CONFIG.steps
    what = "step" if processes == 1 else "step, sharded"
    memory = found["ours_peak"] / found["plain_peak"]
    return [
        row(f"{what}: time", ratios(times["ours"], times["plain"]), 1.03, f"{ms:.0f} ms"),
        row(f"{what}: memory", [memory], 1.05, f"{found['plain_peak'] / 1e6:.0f} MB"),
    ]


def sharded(folder: Path, rounds: int) -> list[dict[str, Any]]:
    return steps(folder, rounds, processes=2)


# --- tokenization


def write_text(folder: Path) -> int:
    """Write documents of glosses, and a tokenizer trained on them; return the bytes of text."""
    (folder / "text").mkdir()
    every, size, number = glosses(), 0, 0
    with (folder / "text" / "0.jsonl").open("w", encoding="utf-8") as file:
        while size < TEXT_BYTES:
            # Other glosses each time, so that no document occurs twice.
            first = number * 7919 % len(every)
            document = "; ".join(every[first :: 1 + number % 97][:GLOSSES_IN_DOCUMENT])
            file.write(json.dumps({"text": document}) + "\n")
            size, number = size + len(document.encode()), number + 1
    tokenizer = train(every, 8192, bos="<s>", eos="</s>")
    tokenizer.save(str(folder / "tokenizer.json"))
    return size


def measure_tokenization(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds of the task and of the library in each round."""
    threads = os.environ["RAYON_NUM_THREADS"]
    clock = time.process_time if threads == "1" else time.perf_counter
    data = {"text": folder / "text", "tokenizer": folder / "tokenizer.json"}
    lines = (folder / "text" / "0.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    found: dict[str, Any] = {"ours": [], "plain": []}
    for number in range(rounds + 1):
        start = clock()
        run = folder / f"run-{threads}-{number}"  # a new one: finished files would be kept
        tokenize(context(run, data=data), Tokenization())
        found["ours"].append(clock() - start)
        start = clock()
        tokenizer = load(folder / "tokenizer.json")
        for first in range(0, len(texts), BATCH):
            batch = texts[first : first + BATCH]
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                len(encoding.ids)
        found["plain"].append(clock() - start)
    return found


def tokenization(folder: Path, rounds: int) -> list[dict[str, Any]]:
    megabytes = write_text(folder) / 1e6
    rows = []
    for threads in (1, 2):
        found = start_workers("tokenization", folder, rounds, RAYON_NUM_THREADS=str(threads))
        times, of_library = found["ours"][1:], found["plain"][1:]
        what = f"tokenization, {threads} thread{'s' if threads > 1 else ''}"
        note = f"library {megabytes / statistics.median(of_library):.1f} MB/s"
        rows.append(row(f"{what}: time", ratios(times, of_library), 1.2, note))
        speeds = [megabytes / seconds for seconds in times]
        rows.append(row(f"{what}: MB/s", speeds, 5.0 if threads == 1 else None, least=True))
    return rows


# --- reading and order


def reading(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Compare samples of 4,096 tokens with a step of the small network on as many tokens."""
    tokens = tokenized_glosses(folder / "tokens")
    stream = TokenStream(tokens, Manifest.read(tokens), "train")
    samples = Samples(stream, LLAMA_7B.positions)
    start = time.process_time()
    plain(folder / "plain", tokens)
    of_token = (time.process_time() - start) / (CONFIG.steps * CONFIG.batch * LENGTH)
    shares = []
    for _ in range(rounds):
        start = time.process_time()
        for index in range(len(samples)):
            samples[index]
        seconds = (time.process_time() - start) / len(samples)
        shares.append(seconds / (of_token * samples.length))
    return [row("reading: share of a step", shares, 0.01, f"{1e6 * seconds:.0f} µs a sample")]


def order(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Order one epoch, and read its parts as the steps of the 7B run do."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    epoch = EpochOrder(0, 0, SAMPLES)
    for step in range(SAMPLES // PAPER_BATCH):
        epoch.part(step * PAPER_BATCH, PAPER_BATCH)
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6
    note = f"{1e6 * seconds / (SAMPLES // PAPER_BATCH):.0f} µs a step"
    return [row("order: MB", [grown], 100.0, note)]


# --- workers and output


def start_workers(
    name: str, folder: Path, rounds: int, processes: int = 1, **environment: str
) -> dict[str, Any]:
    """Measure in new processes, and return what the first of them found."""
    port = str(20_000 + os.getpid() % 10_000)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    command = [sys.executable, __file__, "--worker", name, str(folder), "--rounds", str(rounds)]
    started = [
        subprocess.Popen(command, env={**os.environ, **common, **environment, "RANK": str(rank)})
        for rank in range(processes)
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError(f"a process of {name} failed")
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, others, strict=True)]


def row(
    what: str, values: list[float], bound: float | None, note: str = "", *, least: bool = False
) -> dict[str, Any]:
    p10, median, p90 = measuring.percentiles(values)
    good = bound is None or (median >= bound if least else median <= bound)
    figures = {"p10": f"{p10:.4g}", "median": f"{median:.4g}", "p90": f"{p90:.4g}"}
    return {"what": what, **figures, "bound": bound or "", "met": good, "note": note}


PARTS = {
    "steps": steps,
    "sharded": sharded,
    "tokenization": tokenization,
    "reading": reading,
    "order": order,
}
WORKERS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "training": measure_training,
    "tokenization": measure_tokenization,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--rounds", type=measuring.positive_int, default=5)
    parser.add_argument("--save", action="store_true", help="add the rows to the CSV file")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.worker:
        name, folder = arguments.worker
        found = WORKERS[name](Path(folder), arguments.rounds)
        if RANK == 0:
            (Path(folder) / f"{name}.json").write_text(json.dumps(found))
        return
    rows = []
    for part in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            rows += PARTS[part](Path(folder), arguments.rounds)
    grid = Table("what", "median", "10 to 90 %", "bound", "met", "note")
    for r in rows:
        interval = f"{r['p10']} to {r['p90']}"
        grid.add_row(r["what"], r["median"], interval, str(r["bound"]), str(r["met"]), r["note"])
    Console(width=120).print(grid)
    if arguments.save:
        measuring.append(CSV, [{**r, **measuring.environment("cpu")} for r in rows])


if __name__ == "__main__":
    main()
