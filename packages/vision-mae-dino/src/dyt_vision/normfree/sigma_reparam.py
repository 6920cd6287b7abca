"""σReparam (Zhai et al., "Preventing Attention Entropy Collapse", arXiv 2303.06296, Section 3).

The weight W of every linear layer is used as Ŵ = γ/σ(W)·W, where σ(W) is W's largest singular value
and γ a learnable scalar, 1 at the start. The paper bounds the entropy of attention from below by a
function of the spectral norm of the product of query and key weights. Adam can raise that norm fast
in a wide matrix; Ŵ's norm is |γ|, which moves by one scalar's steps.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from dyt_vision.normfree.transformer import Transformer

START_ITERATIONS = 200
"""Power iterations at construction: weights as drawn have many singular values near the largest,
and a ViT-B's need about 100 for σ within 1 %. Later ones follow small changes, one each."""


def install(transformer: Transformer) -> list[str]:
    """Reparametrize every nn.Linear and nn.Conv2d; returns the paths of γ and u."""
    layers = [
        (path, module)
        for path, module in transformer.model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    for _, layer in layers:
        scaling = SpectralScaling(layer.weight)
        # "unsafe" leaves out a trial call: autocast cannot be switched off for meta tensors.
        parametrize.register_parametrization(layer, "weight", scaling, unsafe=True)
        layer.train(layer.training)
    return [f"{path}.parametrizations.weight.0" for path, _ in layers]


class SpectralScaling(nn.Module):
    """W ↦ γ/σ(W)·W, with σ(W) from a power iteration that goes on from call to call.

    u, the left singular vector, is the only memory, and only its direction counts: an average of
    several u serves as well. It is stored in training mode alone, so evaluation changes nothing.
    The singular vectors are constants to autograd, which is exact where they have converged
    (∂σ/∂W = u vᵀ). Where W is zero, σ counts as 1, so that values and gradients stay finite.

    Shapes:
        weight: (out, in) or (out, in, height, width), read as a matrix of `out` rows; the result
            has the same. gamma: (1,). u: (out,).

    Args:
        weight: what it will be called with at first; any random state is left alone.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        matrix = _matrix(weight.detach())
        generator = torch.Generator("cpu").manual_seed(0)
        u = torch.randn(len(matrix), generator=generator, device="cpu", dtype=torch.float32)
        u = u.to(matrix)
        # Meta tensors hold no values to iterate on, and every operation on them is slow.
        for _ in range(0 if matrix.is_meta else START_ITERATIONS):
            u, _ = _power_iteration(matrix, u)
        self.gamma = nn.Parameter(matrix.new_ones(1))
        self.register_buffer("u", u)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = _matrix(weight)
            with torch.no_grad():
                u, v = _power_iteration(matrix, self.u.to(matrix.dtype))
                if self.training:
                    self.u.copy_(u)
            sigma = u @ (matrix @ v)
            sigma = torch.where(sigma > torch.finfo(sigma.dtype).tiny, sigma, 1.0)
            return (self.gamma / sigma * matrix).to(weight.dtype).view_as(weight)


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """The weight with its output channels as rows, in at least single precision."""
    return weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))


def _power_iteration(matrix: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One step towards the largest singular value's vectors: the new u, and v."""
    v = _unit(matrix.mT @ u, otherwise=torch.zeros_like(matrix[0]))
    return _unit(matrix @ v, otherwise=u), v


def _unit(vector: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """The vector with length 1, or the other one if it is zero."""
    length = torch.linalg.vector_norm(vector)
    return torch.where(length > 0, vector / length, otherwise)
