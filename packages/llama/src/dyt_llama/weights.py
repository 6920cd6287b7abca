"""Weights of trained networks: folders in transformers' format, written and read strictly.

A network with RMSNorm is a folder of transformers: config.json and model.safetensors, which
``LlamaForCausalLM.from_pretrained`` loads. A network with another norm has the same names and
formats, and norm.json with its conversion, but its weights are in files that begin with
"dyt_model": transformers' ``from_pretrained`` would load γ of DyT into RMSNorms, with α and the
embedding scale left out. ``load`` reads both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from dyt import Norm
from dyt_llama.config import Pretraining
from dyt_llama.model import Llama, build
from dyt_llama.network_config import Network
from matched.files import read_json
from matched.task import Context
from matched.training.artifacts import state_dict_mismatches
from matched.training.distributed import on_rank0

FOLDER = "weights"
NORM_FILE = "norm.json"
MAX_FILE_BYTES = 5 * 10**9
"""Of one .safetensors file, as transformers divides them."""
MAX_NAMED = 3
"""Differences that an error message names."""


def save(context: Context, model: Llama, config: Pretraining, tokenizer: str) -> None:
    """Write the weights to the folder "weights" of the run; all processes call it.

    Rank 0 holds one file's tensors at a time, so the whole model need not fit into its memory.

    Args:
        tokenizer: hash of the tokenizer, stored with the weights.
    """
    converted = config.norm.layer != "own"
    stem = "dyt_model" if converted else "model"
    files: dict[str, list[str]] = {}
    pending: dict[str, Tensor] = {}
    total = 0
    for name, tensor in model.state_dict().items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if context.rank == 0:
            copied = full.detach().cpu().contiguous()
            size = copied.numel() * copied.element_size()
            if pending and _bytes(pending) + size > MAX_FILE_BYTES:
                _write_tensors(context, f"{stem}-{len(files) + 1:05d}.safetensors", pending, files)
            pending[name] = copied.clone()
            total += size
        del full
    on_rank0(lambda: _finish(context, stem, pending, files, total))
    on_rank0(lambda: _write_configs(context, model, config, tokenizer))


def _write_tensors(
    context: Context, name: str, tensors: dict[str, Tensor], files: dict[str, list[str]]
) -> None:
    (context.directory / FOLDER).mkdir(exist_ok=True)
    with context.atomic_write(f"{FOLDER}/{name}") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    files[name] = list(tensors)
    tensors.clear()


def _finish(
    context: Context,
    stem: str,
    pending: dict[str, Tensor],
    files: dict[str, list[str]],
    total: int,
) -> None:
    """Write the last file, and the index if there are several."""
    if not files:
        _write_tensors(context, f"{stem}.safetensors", pending, files)
        return
    _write_tensors(context, f"{stem}-{len(files) + 1:05d}.safetensors", pending, files)
    file_of = {name: file for file, names in files.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    context.write_json(f"{FOLDER}/{stem}.safetensors.index.json", index)


def _write_configs(context: Context, model: Llama, config: Pretraining, tokenizer: str) -> None:
    content = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    context.write_json(f"{FOLDER}/config.json", content)
    context.write_json(
        f"{FOLDER}/{NORM_FILE}",
        {
            "norm": asdict(config.norm),
            "embedding_scale": config.embedding_scale,
            "network": asdict(config.network),
            "tokenizer": tokenizer,
        },
    )


def load(folder: Path, *, device: torch.device | None = None, tokenizer: str = "") -> Llama:
    """Build the network of a folder that ``save`` wrote, with its weights.

    Args:
        tokenizer: hash of the tokenizer that the network will be used with; empty for any.

    Raises:
        ValueError: if a file is missing or damaged, the weights do not fit the network, or the
            network was trained with another tokenizer.
    """
    record = read_json(folder / NORM_FILE, ("norm", "embedding_scale", "network", "tokenizer"))
    if record is None:
        raise ValueError(f"{folder} has no {NORM_FILE}; expected the weights of a pretraining run")
    if tokenizer and tokenizer != record["tokenizer"]:
        raise ValueError(
            f"the network in {folder} was trained with the tokenizer {record['tokenizer']}, not "
            f"with {tokenizer}; use its own"
        )
    norm = Norm(**record["norm"])
    built = build(
        Network(**record["network"]),
        norm,
        seed=0,
        device=device or torch.device("cpu"),
        embedding_scale=record["embedding_scale"],
    )
    load_tensors(built.model, folder, "model" if norm.layer == "own" else "dyt_model")
    return built.model


def load_tensors(model: Llama, folder: Path, stem: str = "model") -> None:
    """Load the .safetensors files of a folder strictly.

    Raises:
        ValueError: naming the first differences, if names or shapes differ; or if a file is
            missing or damaged.
    """
    loaded = dict(_tensors(folder, stem))
    if differences := state_dict_mismatches(model.state_dict(), loaded):
        more = len(differences) - MAX_NAMED
        named = "; ".join(differences[:MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(f"the weights in {folder} are those of another network: {named}")
    model.load_state_dict(loaded)


def _tensors(folder: Path, stem: str) -> Iterator[tuple[str, Tensor]]:
    for file in _weight_files(folder, stem):
        try:
            with safe_open(file, framework="pt") as content:
                for name in content.keys():  # noqa: SIM118  # no mapping
                    yield name, content.get_tensor(name)
        except FileNotFoundError:
            raise ValueError(f"there is no file {file}; copy the folder again") from None
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}); copy it again") from None


def _weight_files(folder: Path, stem: str) -> list[Path]:
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [folder / f"{stem}.safetensors"]
    content: Mapping[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    return [folder / name for name in dict.fromkeys(content["weight_map"].values())]


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
