"""Per-architecture changes of the papers other than the norm: LLaMA, DiT and wav2vec 2.0.

LLaMA with DyT has a learnable embedding scale (`scale_embedding`), DiT with DyT has no zero
initialization (`drop_zero_init`), and wav2vec 2.0 keeps the norms of its feature extractor
(`WAV2VEC2_SKIP`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dyt.path_patterns import matches

WAV2VEC2_SKIP = ("*feature_extractor",)
"""For `convert(model, skip=...)` on wav2vec 2.0: keep the norms of the convolutional feature
extractor, which are not part of the Transformer, as in the authors' release. Matches the models of
fairseq, torchaudio and transformers."""


def scale_embedding(model: nn.Module, path: str | None = None) -> str:
    """Multiply the token embedding by a learnable scalar, as required for LLaMA with DyT.

    ICLR 2025 submission, Section 4.2. The scalar is a parameter `scale` of shape (1,) of the
    embedding module, initially √width. The embedding remains the same module with the same weight,
    so ties to the output layer and its state-dict key are preserved, and the output layer is not
    scaled. The scale is preserved by copy.deepcopy and pickle.

    Args:
        model: a decoder-only language model, changed in place.
        path: the path of the embedding module. By default the result of the model's
            get_input_embeddings(), which all models of transformers have.

    Returns:
        The new parameter's name, such as "model.embed_tokens.scale".

    Raises:
        ValueError: there is no such embedding; it has a scale already, or its forward scales (as
            Gemma's does); or other embedding modules share its weight, in which case the one found
            may not be the one in use (as in T5).
    """
    embedding: Any
    path, embedding = _find_embedding(model, path)
    if getattr(embedding, "scale", None) is not None:
        raise ValueError(f"{path!r} has a scale already: call scale_embedding only once.")
    weight = embedding.weight
    start = math.sqrt(weight.shape[1])
    scale = torch.full((1,), start, device=weight.device, dtype=weight.dtype)
    embedding.register_parameter("scale", nn.Parameter(scale))
    # A hook rather than a wrapper preserves the module, its class and the key of its weight.
    embedding.register_forward_hook(_multiply_by_scale)
    return f"{path}.scale" if path else "scale"


def scaled_embeddings(model: nn.Module) -> list[str]:
    """Return the paths of the embeddings that `scale_embedding` changed."""
    return [
        path
        for path, module in model.named_modules()
        if _multiply_by_scale in module._forward_hooks.values()
    ]


def _multiply_by_scale(embedding: Any, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * embedding.scale


def _find_embedding(model: nn.Module, path: str | None) -> tuple[str, nn.Module]:
    if path is None:
        return _input_embedding(model)
    try:
        embedding = model.get_submodule(path)
    except AttributeError:
        raise ValueError(f"No module at {path!r}. {_suggest_paths(model)}") from None
    if getattr(getattr(embedding, "weight", None), "ndim", 0) != 2:
        raise ValueError(
            f"{path!r} is a {type(embedding).__name__}, which has no weight of shape"
            f" (vocabulary, width). {_suggest_paths(model)}"
        )
    return path, embedding


def _input_embedding(model: Any) -> tuple[str, nn.Module]:
    """Return the path and the module of get_input_embeddings(), if it is a plain lookup."""
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if not isinstance(embedding, nn.Embedding):
        raise ValueError(
            f"{type(model).__name__} has no get_input_embeddings() that returns an nn.Embedding."
            f" {_suggest_paths(model)}"
        )
    path = next(name for name, module in model.named_modules() if module is embedding)
    if type(embedding).forward is not nn.Embedding.forward:
        raise ValueError(
            f"{path!r} ({type(embedding).__name__}) does more than a lookup and may already scale"
            f" its output. To add a second scale, pass path={path!r}."
        )
    tied = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module is not embedding
        and module.weight is embedding.weight
    ]
    if tied:
        raise ValueError(
            f"{path!r} shares its weight with {', '.join(tied)}, so it is unclear which of them the"
            " network uses. Pass path= for each one to scale."
        )
    return path, embedding


def _suggest_paths(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    if not names:
        return "The model has no nn.Embedding: pass the path of the module that embeds tokens."
    return f"Pass path= with one of {', '.join(map(repr, names))}."


def drop_zero_init(
    model: nn.Module, *, generator: torch.Generator, only: str | Iterable[str] = ("*",)
) -> tuple[str, ...]:
    """Give zero-initialized Linear layers a Xavier-uniform weight, as required for DiT with DyT.

    DiT initializes its modulation and output layers with zeros. The authors' release for DyT
    removes that, which leaves DiT's rule for all other Linear layers: Xavier-uniform weights and
    zero biases. The follow-up (arXiv 2512.10938) keeps the zeros of the blocks in DiT-B: use
    `only`. Call this function on a new network, before training.

    Args:
        model: the network, changed in place. Biases are not changed.
        generator: the source of the random numbers. They are drawn in float32 on the generator's
            device, so the weights do not depend on the model's device.
        only: globs of the paths to consider, each including everything inside the module.

    Returns:
        The paths of the layers with a new weight, in the order of the draws.

    Raises:
        ValueError: `generator` is not a torch.Generator; a pattern, or the whole call, matches no
            zero-initialized Linear layer; or the model is on the meta device, which has no values.
    """
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator = {generator!r} is not a torch.Generator: pass"
            " torch.Generator().manual_seed(seed), so runs are reproducible."
        )
    patterns = (only,) if isinstance(only, str) else tuple(only)
    zeros = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and _is_zero(path, module.weight)
    }
    for pattern in patterns:
        if not any(matches(pattern, path) for path in zeros):
            raise ValueError(
                f"{pattern!r} matches no zero-initialized Linear layer of"
                f" {type(model).__name__}, which has {', '.join(zeros) or 'none'}."
            )
    if not patterns:
        raise ValueError("only is empty: pass globs of the layers to consider, or omit it.")
    selected = [path for path in zeros if any(matches(pattern, path) for pattern in patterns)]
    for path in selected:
        weight = zeros[path].weight
        drawn = torch.empty(weight.shape, device=generator.device, dtype=torch.float32)
        nn.init.xavier_uniform_(drawn, generator=generator)
        with torch.no_grad():
            weight.copy_(drawn)
    return tuple(selected)


def _is_zero(path: str, weight: Tensor) -> bool:
    if weight.is_meta:
        raise ValueError(
            f"{path!r} is on the meta device and has no values yet. Initialize the model first,"
            " with to_empty and its initialization."
        )
    return not weight.any()
