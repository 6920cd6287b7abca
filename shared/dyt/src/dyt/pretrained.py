"""Saving and loading of converted networks: configuration, conversion and weights in one folder.

transformers' and diffusers' own `from_pretrained` builds the network with its norm layers and would
load γ of DyT into them. The weights are therefore in a file that it does not find.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyt.architecture_rules import scale_embedding, scaled_embeddings
from dyt.conversion import convert
from dyt.conversion_report import Report
from dyt.norm_config import Norm
from dyt.norm_layout import NormLayout
from dyt.norm_survey import DYNAMIC

CONVERSION_FILE = "dyt.json"
WEIGHTS_FILE = "dyt_weights.pt"


def save_pretrained(model: nn.Module, report: Report, folder: str | os.PathLike[str]) -> None:
    """Save a converted network: its conversion, weights and, where it has one, its configuration.

    `load_pretrained` restores it. `from_pretrained` of transformers and diffusers refuses the
    folder, as it finds no weights. The model's own `save_pretrained` must not be used after a
    conversion: its weights load into a network with norm layers, with at most a warning.

    Args:
        model: the converted network of any library.
        report: the report of `convert`.
        folder: the folder to write to; existing files of these names are replaced.
    """
    if not any(isinstance(module, DYNAMIC) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has no DyT layers: there is no conversion to save."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    library_model: Any = model  # of transformers, or of diffusers
    if hasattr(getattr(model, "config", None), "save_pretrained"):
        library_model.config.save_pretrained(folder)
    elif hasattr(model, "save_config"):
        library_model.save_config(folder)
    record = {**report.to_dict(), "scaled_embeddings": scaled_embeddings(model)}
    _replace(folder / WEIGHTS_FILE, lambda path: torch.save(model.state_dict(), path))
    text = json.dumps(record, ensure_ascii=False, indent=1)
    _replace(folder / CONVERSION_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def load_pretrained(model: nn.Module, folder: str | os.PathLike[str]) -> Report:
    """Convert a network as the saved one was, and load its weights strictly.

    Args:
        model: the unconverted network, as its library builds it: timm.create_model(name),
            AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)) or
            UNet2DModel.from_config(UNet2DModel.load_config(folder)).
        folder: the folder that `save_pretrained` wrote.

    Returns:
        The report of the conversion.

    Raises:
        ValueError: a file is missing, or the network is not the one that was saved.
    """
    folder = Path(folder)
    for name in (CONVERSION_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: it was not written by dyt.save_pretrained.")
    record = json.loads((folder / CONVERSION_FILE).read_text(encoding="utf-8"))
    kinds = {type(module).__name__: type(module) for module in model.modules()}
    also = {
        kinds[name]: layout and NormLayout(**layout)
        for name, layout in record["also"].items()
        if name in kinds
    }
    norm = Norm(**record["norm"]).uncalibrated()  # the weights have the fitted α
    report = convert(model, norm, also=also, skip=record["skip"])
    saved_paths = [r["path"] for r in record["replacements"]]
    if [r.path for r in report] != saved_paths:
        raise ValueError(
            f"{type(model).__name__} has norm layers at {[r.path for r in report]}, but the saved"
            f" network had them at {saved_paths}. Build the same network."
        )
    for replacement in record["replacements"]:
        if replacement["alpha0"] is not None:
            model.get_submodule(replacement["path"]).alpha0 = replacement["alpha0"]
    for path in record["scaled_embeddings"]:
        scale_embedding(model, path)
    weights = torch.load(folder / WEIGHTS_FILE, map_location="cpu", weights_only=True)
    load_state_dict(model, weights)
    return report


def load_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load a state dict strictly, with an error that names a missing conversion.

    Raises:
        ValueError: one of the network and the checkpoint is converted and the other is not, names
            or shapes differ, or the network is on the meta device.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} is on the meta device, where loading has no effect. Build it"
            " on a real device."
        )
    converted = any(isinstance(module, DYNAMIC) for module in model.modules())
    has_alpha = any(name.rpartition(".")[2] == "alpha" for name in state_dict)
    if has_alpha and not converted:
        raise ValueError(
            f"This is a DyT checkpoint, but {type(model).__name__} has norm layers: call"
            " dyt.convert(model) first."
        )
    needs_alpha = any(isinstance(m, DYNAMIC) and m.alpha is not None for m in model.modules())
    if needs_alpha and not has_alpha:
        raise ValueError(
            f"{type(model).__name__} is converted, but this is a checkpoint of the network with"
            " norm layers. Load it first, then call dyt.convert(model, copy_affine=True,"
            " calibrate=batch)."
        )
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _replace(path: Path, write: Any) -> None:
    """Write a file under another name, then give it its own."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)
