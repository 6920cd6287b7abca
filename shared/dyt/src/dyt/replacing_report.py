"""Report of a `replacing` block: the printed lines, and the file with the path of every layer."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dyt.conversion_report import Kept, Report, count_by_class
from dyt.norm_config import Norm


@dataclass(frozen=True)
class Network:
    """A network that was built in a block.

    Attributes:
        name: the name of its class.
        report: its norm layers.
        module: returns the network, or None if it no longer exists.
    """

    name: str
    report: Report
    module: Callable[[], nn.Module | None]


def summarize(norm: Norm, networks: Sequence[Network]) -> str:
    """Return the number of norm layers, in total and by network, in one line."""
    layers = [replacement for network in networks for replacement in network.report]
    changed = sum(replacement.replaced for replacement in layers)
    by_name: Counter[str] = Counter()
    for network in networks:
        by_name[network.name] += len(network.report)
    counts = ", ".join(f"{name} {count}" for name, count in by_name.items() if count)
    noun = "norm layer" if len(layers) == 1 else "norm layers"
    verb = "replaced" if changed == len(layers) else f"found, {changed or 'none'} replaced"
    return f"{norm}: {len(layers)} {noun} {verb} ({counts})"


def list_notes(networks: Sequence[Network], added: int, orphans: int) -> list[str]:
    """Return what a user should know in addition, one line each.

    Args:
        networks: the networks of the block.
        added: α and s that joined the parameter group of their γ.
        orphans: layers whose α is trained by no optimizer.
    """
    notes = []
    if added:
        notes.append(
            f"{added} scalars (α, s) were in no parameter group and joined the group of their γ"
        )
    if orphans:
        notes.append(f"α of {orphans} layers has gradients but is in no optimizer")
    if kept := [kept for network in networks for kept in network.report.kept]:
        notes.append(f"kept by skip: {count_by_class(kept)}")
    return notes


def nothing_message(
    networks: Sequence[Network], alone: Sequence[nn.Module], calls: Sequence[str]
) -> str:
    """Return why a block replaced nothing.

    Args:
        networks: networks with other norm layers.
        alone: norm layers that are part of no network.
        calls: calls of functional norms.
    """
    message = "no norm layer of a network was built in the block, so nothing was replaced."
    if alone:
        labels = [Kept("", type(module).__name__) for module in alone]
        message += f" Not part of any network: {count_by_class(labels)}."
    if kept := [kept for network in networks for kept in network.report.kept]:
        message += f" Kept by skip: {count_by_class(kept)}."
    if left := [left for network in networks for left in network.report.left]:
        message += f" Left alone: {count_by_class(left)}; name such classes in also."
    if calls:
        message += f" Functional norms are not replaced: {', '.join(calls)}."
    return f"{message} Networks that were built before the block are not changed."


def write_report(
    path: Path, summary: str, networks: Sequence[Network], notes: list[str], calls: list[str]
) -> None:
    """Write the report as JSON; the file is complete or absent."""
    content = {
        "summary": summary,
        "networks": [{"class": network.name, **network.report.to_dict()} for network in networks],
        "notes": notes,
        "functional_norms": calls,
    }
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(partial, path)
