"""LLaMA on transformers' model: sizes from a config, weights by address, norms converted.

State-dict names are transformers', so that its generation, and evaluation harnesses built on it,
work on trained models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from dyt import Norm, convert, scale_embedding
from dyt_llama.chunked_loss import chunked_cross_entropy
from dyt_llama.config import Pretraining
from dyt_llama.initial_weights import fill_normal
from dyt_llama.network_config import Network


class Llama(LlamaForCausalLM):
    """transformers' LlamaForCausalLM, which can compute the loss without holding all logits."""

    def __init__(self, network: Network) -> None:
        super().__init__(transformers_config(network))

    def forward(self, *args: Any, targets: Tensor | None = None, **kwargs: Any) -> Any:
        """Return the cross-entropy of ``targets`` (B, T) summed, or without them the base's output.

        Targets are the pieces at the next positions: they are not shifted any further.
        """
        if targets is None:
            return super().forward(*args, **kwargs)
        hidden = self.model(*args, use_cache=False, **kwargs).last_hidden_state
        return chunked_cross_entropy(hidden, self.lm_head, targets)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A network, and the names of what differs between the arms.

    Attributes:
        model: the network.
        differing: paths of the norm layers, and the name of the embedding scale, if there is one:
            what the fingerprint leaves out.
    """

    model: Llama
    differing: tuple[str, ...]


def transformers_config(network: Network) -> LlamaConfig:
    """Return transformers' configuration of a network."""
    config_class: Any = LlamaConfig  # its base class takes further keywords
    config: LlamaConfig = config_class(
        vocab_size=network.vocabulary,
        hidden_size=network.width,
        intermediate_size=network.ffn,
        num_hidden_layers=network.depth,
        num_attention_heads=network.heads,
        num_key_value_heads=network.kv_heads,
        max_position_embeddings=network.positions,
        rms_norm_eps=network.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": network.rope_theta},
        initializer_range=network.std,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="sdpa",
    )
    return config


def build_on_meta(network: Network, norm: Norm, *, embedding_scale: bool = False) -> Built:
    """Build a converted network without memory for its weights.

    A calibrated α is a number here: ``materialize_calibrated`` fits it, or it is loaded.

    Raises:
        ValueError: if a pattern of ``norm.alpha0_at`` matches no layer.
    """
    with torch.device("meta"):
        model = Llama(network)
        differing = tuple(convert(model, norm.uncalibrated()).paths)
        if embedding_scale:
            differing = (*differing, scale_embedding(model))
    return Built(model=model, differing=differing)


def build(
    network: Network,
    norm: Norm,
    *,
    seed: int,
    device: torch.device,
    embedding_scale: bool = False,
) -> Built:
    """Build a converted network with initial weights.

    Raises:
        ValueError: as ``build_on_meta``.
    """
    built = build_on_meta(network, norm, embedding_scale=embedding_scale)
    materialize(built.model, seed=seed, device=device)
    return built


def allocate(model: Llama, *, device: torch.device) -> None:
    """Allocate the weights of a network that is on the meta device, without initial values."""
    model.to_empty(device=device)
    # Not part of the state dict, and kept in float32: bfloat16 positions are wrong beyond 256.
    model.model.rotary_emb = LlamaRotaryEmbedding(model.config).to(device)


@torch.no_grad()
def materialize(model: Llama, *, seed: int, device: torch.device) -> None:
    """Allocate a network that is on the meta device, and set its initial weights.

    Each weight is drawn for its name, so it depends on the seed alone and not on the norm. A
    sharded weight is drawn in the part of this process only.
    """
    allocate(model, device=device)
    std = model.config.initializer_range
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            fill_normal(module.weight, std, seed, "weights", f"{path}.weight")
            if isinstance(scale := getattr(module, "scale", None), nn.Parameter):
                scale.fill_(math.sqrt(model.config.hidden_size))
        elif isinstance(module, LlamaRMSNorm):
            module.weight.fill_(1.0)
        elif hasattr(module, "reset_parameters"):  # the layers that replace it
            layer: Any = module
            layer.reset_parameters()


def materialize_calibrated(
    model: Llama,
    config: Pretraining,
    *,
    device: torch.device,
    calibrate: Callable[[nn.Module], Any],
) -> None:
    """As ``materialize``, with α and γ of the layers that replace RMSNorm fitted to data.

    They are fitted in a second network, which has RMSNorm and the same initial weights.

    Args:
        calibrate: runs a network on training data.
    """
    materialize(model, seed=config.seed, device=device)
    fitted = build(
        config.network,
        Norm.own(),
        seed=config.seed,
        device=device,
        embedding_scale=config.embedding_scale,
    ).model
    convert(fitted, config.norm, calibrate=calibrate)
    model.load_state_dict(fitted.state_dict())


def checkpoint_layers(model: Llama, fraction: float) -> int:
    """Recompute the activations of some decoder layers in the backward pass; return how many.

    Spread as in fms-fsdp: a layer is chosen wherever the running total of ``fraction`` passes half
    a layer, so 1/2 chooses every second one.
    """
    chosen = 0
    for number, layer in enumerate(model.model.layers):
        if math.floor((number + 1) * fraction + 0.5) > math.floor(number * fraction + 0.5):
            layer.forward = _Recomputed(layer.forward)
            chosen += 1
    return chosen


class _Recomputed:
    """A forward method whose activations are recomputed in the backward pass."""

    def __init__(self, forward: Any) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(
            self.forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
