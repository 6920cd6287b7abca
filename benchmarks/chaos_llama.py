"""Chains of Table 4 on text files, and runs that continue in another number of processes."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import psutil
from chaos_project import Project, console, row, same_but_for_rounding, wait_until

from dyt_llama.glosses import glosses
from dyt_llama.tokenizers_io import train

FILES = 12
TOLERANCE = 1e-3
"""Largest relative difference of a loss: rounding differs, and training amplifies it."""

TEXT_CHAINS = """
from dataclasses import replace

TEXT = Run(task=TOKENIZE, config=Tokenization(data=("text", "tokenizer"), held_out=0.05))

def on_text(scored):
    run = scored.needs["pretrained"]
    return replace(run, config=replace(run.config, steps=600), needs={"tokens": TEXT})

ROWS = {name: SCALE.runs[name] for name in ("llama_7b", "llama_34b")}
ROWS = {name: {arm: on_text(run) for arm, run in row.items()} for name, row in ROWS.items()}
SCALE = replace(SCALE, seeds=(0,), runs=ROWS, metrics=METRICS[:1])
"""
SHARDED = """
from dataclasses import replace

RESOURCES = replace(SCALE.resources, shard=True)
SCALE = replace(SCALE, seeds=(0,), resources=RESOURCES)
"""
ARMS = ("RMSNorm", "DyT")


def write_text(folder: Path) -> str:
    """Write glosses as text files, and a tokenizer; return the lines of site.toml."""
    (folder / "text").mkdir(parents=True)
    documents = glosses()
    for number in range(FILES):
        lines = (json.dumps({"text": text}) + "\n" for text in documents[number::FILES])
        content = "".join(lines).encode()
        if number % 2:
            (folder / "text" / f"{number:02d}.jsonl.gz").write_bytes(gzip.compress(content))
        else:
            (folder / "text" / f"{number:02d}.jsonl").write_bytes(content)
    tokenizer = folder / "tokenizer.json"
    train(documents, 2048, bos="<s>", eos="</s>").save(str(tokenizer))
    return f"[data]\ntext = '{folder / 'text'}'\ntokenizer = '{tokenizer}'\n"


def processes(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Kill runs of two processes after a checkpoint, and continue them in one."""
    site = "[runs]\ncheckpoint_steps = 20\n"
    reference = Project(folder / "reference", site, SHARDED, table="table04")
    project = Project(folder / "killed", site, SHARDED, table="table04")
    for arm in ARMS:
        console.print(f"processes: {arm}")
        cell = ("run", "table4", "--row", "llama_7b", "--arm", arm)
        code, out = reference.matched(*cell)
        assert code == 0, out
        (signature,) = _pretrainings(reference).keys() - _pretrainings(project).keys()
        _kill_after_checkpoint(project, cell, signature)
        code, out = project.matched(*cell)
        assert code == 0, out
    expected = _pretrainings(reference)
    same = [
        name
        for name, path in _pretrainings(project).items()
        if same_but_for_rounding(path, expected[name], TOLERANCE)
        and "resumed from step" in (path / "log.txt").read_text()
    ]
    return [
        row("2 processes (FSDP2), SIGKILL, 1 process: runs that end the same to rounding",
            f"{len(same)} of {len(ARMS)}", f"{len(ARMS)} of {len(ARMS)}", len(same) == len(ARMS)),
    ]  # fmt: skip


def _kill_after_checkpoint(project: Project, cell: tuple[str, ...], signature: str) -> None:
    """Start a cell in two processes, and kill both once its run has written a checkpoint."""
    process = project.start(*cell, stdout=subprocess.DEVNULL, processes=2)
    path = wait_until(lambda: _pretrainings(project).get(signature))
    wait_until(lambda: list(path.glob("checkpoints/step_*/rest.pt")))
    # torchrun's processes are in sessions of their own, so killing its group would not reach them.
    launcher = psutil.Process(process.pid)
    victims = [launcher, *launcher.children(recursive=True)]
    for victim in victims:
        victim.kill()
    process.wait()
    psutil.wait_procs(victims)
    assert not (path / "result.json").exists(), "it ended before it was killed"


def _pretrainings(project: Project) -> dict[str, Path]:
    return {n: path for n, path in project.runs().items() if "pretrain" in path.parent.name}
