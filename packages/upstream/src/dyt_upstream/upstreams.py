"""Facts about upstream repositories: commits, training scripts, logs, checkpoints and resume flags.

Sources are the repositories at the commits named here. Imports no torch: recipes load fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dyt_upstream.records import Parser, json_lines, lightning_bar, matches, printed_json


@dataclass(frozen=True, kw_only=True)
class ScriptFacts:
    """How a training script reports, saves and resumes.

    Attributes:
        records: parser of its log.
        metrics: name in the log → name in our tables. The name "loss" decides about divergence.
        higher: our names of which a higher value is better.
        checkpoints: glob of its checkpoints in the folder of its files; "" if there are none.
        resume: arguments that continue from {checkpoint}; empty if the script finds its own
            checkpoint or cannot resume.
        resumes: False if the script always starts from the beginning.
        diverged: regular expression of the line it prints when it gives up on a loss.
    """

    records: Parser
    metrics: Mapping[str, str]
    higher: tuple[str, ...] = ()
    checkpoints: str = ""
    resume: tuple[str, ...] = ()
    resumes: bool = True
    diverged: str = r"Loss is (nan|-?inf), stopping training"


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A repository.

    Attributes:
        repository: owner and name on GitHub; "" for the one in this package.
        commit: the commit that these facts describe.
        scripts: first words of a command, joined by a space → facts.
        shims: module to import before the scripts, for libraries that are newer than the
            scripts; "" if none is needed. It changes no norm.
    """

    repository: str
    commit: str
    scripts: Mapping[str, ScriptFacts]
    shims: str = ""


_LOSS = {"train_loss": "loss"}


def _deit_script(*higher: str, **metrics: str) -> ScriptFacts:
    """Return the facts of a script with log.txt, checkpoints and --resume as DeiT's main.py.

    Args:
        higher: our names of which a higher value is better.
        metrics: name in the log → name in our tables, in addition to the loss.
    """
    return ScriptFacts(
        records=json_lines("log.txt"),
        metrics={**_LOSS, **metrics},
        higher=higher,
        checkpoints="checkpoint-*.pth",
        resume=("--resume", "{checkpoint}"),
    )


_LIGHTNING = ScriptFacts(
    # The only other log is that of wandb. The bar's "loss" is a mean over the last 20 batches;
    # train/loss is that of an epoch, of which the papers' pretraining is a part.
    records=lightning_bar,
    metrics={"loss": "loss", "val/loss": "val_loss", "test/loss": "test_loss"},
    checkpoints="checkpoints/*.ckpt",
    resume=("train.ckpt={checkpoint}",),
)

UPSTREAMS = {
    "miniature": Upstream(
        repository="",
        commit="",
        scripts={"train.py": _deit_script("accuracy", test_acc="accuracy")},
    ),
    "mae": Upstream(
        repository="facebookresearch/mae",
        commit="efb2a8062c206524e35e47d04501ed4f544c0ae8",
        shims="dyt_upstream.shims.mae",
        scripts={
            "main_pretrain.py": _deit_script(),
            "main_finetune.py": _deit_script("top1", "top5", test_acc1="top1", test_acc5="top5"),
        },
    ),
    "dino": Upstream(
        repository="facebookresearch/dino",
        commit="7c446df5b9f45747937fb0d72314eb9f7b66930a",
        shims="dyt_upstream.shims.dino",
        scripts={
            "main_dino.py": ScriptFacts(
                records=json_lines("log.txt"),
                metrics=_LOSS,
                checkpoints="checkpoint*.pth",  # it finds checkpoint.pth by itself
            )
        },
    ),
    "dit": Upstream(
        repository="facebookresearch/DiT",
        commit="ed81ce2229091fd4ecc9a223645f95cf379d582b",
        scripts={
            "train.py": ScriptFacts(
                records=matches(
                    r"\(step=(?P<step>\d+)\) Train Loss: (?P<train_loss>\S+),", "*/log.txt"
                ),
                metrics=_LOSS,
                checkpoints="*/checkpoints/*.pt",
                resumes=False,
            )
        },
    ),
    "hyenadna": Upstream(
        repository="HazyResearch/hyena-dna",
        commit="d553021b483b82980aa4b868b37ec2d4332e198a",
        shims="dyt_upstream.shims.hyenadna",
        scripts={"-m train": _LIGHTNING},
    ),
    "caduceus": Upstream(
        repository="kuleshov-group/caduceus",
        commit="0060a6d8079b6a040fc55d505e15972a327b70a6",
        shims="dyt_upstream.shims.caduceus",
        scripts={"-m train": _LIGHTNING},
    ),
    "fairseq": Upstream(
        repository="facebookresearch/fairseq",
        commit="3d262bb25690e4eb2e7d3c1309b1e9c406ca4b99",
        shims="dyt_wav2vec.hydra_train",  # a name, no import: only runs of fairseq need the package
        scripts={
            "-m fairseq_cli.hydra_train": ScriptFacts(
                # "update" is a fraction of epochs.
                records=printed_json("num_updates", "valid_num_updates"),
                metrics={"loss": "loss", "valid_loss": "val_loss", "valid_accuracy": "accuracy"},
                higher=("accuracy",),
                checkpoints="checkpoints/checkpoint*.pt",  # it finds checkpoint_last.pt by itself
                diverged="Minimum loss scale reached",
            )
        },
    ),
    "nanogpt": Upstream(
        repository="karpathy/nanoGPT",
        commit="3adf61e154c3fe3fca428ad6bc3818b27a3b8291",
        scripts={
            "train.py": ScriptFacts(
                records=matches(
                    r"^step (?P<step>\d+): train loss (?P<train_loss>\S+), val loss (?P<val>\S+)"
                ),
                metrics={**_LOSS, "val": "val_loss"},
                checkpoints="ckpt.pt",
                resume=("--init_from=resume",),
            )
        },
    ),
}


def find_upstream(name: str) -> Upstream:
    """Return the repository of a name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in UPSTREAMS:
        raise ValueError(f"unknown upstream {name!r}; known are {', '.join(UPSTREAMS)}")
    return UPSTREAMS[name]


def find_script(upstream: str, command: tuple[str, ...]) -> ScriptFacts:
    """Return the facts about the script of a command.

    Raises:
        ValueError: for an unknown upstream or script.
    """
    scripts = find_upstream(upstream).scripts
    for words in (1, 2):
        if (script := " ".join(command[:words])) in scripts:
            return scripts[script]
    raise ValueError(
        f"{' '.join(command[:2])!r} starts with no known script of {upstream}; known are "
        f"{', '.join(scripts)}"
    )
