"""Weights and tokenizers of trained networks: folders of transformers, written and read strictly.

A network with RMSNorm is a folder of transformers: config.json and model.safetensors, which
``LlamaForCausalLM.from_pretrained`` loads. A network with another norm has the same names and
formats, and norm.json with its conversion, but its weights are in files that begin with
"dyt_model": transformers' ``from_pretrained`` would load γ of DyT into RMSNorms, with α and the
embedding scale left out. ``load`` reads both.

The tokenizer in the folder puts BOS before every text, as the training did. transformers'
``AutoTokenizer`` and ``load_tokenizer`` load it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerFast

from dyt import Norm
from dyt_llama import tokenizers_io
from dyt_llama.config import Pretraining
from dyt_llama.model import Llama, allocate, build_on_meta
from dyt_llama.network_config import Network
from dyt_llama.token_data import FOLDER as TOKENS
from dyt_llama.token_data import TOKENIZER, Manifest
from matched.files import read_json
from matched.task import Context
from matched.training.artifacts import mismatch_summary, state_dict_mismatches
from matched.training.distributed import on_rank0

FOLDER = "weights"
NORM_FILE = "norm.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
MAX_FILE_BYTES = 5 * 10**9
"""Of one .safetensors file, as transformers divides them."""


def save(context: Context, model: Llama, config: Pretraining, manifest: Manifest) -> None:
    """Write the weights to the folder "weights" of the run; all processes call it.

    Rank 0 holds one file's tensors at a time, so the whole model need not fit into its memory.

    Args:
        manifest: of the tokens; hash, BOS and EOS of its tokenizer are stored with the weights.
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
    on_rank0(lambda: _write_configs(context, model, config, manifest))


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


def _write_configs(context: Context, model: Llama, config: Pretraining, manifest: Manifest) -> None:
    pieces = {"bos_token_id": manifest.bos, "eos_token_id": manifest.eos}
    content = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]} | pieces
    context.write_json(f"{FOLDER}/config.json", content)
    context.write_json(
        f"{FOLDER}/{NORM_FILE}",
        {
            "norm": asdict(config.norm),
            "embedding_scale": config.embedding_scale,
            "network": asdict(config.network),
            "tokenizer": manifest.tokenizer,
            "bos": manifest.bos,
            "eos": manifest.eos,
        },
    )


def save_tokenizer(context: Context, tokens: Path, manifest: Manifest) -> None:
    """Copy the tokenizer next to the weights, with BOS before every text; call on rank 0.

    Args:
        tokens: directory of the run that tokenized the text.
    """
    tokenizer = tokenizers_io.load(tokens / TOKENS / TOKENIZER)
    bos, eos = (tokenizer.id_to_token(number) for number in (manifest.bos, manifest.eos))
    tokenizers_io.add_bos(tokenizer, bos)
    with context.atomic_write(f"{FOLDER}/{TOKENIZER}") as temporary:
        tokenizer.save(str(temporary))
    context.write_json(
        f"{FOLDER}/{TOKENIZER_CONFIG}",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": eos,
            "clean_up_tokenization_spaces": False,
        },
    )


def _read_record(folder: Path) -> dict[str, Any]:
    keys = ("norm", "embedding_scale", "network", "tokenizer", "bos", "eos")
    record = read_json(folder / NORM_FILE, keys)
    if record is None:
        raise ValueError(f"{folder} has no {NORM_FILE}; expected the weights of a pretraining run")
    return record


def load(
    folder: Path,
    *,
    device: torch.device | None = None,
    tokenizer: str = "",
    dtype: torch.dtype = torch.float32,
) -> Llama:
    """Build the network of a folder that ``save`` wrote, with its weights.

    Args:
        tokenizer: hash of the tokenizer that the network will be used with; empty for any.
        dtype: of the weights in memory; rotary frequencies stay in float32.

    Raises:
        ValueError: if a file is missing or damaged, the weights do not fit the network, or the
            network was trained with another tokenizer.
    """
    record = _read_record(folder)
    if tokenizer and tokenizer != record["tokenizer"]:
        raise ValueError(
            f"the network in {folder} was trained with the tokenizer {record['tokenizer']}, not "
            f"with {tokenizer}; use its own"
        )
    norm = Norm(**record["norm"])
    built = build_on_meta(
        Network(**record["network"]), norm, embedding_scale=record["embedding_scale"]
    )
    model = built.model
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    allocate(model, device=device or torch.device("cpu"))
    load_tensors(model, folder, "model" if norm.layer == "own" else "dyt_model")
    for settings in (model.config, model.generation_config):
        settings.bos_token_id, settings.eos_token_id = record["bos"], record["eos"]
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return transformers' tokenizer of a folder that ``save`` and ``save_tokenizer`` wrote.

    Raises:
        ValueError: if it is missing, or does not put BOS before a text as the training did.
    """
    record = _read_record(folder)
    if not (folder / TOKENIZER).is_file():
        raise ValueError(
            f"{folder} has no {TOKENIZER}; copy the folder again, or train the network again"
        )
    tokenizer = tokenizers_io.load(folder / TOKENIZER)
    bos, eos = (tokenizer.id_to_token(record[piece]) for piece in ("bos", "eos"))
    if tokenizer.encode("a").ids[:1] != [record["bos"]]:
        raise ValueError(
            f"the tokenizer in {folder} does not begin a text with {bos}, but the network was "
            f"trained with it, and would score badly; restore {TOKENIZER} of the training run"
        )
    wrapper: Any = PreTrainedTokenizerFast  # its constructor has no annotations
    return wrapper(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


@torch.no_grad()
def load_tensors(model: Llama, folder: Path, stem: str = "model") -> None:
    """Load the .safetensors files of a folder strictly.

    Raises:
        ValueError: naming the first differences, if names or shapes differ; or if a file is
            missing or damaged.
    """
    with torch.device("meta"):
        shapes = {name: torch.empty(shape) for name, shape in _shapes(folder, stem)}
    state = model.state_dict()
    if mismatches := state_dict_mismatches(state, shapes):
        raise ValueError(
            f"the weights in {folder} are those of another network: {mismatch_summary(mismatches)}"
        )
    # One by one, so that the memory holds the network once.
    for name, tensor in _tensors(folder, stem):
        state[name].copy_(tensor)


def _shapes(folder: Path, stem: str) -> Iterator[tuple[str, list[int]]]:
    for content, name in _entries(folder, stem):
        yield name, content.get_slice(name).get_shape()


def _tensors(folder: Path, stem: str) -> Iterator[tuple[str, Tensor]]:
    for content, name in _entries(folder, stem):
        yield name, content.get_tensor(name)


def _entries(folder: Path, stem: str) -> Iterator[tuple[Any, str]]:
    """Yield an open file and the name of a tensor in it, for every tensor."""
    for file in _weight_files(folder, stem):
        try:
            with safe_open(file, framework="pt") as content:
                for name in content.keys():  # noqa: SIM118  # no mapping
                    yield content, name
        except FileNotFoundError:
            raise ValueError(f"there is no file {file}; copy the folder again") from None
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}); copy it again") from None


def _weight_files(folder: Path, stem: str) -> list[Path]:
    content = read_json(folder / f"{stem}.safetensors.index.json", ("weight_map",))
    if content is None:
        return [folder / f"{stem}.safetensors"]
    return [folder / name for name in dict.fromkeys(content["weight_map"].values())]


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
