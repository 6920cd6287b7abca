"""Initial weights of HyenaDNA, as in the official training code."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from dyt_hyenadna.hyena_operator import HyenaFilter, Sine
from dyt_hyenadna.network_config import HyenaNetwork
from matched.training.seeding import generator

STD = 0.02
"""Standard deviation of the linear layers."""
RESIDUAL_OUTPUTS = ("out_proj", "fc2")
"""Linear layers whose output is added to the residual stream."""


@torch.no_grad()
def initialize(model: nn.Module, network: HyenaNetwork, seed: int) -> None:
    """Draw every parameter of a language model or classifier, each from its own generator.

    The generator of a parameter is seeded for (seed, "weights", name), so its values depend neither
    on the other parameters nor on the depth of the network.

    - Embedding: N(0, ``embedding_std``²), 0.02 officially; the padded rows included. The output
      layer of a language model is tied to it.
    - Linear layers, those of the filter included: N(0, 0.02²) with zero biases; the last layer of
      each residual branch N(0, 0.02² / (2 · layers)), as in GPT-2. The port to Hugging Face looks
      for these by a name that never matches, and leaves them at 0.02.
    - Short convolution and classifier head: torch's defaults, U(±1/√fan_in) for weight and bias.
    - The filter's ``bias``: N(0, 1). Frequencies: ``filter_frequency``. Norms: 1 and 0.
    """
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            draw = generator(seed, "weights", f"{path}.{name}")
            _fill(module, path, name, parameter, network, draw)


def _fill(
    module: nn.Module,
    path: str,
    name: str,
    parameter: Tensor,
    network: HyenaNetwork,
    draw: Generator,
) -> None:
    layer = path.rpartition(".")[2]
    if layer == "lm_head":
        return  # tied to the embedding
    if isinstance(module, nn.Embedding):
        parameter.normal_(std=network.embedding_std, generator=draw)
    elif isinstance(module, nn.Conv1d) or layer == "head":
        weight = module.weight
        assert isinstance(weight, Tensor)
        fan_in = weight[0].numel()
        parameter.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=draw)
    elif isinstance(module, nn.Linear) and name == "weight":
        scale = 1 / math.sqrt(2 * network.layers) if layer in RESIDUAL_OUTPUTS else 1.0
        parameter.normal_(std=STD * scale, generator=draw)
    elif isinstance(module, HyenaFilter):
        parameter.normal_(generator=draw)
    elif isinstance(module, Sine):
        parameter.fill_(network.filter_frequency)
    elif isinstance(module, nn.LayerNorm) and name == "weight":
        parameter.fill_(1)
    else:
        assert name == "bias", f"{path}.{name} has no rule"
        parameter.zero_()
