"""Holds what the papers change besides the norm layer, for the networks that need it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dyt.norm import matches

WAV2VEC2_SKIP = ("*feature_extractor",)
"""For `convert(model, skip=...)` on wav2vec 2.0: the norms of its convolutional feature extractor
are not part of the Transformer and stay, as in the authors' release. Fits the models of fairseq,
torchaudio and transformers."""


def scale_embedding(model: nn.Module, path: str | None = None) -> str:
    """Multiply the token embedding by a learnable scalar, as LLaMA with DyT needs (ICLR 2025
    submission, Section 4.2).

    The scalar is a parameter `scale` of shape (1,) of the embedding module, starting at
    √width. The embedding stays the same module with the same weight, so ties to the output layer
    and its state-dict key hold, and the output layer is not scaled. Survives copy.deepcopy and
    pickle.

    Args:
        model: the network, changed in place. It is for decoder-only language models.
        path: the path of the embedding module. Without it, the model's get_input_embeddings()
            tells, as all models of transformers have it.

    Returns:
        The new parameter's name, such as "model.embed_tokens.scale".

    Raises:
        ValueError: there is no such embedding; it has a scale already, or scales by itself (as
            Gemma's does); or other embedding modules share its weight, so that the one found may
            not be the one in use (as in T5).
    """
    path, embedding = _find_embedding(model, path)
    if getattr(embedding, "scale", None) is not None:
        raise ValueError(f"{path!r} has a scale already: call scale_embedding once.")
    weight = embedding.weight
    start = math.sqrt(weight.shape[1])
    scale = torch.full((1,), start, device=weight.device, dtype=weight.dtype)
    embedding.register_parameter("scale", nn.Parameter(scale))
    # A hook rather than a wrapper: the module, its class and the key of its weight stay.
    embedding.register_forward_hook(_times_scale)
    return f"{path}.scale" if path else "scale"


def _times_scale(embedding: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * embedding.scale


def _find_embedding(model: nn.Module, path: str | None) -> tuple[str, nn.Module]:
    if path is None:
        return _ask_for_embedding(model)
    try:
        embedding = model.get_submodule(path)
    except AttributeError:
        raise ValueError(f"No module at {path!r}. {_embeddings_of(model)}") from None
    if getattr(getattr(embedding, "weight", None), "ndim", 0) != 2:
        raise ValueError(
            f"{path!r} is a {type(embedding).__name__}, which has no weight of shape"
            f" (vocabulary, width). {_embeddings_of(model)}"
        )
    return path, embedding


def _ask_for_embedding(model: nn.Module) -> tuple[str, nn.Module]:
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if not isinstance(embedding, nn.Embedding):
        raise ValueError(
            f"{type(model).__name__} does not tell its token embedding through"
            f" get_input_embeddings(). {_embeddings_of(model)}"
        )
    path = next(name for name, module in model.named_modules() if module is embedding)
    if type(embedding).forward is not nn.Embedding.forward:
        raise ValueError(
            f"{path!r} ({type(embedding).__name__}) does more than look up, and may scale by"
            f" itself. If a second scale is meant, pass path={path!r}."
        )
    twins = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module is not embedding
        and module.weight is embedding.weight
    ]
    if twins:
        raise ValueError(
            f"{path!r} shares its weight with {', '.join(twins)}, and which of them the network"
            " uses is not clear. Pass path= for each one to scale."
        )
    return path, embedding


def _embeddings_of(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    if not names:
        return "The model has no nn.Embedding: pass the path of the module that embeds tokens."
    return f"Pass path= with one of {', '.join(map(repr, names))}."


def drop_zero_init(
    model: nn.Module, *, generator: torch.Generator, only: str | Iterable[str] = ("*",)
) -> tuple[str, ...]:
    """Give zero-initialized Linear layers a Xavier-uniform weight, as DiT with DyT needs.

    DiT starts its modulation and output layers at zero; in their release for DyT the authors drop
    that, which leaves DiT's rule for all other Linear layers: Xavier-uniform weights and zero
    biases. The follow-up (arXiv 2512.10938) keeps the zeros of the blocks in DiT-B: use `only`.
    Call it on a fresh network, before training.

    Args:
        model: the network, changed in place. Biases stay as they are.
        generator: the source of the random numbers. They are drawn in float32 on the generator's
            device, so the weights do not depend on where the model is.
        only: globs of the paths to consider, each with all that is inside.

    Returns:
        The paths of the layers that got a new weight, in the order of the draws.

    Raises:
        ValueError: no generator; a pattern, or the whole call, finds no Linear layer of zeros;
            or the model is on the meta device, where no value can be seen.
    """
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator = {generator!r} is not a torch.Generator: pass"
            " torch.Generator().manual_seed(seed), so that runs can be matched."
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
                f" {type(model).__name__}, which has {', '.join(zeros) or 'none at all'}."
            )
    if not patterns:
        raise ValueError("only is empty: pass globs of the layers to consider, or leave it out.")
    touched = [path for path in zeros if any(matches(pattern, path) for pattern in patterns)]
    for path in touched:
        weight = zeros[path].weight
        drawn = torch.empty(weight.shape, device=generator.device, dtype=torch.float32)
        nn.init.xavier_uniform_(drawn, generator=generator)
        with torch.no_grad():
            weight.copy_(drawn)
    return tuple(touched)


def _is_zero(path: str, weight: Tensor) -> bool:
    if weight.is_meta:
        raise ValueError(
            f"{path!r} is on the meta device and has no values yet. Give the model its weights"
            " first (to_empty and its own initialization)."
        )
    return not weight.any()
