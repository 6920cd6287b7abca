"""Defaults of site.toml, of resources and of training, as the documentation gives them."""

import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from matched import Resources, TrainConfig
from matched.site import Local, Runs, Slurm

EXAMPLE = Path(__file__).parents[2] / "site.example.toml"


def defaults(kind):
    return {f.name: f.default for f in fields(kind) if f.default is not MISSING}


@pytest.mark.parametrize(("section", "kind"), [("local", Local), ("runs", Runs), ("slurm", Slurm)])
def test_example_of_site_toml_gives_the_defaults(section, kind):
    """Lines that say "default" have the value that a file without the line has."""
    text = EXAMPLE.read_text(encoding="utf-8")
    (part,) = re.findall(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in part.splitlines() if re.search(r"# default\b", line)]
    given = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines))
    assert given and given.items() <= defaults(kind).items()


def test_limits_of_site_toml():
    assert defaults(Slurm) == {
        "partition": "", "account": "", "qos": "", "constraint": "", "gpus_per_node": 8,
        "gpu_memory_gb": 0, "max_hours": 24, "grace_seconds": 120, "parallel": 64,
        "max_array": 1000, "memory": "per-node", "setup": (),
    }  # fmt: skip
    assert defaults(Local) == {"workers": 0, "threads": 1, "gpus": 0, "gpu_memory_gb": 0}
    assert defaults(Runs) == {
        "folder": "runs", "checkpoint_steps": 500, "checkpoint_minutes": 10,
        "async_checkpoints": False,
    }  # fmt: skip


def test_defaults_of_resources():
    found = defaults(Resources)
    assert {name: value for name, value in found.items() if value} == {
        "processes": 1,
        "cpus": 1,
        "memory_gb": 4,
        "runs_per_job": 1,
    }


def test_defaults_of_training_add_nothing_to_a_recipe():
    """No warm-up, clipping or EMA; AdamW and the cosine as in timm's recipes for ViT."""
    assert {name: value for name, value in defaults(TrainConfig).items() if value} == {
        "schedule": "cosine",
        "warmup_prefix": True,
        "decay_epochs": 30,
        "decay_factor": 0.1,
        "weight_decay": 0.05,
        "betas": (0.9, 0.999),
        "precision": "fp32",
        "eval_epochs": 1,
        "log_steps": 50,
    }
