"""Initial weights of Caduceus, as in the official training code."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from dyt_caduceus.network_config import CaduceusNetwork
from matched.training.seeding import generator

STEP_MIN, STEP_MAX, STEP_FLOOR = 1e-3, 0.1, 1e-4
"""Range of the initial step sizes δ, drawn log-uniformly, and their lowest value."""


@torch.no_grad()
def initialize(model: nn.Module, network: CaduceusNetwork, seed: int) -> None:
    """Draw every parameter of a language model or classifier, each from its own generator.

    The generator of a parameter is seeded for (seed, "weights", name), so its values depend neither
    on the other parameters nor on the depth of the network.

    - Embedding: N(0, ``embedding_std``²), 0.02 officially; the padded rows included. The output
      layer of a language model is tied to it.
    - Linear layers, convolutions and the classifier's head: torch's defaults, U(±1/√fan_in), for
      weight and bias; ``out_proj`` divided by √layers, as the last layer of a residual branch.
    - ``dt_proj``: weight U(±1/√rank); bias so that softplus(bias) is log-uniform from 0.001 to 0.1.
    - ``A_log``: log(1), …, log(N) in every channel; ``D``: 1. Norms: 1.
    """
    done: set[Tensor] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in done:
                continue  # a tied parameter: under the name that comes first
            done.add(parameter)
            draw = generator(seed, "weights", f"{path}.{name}")
            _fill(module, path, name, parameter, network, draw)


def _fill(
    module: nn.Module,
    path: str,
    name: str,
    parameter: Tensor,
    network: CaduceusNetwork,
    draw: Generator,
) -> None:
    layer = path.rpartition(".")[2]
    if isinstance(module, nn.Embedding):
        parameter.normal_(std=network.embedding_std, generator=draw)
    elif layer == "dt_proj" and name == "bias":
        low, high = math.log(STEP_MIN), math.log(STEP_MAX)
        step = parameter.uniform_(low, high, generator=draw).exp_().clamp_(min=STEP_FLOOR)
        step.add_(torch.log(-torch.expm1(-step)))  # the inverse of softplus
    elif isinstance(module, nn.Linear | nn.Conv1d):
        bound = 1 / math.sqrt(module.weight[0].numel())
        parameter.uniform_(-bound, bound, generator=draw)
        if layer == "out_proj":
            parameter.div_(math.sqrt(network.layers))
    elif name == "A_log":
        parameter.copy_(torch.arange(1, network.d_state + 1).log().expand_as(parameter))
    else:
        assert name == "D" or isinstance(module, nn.RMSNorm), f"{path}.{name} has no rule"
        parameter.fill_(1)
