"""Smoke scale of the upstream tables, which runs the miniature upstream, and shared names."""

from dyt_upstream.config import Script
from matched import Metric, Resources, Run, Scale
from recipes.smoke_norms import SMOKE_NORMS

TASK = "dyt_upstream.script:run"
SEED = ("--seed", "{seed}")
ACCURACY = Metric(key="accuracy", label="accuracy", unit="%", direction="higher")


def miniature(*, processes: int = 1, **sizes: int) -> Run:
    """The miniature upstream's script, which adds digits, with other sizes: width=64, depth=2."""
    options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    config = Script(
        upstream="miniature",
        command=("train.py", *SEED, "--output", "{output}", *options),
        metrics=("accuracy", "loss"),
        data=("upstream.miniature",),
        processes=processes,
    )
    return Run(task=TASK, config=config)


SMOKE = Scale(
    name="smoke",
    arm_norms=SMOKE_NORMS,
    seeds=(0,),
    runs={
        "miniature": miniature(width=64, depth=2, epochs=8, steps=40),
        "miniature_ddp": miniature(processes=2, width=64, depth=2, epochs=4, steps=40),
    },
    resources=Resources(cpus=1, memory_gb=4, minutes=3),
    resource_overrides={
        "miniature_ddp": Resources(processes=2, cpus=1, memory_gb=4, minutes=3),
    },
    metrics=(ACCURACY, Metric(key="loss", label="loss", direction="lower")),
    note="The miniature upstream in packages/upstream in place of the official scripts and data.",
)
LABELS = {"miniature": "miniature", "miniature_ddp": "miniature, two processes"}
