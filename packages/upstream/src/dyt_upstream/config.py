"""Configuration of a run of another repository's training script."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from dyt import Norm
from dyt_upstream.upstreams import find_script

PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z_][\w.-]*)\}")
"""Not ${name}, which is Hydra's."""
KNOWN = re.compile(r"output|checkout|seed|data\.[\w.-]+|needs\.[\w-]+")


@dataclass(frozen=True, kw_only=True)
class Script:
    """A training script of an upstream repository, with its command line as data.

    The arms of a table differ in ``norm`` alone.

    Attributes:
        upstream: the repository, a key of ``upstreams.UPSTREAMS``; site.toml has its checkout.
        command: ("train.py", arguments…) or ("-m", "package.train", arguments…), relative to the
            checkout. Replaced in the arguments: {output}, a folder for the script's own files;
            {checkout}; {seed}; {data.NAME}, the path of a data source; {needs.NAME}, the newest
            checkpoint of a run that this one needs, or the directory of a run of another task.
        metrics: metrics of the table, each of which the script's log must contain at the end.
        processes: number of processes. The script's batch size depends on it, so that it is part
            of the experiment.
        torchrun: start one process through torchrun as well, for scripts that require it.
        commit: the commit that the settings were taken from; another one is a warning.
        data: data sources, the checkout ("upstream.mae") among them.
        skip: module paths whose norm layers stay, as for ``dyt.convert``.
        also: names of further norm classes to convert.
        environment: variables to set, as (name, value) pairs.
        total: the last step that the script's log counts to, for the display of progress.
        norm, seed: of the arm and cell.
    """

    upstream: str
    command: tuple[str, ...]
    metrics: tuple[str, ...]
    processes: int = 1
    torchrun: bool = False
    commit: str = ""
    data: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    total: int = 0
    norm: Norm = field(default_factory=Norm.own)
    seed: int = 0

    def __post_init__(self) -> None:
        facts = find_script(self.upstream, self.command)
        if unknown := [name for name in self.metrics if name not in facts.metrics.values()]:
            raise ValueError(
                f"metrics {', '.join(unknown)} are not among those of {self.command[0]}: "
                f"{', '.join(facts.metrics.values())}"
            )
        if f"upstream.{self.upstream}" not in self.data:
            raise ValueError(f"data must contain 'upstream.{self.upstream}', the checkout")
        for word in self.command:
            for name in PLACEHOLDER.findall(word):
                if not KNOWN.fullmatch(name):
                    raise ValueError(
                        f"unknown placeholder {{{name}}} in {word!r}; known are {{output}}, "
                        "{checkout}, {seed}, {data.NAME} and {needs.NAME}"
                    )
                kind, _, source = name.partition(".")
                if kind == "data" and source not in self.data:
                    raise ValueError(f"{word!r} reads {source!r}, which is not in data")
        if self.processes < 1:
            raise ValueError(f"processes is {self.processes}; expected 1 or more")
