"""σReparam (Zhai et al., "Preventing Attention Entropy Collapse", arXiv 2303.06296, Section 3).

Every linear layer uses Ŵ = γ/σ(W)·W instead of its weight W, where σ(W) is W's largest singular
value and γ a learnable scalar, initially 1. The paper bounds the entropy of attention from below by
a function of the spectral norm of the product of query and key weights. Adam can raise that norm
fast in a wide matrix; the norm of Ŵ is |γ|, which only changes by the steps of one scalar.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from dyt_vision.normfree.block_model import BlockModel

START_ITERATIONS = 200
"""Power iterations at construction: initial weights have many singular values near the largest, and
a ViT-B's need about 100 for σ within 1 %. Later calls do one each, which tracks small changes."""


def install(blocks: BlockModel) -> list[str]:
    """Reparametrize every nn.Linear and nn.Conv2d; return the paths of γ and u."""
    layers = [
        (path, module)
        for path, module in blocks.model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    for _, layer in layers:
        scaling = SpectralScaling(layer.weight)
        # "unsafe" skips a trial call, in which autocast cannot be turned off for meta tensors.
        parametrize.register_parametrization(layer, "weight", scaling, unsafe=True)
        layer.train(layer.training)
    return [f"{path}.parametrizations.weight.0" for path, _ in layers]


class SpectralScaling(nn.Module):
    """W ↦ γ/σ(W)·W, with σ(W) from a power iteration that continues from call to call.

    The left singular vector u is the only state, and only its direction matters, so that an average
    of several u (EMA) works. It is updated only in training mode, so evaluation changes nothing.
    Autograd treats the singular vectors as constants, which is exact once they have converged
    (∂σ/∂W = u vᵀ). For W = 0, σ is taken as 1, so that values and gradients stay finite.

    Shapes:
        weight: (out, in) or (out, in, height, width), read as a matrix of `out` rows; the result
            has the same shape. gamma: (1,). u: (out,).

    Args:
        weight: the weight of the first call. The global random state is not used.
    """

    u: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        matrix = _matrix(weight.detach())
        generator = torch.Generator("cpu").manual_seed(0)
        u = torch.randn(len(matrix), generator=generator, device="cpu", dtype=torch.float32)
        u = u.to(matrix)
        # Meta tensors have no values to iterate on, and every operation on them is slow.
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
    """Return the weight with its output channels as rows, in at least single precision."""
    return weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))


def _power_iteration(matrix: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Do one step towards the singular vectors of the largest value; return the new u, and v."""
    v = _normalize(matrix.mT @ u, if_zero=torch.zeros_like(matrix[0]))
    return _normalize(matrix @ v, if_zero=u), v


def _normalize(vector: torch.Tensor, if_zero: torch.Tensor) -> torch.Tensor:
    """Return the vector with length 1, or ``if_zero`` for a zero vector."""
    length = torch.linalg.vector_norm(vector)
    return torch.where(length > 0, vector / length, if_zero)
